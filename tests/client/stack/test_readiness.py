"""What is told while a running stack is not ready."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from client.stack.readiness import ReadinessWatch
from wire.errors import Fault, Problem

FULL = Fault(pointer="storage", detail="5 bytes are free in /x, and 9 must be", remedy="Make room \x1b[2J there.")


class Answers(BaseHTTPRequestHandler):
    faults: list[Fault] = []

    def do_GET(self) -> None:
        body = Problem(title="Service Unavailable", status=503, errors=self.faults).model_dump_json().encode()
        self.send_response(503 if self.faults else 200)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_what_is_not_ready_is_told_once_and_its_end_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    watch = ReadinessWatch(url, told.append, pause=0)
    watch.look()
    assert told == []
    monkeypatch.setattr(Answers, "faults", [FULL])
    watch.look()
    watch.look()
    assert len(told) == 1
    assert told[0].startswith("Not ready: storage: 5 bytes are free in /x, and 9 must be. Make room ")
    assert "\x1b" not in told[0]
    monkeypatch.setattr(Answers, "faults", [])
    watch.look()
    assert told[1:] == ["Ready again."]


def test_an_api_that_does_not_answer_is_somebody_elses_matter() -> None:
    ReadinessWatch("http://127.0.0.1:1", pytest.fail, pause=0).look()
