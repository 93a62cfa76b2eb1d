"""The whole service as real processes: a job's life from its posting to its weights, and what no kill may change.

No secret is in a log, a file or an address: all that the stack has written meanwhile is searched for each of them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from client import demo, specs
from client.errors import ApiProblem
from client.sdk import Crosskd
from client.stack.tokens import manage
from tests.support.processes import command_of, processes_of
from tests.support.service import LONG, PATIENCE, Service, assert_whole, training_of
from wire.jobs import Job

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with Service.running(tmp_path_factory.mktemp("home"), CROSSKD_LOG_LEVEL="DEBUG") as service:
        yield service


@pytest.fixture(scope="module")
def pair(service: Service) -> tuple[Job, Job]:
    """A teacher and a student that learns from it, posted at once."""
    teacher = service.post("teacher")
    return teacher, service.post("student", teacher={"job": teacher.id, "checkpoint": "best"})


@pytest.fixture(scope="module")
def teacher(service: Service, pair: tuple[Job, Job]) -> Job:
    return service.succeed(pair[0])


def pid_of(service: Service, name: str) -> int:
    pid = service.stack.children[name].pid
    assert pid is not None
    return pid


# --- the story -------------------------------------------------------------------------------------------------------


def test_a_student_waits_for_its_teacher_and_is_distilled(
    service: Service, pair: tuple[Job, Job], teacher: Job, tmp_path: Path
) -> None:
    job = service.succeed(pair[1])

    assert [change.to_status for change in job.transitions] == ["waiting", "queued", "running", "succeeded"]
    assert job.kind == "distill"
    assert teacher.best_ap is not None
    assert job.teacher_ap == pytest.approx(teacher.best_ap, abs=1e-6)
    assert_whole(service, job)
    terms = {row.key for row in service.client.jobs.metrics(job.id)}
    assert {"loss_cls", "loss_bbox", "loss_dfl", "crosskd_cls", "crosskd_box"} <= terms
    models = [evaluation.model for evaluation in service.client.jobs.evaluations(job.id)]
    assert models == ["teacher", "student"]
    names = {artifact.name for artifact in service.client.jobs.artifacts(job.id)}
    assert {"best.safetensors", "last.safetensors", "log.txt", "manifest.json"} <= names

    weights = service.client.jobs.weights(job.id, tmp_path / "student.safetensors")
    assert job.best_ap is not None
    assert job.best_ap > 0.02  # else the next line would compare nothing with nothing
    assert demo.evaluate_afresh(weights, job.spec) == pytest.approx(job.best_ap, abs=1e-6)


def test_the_weights_of_a_job_are_evaluated_again(service: Service, teacher: Job) -> None:
    body = {"spec": {"workers": 0, "batch_size": 8, "threads": 1, "data": {"val": service.data["val"]}}}
    weights = {"job": teacher.id, "checkpoint": "best"}
    job = service.succeed(service.client.jobs.create(specs.complete(body, name="again", weights=weights)))
    assert job.kind == "evaluate"
    assert teacher.best_ap is not None
    assert job.best_ap == pytest.approx(teacher.best_ap, abs=1e-6)  # at the scale that the training had
    (evaluation,) = service.client.jobs.evaluations(job.id)
    assert (evaluation.model, evaluation.step, evaluation.images) == ("student", 0, 16)
    assert {artifact.name for artifact in service.client.jobs.artifacts(job.id)} >= {"log.txt", "manifest.json"}
    with pytest.raises(ApiProblem, match="of kind evaluate"):
        service.client.jobs.weights(job.id, service.home / "none")


@pytest.mark.slow
def test_the_weights_of_a_job_are_exported(service: Service, teacher: Job, tmp_path: Path) -> None:
    import onnxruntime

    body = {"kind": "export", "spec": {"threads": 1, "check_images": 8}}
    weights = {"job": teacher.id, "checkpoint": "best"}
    job = service.succeed(service.client.jobs.create(specs.complete(body, name="graph", weights=weights)))
    manifest = json.loads(service.client.jobs.download(job.id, "manifest.json", tmp_path).read_text())
    graph = service.client.jobs.download(job.id, "model.onnx", tmp_path)
    assert manifest["file"]["bytes"] == graph.stat().st_size
    assert manifest["check"]["images"] == 8
    assert manifest["check"]["detections"] > 0
    assert manifest["model"]["latency"].keys() == {"pytorch", "onnx"}
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["boxes", "scores", "labels", "counts"]
    trained = json.loads(
        service.client.jobs.download(teacher.id, "manifest.json", tmp_path / "trained.json").read_text()
    )
    for figure in ("parameters", "gflops", "image"):
        assert trained["student"][figure] == manifest["model"][figure]
    assert trained["student"]["latency"]["pytorch"]["milliseconds"] > 0


def test_the_api_maps_no_torch(service: Service, teacher: Job) -> None:
    assert teacher.status == "succeeded"  # it has served a whole job by now
    maps = Path(f"/proc/{pid_of(service, 'api')}/maps").read_text()
    assert "libssl" in maps or "libpython" in maps or "/python" in maps  # the file does say what is mapped
    assert "libtorch" not in maps


# --- what is killed --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_one_after_the_other_training_worker_and_api_cost_no_step(service: Service) -> None:
    """Training and worker cost an attempt each, which the next one takes up from a checkpoint; an API costs nothing."""
    job = service.post("kill them all", epochs=LONG)
    job = service.train_until(job, 20)
    os.kill(training_of(service, job), signal.SIGKILL)
    job = service.train_until(job, 60, attempt=2)
    assert job.attempts[1].resumed_from_step >= 5

    worker = pid_of(service, "worker")
    os.kill(worker, signal.SIGKILL)
    job = service.train_until(job, 60, attempt=3)
    assert pid_of(service, "worker") != worker
    assert job.attempts[2].resumed_from_step >= job.attempts[1].resumed_from_step

    api = pid_of(service, "api")
    os.kill(api, signal.SIGKILL)
    job = service.succeed(job)
    assert pid_of(service, "api") != api
    assert len(job.attempts) == 3
    assert_whole(service, job)


@pytest.mark.slow
def test_a_broker_that_forgets_everything_loses_no_job(service: Service) -> None:
    running = service.post("kill the broker", epochs=LONG)
    service.train_until(running, 20)
    waiting = service.post("behind it")
    os.kill(pid_of(service, "valkey"), signal.SIGKILL)
    shutil.rmtree(service.home / "valkey")
    running = service.succeed(running)
    assert len(running.attempts) == 1
    assert_whole(service, running)
    assert len(service.succeed(waiting).attempts) == 1


# --- stop and start --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stopped_and_started_again_it_has_forgotten_nothing(service: Service, teacher: Job) -> None:
    job = service.post("stop and start", epochs=LONG)
    service.train_until(job, 20)
    before = {item.id for item in service.client.jobs.list()}
    service.restart()
    assert {item.id for item in service.client.jobs.list()} == before
    assert service.client.jobs.get(teacher.id).best_ap == teacher.best_ap
    job = service.succeed(job)
    assert [attempt.status for attempt in job.attempts] == ["released", "succeeded"]
    assert job.attempts[1].resumed_from_step >= 20  # it wrote a checkpoint when it was asked to stop
    assert_whole(service, job)


# --- what is written --------------------------------------------------------------------------------------------------


def variable_of_training(home: Path, name: str) -> str:
    """A variable in the environment of the training that runs, or will run in a moment."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for pid in processes_of(home):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
            except OSError:
                continue
            if b"worker.training.run" in command:
                return dict(line.partition("=")[::2] for line in variables)[name]
        time.sleep(0.05)
    raise AssertionError("no training was started")


