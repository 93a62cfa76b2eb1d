"""The SDK against the real API over a real socket."""

from __future__ import annotations

import threading
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest

from client.errors import ApiProblem, ClientError, Unreachable
from client.resources import job_results, jobs
from client.sdk import Crosskd
from client.stack.services import HOST, free_port
from crosskd.spec.config import TrainConfig
from tests.support.api_server import Service, serve
from tests.support.coco_files import write_spec
from tests.support.evaluations import report_with_curves
from tests.support.worker_calls import Worker
from wire.jobs import Job, JobCreate

WEIGHTS = b"weights" * 100_000


@pytest.fixture(scope="module")
def finished(service: Service) -> str:
    return service.succeeded("finished", WEIGHTS)


def test_a_job_is_created_from_the_wires_own_model(service: Service) -> None:
    spec = TrainConfig.model_validate(service.spec | {"seed": 7})
    with service.client() as client:
        job = client.jobs.create(JobCreate(kind="train", name="typed", labels={"a": "b"}, spec=spec))
        assert (job.name, job.labels, job.status, job.spec["seed"]) == ("typed", {"a": "b"}, "queued", 7)
        assert job.warnings == []
        assert client.jobs.get(job.id).model_dump() == job.model_dump(exclude={"notes"})


def test_a_dry_run_fills_in_the_defaults_and_stores_nothing(service: Service) -> None:
    with service.client() as client:
        before = {job.id for job in client.jobs.list()}
        answer = client.jobs.dry_run({"kind": "train", "name": "dry", "spec": service.spec})
        assert answer.spec.optimizer.name == "sgd"
        assert {job.id for job in client.jobs.list()} == before


def test_a_problem_carries_every_fault(service: Service) -> None:
    spec = {**service.spec, "batch_size": 0, "seed": -1}
    with service.client() as client, pytest.raises(ApiProblem) as caught:
        client.jobs.create({"kind": "train", "name": "bad", "spec": spec})
    assert caught.value.problem.status == 422
    assert {fault.pointer for fault in caught.value.problem.errors} == {"/spec/batch_size", "/spec/seed"}
    lines = caught.value.lines()
    assert len(lines) == 3
    assert lines[0].startswith("422 ")
    assert any(line.startswith("/spec/batch_size: ") for line in lines)


