from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.support.api_double import TOKEN, Double, Fault
from wire.artifacts import ArtifactRef
from wire.jobs import Failure
from wire.reports import ClaimRequest, FinishReport, MetricBatch
from worker.deliver.client import AttemptClient, WorkerClient, connect
from worker.deliver.retry import Abandoned, BadDownload, Refused, Retry, StaleAttempt, Unreachable
from worker.deliver.spool import Record

QUICK = Retry(patience=10, first=0.01, longest=0.02)


def batch(sequence: int) -> Record:
    return Record.of(MetricBatch(sequence=sequence))


def reference(data: bytes) -> ArtifactRef:
    return ArtifactRef(
        name="weights", url="/jobs/j/artifacts/weights", sha256=hashlib.sha256(data).hexdigest(), size=len(data)
    )


def test_every_call_carries_the_worker_token_and_the_fencing_token(double: Double, attempt: AttemptClient) -> None:
    attempt.heartbeat()
    attempt.report(batch(0), QUICK)
    attempt.finish(FinishReport(outcome="released"), QUICK)
    for request in double.requests:
        assert request.headers["authorization"] == f"Bearer {TOKEN}"
        assert request.headers["fencing-token"] == "7"
        assert request.path.startswith("/worker/attempts/attempt-1/")


@pytest.mark.parametrize(
    "fault", [Fault(status=500), Fault(status=503), Fault(status=507), Fault(drop="before"), Fault(drop="after")]
)
def test_a_call_is_repeated_until_it_is_answered(double: Double, attempt: AttemptClient, fault: Fault) -> None:
    double.faults["metrics"] = [fault, fault, fault]
    attempt.report(batch(3), QUICK)
    assert len(double.seen("metrics")) == 4
    assert double.batch_order == [3]


def test_waits_grow_and_differ() -> None:
    retry = Retry(first=0.5, longest=8)
    waits = [[retry.delay(tries) for tries in range(8)] for _ in range(2)]
    assert waits[0] != waits[1]
    for tries, wait in enumerate(waits[0]):
        assert min(8, 0.5 * 2**tries) / 2 <= wait <= min(8, 0.5 * 2**tries)


def test_too_many_requests_waits_as_long_as_it_is_told(double: Double, attempt: AttemptClient) -> None:
    double.faults["metrics"] = [Fault(status=429, headers={"Retry-After": "1"})]
    attempt.report(batch(0), QUICK)
    first, second = double.seen("metrics")
    assert second.at - first.at >= 1.0


@pytest.mark.parametrize("value", ["Wed, 21 Oct 2015 07:28:00 GMT", "soon", "-30"])
def test_a_strange_retry_after_is_no_reason_to_wait(double: Double, attempt: AttemptClient, value: str) -> None:
    double.faults["metrics"] = [Fault(status=503, headers={"Retry-After": value})]
    began = time.monotonic()
    attempt.report(batch(0), Retry(patience=300, first=0.01, longest=0.02))
    assert time.monotonic() - began < 50  # the longest wait that a server may ask for is a minute


def test_a_proxy_that_has_lost_the_api_is_waited_for(double: Double, attempt: AttemptClient) -> None:
    """Its 404 is no problem document: nobody has said that the attempt is gone."""
    double.faults["metrics"] = [Fault(status=404)] * 2
    attempt.report(batch(1), QUICK)
    assert double.batch_order == [1]
    double.faults["heartbeat"] = [Fault(status=404)]
    with pytest.raises(Unreachable, match="404"):
        attempt.heartbeat()


def test_a_download_waits_for_it_too(double: Double, http: httpx.Client, tmp_path: Path) -> None:
    double.files["weights"] = b"bytes"
    double.faults["artifacts"] = [Fault(status=404)]
    WorkerClient(http).download(reference(b"bytes"), tmp_path / "w", QUICK)
    assert (tmp_path / "w").read_bytes() == b"bytes"


@pytest.mark.parametrize("status", [404, 409, 410])
def test_an_attempt_that_is_not_the_live_one_is_stale(double: Double, attempt: AttemptClient, status: int) -> None:
    double.faults["heartbeat"] = [Fault(status=status, body={"title": "gone", "status": status})]
    with pytest.raises(StaleAttempt, match=str(status)):
        attempt.heartbeat()


def test_a_refusal_is_not_repeated_and_says_what_the_api_said(double: Double, attempt: AttemptClient) -> None:
    problem = {
        "title": "Invalid report",
        "status": 422,
        "errors": [{"pointer": "/points/0/key", "detail": "has a space in it"}],
    }
    double.always["metrics"] = Fault(status=422, body=problem)
    with pytest.raises(Refused, match="Invalid report; /points/0/key: has a space in it") as caught:
        attempt.report(batch(0), QUICK)
    assert caught.value.status == 422
    assert len(double.seen("metrics")) == 1


def test_patience_ends(double: Double, attempt: AttemptClient) -> None:
    double.always["metrics"] = Fault(status=503)
    with pytest.raises(Unreachable, match="503"):
        attempt.report(batch(0), Retry(patience=0.3, first=0.05, longest=0.1))
    assert 2 <= len(double.seen("metrics")) <= 12


