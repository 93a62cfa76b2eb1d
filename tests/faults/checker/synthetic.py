"""Histories made up without a service: as it would leave them, from a plan that says what befell each training."""

from __future__ import annotations

import hashlib
import itertools
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.checker import rows
from tests.faults.checker.plan import Plan, Try
from tests.faults.checker.rows import History
from tests.faults.checker.summaries import summaries
from worker.training.audit_log import Began, Ended, Evaluated, Points, Record, Wrote, exact

LEASE = timedelta(seconds=8)
KEEP_LAST = 2


@dataclass
class _Training:
    attempt: str
    records: list[Record] = field(default_factory=list)
    contents: dict[int, bytes] = field(default_factory=dict)  # by place of a `Wrote` among the records


class Maker:
    """Makes one history of several jobs, one after the other."""

    def __init__(self, max_resumes: int = 3) -> None:
        self.history = History()
        self.history.seen.max_resumes = max_resumes
        self._ids = itertools.count(1)
        self._moment = datetime(2026, 1, 1, tzinfo=UTC)

    def job(self, plan: Plan) -> str:
        """Make a job. Returns its id."""
        made = _Job(self, plan).made()
        self.history.summaries[:] = summaries(self.history.points)
        return made

    def now(self) -> datetime:
        self._moment += timedelta(milliseconds=10)
        return self._moment

    @property
    def monotonic(self) -> float:
        return self.now().timestamp()

    def wait(self, time: timedelta) -> None:
        self._moment += time

    def new_id(self) -> str:
        return f"{next(self._ids):032x}"


