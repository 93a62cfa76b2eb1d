"""The life of a job as a client may expect it: plain sets and dictionaries, and no line in common with the service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

FINAL = {"succeeded", "failed", "cancelled"}
LEGAL = {
    (None, "queued"),
    (None, "waiting"),
    *(("waiting", then) for then in ("queued", "paused", "failed", "cancelled")),
    ("queued", "running"),
    ("queued", "paused"),
    ("queued", "cancelled"),
    ("paused", "queued"),
    ("paused", "waiting"),
    ("paused", "cancelled"),
    *(("running", end) for end in ("succeeded", "failed", "cancelled", "queued", "paused")),
}
KEPT = 2  # checkpoints of a job: the default of `checkpoint.keep_last`


@dataclass
class Try:
    """An attempt."""

    id: str
    job: Life
    number: int
    resumed_from: int
    status: str = "running"
    points: dict[tuple[int, str], float] = field(default_factory=dict)
    sequences: set[int] = field(default_factory=set)
    finished: tuple[str, Any] | None = None  # the outcome reported, and what was answered

    @property
    def live(self) -> bool:
        return self.status == "running" and not self.job.deleted

    def take(self, sequence: int, points: dict[tuple[int, str], float]) -> None:
        """A batch of metrics: the first of its number counts, and of each point the first value."""
        if sequence in self.sequences:
            return
        self.sequences.add(sequence)
        self.points = points | self.points
        self.job.events += 1


@dataclass
class Life:
    """A job. `start` is the job whose checkpoint a retry begins with, `needs` the one whose weights it begins with."""

    id: str
    max_resumes: int
    start: Life | None = None
    needs: Life | None = None
    status: str = ""
    weights: bool = False  # it has published some
    tries: list[Try] = field(default_factory=list)
    checkpoints: dict[int, int] = field(default_factory=dict)  # the attempt that made it, by step
    asked: set[str] = field(default_factory=set)  # of cancel, pause, stop, resume
    resumes: int = 0
    events: int = 1  # it was queued, or waits
    history: list[str] = field(default_factory=list)
    retry: Life | None = None
    deleted: bool = False

    def __post_init__(self) -> None:
        self.status = "queued" if self.ready else "waiting"
        self.history.append(self.status)

    @property
    def ready(self) -> bool:
        """Whether what it needs is there."""
        return self.needs is None or self.needs.gives == "now"

    @property
    def gives(self) -> str:
        """Whether another job may have its weights: now, later or never."""
        if self.deleted or self.status in ("failed", "cancelled"):
            return "never"
        if self.status != "succeeded":
            return "later"
        return "now" if self.weights else "never"

    @property
    def last_retry(self) -> Life:
        """Itself, or what has come of it when it failed."""
        failed = self.deleted or self.status in ("failed", "cancelled")
        return self.retry.last_retry if failed and self.retry and not self.retry.deleted else self

    def look_at_needs(self) -> bool:
        """A waiting job begins or fails once it is known what has become of the one that it needs; whether it does."""
        if self.status != "waiting" or self.needs is None or self.needs.gives == "later":
            return False
        self.move("queued" if self.ready else "failed")
        return True

    def move(self, status: str) -> None:
        assert (self.status, status) in LEGAL
        self.status = status
        self.history.append(status)
        self.events += 1

    @property
    def over(self) -> bool:
        return self.status in FINAL

    @property
    def point(self) -> int:
        """The step of the checkpoint that its next attempt goes on from; 0: none."""
        if self.checkpoints:
            return self._newest[0]
        return self.start.point if self.start and not self.start.deleted else 0

    @property
    def _newest(self) -> list[int]:
        """Steps of the checkpoints: those of the last attempt come first, whatever earlier ones had reached."""
        return sorted(self.checkpoints, key=lambda step: (self.checkpoints[step], step), reverse=True)

    @property
    def series(self) -> list[tuple[int, str, float]]:
        """What a reader of the metrics sees: each attempt takes back what lies behind its checkpoint."""
        seen: dict[tuple[int, str], float] = {}
        for one in self.tries:
            start = one.resumed_from
            seen = {at: value for at, value in seen.items() if start and at[0] <= start}
            seen |= {at: value for at, value in one.points.items() if not start or at[0] > start}
        return [(step, key, value) for (step, key), value in sorted(seen.items())]

    @property
    def command(self) -> str | None:
        return next((what for what in ("cancel", "pause", "stop") if what in self.asked), None)

    # --- what a client does: each answers the HTTP status that is to be expected ---------------------------------

    def cancel(self) -> int:
        if self.status == "running":
            self.asked.add("cancel")
        elif self.status in ("waiting", "queued", "paused"):
            self.move("cancelled")
        return 200 if self.status in ("running", "cancelled") else 409

    def stop(self) -> int:
        if "stop" in self.asked and self.status in ("queued", "running", "succeeded"):
            return 200
        running = self.status == "running" and not self.asked & {"cancel", "pause"}
        if not running and not (self.status == "queued" and self.point):
            return 409
        self.asked.add("stop")
        return 200

    def pause(self) -> int:
        if self._being_cancelled or self.over:
            return 409
        if self.status in ("waiting", "queued"):
            self.move("paused")
        self.asked = self.asked - {"resume"} | {"pause"}
        return 200

    def resume(self) -> int:
        if "resume" in self.asked:
            return 200
        if self._being_cancelled or self.over or "pause" not in self.asked:
            return 409
        if self.status == "paused":
            self.move("queued" if self.ready else "waiting")
        self.asked = self.asked - {"pause"} | {"resume"}
        return 200

    @property
    def _being_cancelled(self) -> bool:
        return self.status == "running" and "cancel" in self.asked

    # --- what a worker does --------------------------------------------------------------------------------------

    def claim(self, attempt: str) -> Try:
        self.move("running")
        self.tries.append(Try(attempt, self, len(self.tries) + 1, self.point))
        return self.tries[-1]

    def keep(self, one: Try, step: int) -> None:
        """A checkpoint was published."""
        self.checkpoints[step] = one.number
        self.checkpoints = {step: self.checkpoints[step] for step in self._newest[:KEPT]}

    def end(self, one: Try, outcome: str, failure: str | None) -> str:
        """An attempt has ended; the job's new status. `failure` is the class of a failed or lost one."""
        one.status = "released" if outcome == "cancelled" and "cancel" not in self.asked else outcome
        self.move(self._verdict(outcome, failure))
        return self.status

    def _verdict(self, outcome: str, failure: str | None) -> str:
        if outcome == "succeeded":
            return "succeeded"
        if "cancel" in self.asked:
            return "cancelled"
        if failure not in (None, "infrastructure", "lost"):
            return "failed"
        if "pause" in self.asked:
            return "paused"
        if failure is None:
            return "queued"
        if self.resumes == self.max_resumes:
            return "failed"
        self.resumes += 1
        return "queued"
