from __future__ import annotations

from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from api.pace import FORGOTTEN, LONGEST, Pace
from tests.api.conftest import Worker


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def test_few_workers_report_once_a_second_and_more_of_them_less_often(clock: list[float]) -> None:
    pace = Pace(40, spread=0, clock=lambda: clock[0])
    assert [pace.interval(str(number)) for number in range(40)] == [1.0] * 40
    assert [pace.interval(str(number)) for number in range(40, 200)][-1] == 5.0
    assert pace.interval("7") == 5.0  # counted once
    assert [pace.interval(str(number)) for number in range(1000)][-1] == LONGEST


def test_who_is_not_heard_of_is_forgotten(clock: list[float]) -> None:
    pace = Pace(10, spread=0, clock=lambda: clock[0])
    for number in range(50):
        pace.interval(str(number))
    clock[0] = FORGOTTEN
    assert [pace.interval(str(number)) for number in range(20)][-1] == 5.0
    clock[0] += 0.1
    assert pace.interval("0") == 2.0  # only the twenty that have been heard of since
    clock[0] += 10 * FORGOTTEN
    assert pace.interval("0") == 1.0


def test_workers_that_began_together_do_not_stay_in_step() -> None:
    pace = Pace(40)
    told = [pace.interval(str(number)) for number in range(200)]
    assert set(told[:40]) == {1.0}
    assert len({round(seconds / (number + 1), 6) for number, seconds in enumerate(told[40:], 40)}) > 100
    assert all(0.9 * number / 40 <= seconds <= 1.1 * number / 40 for number, seconds in enumerate(told[40:], 41))


def test_the_answer_says_so(app: FastAPI, client: TestClient, worker: Worker, post_job: Callable[..., str]) -> None:
    worker.claim(post_job())
    assert "Report-Interval" not in worker.post("metrics", {"sequence": 0}).headers  # nothing to ask for
    app.state.pace = Pace(0.25, spread=0)
    told = worker.post("metrics", {"sequence": 1})
    assert (told.status_code, told.headers["Report-Interval"]) == (204, "4.0")
    again = Worker(client)
    again.claim(post_job())
    assert again.post("metrics", {"sequence": 0}).headers["Report-Interval"] == "8.0"
    assert "Report-Interval" not in worker.post("metrics", {"sequence": "no"}).headers