def test_a_server_that_asks_for_more_time_than_there_is_gets_all_of_it(double: Double, attempt: AttemptClient) -> None:
    double.always["metrics"] = Fault(status=507, headers={"Retry-After": "60"})
    began = time.monotonic()
    with pytest.raises(Unreachable, match="507"):
        attempt.report(batch(0), Retry(patience=0.3))
    assert 0.3 <= time.monotonic() - began < 50
    assert len(double.seen("metrics")) == 2


def test_no_api_at_all_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with connect(f"http://127.0.0.1:{port}", TOKEN) as http, pytest.raises(Unreachable, match="ConnectError"):
        AttemptClient(http, "a", 1).heartbeat()


def test_a_wait_ends_when_the_caller_gives_up(double: Double, attempt: AttemptClient) -> None:
    double.always["metrics"] = Fault(status=503)
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(Abandoned):
        attempt.report(batch(0), Retry(stop=stop, first=60, longest=60))
    assert time.monotonic() - began < 25  # the shortest first wait is 30 s


def test_a_job_that_is_taken_or_unknown_is_no_claim(double: Double, http: httpx.Client) -> None:
    request = ClaimRequest(worker="w", device="cpu", versions={"torch": "2"})
    assert WorkerClient(http).claim("taken", request, QUICK) is None
    double.faults["claim"] = [Fault(status=404)]
    assert WorkerClient(http).claim("unknown", request, QUICK) is None


def test_a_claim_is_had_after_the_api_comes_back(double: Double, http: httpx.Client) -> None:
    double.claims["job"] = {
        "attempt": "a", "fencing_token": 2, "lease_seconds": 30, "job": "job", "kind": "train", "spec": {},
    }  # fmt: skip
    double.faults["claim"] = [Fault(drop="before"), Fault(status=502)]
    claim = WorkerClient(http).claim("job", ClaimRequest(worker="w"), QUICK)
    assert claim is not None
    assert claim.fencing_token == 2


def test_an_upload_is_streamed_with_length_and_digest(double: Double, attempt: AttemptClient, tmp_path: Path) -> None:
    data = os.urandom(3_500_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    double.faults["artifacts"] = [Fault(status=503), Fault(drop="after")]
    attempt.upload(path, "checkpoint-00000012.pt", "checkpoint", 12, QUICK)
    name, query, body = double.uploads[-1]
    assert name == "checkpoint-00000012.pt"
    assert query == {"kind": "checkpoint", "step": "12"}
    assert body == data
    request = double.seen("artifacts")[1]
    assert request.headers["content-length"] == str(len(data))
    assert "transfer-encoding" not in request.headers


def test_an_upload_stops_when_the_caller_gives_up(double: Double, attempt: AttemptClient, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5_000_000))
    stop = threading.Event()
    stop.set()
    with pytest.raises(Abandoned):
        attempt.upload(path, "log.txt", "log", None, Retry(stop=stop))
    assert double.uploads == []


def test_a_download_stops_when_the_caller_gives_up(double: Double, http: httpx.Client, tmp_path: Path) -> None:
    double.files["weights"] = data = os.urandom(3_000_000)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Abandoned, match="download of weights"):
        WorkerClient(http).download(reference(data), tmp_path / "weights", Retry(stop=stop))
    assert not (tmp_path / "weights").exists()


def test_a_proxys_redirect_is_followed(double: Double, http: httpx.Client, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    double.files["weights"] = data
    double.faults["artifacts"] = [Fault(status=301, headers={"Location": reference(data).url})]
    WorkerClient(http).download(reference(data), tmp_path / "weights", QUICK)
    assert (tmp_path / "weights").read_bytes() == data
    double.always["artifacts"] = Fault(status=301, headers={"Location": reference(data).url})
    with pytest.raises(Unreachable, match="redirected more than"):
        WorkerClient(http).download(reference(data), tmp_path / "again", Retry(patience=0.1, first=0.01, longest=0.02))


def test_a_download_of_other_bytes_is_refused(double: Double, http: httpx.Client, tmp_path: Path) -> None:
    double.files["weights"] = b"tampered"
    with pytest.raises(BadDownload, match="sha256"):
        WorkerClient(http).download(reference(b"original"), tmp_path / "weights", QUICK)
    assert list(tmp_path.iterdir()) == []
    assert len(double.seen("artifacts")) == 2


def test_a_missing_file_is_refused_at_once(double: Double, http: httpx.Client, tmp_path: Path) -> None:
    double.always["artifacts"] = Fault(status=404, body={"title": "Not Found", "status": 404})
    with pytest.raises(Refused):
        WorkerClient(http).download(reference(b"x"), tmp_path / "weights", QUICK)
    assert len(double.seen("artifacts")) == 1


def test_a_command_is_waited_for(double: Double, attempt: AttemptClient) -> None:
    assert attempt.command(0).command is None
    began = time.monotonic()
    threading.Timer(0.3, double.give_command, ["cancel"]).start()
    assert attempt.command(60).command == "cancel"
    assert 0.2 < time.monotonic() - began < 50  # the double gives the command after a minute too


def test_a_failure_travels_whole(double: Double, attempt: AttemptClient) -> None:
    failure = Failure(failure_class="data", message="no such image", where="x.json", remedy="Add it.", log_tail=["a"])
    attempt.finish(FinishReport(outcome="failed", failure=failure), QUICK)
    assert Failure.model_validate(double.finished[0]["failure"]) == failure
