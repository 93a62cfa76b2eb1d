"""What each tracker can do. A call may block, fail or be repeated: it runs in a process that does nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from worker.tracking.files import Ended, Job, Points


class Refused(Exception):
    """The tracker will never take this; repeating it would hold up what comes behind it."""


class Tracker(Protocol):
    """Raise `Refused` for what is to be left out; whatever else is raised is tried again, so calls are idempotent."""

    def start(self, job: Job) -> str:
        """Find the run of the job, or make it, and tell its parameters. Returns where the run is, for people."""
        ...

    def push(self, points: Sequence[Points]) -> None:
        """Points in their order."""
        ...

    def link(self, links: Mapping[str, str]) -> None:
        """All files of the job so far: names, and where they are."""
        ...

    def finish(self, outcome: Ended) -> None:
        """The attempt has ended. A job that was released, or failed by a machine's fault, may come back."""
        ...


def flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str | bool | int | float]]:
    """A specification as parameters: `student.backbone.name` and its value. Lists are text."""
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str | bool | int | float) else str(value)
