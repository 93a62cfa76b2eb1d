from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
import pytest

from tests.support.api_double import TOKEN, Double, Fault
from wire.jobs import Progress
from wire.logs import LogLine
from wire.reports import CocoMetrics, EvaluationReport, MetricPoint
from worker.deliver.client import AttemptClient, connect
from worker.deliver.delivery import BATCH_POINTS, Delivery, Undelivered
from worker.deliver.retry import StaleAttempt
from worker.deliver.spool import Spool, reported_step
from worker.folder import WorkFolder

Until = Callable[[Callable[[], object]], None]
NOW = datetime.now(UTC)


def points(first: int, count: int) -> list[MetricPoint]:
    return [MetricPoint(key="loss", step=step, value=0.5, at=NOW) for step in range(first, first + count)]


def progress(step: int) -> Progress:
    return Progress(phase="training", step=step)


def evaluation(step: int) -> EvaluationReport:
    return EvaluationReport(
        model="student", step=step, metrics=CocoMetrics(**dict.fromkeys(CocoMetrics.model_fields, 0.25))
    )


@pytest.fixture
def delivery(attempt: AttemptClient, folder: WorkFolder, stale: threading.Event) -> Delivery:
    return Delivery(attempt, Spool(folder.spool / "reports", 10_000_000), stale.set, interval=0.05)


def steps(double: Double) -> list[int]:
    return [point["step"] for point in double.points]


def test_points_arrive_in_batches_in_order(attempt: AttemptClient, folder: WorkFolder, double: Double) -> None:
    delivery = Delivery(attempt, Spool(folder.spool / "reports", 10_000_000), lambda: None, interval=60)
    for step in range(2 * BATCH_POINTS + 200):
        delivery.metrics(points(step, 1), progress(step))
    delivery.close(60)
    assert steps(double) == list(range(1200))
    assert [len(double.batches[number]["points"]) for number in double.batch_order] == [BATCH_POINTS, BATCH_POINTS, 200]
    assert double.batches[double.batch_order[-1]]["progress"]["step"] == 1199


def test_batches_are_as_rare_as_the_api_asks(double: Double, delivery: Delivery, until: Until) -> None:
    double.always["metrics"] = Fault(headers={"Report-Interval": "0.6"})
    began, step = time.monotonic(), 1
    delivery.metrics(points(0, 1), progress(0))
    until(lambda: double.batches)
    told = time.monotonic()
    while step < 10 or time.monotonic() < told + 2:
        delivery.metrics(points(step, 1), progress(step))
        step += 1
        time.sleep(0.02)
    delivery.close(60)
    assert steps(double) == list(range(step))
    # The first before all others are told, one every 0.6 s, and what is left at the end.
    assert 2 <= len(double.batches) <= (time.monotonic() - began) / 0.6 + 2


def test_a_phase_is_told_at_once_without_points(attempt: AttemptClient, folder: WorkFolder, double: Double) -> None:
    delivery = Delivery(attempt, Spool(folder.spool / "reports", 1000), lambda: None, interval=60)
    delivery.progress(Progress(phase="evaluating"))
    delivery.close(60)
    assert [batch["progress"]["phase"] for batch in double.batches.values()] == ["evaluating"]


def test_an_evaluation_comes_behind_the_points_before_it(double: Double, delivery: Delivery) -> None:
    delivery.metrics(points(1, 1), progress(1))
    delivery.evaluation(evaluation(1))
    delivery.metrics(points(2, 1), progress(2))
    delivery.close(60)
    words = [request.path.rsplit("/", 1)[1] for request in double.requests]
    assert words == ["metrics", "evaluations", "metrics"]


def test_a_mark_is_set_when_all_before_it_is_taken(
    double: Double, delivery: Delivery, folder: WorkFolder, until: Until
) -> None:
    """And whoever finds the spool, after its process was killed, knows it."""
    assert reported_step(folder.spool / "reports") == 0
    assert delivery.mark(2).is_set()  # there is nothing to wait for
    assert reported_step(folder.spool / "reports") == 2
    double.always["metrics"] = Fault(status=503)
    delivery.metrics(points(0, 3), progress(3))
    first = delivery.mark(3)
    until(lambda: double.seen("metrics"))
    assert not first.is_set()
    assert reported_step(folder.spool / "reports") == 2
    double.always = {"evaluations": Fault(status=503)}
    assert first.wait(60)
    assert steps(double) == [0, 1, 2]
    delivery.evaluation(evaluation(3))
    second = delivery.mark(4)
    until(lambda: double.seen("evaluations"))
    assert not second.is_set()
    double.always = {}
    assert second.wait(60)
    assert reported_step(folder.spool / "reports") == 4
    delivery.close(60)


def test_an_outage_loses_and_doubles_nothing(double: Double, delivery: Delivery, until: Until) -> None:
    """Errors, connections lost before and after the fact, then nothing at all for a while."""
    delivery.metrics(points(0, 10), progress(10))
    until(lambda: len(steps(double)) == 10)
    double.faults["metrics"] = [Fault(drop="after"), Fault(status=500), Fault(drop="before")]
    double.faults["evaluations"] = [Fault(status=503)]
    double.always["metrics"] = Fault(status=503)
    for step in range(10, 3000):
        delivery.metrics(points(step, 1), progress(step))
        if step == 1500:
            delivery.evaluation(evaluation(step))
    del double.always["metrics"]
    delivery.close(60)
    assert steps(double) == list(range(3000))
    assert double.batch_order == list(range(len(double.batch_order)))
    assert [report["step"] for report in double.evaluations] == [1500]


