from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.support.tracking import prepared, tell
from worker.tracking.files import Ended, Job, Points
from worker.tracking.follow import LONGEST_PAUSE, Follower, redacted
from worker.tracking.tracker import Refused


class Moody:
    """A tracker that fails in the order in which `faults` says, and then no more."""

    def __init__(self, faults: list[Exception | None]) -> None:
        self.faults = faults
        self.steps: list[int] = []
        self.links: dict[str, str] = {}
        self.outcomes: list[Ended] = []

    def _fail(self) -> None:
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault

    def start(self, job: Job) -> str:
        self._fail()
        return f"run of {job.job}"

    def push(self, points: Sequence[Points]) -> None:
        self._fail()
        self.steps += [each.step for each in points]

    def link(self, links: Mapping[str, str]) -> None:
        self._fail()
        self.links = dict(links)

    def finish(self, outcome: Ended) -> None:
        self._fail()
        self.outcomes.append(outcome)


def test_what_fails_is_repeated_until_it_works(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking")
    tell(folder, range(3), links=("log.txt",))
    folder.end("succeeded")
    down = ConnectionError("nobody is there")
    tracker = Moody([down, None, down, down, None, down, None, down])
    pauses: list[float] = []
    Follower(folder, "moody", tracker, sleep=pauses.append).run()
    assert tracker.steps == [0, 1, 2]  # once each, also where the link behind them failed
    assert tracker.links == {"log.txt": f"{folder.job().url}/artifacts/log.txt"}
    assert tracker.outcomes == ["succeeded"]
    assert pauses == [1.0, 1.0, 2.0, 1.0, 1.0]
    state = folder.state("moody")
    assert (state.delivered, state.refused, state.error, state.finished) == (6, 0, "", True)
    assert state.where == "run of 0123456789abcdef"


def test_an_outage_is_told_meanwhile_and_says_no_secret(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking")
    tell(folder, range(2))
    folder.end("failed")
    down = ConnectionError("http://me:hush@h/x:\n the key s3cret is wrong")
    pauses: list[float] = []

    def look(pause: float) -> None:
        pauses.append(pause)
        state = folder.state("moody")
        assert (state.delivered, state.finished) == (0, False)
        assert state.error == "http://h/x: the key ... is wrong"

    Follower(folder, "moody", Moody([None, *[down] * 9]), secrets=["s3cret"], sleep=look).run()
    assert len(pauses) == 9
    assert max(pauses) == LONGEST_PAUSE
    assert folder.state("moody").finished


def test_what_was_at_the_root_of_it_is_told() -> None:
    error = RuntimeError("a pool, its retries, an address and much more")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert redacted(error, []) == "[Errno 111] Connection refused"
    assert redacted(KeyError(), []) == "KeyError"


def test_what_is_refused_is_left_out_and_counted(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking")
    tell(folder, range(2))
    folder.end("succeeded")
    tracker = Moody([None, Refused("no such key")])
    Follower(folder, "moody", tracker, sleep=lambda _: None).run()
    state = folder.state("moody")
    assert (state.delivered, state.refused, state.error, state.finished) == (0, 4, "no such key", True)
    assert tracker.outcomes == ["succeeded"]


def test_it_follows_while_the_training_runs(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "tracking")
    waits = 0

    def go_on(_: float) -> None:
        nonlocal waits
        waits += 1
        tell(folder, range(waits, waits + 1))
        if waits == 3:
            folder.end("cancelled")

    tracker = Moody([])
    Follower(folder, "moody", tracker, sleep=go_on).run()
    assert (tracker.steps, tracker.outcomes) == ([1, 2, 3], ["cancelled"])
