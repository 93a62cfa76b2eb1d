"""A real API's history is read and found faultless, and what is damaged in its database and files is found."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from safetensors.numpy import save
from sqlalchemy import create_engine, text

from api.database import Database
from api.main import create_app
from api.models import Base
from api.settings import Settings
from tests.faults.checker import Rule, check, tensors
from tests.faults.checker.history import Accepted, Download, Observation, Seen, collect
from tests.support.api_client import HERE
from tests.support.coco_files import write_spec
from tests.support.leases import reap_after
from tests.support.sending import digest
from tests.support.worker_calls import DIGEST, Worker
from worker.training.audit_log import AuditLog, Began, Ended, Evaluated, Points, Wrote, exact

STEPS = 6
CHECKPOINT = 3  # every so many steps
# The smallest, the largest, what no JSON knows, what no binary fraction is. Not -0.0: SQLite keeps no sign of zero.
ODD = [5e-324, -1.7976931348623157e308, float("nan"), float("-inf"), 0.1 + 0.2, 1e22]
NUMBERS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


class Training:
    """What a training does: it notes, then tells the API. `told` says whether the API shall hear of it."""

    def __init__(self, worker: Worker, claim: dict[str, Any], audit_logs: Path) -> None:
        self.worker = worker
        self.audit_log = AuditLog(audit_logs, claim["attempt"])
        self.sequence = 0
        resume = claim["resume"] or {"step": None, "sha256": None}
        self.audit_log.note(
            Began(job=claim["job"], attempt=claim["attempt"], number=claim["fencing_token"], worker="w", pid=1,
                  resume_step=resume["step"], resume_sha256=resume["sha256"])
        )  # fmt: skip

    def step(self, step: int, *, told: bool = True) -> None:
        values = {"loss": 1 / step, "odd": ODD[step - 1], "lr": 0.0}
        self.audit_log.note(Points(step=step, values=exact(values)))
        if told:
            spelt = {float("inf"): "Infinity", float("-inf"): "-Infinity"}
            points = [
                {"key": key, "step": step, "at": datetime.now(UTC).isoformat(),
                 "value": "NaN" if value != value else spelt.get(value, value)}
                for key, value in values.items()
            ]  # fmt: skip
            for _ in range(2):  # the first answer is lost
                answer = self.worker.post("metrics", {"sequence": self.sequence, "points": points})
                assert answer.status_code == 204, answer.text
            self.sequence += 1
            line = {"at": datetime.now(UTC).isoformat(), "level": "info", "text": f"step {step}"}
            assert self.worker.post("logs", {"sequence": step, "lines": [line]}).status_code == 204

    def evaluate(self, step: int) -> None:
        metrics = dict.fromkeys(NUMBERS, 0.5)
        self.audit_log.note(Evaluated(model="student", step=step, metrics=exact(metrics)))
        report = {"model": "student", "step": step, "metrics": metrics, "best": True}
        assert self.worker.post("evaluations", report).status_code == 204

    def write(self, name: str, step: int | None, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        if step is not None:
            self.audit_log.note(Wrote(name=name, step=step, size=len(content), sha256=sha256))
        path = f"/worker/attempts/{self.worker.attempt}/artifacts/{name}"
        query = {} if step is None else {"step": step}
        headers = self.worker.headers | {"Content-Digest": digest(content)}
        answer = self.worker.client.put(path, content=content, headers=headers, params=query)
        assert answer.status_code == 201, answer.text
        return sha256

    def end(self) -> None:
        self.audit_log.note(Ended(outcome="succeeded", delivered=True))
        self.audit_log.close()


class StoredService:
    """Where a service has been: `check` judges what is there now."""

    def __init__(self, folder: Path, seen: Seen) -> None:
        self.folder, self.seen = folder, seen
        self.url = f"sqlite:///{folder / 'crosskd.db'}"

    def rules(self) -> set[Rule]:
        history = collect(self.url, self.folder / "artifacts", [self.folder / "audit_logs"], self.seen)
        return {violation.rule for violation in check(history)}

    def execute(self, statement: str) -> None:
        engine = create_engine(self.url)
        with engine.begin() as connection:
            assert connection.execute(text(statement)).rowcount > 0
        engine.dispose()

    def files(self, name: str) -> list[Path]:
        return sorted((self.folder / "artifacts").glob(f"*/*-{name}"))


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> StoredService:
    """A job whose first worker fell silent after step 4, spoke again when it was too late, and had a successor."""
    folder = tmp_path_factory.mktemp("service")
    for name in ("data", "artifacts"):
        (folder / name).mkdir()
    seen = Seen()
    service = StoredService(folder, seen)
    engine = create_engine(service.url)
    Base.metadata.create_all(engine)
    engine.dispose()
    settings = Settings(
        home=folder, database_url=service.url, broker_url="redis://127.0.0.1:1/0", worker_token_sha256=DIGEST,
        relay="external",
    )  # fmt: skip
    app = create_app(settings)
    with TestClient(app, **HERE) as client:
        _play(client, app.state.database, settings, folder, seen)
    return service


def _play(client: TestClient, database: Database, settings: Settings, folder: Path, seen: Seen) -> None:
    clock = iter(range(1000))

    def look(job: str) -> None:
        asked = float(next(clock))
        status = client.get(f"/jobs/{job}").json()["status"]
        seen.observations.append(Observation(job, status, asked, float(next(clock))))

    body = {"kind": "train", "name": "a job", "spec": write_spec(folder / "data") | {"log_every": 1}}
    for _ in range(2):
        answer = client.post("/jobs", json=body, headers={"Idempotency-Key": "k"})
        assert answer.status_code == 201, answer.text
        seen.accepted.append(Accepted(answer.json()["id"], answer.json(), "k"))
    job = answer.json()["id"]
    look(job)
    first = Worker(client)
    training = Training(first, first.claim(job).json(), folder / "audit_logs")
    for step in (1, 2, 3):
        training.step(step)
    training.write("checkpoint-00000003.pt", CHECKPOINT, b"the state after step 3")
    training.step(4)
    training.step(5, told=False)
    training.audit_log.close()  # it is killed
    look(job)
    assert reap_after(database, settings, 3600) == 1
    look(job)
    second = Worker(client)
    successor = Training(second, second.claim(job).json(), folder / "audit_logs")
    late = {"sequence": 4, "points": [{"key": "loss", "step": 5, "value": 9.0, "at": "2026-01-01T00:00:00Z"}]}
    assert first.post("metrics", late).status_code == 409
    assert first.finish("succeeded").status_code == 409
    for step in range(CHECKPOINT + 1, STEPS + 1):
        successor.step(step)
    successor.write(f"checkpoint-{STEPS:08d}.pt", STEPS, b"the state after the last step")
    successor.evaluate(STEPS)
    weights = {}
    for name in ("best.safetensors", "last.safetensors"):
        content = save({"conv": np.arange(4, dtype=np.float32)}, metadata={"file": name})
        weights[name] = {"sha256": successor.write(name, STEPS, content)}
    successor.write("manifest.json", STEPS, b"{}")
    successor.write("log.txt", None, b"lines")
    successor.end()
    answer = second.finish("succeeded", result={"steps": STEPS, "stopped_early": False, "weights": weights})
    assert answer.json()["status"] == "succeeded"
    look(job)
    answer = client.get(f"/jobs/{job}/weights")
    promised = weights["best.safetensors"]["sha256"]
    seen.downloads.append(
        Download(job, "best.safetensors", promised, hashlib.sha256(answer.content).hexdigest(), len(answer.content))
    )
    reference = folder / "reference.safetensors"
    reference.write_bytes(save({"conv": np.arange(4, dtype=np.float32)}, metadata={"other": "metadata"}))
    seen.references["a job"] = {"last.safetensors": tensors.digests(reference)}


@pytest.fixture
def service(played: StoredService, tmp_path: Path) -> StoredService:
    shutil.copytree(played.folder, tmp_path / "copy")
    return StoredService(tmp_path / "copy", played.seen)


def test_a_real_history_is_faultless(service: StoredService) -> None:
    history = collect(service.url, service.folder / "artifacts", [service.folder / "audit_logs"], service.seen)
    assert [str(violation) for violation in check(history)] == []
    assert [attempt.status for attempt in history.attempts] == ["lost", "succeeded"]
    assert history.attempts[1].resumed_from_step == CHECKPOINT
    assert len(history.points) == 3 * (4 + STEPS - CHECKPOINT)
    assert {file.key for file in history.files} == {row.path for row in history.artifacts}
    assert {bool(file.tensors) for file in history.files} == {True, False}
    assert len(history.events) == history.jobs[0].last_event > 10


@pytest.mark.parametrize(
    ("statement", "rule"),
    [
        ("DELETE FROM metric_points WHERE step = 6 AND key = 'loss'", Rule.POINT_LOST),
        ("UPDATE metric_points SET value = value * 2 WHERE step = 2 AND key = 'loss'", Rule.POINT_CHANGED),
        ("UPDATE metric_points SET kind = 1 WHERE kind = 3", Rule.POINT_CHANGED),
        ("UPDATE metric_summaries SET points = points + 1", Rule.SUMMARY_WRONG),
        ("UPDATE jobs SET last_event = last_event + 1", Rule.EVENTS_GAP),
        ("UPDATE artifacts SET size = size + 1 WHERE name = 'log.txt'", Rule.FILE_CORRUPT),
        ("UPDATE attempts SET lease_expires_at = '2999-01-01 00:00:00.000000' WHERE number = 1", Rule.LEASE_IGNORED),
    ],
)
def test_damage_in_the_database_is_found(service: StoredService, statement: str, rule: Rule) -> None:
    service.execute(statement)
    assert service.rules() == {rule}


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "rules"),
    [
        ("last.safetensors", _flip, {Rule.FILE_CORRUPT, Rule.WEIGHTS_DIFFER}),
        ("checkpoint-00000006.pt", _flip, {Rule.FILE_CORRUPT}),
        ("manifest.json", Path.unlink, {Rule.FILE_MISSING}),
    ],
)
def test_damage_in_the_storage_is_found(
    service: StoredService, name: str, damage: Callable[[Path], None], rules: set[Rule]
) -> None:
    (path,) = service.files(name)
    damage(path)
    assert service.rules() == rules


def test_a_torn_last_line_of_an_audit_log_is_left_out(service: StoredService) -> None:
    for path in (service.folder / "audit_logs").iterdir():
        path.write_bytes(path.read_bytes() + b'{"kind":"points","step":7,"val')
    assert service.rules() == set()


def test_a_database_that_was_set_back_is_found(service: StoredService) -> None:
    service.execute("DELETE FROM jobs")
    assert Rule.JOB_LOST in service.rules()
