"""One process for predictions: `python -m api.predict.process MEMORY_BYTES SECONDS THREADS`.

It reads orders from its standard input and answers them on its standard output, one at a time (`frames`). An image may
be hostile, and so the process is bounded in memory and time by the kernel, and the API kills it where it is too slow.
What the network computes, it computes by onnxruntime: torch is not here.
"""

from __future__ import annotations

import logging
import math
import os
import resource
import signal
import sys
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from api.predict import frames
from crosskd.errors import CrossKDError
from crosskd.predict.answer import Answer, Wanted, answer
from crosskd.predict.graph import OnnxDetector
from crosskd.predict.picture import BadImage

log = logging.getLogger(__name__)

KEPT = 3  # graphs
MAX_IMAGE = 1 << 30  # bytes
_MEMORY = ("alloc", "out of memory", "cannot allocate")  # in messages of onnxruntime, whose errors have no kinds


class Graphs:
    """The graphs that were asked last, by digest."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._kept: OrderedDict[str, OnnxDetector] = OrderedDict()

    def get(self, path: Path, sha256: str) -> OnnxDetector:
        if sha256 not in self._kept:
            while len(self._kept) >= KEPT:
                self._kept.popitem(last=False)
            self._kept[sha256] = OnnxDetector(path, threads=self._threads, keep_memory=False)
        self._kept.move_to_end(sha256)
        return self._kept[sha256]


def predict(graphs: Graphs, order: dict[str, Any], content: bytes) -> tuple[dict[str, Any], bytes]:
    """The answer to an order, or its fault."""
    try:
        graph = graphs.get(Path(order["path"]), order["sha256"])
        if "number" not in order:
            return {}, b""  # only to be loaded
        wanted = Wanted(order["score"], order["most"], order["pixels"], order["picture"])
        found: Answer = answer(
            graph.detect, graph.scale, graph.categories, content, wanted, number=order["number"], name=order["name"]
        )
    except BadImage as error:
        return _fault(error.kind, error.message, error.remedy), b""
    except CrossKDError as error:
        return _fault("model", error.message, error.remedy), b""
    except MemoryError:
        return _fault("memory", "", ""), b""
    except Exception as error:  # noqa: BLE001 - onnxruntime's have no common class
        text = str(error)[:500] or type(error).__name__
        kind = "memory" if any(word in text.lower() for word in _MEMORY) else "model"
        return _fault(kind, f"the graph cannot be run on this image: {text}", "Look at the job's log."), b""
    told = {
        "image": found.image.model_dump(mode="json"),
        "results": [result.model_dump(mode="json") for result in found.results],
        "categories": [category.model_dump(mode="json") for category in graph.categories],
        "weights_sha256": graph.weights_sha256,
    }
    return told, found.picture


def _fault(kind: str, detail: str, remedy: str) -> dict[str, Any]:
    return {"fault": {"kind": kind, "detail": detail, "remedy": remedy}}


def bound(memory: int) -> None:
    """No more memory than this, no core dump, and behind the API where both want the processor."""
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(5)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where the machine's memory is short, this one goes first


def serve(orders: IO[bytes], answers: IO[bytes], seconds: float, threads: int) -> None:
    """Answer until the API closes its end, or memory was short: what is left of it then may be in pieces."""
    graphs = Graphs(threads)
    while True:
        try:
            order, content = frames.read(orders, max_content=MAX_IMAGE)
        except frames.Closed:
            return
        signal.alarm(math.ceil(seconds) + 2)  # if the API is gone, and nobody kills this process
        told, picture = predict(graphs, order, content)
        frames.write(answers, told, picture)
        signal.alarm(0)
        if told.get("fault", {}).get("kind") == "memory":
            return


def main(memory: str, seconds: str, threads: str) -> None:
    """Bound this process, then serve."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())  # what a library prints is no answer
    os.dup2(nowhere, sys.stderr.fileno())  # nor may a hostile image fill a log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the API's to hear
    bound(int(memory))
    serve(sys.stdin.buffer, answers, float(seconds), int(threads))


if __name__ == "__main__":
    main(*sys.argv[1:])
