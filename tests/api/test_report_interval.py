from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.report_interval import FORGET_SECONDS, MAX_SECONDS, ReportIntervals
from tests.support.worker_calls import Worker


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def test_few_workers_report_once_a_second_and_more_of_them_less_often(clock: list[float]) -> None:
    report_intervals = ReportIntervals(40, jitter=0, clock=lambda: clock[0])
    assert [report_intervals.next_interval(str(number)) for number in range(40)] == [1.0] * 40
    assert [report_intervals.next_interval(str(number)) for number in range(40, 200)][-1] == 5.0
    assert report_intervals.next_interval("7") == 5.0  # counted once
    assert [report_intervals.next_interval(str(number)) for number in range(1000)][-1] == MAX_SECONDS


def test_who_is_not_heard_of_is_forgotten(clock: list[float]) -> None:
    report_intervals = ReportIntervals(10, jitter=0, clock=lambda: clock[0])
    for number in range(50):
        report_intervals.next_interval(str(number))
    clock[0] = FORGET_SECONDS
    assert [report_intervals.next_interval(str(number)) for number in range(20)][-1] == 5.0
    clock[0] += 0.1
    assert report_intervals.next_interval("0") == 2.0  # only the twenty that have been heard of since
    clock[0] += 10 * FORGET_SECONDS
    assert report_intervals.next_interval("0") == 1.0


def test_workers_that_began_together_do_not_stay_in_step() -> None:
    report_intervals = ReportIntervals(40)
    intervals = [report_intervals.next_interval(str(number)) for number in range(200)]
    assert set(intervals[:40]) == {1.0}
    assert len({round(seconds / (number + 1), 6) for number, seconds in enumerate(intervals[40:], 40)}) > 100
    assert all(0.9 * number / 40 <= seconds <= 1.1 * number / 40 for number, seconds in enumerate(intervals[40:], 41))


def test_the_answer_says_so(app: FastAPI, client: TestClient, worker: Worker, post_job: Callable[..., str]) -> None:
    worker.claim(post_job())
    assert "Report-Interval" not in worker.post("metrics", {"sequence": 0}).headers  # nothing to ask for
    app.state.report_intervals = ReportIntervals(0.25, jitter=0)
    answer = worker.post("metrics", {"sequence": 1})
    assert (answer.status_code, answer.headers["Report-Interval"]) == (204, "4.0")
    again = Worker(client)
    again.claim(post_job())
    assert again.post("metrics", {"sequence": 0}).headers["Report-Interval"] == "8.0"
    assert "Report-Interval" not in worker.post("metrics", {"sequence": "no"}).headers