def readable(home: Path) -> Iterator[tuple[Path, str]]:
    """Every file of the home but those that hold a secret by purpose, each readable by its owner alone."""
    purpose = {home / "worker-token", home / "valkey" / "valkey.conf"}
    for path in home.rglob("*"):
        if path in purpose:
            assert path.stat().st_mode & 0o077 == 0
        else:
            with suppress(OSError):  # a folder, or a file that has just gone
                yield path, path.read_bytes().decode(errors="replace")


def test_nothing_that_is_written_holds_a_secret(
    service: Service, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = service.home
    assert manage(service.stack.home, ["create", "tester", "--scope", "write"]) == 0
    api_token = capfd.readouterr().out.strip()
    worker_token = (home / "worker-token").read_text().strip()
    password = re.search(r"^requirepass (\S+)$", (home / "valkey" / "valkey.conf").read_text(), re.MULTILINE)
    assert password is not None

    with Crosskd(service.stack.url, token=api_token) as client, pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "client", client)
        job = service.post("with a token", epochs=200)
        attempt_token = variable_of_training(home, "CROSSKD_WORKER_TOKEN")
        service.train_until(job, 5)
        meanwhile = list(readable(home))
        assert any(path.name == "claim.json" for path, _ in meanwhile)
        # What goes wrong is logged more than what goes well.
        wrong = "ck_" + "w" * 43
        for secret in (wrong, api_token, worker_token, attempt_token):
            headers = {"Authorization": f"Bearer {secret}", "Fencing-Token": "x"}
            for method, path in (
                ("GET", f"/jobs?limit=x&access_token={secret}"),
                ("POST", "/worker/attempts/x/heartbeat"),
                ("POST", "/tokens"),
            ):
                answer = httpx.request(method, service.stack.url + path, headers=headers, trust_env=False, content=b"{")
                assert answer.is_client_error
                assert secret not in answer.text
        with pytest.raises(ApiProblem) as caught:
            client.jobs.weights(job.id, tmp_path / "weights")
        assert caught.value.problem.status == 404  # there are none yet
        assert list(tmp_path.iterdir()) == []
        client.jobs.cancel(job.id)
        assert client.jobs.wait(job.id, interval=0.2, timeout=PATIENCE).status == "cancelled"
        tail = client.jobs.get(job.id).model_dump_json()

    assert attempt_token.startswith("cka_")
    assert len({api_token, worker_token, attempt_token, password[1]}) == 4
    texts = [*meanwhile, *readable(home), (Path("the job as it is told"), tail)]
    assert len([path for path, text in texts if "logs" in path.parts and text]) >= 3
    for path, text in texts:
        for secret in (api_token, worker_token, attempt_token, password[1], wrong):
            assert secret not in text, path
    commands = [command_of(pid) for pid in processes_of(home) if pid != os.getpid()]
    assert any(commands)
    for secret in (api_token, worker_token, attempt_token, password[1]):
        assert not any(secret in command for command in commands)
