"""What the training logs reaches the API while it runs, in order, each line once, and never at the metrics' cost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.api_double import Double, Fault
from wire.jobs import Progress
from wire.logs import LINE_CHARACTERS, MAX_LINES
from wire.reports import MetricPoint
from worker.deliver.client import AttemptClient
from worker.deliver.delivery import MOST_LINES, Delivery
from worker.deliver.spool import Spool
from worker.folder import WorkFolder
from worker.training.reporter import LogForwarder, Reporter

Until = Callable[[Callable[[], object]], None]
core = logging.getLogger("crosskd.runs.train")


@pytest.fixture
def reporter(
    attempt: AttemptClient, folder: WorkFolder, stale: threading.Event, caplog: pytest.LogCaptureFixture
) -> Reporter:
    caplog.set_level(logging.INFO)  # as the training process sets it
    return Reporter(attempt, folder, stale.set, spool_megabytes=1)


def test_lines_arrive_while_the_training_runs(
    double: Double, reporter: Reporter, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest's own handlers keep what they hear for its report, which cannot carry half a surrogate pair to xdist.
    root = logging.getLogger()
    ours = [handler for handler in root.handlers if not type(handler).__module__.startswith("_pytest")]
    monkeypatch.setattr(root, "handlers", ours)
    core.info("step %d", 1)
    core.warning("two\nlines")
    until(lambda: len(double.log) == 3)
    core.info("after a while\0 a file %s", "caf\udce9.png")
    reporter.close(60)
    core.info("nobody listens any more")
    assert double.log == ["step 1", "two", "lines", "after a while a file caf?.png"]
    levels = [line["level"] for _, lines in sorted(double.logs.items()) for line in lines]
    assert levels == ["info", "warning", "warning", "info"]
    assert double.logs[0][0]["at"].endswith("Z")


def test_an_error_brings_its_traceback(double: Double, reporter: Reporter) -> None:
    try:
        raise ValueError("the cause")
    except ValueError:
        logging.getLogger("worker.training.run").exception("the training ended with an error")
    reporter.close(60)
    assert double.log[0] == "the training ended with an error"
    assert double.log[-1] == "ValueError: the cause"


def test_a_line_whose_answer_was_lost_is_there_once(double: Double, reporter: Reporter, until: Until) -> None:
    double.faults["logs"] = [Fault(drop="after"), Fault(status=503)]
    core.info("one")
    until(lambda: len(double.seen("logs")) == 3)
    core.info("two")
    reporter.close(60)
    assert double.log == ["one", "two"]


@pytest.fixture
def delivery(attempt: AttemptClient, stale: threading.Event, tmp_path: Path) -> Iterator[Delivery]:
    """One with room for 8 MB, which sends only when it is closed; it hears the core's log."""
    delivery = Delivery(attempt, Spool(tmp_path / "spool", 8_000_000), stale.set, interval=60)
    with LogForwarder(delivery.log).listening():
        yield delivery


def say(text: str) -> None:
    core.handle(core.makeRecord(core.name, logging.INFO, "", 0, text, (), None))


def test_batches_stay_below_the_bounds_of_the_api(double: Double, delivery: Delivery) -> None:
    for number in range(150):
        say(f"{number} " + "\x01" * (LINE_CHARACTERS + 50))
    for number in range(MAX_LINES + 1):
        say(f"short {number}")
    delivery.close(30)
    assert [text.split()[0] for text in double.log[:150]] == [str(number) for number in range(150)]
    assert double.log[-1] == f"short {MAX_LINES}"
    assert max(len(request.body) for request in double.seen("logs")) < 1_000_000
    assert max(len(lines) for lines in double.logs.values()) <= MAX_LINES


def test_a_flood_of_lines_is_cut_and_says_so(double: Double, delivery: Delivery) -> None:
    for _ in range(MOST_LINES + 7):
        say("line")
    delivery.close(30)
    assert len(double.log) == MOST_LINES + 1
    assert double.log[-1].startswith("(7 lines are left out here")


def test_lines_leave_room_for_metrics_while_the_api_is_away(double: Double, delivery: Delivery) -> None:
    back = threading.Event()
    double.always["metrics"] = double.always["logs"] = Fault(hold=back)
    for batch in range(4):
        for _ in range(600):
            say("\x01" * LINE_CHARACTERS)
        point = MetricPoint(key="loss", step=batch, value=0.5, at=datetime.now(UTC))
        delivery.metrics([point], Progress(step=batch))
        delivery.mark(batch)  # seals what there is; the thread's first request waits for the API
    say("the last line")
    back.set()
    delivery.close(60)
    assert [point["step"] for point in double.points] == [0, 1, 2, 3]
    assert "left out" in double.log[-1]
