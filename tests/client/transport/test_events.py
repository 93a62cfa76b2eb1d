"""Following a job through the SDK and the command line."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import httpx
import pytest

from client.errors import ApiProblem, TooMany
from client.sdk import Crosskd
from client.transport import events
from client.transport.connection import SyncConnection
from tests.support.api_server import Service
from tests.support.crosskd_command import run
from tests.support.waiting import until
from wire.events import Event


def log_batch(sequence: int, *texts: str) -> dict[str, object]:
    return {"sequence": sequence, "lines": [{"at": "2026-01-01T00:00:00Z", "text": text} for text in texts]}


def test_events_are_typed_by_their_kind(service: Service) -> None:
    job = service.succeeded("x", b"weights")
    with service.client() as client:
        events = list(client.jobs.events(job))
        assert [event.id for event in events] == list(range(1, len(events) + 1))
        kinds = {event.kind: type(event.data).__name__ for event in events}
        assert kinds == {"transition": "Transition", "metrics": "MetricsEvent", "evaluation": "Evaluation"}
        assert list(client.jobs.events(job, after=len(events))) == []
        assert list(client.jobs.events(job, kinds=["transition"], after=2)) == [events[-1]]
        assert list(client.jobs.events(job, kinds=["log"])) == []
        with pytest.raises(ApiProblem, match="no such job"):
            next(client.jobs.events("0" * 32))


def test_a_log_is_followed_without_a_double(service: Service) -> None:
    job = service.post("x")
    worker = service.claimed(job)
    assert worker.post("logs", log_batch(0, "one", "two")).is_success
    told: list[str] = []

    def follow() -> None:
        with service.client() as client:
            told.extend(line.text for line in client.jobs.logs(job, tail=1, follow=True))

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


def test_a_stream_that_ends_is_gone_on_with(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the service ends each after an hour."""
    monkeypatch.setattr("api.http.streams.MAX_SECONDS", 0.1)
    job = service.post("x")
    worker = service.claimed(job)
    told: list[str] = []
    opened: list[int] = []

    def follow() -> None:
        hooks = {"response": [lambda answer: opened.append(answer.status_code)]}
        with httpx.Client(base_url=service.url, event_hooks=hooks, timeout=30) as http:
            for line in Crosskd(service.url, http).jobs.logs(job, follow=True):
                told.append(line.text)

    follower = threading.Thread(target=follow)
    follower.start()
    for number in range(3):
        turns = len(opened)
        until(lambda so_far=turns: len(opened) >= so_far + 2, 60)  # type: ignore[misc]
        assert worker.post("logs", log_batch(number, f"line {number}")).is_success
    assert worker.finish("succeeded").is_success
    follower.join(60)
    assert told == ["line 0", "line 1", "line 2"]


LOG = """id: 7
event: log
data: {"attempt": 1, "lines": [], "dropped": 1}

"""


def answering(*answers: httpx.Response) -> httpx.Client:
    """A connection to a service that gives these answers; the last one for ever."""
    left = list(answers)
    transport = httpx.MockTransport(lambda _: left.pop(0) if len(left) > 1 else left[0])
    return httpx.Client(base_url="http://service", transport=transport)


def listen(http: httpx.Client, patience: float) -> Iterator[Event]:
    connection = SyncConnection("http://service", http, None, patience)
    return connection.iterate(events.stream(connection, "/events", [], 0, lambda event: [event]))


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_a_service_that_is_away_is_waited_for(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("client.transport.connection.time.sleep", slept.append)
    gone = httpx.Response(status, headers={"retry-after": "3"})
    stream = httpx.Response(200, text=LOG, headers={"content-type": "text/event-stream"})
    with answering(gone, stream, gone, gone, httpx.Response(204)) as http:
        assert [event.id for event in listen(http, 60)] == [7]
    assert slept == [3, events.PAUSE, 3, 3]


def test_a_service_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "PAUSE", 0.01)
    with answering(httpx.Response(429, headers={"retry-after": "3600"})) as http, pytest.raises(TooMany):
        next(listen(http, 0.05))
