"""Following a job through the SDK and the command line."""

from __future__ import annotations

import threading
import time

import pytest

from client.errors import ApiProblem
from tests.client.conftest import Service
from tests.client.test_cli import run


def log_batch(sequence: int, *texts: str) -> dict[str, object]:
    return {"sequence": sequence, "lines": [{"at": "2026-01-01T00:00:00Z", "text": text} for text in texts]}


def test_events_are_typed_by_their_kind(service: Service) -> None:
    job = service.succeeded("x", b"weights")
    with service.client() as client:
        events = list(client.events(job))
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        kinds = {event.kind: type(event.data).__name__ for event in events}
        assert kinds == {"transition": "Transition", "metrics": "MetricsEvent", "evaluation": "Evaluation"}
        assert list(client.events(job, after=len(events))) == []
        assert list(client.events(job, kinds=["transition"], after=2)) == [events[-1]]
        assert list(client.events(job, kinds=["log"])) == []
        with pytest.raises(ApiProblem, match="no such job"):
            next(client.events("0" * 32))


def test_a_log_is_followed_without_a_double(service: Service) -> None:
    job = service.post("x")
    worker = service.claimed(job)
    assert worker.post("logs", log_batch(0, "one", "two")).is_success
    told: list[str] = []

    def follow() -> None:
        with service.client() as client:
            told.extend(line.text for line in client.logs(job, tail=1, follow=True))

    follower = threading.Thread(target=follow)
    follower.start()
    for number in range(1, 6):
        assert worker.post("logs", log_batch(number, f"more {number}")).is_success
        time.sleep(0.05)
    assert worker.finish("succeeded").is_success
    follower.join(30)
    assert told[-1] == "more 5"
    everything = ["one", "two", *(f"more {n}" for n in range(1, 6))]
    assert told == everything[-len(told) :]  # from whichever was the last when it began
    printed = run(service, "logs", job, "--follow", "--tail", "3")
    assert printed.returncode == 0, printed.stderr
    assert printed.stdout.splitlines() == [f"2026-01-01 00:00:00  INFO     {text}" for text in everything[-3:]]