def test_jobs_are_read_page_by_page(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PAGE", 2)
    made = [service.post(f"paged {number}") for number in range(5)]
    with service.client() as client:
        assert [job.id for job in client.jobs.list()][:5] == made[::-1]


def test_jobs_are_filtered_by_state_and_label_and_text(service: Service, finished: str) -> None:
    with service.client() as client:
        body = {"kind": "train", "name": "labelled", "labels": {"team": "a", "x": "1"}, "spec": service.spec}
        made = client.jobs.create(body)
        assert [job.id for job in client.jobs.list(labels={"team": "a", "x": "1"})] == [made.id]
        assert list(client.jobs.list(labels={"team": "a", "x": "2"})) == []
        assert finished in {job.id for job in client.jobs.list(status="succeeded")}
        assert {job.status for job in client.jobs.list(status="succeeded")} == {"succeeded"}
        assert [job.id for job in client.jobs.list(search="LABELL")] == [made.id]
        assert [job.id for job in client.jobs.list(search=made.id[:31])] == [made.id]
        assert list(client.jobs.list(search="labelled", status="succeeded")) == []


def test_metrics_are_read_page_by_page(service: Service, finished: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_results, "POINTS", 2)
    with service.client() as client:
        assert [(row.step, row.key) for row in client.jobs.metrics(finished)] == [
            (step, key) for step in (1, 2, 3) for key in ("loss", "lr")
        ]
        assert [row.value for row in client.jobs.metrics(finished, key="loss", since_step=2)] == [1 / 2, 1 / 3]
        assert [row.step for row in client.jobs.metrics(finished, key="loss", attempt=1)] == [1, 2, 3]


def test_evaluations_and_artifacts_are_listed(service: Service, finished: str) -> None:
    with service.client() as client:
        assert [(item.model, item.metrics.AP, item.best) for item in client.jobs.evaluations(finished)] == [
            ("student", 0.25, True)
        ]
        assert "best.safetensors" in {item.name for item in client.jobs.artifacts(finished)}


def test_evaluations_are_read_page_by_page(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    job, worker = service.post("measured"), Worker(service.http)
    worker.claim(job)
    for step in (1, 2, 3):
        report_with_curves(worker, "student", step, curves=False)
    monkeypatch.setattr("api.services.history.evaluations.PAGE_CHARACTERS", 1)
    with service.client() as client:
        assert [found.step for found in client.jobs.evaluations(job)] == [1, 2, 3]


def test_curves_are_read_through_their_evaluation(service: Service) -> None:
    job, worker = service.post("drawn"), Worker(service.http)
    worker.claim(job)
    report_with_curves(worker, "student", 12)
    with service.client() as client:
        (measured,) = client.jobs.evaluations(job)
        drawn = client.jobs.curves(job, measured.step)
        assert (drawn.model, drawn.step, drawn.classes["ring"]) == ("student", 12, drawn.mean)
        with pytest.raises(ApiProblem, match="no curves of the teacher at step 12"):
            client.jobs.curves(job, 12, model="teacher")


def test_weights_and_artifacts_are_downloaded(service: Service, finished: str, tmp_path: Path) -> None:
    with service.client() as client:
        assert client.jobs.weights(finished, tmp_path) == tmp_path / "best.safetensors"
        assert client.jobs.download(finished, "best.safetensors", tmp_path / "again").read_bytes() == WEIGHTS
    assert (tmp_path / "best.safetensors").read_bytes() == WEIGHTS


def test_a_part_left_behind_is_completed_by_the_api(service: Service, finished: str, tmp_path: Path) -> None:
    with service.client() as client:
        sha256 = next(item.sha256 for item in client.jobs.artifacts(finished) if item.name == "best.safetensors")
        part = tmp_path / f".weights.{sha256[:16]}.part"
        part.write_bytes(WEIGHTS[:1000])
        seen: list[int] = []
        client.jobs.weights(finished, tmp_path / "weights", lambda done, size: seen.append(done))
    assert (tmp_path / "weights").read_bytes() == WEIGHTS
    assert seen[0] > 1000  # it went on behind what was there
    assert not part.exists()


def test_weights_that_are_not_there_give_the_reason(service: Service, tmp_path: Path) -> None:
    job = service.post("without weights")
    with service.client() as client, pytest.raises(ApiProblem) as caught:
        client.jobs.weights(job, tmp_path / "weights")
    assert caught.value.problem.status == 404
    assert caught.value.problem.detail  # an answer to HEAD alone would have no words
    assert list(tmp_path.iterdir()) == []


def test_a_name_cannot_leave_its_place_in_the_address(service: Service, finished: str, tmp_path: Path) -> None:
    with service.client() as client:
        for name in ("../../health", "..%2f..%2fhealth", "a/b"):
            with pytest.raises(ApiProblem) as caught:
                client.jobs.download(finished, name, tmp_path / "file")
            assert caught.value.problem.status in {404, 405, 422}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("job", ["nope", "0" * 32, "../health", "a b", "ä", "x" * 5000])
def test_an_id_that_is_none_is_a_problem(service: Service, job: str) -> None:
    with service.client() as client, pytest.raises(ApiProblem) as caught:
        client.jobs.get(job)
    assert caught.value.problem.status in {404, 414, 422}


def test_jobs_are_compared_by_whatever_they_are_called() -> None:
    asked: list[httpx.URL] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url)
        if request.url.path == "/compare":
            return httpx.Response(404, json={"title": "Not Found", "status": 404})
        now = "2026-01-31T12:00:00Z"
        job = {
            "kind": "train",
            "owner": "me",
            "labels": {},
            "status": "succeeded",
            "created_at": now,
            "updated_at": now,
        }
        return httpx.Response(200, json={"items": [{**job, "id": "a" * 32, "name": "gfl"}], "has_more": False})

    http = httpx.Client(transport=httpx.MockTransport(answer), base_url="http://service")
    with http, pytest.raises(ApiProblem):
        Crosskd(http=http).compare(["gfl", "@last:teacher", "b" * 32], baseline="aaaa:teacher")
    assert asked[-1].params.get_list("job") == ["a" * 32, "a" * 32 + ":teacher", "b" * 32]
    assert asked[-1].params["baseline"] == "a" * 32 + ":teacher"


@pytest.mark.parametrize("text", ["\udcff", "a\udcffb"])
def test_what_cannot_be_sent_is_told(text: str) -> None:
    """A shell gives bytes that are no UTF-8 as halves of surrogate pairs."""
    with pytest.raises(ClientError, match=r"'.*udcff.*' is no text that can be sent"):
        Crosskd("http://127.0.0.1:9").jobs.get(text)
    with pytest.raises(ClientError, match="no text that can be sent"):
        Crosskd("http://127.0.0.1:9").jobs.create({"name": text})


def test_cancel_repeats_its_answer_and_refuses_a_finished_job(service: Service, finished: str) -> None:
    job = service.post("cancelled")
    with service.client() as client:
        assert client.jobs.cancel(job).status == "cancelled"
        assert client.jobs.cancel(job).status == "cancelled"
        with pytest.raises(ApiProblem) as caught:
            client.jobs.cancel(finished)
    assert caught.value.problem.status == 409


def test_every_action_repeats_its_answer(service: Service) -> None:
    job = service.post("acted upon")
    service.claimed(job)
    with service.client() as client:
        assert client.jobs.stop(job) == client.jobs.stop(job)
        assert client.jobs.pause(job).pause_requested_at is not None
        assert client.jobs.resume(job) == client.jobs.resume(job)
        assert client.jobs.get(job).pause_requested_at is None
        with pytest.raises(ApiProblem, match=r"is running. Possible now: cancel, pause, stop") as caught:
            client.jobs.delete(job)
        assert caught.value.problem.status == 409
        other = service.post("retried")
        client.jobs.cancel(other)
        assert client.jobs.retry(other) == client.jobs.retry(other)
        client.jobs.cancel(client.jobs.retry(other).id)
        client.jobs.delete(other)
        client.jobs.delete(other)


def test_wait_follows_a_job_to_its_end(service: Service) -> None:
    job = service.post("followed")
    worker = service.claimed(job)
    seen: list[Job] = []

    def look(current: Job) -> None:
        if not seen:
            failure = {"failure_class": "user", "message": "no"}
            assert worker.finish("failed", failure=failure).is_success
        seen.append(current)

    with service.client() as client:
        ended = client.jobs.wait(job, on_progress=look, interval=0.05, timeout=30)
    assert ended.status == "failed"
    assert ended.failure is not None
    assert [item.status for item in seen] == ["running", "failed"]


def test_wait_gives_up_after_its_time(service: Service) -> None:
    job = service.post("never begun")
    with service.client() as client, pytest.raises(TimeoutError, match="still queued"):
        client.jobs.wait(job, interval=0.01, timeout=0.05)


def test_presets_and_health(service: Service) -> None:
    with service.client() as client:
        assert {"demo_teacher", "demo_student", "demo_crosskd"} <= {preset.name for preset in client.presets.list()}
        assert client.health().status == "ok"


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The client's waits, which take no time here; each look at the clock takes a millisecond."""
    waits, looks = list[float](), count()
    clock = SimpleNamespace(sleep=waits.append, monotonic=lambda: sum(waits) + 0.001 * next(looks))
    for module in ("resources.resource", "transport.connection"):
        monkeypatch.setattr(f"client.{module}.time", clock)
    return waits


def test_nobody_there_is_said_at_once(slept: list[float]) -> None:
    port = free_port(0)
    with Crosskd(f"http://{HOST}:{port}") as client, pytest.raises(Unreachable) as caught:
        client.health()
    assert slept == []  # patience is for a service that was there before
    assert "crosskd up" in caught.value.remedy


@pytest.mark.parametrize("address", ["http://[x", "nonsense", "", "ftp://127.0.0.1:1", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ClientError, match=r"no address|No answer"), Crosskd(address, patience=0.0) as client:
        client.health()


def test_a_service_that_restarts_is_waited_for(home: Path) -> None:
    port = free_port(0)
    spec = write_spec(home / "data")
    with Crosskd(f"http://{HOST}:{port}") as client:
        with serve(home, port):
            job = client.jobs.create({"kind": "train", "name": "restart", "spec": spec})
        found: list[Job] = []
        reader = threading.Thread(target=lambda: found.append(client.jobs.get(job.id)))
        reader.start()
        time.sleep(0.3)
        assert found == []
        with serve(home, port):
            reader.join(timeout=60)
        assert [item.id for item in found] == [job.id]


def test_a_service_that_stays_away_is_given_up(home: Path) -> None:
    port = free_port(0)
    with Crosskd(f"http://{HOST}:{port}", patience=0.2) as client:
        with serve(home, port):
            client.health()
        with pytest.raises(Unreachable):
            client.health()


def away(times: int, status: int, **headers: str) -> tuple[httpx.Client, list[str]]:
    """A connection to a service that is away for so many requests, and the methods that came."""
    methods: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        methods.append(request.method)
        if len(methods) <= times:
            return httpx.Response(status, headers=headers)
        return httpx.Response(200, json={"status": "ok", "version": "1"})

    return httpx.Client(base_url="http://service", transport=httpx.MockTransport(answer)), methods


def test_a_service_that_says_when_it_is_back_is_asked_then(slept: list[float]) -> None:
    http, methods = away(1, 503, **{"retry-after": "1"})
    with http, Crosskd(http=http) as client:
        assert client.health().status == "ok"
    assert slept == [1.0]
    assert len(methods) == 2


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_whatever_stands_before_the_service_may_restart_too(status: int) -> None:
    http, methods = away(1, status)
    with http, Crosskd(http=http) as client:
        assert client.health().status == "ok"
    assert methods == ["GET"] * 2


def test_what_may_have_been_done_is_not_asked_for_again_without_a_key() -> None:
    http, methods = away(1, 504)
    with http, Crosskd(http=http) as client, pytest.raises(ApiProblem, match="504"):
        client.jobs.cancel("0" * 32)
    assert methods == ["POST"]


def test_patience_bounds_what_a_service_asks_for(slept: list[float]) -> None:
    http, methods = away(100, 503, **{"retry-after": "3600"})
    with http, Crosskd(http=http, patience=5) as client, pytest.raises(ApiProblem, match="503"):
        client.health()
    assert len(slept) == 1
    assert slept[0] == pytest.approx(5, abs=0.1)
    assert len(methods) == 2


def test_a_full_disk_is_told_at_once() -> None:
    http, methods = away(100, 507, **{"retry-after": "10"})
    with http, Crosskd(http=http) as client, pytest.raises(ApiProblem) as caught:
        client.health()
    assert caught.value.problem.status == 507
    assert len(methods) == 1


def test_a_post_that_may_have_arrived_is_sent_again_under_its_key(service: Service) -> None:
    """The service takes the job, and the connection breaks before it can say so."""
    keys: list[str] = []

    class Breaking(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            response = super().handle_request(request)
            if request.method == "POST":
                keys.append(request.headers["idempotency-key"])
                if len(keys) == 1:
                    response.read()
                    raise httpx.ReadError("the connection broke")
            return response

    order = {"kind": "train", "name": "broken off", "spec": service.spec}
    with httpx.Client(transport=Breaking(), base_url=service.url) as http:
        client = Crosskd(service.url, http)
        client.health()
        jobs = [client.jobs.create(order), client.jobs.create(order)]
        assert [job.id for job in client.jobs.list() if job.name == "broken off"] == [job.id for job in reversed(jobs)]
    assert len(keys) == 3
    assert keys[0] == keys[1]
    assert keys[1] != keys[2]


def test_a_request_that_is_still_being_answered_is_asked_for_again() -> None:
    problem = {"type": "/problems/request-in-flight", "title": "Request In Flight", "status": 409}
    header = {"content-type": "application/problem+json"}
    answers = iter(
        [httpx.Response(409, json=problem, headers=header), httpx.Response(200, json={"status": "ok", "version": "1"})]
    )
    with httpx.Client(transport=httpx.MockTransport(lambda _: next(answers)), base_url="http://127.0.0.1") as http:
        assert Crosskd("http://127.0.0.1", http).health().status == "ok"


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(500, text="<h1>oops</h1>"), "500 Internal Server Error: <h1>oops</h1>"),
        (httpx.Response(404, json={}, headers={"content-type": "application/problem+json"}), "404 Not Found: {}"),
    ],
)
def test_an_answer_in_another_form_is_shown_as_it_is(response: httpx.Response, said: str) -> None:
    with httpx.Client(transport=httpx.MockTransport(lambda _: response), base_url="http://127.0.0.1") as http:
        client = Crosskd("http://127.0.0.1", http)
        with pytest.raises(ApiProblem) as caught:
            client.jobs.get("x")
    assert caught.value.lines() == [said]


def test_another_program_at_the_address_is_told_as_such() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, text="hello"))
    with httpx.Client(transport=transport, base_url="http://127.0.0.1") as http:
        client = Crosskd("http://127.0.0.1", http)
        with pytest.raises(ClientError, match="no Job"):
            client.jobs.get("x")
        with pytest.raises(ClientError, match="Check the address"):
            client.presets.list()


def test_a_loopback_address_needs_no_proxy(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with service.client() as client:
        assert client.health().status == "ok"