def test_a_report_is_written_once_and_sent_as_it_stands_in_the_spool(
    double: Double, delivery: Delivery, folder: WorkFolder, until: Until
) -> None:
    double.always = {"metrics": Fault(status=503)}
    delivery.metrics(points(0, 3), progress(3))
    delivery.evaluation(evaluation(3))
    delivery.log([LogLine(at=NOW, text="a line")])
    delivery.mark(3)
    until(lambda: double.seen("metrics"))
    spooled = [line.split(b" ", 1) for line in (folder.spool / "reports").read_bytes().splitlines()]
    double.always = {}
    delivery.close(10)
    assert [endpoint for endpoint, _ in spooled] == [b"metrics", b"evaluations", b"logs"]
    for endpoint, body in spooled:
        assert double.seen(endpoint.decode())[-1].body == body


def test_reports_made_while_nobody_listens_are_replayed(folder: WorkFolder, until: Until) -> None:
    """The API's process is gone, its port closed, and comes back."""
    double = Double()
    port = double.server.server_address[1]
    double.close()
    with connect(double.url, TOKEN) as http:
        delivery = Delivery(
            AttemptClient(http, "a", 1), Spool(folder.spool / "r", 10_000_000), lambda: None, interval=0.05
        )
        for step in range(2000):
            delivery.metrics(points(step, 1), progress(step))
        time.sleep(0.5)
        back = Double(port)
        delivery.close(30)
        back.close()
    assert steps(back) == list(range(2000))
    assert len({id(batch) for batch in back.batches.values()}) == len(back.batch_order)


def test_a_slow_api_never_holds_the_training_up(double: Double, delivery: Delivery, until: Until) -> None:
    trained = threading.Event()
    double.always["metrics"] = Fault(hold=trained)
    delivery.metrics(points(0, 1), progress(0))
    until(lambda: double.seen("metrics"))  # it is on its way until the training is over
    longest = 0.0
    for step in range(1, 3000):
        began = time.monotonic()
        delivery.metrics(points(step, 1), progress(step))
        longest = max(longest, time.monotonic() - began)
    assert longest < 30  # the request is held until they are all told
    trained.set()
    delivery.close(30)
    assert steps(double) == list(range(3000))


def test_a_full_spool_leaves_metrics_out_and_tells_how_many(
    double: Double, attempt: AttemptClient, folder: WorkFolder, until: Until
) -> None:
    """The training goes on, its evaluations have room of their own, and nothing is lost silently."""
    delivery = Delivery(attempt, Spool(folder.spool / "r", 100_000), lambda: None, interval=0.05)
    double.always["metrics"] = Fault(status=503)
    for step in range(5000):
        delivery.metrics(points(step, 1), progress(step))
    delivery.evaluation(evaluation(4999))
    double.always.clear()
    until(lambda: len(double.batches) > 0)
    until(lambda: len(delivery._spool) == 0)
    delivery.metrics(points(5000, 1), progress(5000))
    delivery.close(60)
    assert steps(double) == sorted(set(steps(double)))
    assert steps(double)[-1] == 5000
    assert [report["step"] for report in double.evaluations] == [4999]
    missing = sorted(set(range(5001)) - set(steps(double)))
    assert len(missing) > 500
    assert double.log == [
        f"{len(missing)} metric points between the steps {missing[0]} and {missing[-1]} are missing: "
        "the API was away until the spool was full (CROSSKD_SPOOL_MEGABYTES of the worker)"
    ]


def test_a_gap_is_told_at_the_end_too(double: Double, attempt: AttemptClient, folder: WorkFolder) -> None:
    delivery = Delivery(attempt, Spool(folder.spool / "r", 100_000), lambda: None, interval=60)
    # The first evaluation wakes the sender, and what it sent meanwhile would make room for the next ones.
    double.always["metrics"] = double.always["evaluations"] = Fault(status=503)
    for step in range(3000):
        delivery.metrics(points(step, 1), progress(step))
    for step in range(200):
        delivery.evaluation(evaluation(step))
    double.always.clear()
    delivery.close(30)
    assert len(double.log) == 1
    points_told, evaluations_told, *_ = (int(word) for word in double.log[0].split() if word.isdecimal())
    assert points_told == 3000 - len(steps(double)) > 0
    assert evaluations_told == 200 - len(double.evaluations) > 0
    assert len(steps(double)) < 5001


def test_a_stale_attempt_is_told_at_once(double: Double, delivery: Delivery, stale: threading.Event) -> None:
    double.stale = True
    delivery.metrics(points(0, 1), progress(0))
    assert stale.wait(60)
    with pytest.raises(StaleAttempt):
        delivery.close(60)


def test_a_refused_report_does_not_block_those_behind_it(double: Double, delivery: Delivery) -> None:
    double.faults["metrics"] = [Fault(status=422)]
    delivery.metrics(points(0, 500), progress(0))
    delivery.evaluation(evaluation(0))
    delivery.metrics(points(500, 500), progress(1))
    delivery.close(60)
    assert steps(double) == list(range(500, 1000))
    assert len(double.evaluations) == 1
    (line,) = double.log
    assert line.startswith("the API refuses a report, which is left out: POST /worker/attempts/")


def test_an_api_that_stays_away_is_reported(double: Double, delivery: Delivery, http: httpx.Client) -> None:
    double.always["metrics"] = Fault(status=503)
    delivery.metrics(points(0, 1), progress(0))
    with pytest.raises(Undelivered, match="metrics"):
        delivery.close(0.5)
