"""`crosskd audit` as a person runs it, on a service whose files were tampered with."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from client.errors import ClientError
from client.sdk import Crosskd
from tests.support.api_server import Service
from tests.support.crosskd_command import run
from wire.audit import Aborted, Finding, Summary

WEIGHTS = b"weights" * 100


@pytest.fixture(scope="module")
def weights(service: Service, home: Path) -> Path:
    """The file of a job's weights."""
    job = service.succeeded("audited", WEIGHTS)
    (found,) = (home / "artifacts").glob(f"{job}/*-best.safetensors")
    return found


@pytest.mark.usefixtures("weights")
def test_where_all_agrees_it_says_so(service: Service) -> None:
    done = run(service, "audit", "--verify")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1 rows, 1 files, 700 bytes read: 0 findings\n"


def test_findings_are_a_table_and_an_exit_code(service: Service, weights: Path) -> None:
    weights.write_bytes(WEIGHTS.upper())
    try:
        assert run(service, "audit").returncode == 0, "only --verify reads what the files hold"
        done = run(service, "audit", "--verify")
        machine = run(service, "audit", "--verify", "--json")
    finally:
        weights.write_bytes(WEIGHTS)
    assert (done.returncode, machine.returncode) == (1, 1)
    head, line, last = done.stdout.splitlines()
    assert head.split() == ["problem", "job", "artifact", "what", "key"]
    assert line.startswith(f"bytes       {weights.parent.name}  best.safetensors          sha256 ")
    assert last == "1 rows, 1 files, 700 bytes read: 1 findings"
    finding, summary = map(json.loads, machine.stdout.splitlines())
    assert (finding["problem"], finding["artifact"]) == ("bytes", "best.safetensors")
    assert (summary["event"], summary["findings"]) == ("summary", 1)


def test_each_way_is_looked(service: Service, weights: Path) -> None:
    moved = weights.rename(weights.with_name(f"{'0' * 31}1-log.txt"))
    try:
        with service.client() as client:
            *found, summary = client.audit()
    finally:
        moved.rename(weights)
    problems = {line.problem for line in found if isinstance(line, Finding)}
    assert problems == {"missing", "in_flight"}  # its bytes are young
    assert isinstance(summary, Summary)
    assert (summary.findings, summary.in_flight) == (1, 1)


@pytest.fixture
def broken() -> Iterator[tuple[str, list[bytes]]]:
    """A service whose audits break off after the lines in the list."""
    lines: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            body = b'{"status": "ok", "version": "0"}' if self.path == "/health" else b"".join(lines)
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", lines
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("", "The audit broke off. Start it again"),
        (Aborted(detail="the database does not answer").model_dump_json(), "broke off: the database does not answer."),
        ("<html>", "no audit"),
    ],
)
def test_an_audit_that_breaks_off_is_no_good_news(broken: tuple[str, list[bytes]], line: str, what: str) -> None:
    url, lines = broken
    lines.append(f"{line}\n".encode() if line else b"")
    done = run(url, "audit")
    assert (done.returncode, done.stdout) == (1, "")
    assert what in done.stderr
    with Crosskd(url) as client, pytest.raises(ClientError):
        list(client.audit())


def test_a_service_that_is_not_there() -> None:
    assert "No answer from" in run("http://127.0.0.1:1", "audit").stderr
