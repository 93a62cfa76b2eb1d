"""The processes that make predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from api.processes.pool import Kind, Process, ProcessPool
from api.settings import Settings

START_SECONDS = 60.0  # that a process has to import what it needs and to load a graph


class Order(NamedTuple):
    """What is asked of a process about one image."""

    path: Path  # of the graph
    sha256: str  # of the graph
    number: int  # of the image in its request
    name: str
    score: float
    most: int
    picture: bool


class GraphProcess(Process):
    """A process that loads graphs."""

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind)
        self._known: set[str] = set()  # graphs that it has loaded once

    def ask(self, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
        """The answer about one image, whose time begins when the graph has been loaded."""
        if order["sha256"] not in self._known:
            told = self.exchange({name: order[name] for name in ("path", "sha256")}, b"", START_SECONDS)
            if "fault" in told[0]:
                return told
            self._known.add(order["sha256"])
        return super().ask(order, content)


class Pool(ProcessPool[GraphProcess]):
    """All of an API process's."""

    def __init__(self, settings: Settings) -> None:
        longest = max(settings.predict_seconds, START_SECONDS)
        kind = Kind(
            what="predictions",
            module="api.predict.process",
            arguments=tuple(map(str, (settings.predict_memory, longest, settings.predict_threads))),
            settings="PREDICT",
            instead="predict without it: crosskd predict FILE IMAGE",
            processes=settings.predict_processes,
            queue=settings.predict_queue,
            seconds=settings.predict_seconds,
            memory=settings.predict_memory,
        )
        super().__init__(kind, GraphProcess)
        self._pixels = settings.predict_pixels

    async def predict(self, order: Order, content: bytes) -> tuple[dict[str, Any], bytes]:
        """What a process says of the image. Raises as `ask`."""
        return await self.ask({**order._asdict(), "path": str(order.path), "pixels": self._pixels}, content)