class _Job:
    def __init__(self, maker: Maker, plan: Plan) -> None:
        self.maker, self.plan, self.history = maker, plan, maker.history
        self.id = maker.new_id()
        self.attempts: list[rows.AttemptRow] = []
        self.written: dict[str, Record] = {}
        self.lines = 0
        self.resumes = 0
        start = {"job": plan.retried_from, "step": plan.start_step} if plan.start_step else None
        spec: dict[str, Any] = {"log_every": plan.log_every, "checkpoint": {"every_steps": plan.checkpoint_every}}
        if plan.needs is not None:
            spec["student"] = {"init": {"job": plan.needs, "checkpoint": "best"}}
            self.history.dependencies.append(rows.DependencyRow(self.id, "init", plan.needs))
        self.row = rows.JobRow(
            id=self.id, kind="train", name=plan.name, labels={}, status="", spec=spec, attempt=0, resumes=0,
            last_event=0, cancel_requested_at=None, retried_from=plan.retried_from, start=start,
            failure=None,
        )  # fmt: skip

    def made(self) -> str:
        body = {name: getattr(self.row, name) for name in ("id", "kind", "name", "labels", "spec", "retried_from")}
        self.history.seen.accepted.append(rows.Accepted(self.id, body, key=f"key of {self.plan.name}"))
        if self.plan.needs is None:
            self._move("queued", "submitted")
        else:
            self._wait()
        for try_ in self.plan.tries:
            if self.row.status == "paused":
                self._move("queued", "resumed by the user")
            if self.row.status == "queued":
                self._attempt(try_)
        if self.row.status in ("queued", "paused"):
            self._move("cancelled", "cancelled by the user")
        self.history.jobs.append(self.row)
        self._observe()
        return self.id

    def _wait(self) -> None:
        self._move("waiting", "submitted")
        needed = next(row.status for row in self.history.jobs if row.id == self.plan.needs)
        if needed == "succeeded":
            self._move("queued", "the weights are there")
        else:
            self.row = replace(self.row, failure={"failure_class": "dependency"})
            self._move("failed", f"the job that it needs was {needed}")

    def _move(self, status: str, reason: str) -> None:
        path = [row for row in self.history.transitions if row.job_id == self.id]
        before = path[-1].to_status if path else None
        seq = len(path) + 1
        self.history.transitions.append(rows.TransitionRow(self.id, seq, self.maker.now(), before, status, reason))
        self.row = replace(self.row, status=status)
        self._event("transition", {"seq": seq})

    def _event(self, kind: str, ref: dict[str, Any]) -> None:
        self.row = replace(self.row, last_event=self.row.last_event + 1)
        self.history.events.append(rows.EventRow(self.id, self.row.last_event, kind, ref))

    def _attempt(self, try_: Try) -> None:
        number = self.row.attempt + 1
        resume = self._resume_point()
        self.row = replace(self.row, attempt=number)
        started = self.maker.now()
        self._move("running", f"claimed by w{number % 3}")
        attempt = rows.AttemptRow(
            id=self.maker.new_id(), job_id=self.id, number=number, status="running", worker=f"w{number % 3}",
            device="cpu", started_at=started, ended_at=None, lease_expires_at=started + LEASE,
            resumed_from_step=resume.step or 0 if resume else 0, failure=None, result=None,
        )  # fmt: skip
        training = self._train(attempt, resume, try_)
        taken = try_.taken if try_.ending in ("lost", "failed") else len(training.records)
        for place in range(min(taken, len(training.records))):
            self._take(attempt, training, place)
        self._end(attempt, training, try_)

    def _resume_point(self) -> rows.ArtifactRow | None:
        numbers = {attempt.id: attempt.number for attempt in self.history.attempts}
        for job in (self.id, self.plan.retried_from if self.plan.start_step else None):
            found = [row for row in self.history.artifacts if row.job_id == job and row.kind == "checkpoint"]
            if found:
                return max(found, key=lambda row: (numbers[row.attempt_id], row.step))
        return None

    def _train(self, attempt: rows.AttemptRow, resume: rows.ArtifactRow | None, try_: Try) -> _Training:
        """What the training does and notes, whatever the API takes of it."""
        plan, step = self.plan, attempt.resumed_from_step
        training = _Training(attempt.id)
        note = training.records.append
        began = {"resume_step": resume.step, "resume_sha256": resume.sha256} if resume else {}
        note(
            Began(monotonic=self.maker.monotonic, job=self.id, attempt=attempt.id, number=attempt.number,
                  worker=attempt.worker, pid=1000 + attempt.number, **began)  # type: ignore[arg-type]
        )  # fmt: skip
        succeeds = try_.ending == "succeeded"
        last = plan.steps if succeeds else min(plan.steps, step + try_.steps)
        if step in self._evaluated(step):  # a checkpoint comes before the evaluation, so a resume repeats that
            self._evaluate(training, step)
        while step < last:
            step += 1
            if step % plan.log_every == 0 or step == plan.steps:
                note(Points(monotonic=self.maker.monotonic, step=step, values=exact(self._values(step))))
            ends = step == last and try_.ending in ("released", "paused", "cancelled")
            if step % plan.checkpoint_every == 0 or step == plan.steps or ends:
                self._write(training, f"checkpoint-{step:08d}.pt", step)
            if step in self._evaluated(step) and not ends:
                self._evaluate(training, step)
        if succeeds:
            self._write(training, "best.safetensors", self._best())
            self._write(training, "last.safetensors", plan.steps)
            self._write(training, "manifest.json", plan.steps)
        if try_.ending not in ("lost", "failed"):
            note(Ended(monotonic=self.maker.monotonic, outcome=try_.ending, delivered=True))
        self.history.audit_logs.append(rows.AuditLog(attempt.id, tuple(training.records)))
        return training

    def _evaluate(self, training: _Training, step: int) -> None:
        metrics = exact({"AP": self._ap(step), "AP50": 0.5})
        record = Evaluated(monotonic=self.maker.monotonic, model="student", step=step, metrics=metrics)
        training.records.append(record)
        self._write(training, f"curves-student-{step:08d}.json", step)
        if self._ap(step) > max((self._ap(s) for s in self._evaluated(step - 1)), default=-1):
            self._write(training, "best.safetensors", step)

    def _values(self, step: int) -> dict[str, float]:
        draw = random.Random(f"{self.plan.name} {step}")
        return {"loss": draw.random(), "lr": 0.1 / step, "grad_norm": float("inf") if step == 3 else draw.random()}

    def _evaluated(self, last: int) -> list[int]:
        return [s for s in range(1, last + 1) if s % self.plan.evaluate_every == 0 or s == self.plan.steps]

    def _ap(self, step: int) -> float:
        return random.Random(f"AP {self.plan.name} {step}").random()

    def _best(self) -> int:
        return max(self._evaluated(self.plan.steps), key=self._ap)

    def _write(self, training: _Training, name: str, step: int) -> None:
        maker = "" if name in ("best.safetensors", "last.safetensors") else training.attempt
        content = f"{self.plan.name} {name} {step} {maker}".encode()
        training.contents[len(training.records)] = content
        sha256 = hashlib.sha256(content).hexdigest()
        training.records.append(
            Wrote(monotonic=self.maker.monotonic, name=name, step=step, size=len(content), sha256=sha256)
        )

    def _take(self, attempt: rows.AttemptRow, training: _Training, place: int) -> None:
        """The API takes a record."""
        record = training.records[place]
        ref = {"attempt": attempt.number, "attempt_id": attempt.id}
        match record:
            case Points():
                sequence = sum(row.attempt_id == attempt.id for row in self.history.batches)
                self.history.batches.append(rows.BatchRow(attempt.id, sequence))
                for key, told in record.values.items():
                    value = float.fromhex(told)
                    kind = 0 if abs(value) < float("inf") else 2
                    stored = value if kind == 0 else None
                    self.history.points.append(rows.PointRow(attempt.id, record.step, key, stored, kind, sequence))
                self._event("metrics", {**ref, "sequence": sequence})
                self.history.logs.append(rows.LogRow(self.id, self.lines + 1, 2, attempt.id, attempt.number, sequence))
                self._event("log", {"attempt": attempt.number, "first": self.lines + 1, "count": 2})
                self.lines += 2
            case Evaluated():
                metrics = {name: float.fromhex(value) for name, value in record.metrics.items()}
                report = {"model": record.model, "step": record.step, "metrics": metrics}
                self.history.evaluations.append(
                    rows.EvaluationRow(attempt.id, record.model, record.step, self.maker.now(), report)
                )
                self._event("evaluation", {**ref, "model": record.model, "step": record.step})
            case Wrote():
                self._publish(attempt, record.name, record.step, training.contents[place])

    def _publish(self, attempt: rows.AttemptRow, name: str, step: int | None, content: bytes) -> None:
        kind = "checkpoint" if name.endswith(".pt") else "weights" if name.endswith(".safetensors") else "manifest"
        self._drop([row for row in self.history.artifacts if row.job_id == self.id and row.name == name])
        id_ = self.maker.new_id()
        path, sha256 = f"{self.id}/{id_}-{name}", hashlib.sha256(content).hexdigest()
        self.history.artifacts.append(
            rows.ArtifactRow(id_, self.id, attempt.id, name, kind, len(content), sha256, step, path, self.maker.now())
        )
        tensors = {"weight": f"F32 [1] {sha256}"} if kind == "weights" else None
        self.history.files.append(rows.FileRead(path, len(content), sha256, 60.0, tensors))
        if kind == "checkpoint":
            mine = [row for row in self.history.artifacts if row.job_id == self.id and row.kind == kind]
            numbers = {known.id: known.number for known in [*self.history.attempts, attempt]}
            mine.sort(key=lambda row: (numbers[row.attempt_id], row.step))
            self._drop(mine[:-KEEP_LAST])

    def _drop(self, gone: list[rows.ArtifactRow]) -> None:
        paths = {row.path for row in gone}
        self.history.artifacts[:] = [row for row in self.history.artifacts if row.path not in paths]
        self.history.files[:] = [file for file in self.history.files if file.key not in paths]

    def _end(self, attempt: rows.AttemptRow, training: _Training, try_: Try) -> None:
        if try_.ending in ("released", "paused", "cancelled", "succeeded"):
            self._publish(attempt, "log.txt", None, f"log of {attempt.id}".encode())
        if try_.ending == "lost":
            self.maker.wait(2 * LEASE)
        if try_.ending == "cancelled":
            self.row = replace(self.row, cancel_requested_at=self.maker.now())
        classes = {"lost": "lost", "failed": "infrastructure", "user": "user"}
        failure = {"failure_class": classes[try_.ending]} if try_.ending in classes else None
        statuses = {"paused": "released", "user": "failed"}
        attempt = replace(
            attempt,
            status=statuses.get(try_.ending, try_.ending),
            ended_at=self.maker.now(),
            failure=failure,
            result=self._manifest() if try_.ending == "succeeded" else None,
        )
        self.history.attempts.append(attempt)
        match try_.ending:
            case "lost" | "failed" if self.resumes < self.history.seen.max_resumes:
                self.resumes += 1
                self.row = replace(self.row, resumes=self.resumes)
                self._move("queued", f"resume {self.resumes}")
            case "lost" | "failed" | "user":
                self._move("failed", "it failed")
            case "released":
                self._move("queued", "the worker gave the job back")
            case _:
                self._move(try_.ending, f"attempt {attempt.number} {try_.ending}")

    def _manifest(self) -> dict[str, Any]:
        weights = {row.name: {"sha256": row.sha256} for row in self.history.artifacts
                   if row.job_id == self.id and row.kind == "weights"}  # fmt: skip
        return {"steps": self.plan.steps, "stopped_early": False, "weights": weights}

    def _observe(self) -> None:
        """A client asks now and then, overlapping requests and all."""
        path = [row for row in self.history.transitions if row.job_id == self.id]
        for row in path:
            at = row.at.timestamp()
            self.history.seen.observations.append(rows.Observation(self.id, row.to_status, at, at + 0.004))
        end = path[-1].at.timestamp()
        self.history.seen.observations.append(rows.Observation(self.id, path[-1].to_status, end + 1, end + 1.1))
        for artifact in self.history.artifacts:
            if artifact.job_id == self.id and self.row.status == "succeeded":
                self.history.seen.downloads.append(
                    rows.Download(self.id, artifact.name, artifact.sha256, artifact.sha256, artifact.size, final=True)
                )
                if artifact.kind == "weights":
                    tensors = {"weight": f"F32 [1] {artifact.sha256}"}
                    self.history.seen.references.setdefault(self.plan.name, {})[artifact.name] = tensors
