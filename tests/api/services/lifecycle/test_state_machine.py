"""Random lives of jobs, told to the service and to a model of it at once: both must answer alike, step by step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any, TypeVar

import hypothesis
import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update

from api.database import Database
from api.models import ApiUptime, Attempt, Base, Event
from api.services.lifecycle import attempts, dependents
from api.settings import Settings
from tests.support.job_model import FINAL, LEGAL, Life, Try
from tests.support.sending import digest
from tests.support.worker_calls import WORKER
from wire.jobs import FailureClass

Thing = TypeVar("Thing")
Live = Callable[[int, int], None]
AT = "2026-01-02T03:04:05Z"
ACTIONS = ("cancel", "stop", "pause", "resume")
CLASSES = FailureClass.__args__  # type: ignore[attr-defined]  # a Literal's
STEPS = st.integers(1, 12)
BATCHES = st.dictionaries(st.tuples(STEPS, st.sampled_from(["loss", "lr"])), st.integers(-9, 9).map(float), max_size=6)


class JobMachine(RuleBasedStateMachine):
    """Jobs, two workers, and a client who repeats itself."""

    def __init__(self, client: TestClient, database: Database, settings: Settings, spec: dict[str, Any]) -> None:
        super().__init__()
        self.client, self.database, self.settings, self.spec = client, database, settings, spec
        self.queue: list[Life] = []  # in the order in which they were queued
        self.known: list[Life] = []
        self.answered: list[tuple[Any, ...]] = []  # requests that came under a key, and their answers
        self.touched: Life | None = None
        self.keys = 0

    # --- calls ---------------------------------------------------------------------------------------------------

    def _call(self, method: str, path: str, status: int, *, one: Try | None = None, **more: Any) -> Any:
        headers = dict(more.pop("headers", {})) | (WORKER if path.startswith("/worker/") else {})
        if one is not None:
            headers["Fencing-Token"] = str(one.number)
        answer = self.client.request(method, path, headers=headers, **more)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code}, not {status}: {answer.text}"
        return answer

    def _report(self, one: Try, what: str, body: Any, status: int = 200) -> Any:
        return self._call("POST", f"/worker/attempts/{one.id}/{what}", self._fenced(one, status), one=one, json=body)

    def _fenced(self, one: Try, status: int) -> int:
        """What a report gets that a live attempt gets `status` for."""
        self.touched = one.job
        if one.job.deleted:
            return 404
        return status if one.live else 409

    def _key(self) -> dict[str, str]:
        self.keys += 1
        return {"Idempotency-Key": str(self.keys)}

    def _settle(self, job: Life) -> None:
        """Note where the job stands in the queue now."""
        self.touched = job
        if job.status != "queued":
            self.queue = [other for other in self.queue if other is not job]
        elif job not in self.queue:
            self.queue.append(job)

    def _pick(self, data: st.DataObject, every: list[Thing], likely: Callable[[Thing], bool]) -> Thing:
        """One of them; mostly a `likely` one, or most of what is done would be refused."""
        liked = [one for one in every if likely(one)]
        return data.draw(st.sampled_from(liked if liked and data.draw(st.integers(0, 9)) else every))

    def _try(self, data: st.DataObject) -> Try:
        return self._pick(data, [one for job in self.known for one in job.tries], lambda one: one.live)

    @property
    def claimed(self) -> bool:
        return any(job.tries for job in self.known)

    @property
    def some_over(self) -> bool:
        return any(job.over and not job.deleted for job in self.known)

    @property
    def few(self) -> bool:
        return sum(not job.deleted for job in self.known) < 3

    def _new(self, answer: Any, start: Life | None = None, needs: Life | None = None) -> Life:
        job = Life(answer.json()["id"], self.settings.max_resumes, start, needs)
        self.known.append(job)
        self._settle(job)
        return job

    # --- clients -------------------------------------------------------------------------------------------------

    def _order(self, name: str) -> dict[str, Any]:
        return {"kind": "train", "name": name, "spec": self.spec}

    @initialize()
    def first(self) -> None:
        self._new(self._call("POST", "/jobs", 201, json=self._order("first")))

    @precondition(lambda self: self.few)
    @rule()
    def submit(self) -> None:
        body, headers = self._order("under a key"), self._key()
        answer = self._call("POST", "/jobs", 201, json=body, headers=headers)
        self._new(answer)
        self.answered.append(("/jobs", body, headers, answer))

    @precondition(lambda self: self.few)
    @rule(data=st.data())
    def submit_one_that_needs_another(self, data: st.DataObject) -> None:
        needs = self._pick(data, self.known, lambda job: job.gives != "never")
        student = {**self.spec["student"], "init": {"job": needs.id}}
        body = {"kind": "train", "name": "needs another", "spec": {**self.spec, "student": student}}
        answer = self._call("POST", "/jobs", 422 if needs.gives == "never" else 201, json=body)
        if needs.gives != "never":
            self._new(answer, needs=needs)

    @rule()
    def look_at_what_waits(self) -> None:
        """The relay comes by: once through all, and again for those that wait for one that has failed just now."""
        expected = 0
        while moved := [job for job in self.known if not job.deleted and job.look_at_needs()]:
            expected += len(moved)
            for job in moved:
                self._settle(job)
        assert dependents.settle(self.database) == expected

    @rule(data=st.data(), action=st.sampled_from(ACTIONS))
    def control(self, data: st.DataObject, action: str) -> None:
        job = self._pick(data, self.known, lambda job: not job.over)
        status = 404 if job.deleted else getattr(job, action)()
        self._call("POST", f"/jobs/{job.id}/{action}", status)
        self._settle(job)

    @precondition(lambda self: self.some_over)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        self.touched = job = self._pick(data, self.known, lambda job: job.status in ("failed", "cancelled"))
        path = f"/jobs/{job.id}/retry"
        if job.deleted:
            self._call("POST", path, 404)
        elif job.retry is not None and not job.retry.deleted:
            assert self._call("POST", path, 201).json()["id"] == job.retry.id
        elif job.status not in ("failed", "cancelled") or (job.needs and job.needs.last_retry.gives == "never"):
            self._call("POST", path, 409)
        else:
            needs = job.needs and job.needs.last_retry
            start = job if job.checkpoints else job.start
            start = start if start and not start.deleted else None
            job.retry = self._new(self._call("POST", path, 201), start, needs)

    @precondition(lambda self: self.some_over)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        job = self._pick(data, self.known, lambda job: job.over)
        unfinished = [other for other in self.known if not other.deleted and not other.over]
        needed = any(job is used for other in unfinished for used in (other.start, other.needs))
        refused = not job.deleted and (not job.over or needed)
        self._call("DELETE", f"/jobs/{job.id}", 409 if refused else 204)
        job.deleted = not refused
        self.touched = job

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), change=st.booleans())
    def repeat(self, data: st.DataObject, change: bool) -> None:
        """The same request under its key gets the same answer, whatever has become of the job; another is refused."""
        path, body, headers, before = data.draw(st.sampled_from(self.answered))
        if change:
            other = body | ({"name": "another"} if "name" in body else {"worker": "another"})
            assert "reused" in self._call("POST", path, 422, json=other, headers=headers).json()["type"]
        else:
            assert self._call("POST", path, before.status_code, json=body, headers=headers).content == before.content

    # --- workers -------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.queue or self.few)
    @rule(data=st.data(), worker=st.sampled_from(["w1", "w2"]), keyed=st.booleans())
    def claim(self, data: st.DataObject, worker: str, keyed: bool) -> None:
        self.touched = job = self._pick(data, self.known, lambda job: job.status == "queued")
        path, body, headers = f"/worker/jobs/{job.id}/claim", {"worker": worker}, self._key() if keyed else {}
        status = 404 if job.deleted else 200 if job.status == "queued" else 409
        answer = self._call("POST", path, status, json=body, headers=headers)
        if status != 200:
            return
        one, claim = job.claim(answer.json()["attempt"]), answer.json()
        self._settle(job)
        assert (claim["fencing_token"], (claim["resume"] or {"step": 0})["step"]) == (one.number, one.resumed_from)
        if keyed:
            self.answered.append((path, body, headers, answer))

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def heartbeat(self, data: st.DataObject) -> None:
        one = self._try(data)
        answer = self._report(one, "heartbeat", None)
        if one.live:
            assert answer.json()["command"] == one.job.command

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), points=BATCHES, sequence=st.integers(0, 3))
    def metrics(self, data: st.DataObject, points: dict[tuple[int, str], float], sequence: int) -> None:
        """In order, repeated, or after the attempt has ended: only new batches of a live one count."""
        one = self._try(data)
        rows = [{"key": key, "step": step, "value": value, "at": AT} for (step, key), value in points.items()]
        self._report(one, "metrics", {"sequence": sequence, "points": rows}, 204)
        if one.live:
            one.take(sequence, points)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data(), step=STEPS)
    def checkpoint(self, data: st.DataObject, step: int) -> None:
        one = self._try(data)
        content = f"{one.id} {step}".encode()
        path = f"/worker/attempts/{one.id}/artifacts/checkpoint-{step:08d}.pt"
        same = one.live and one.job.checkpoints.get(step) == one.number
        status = self._fenced(one, 200 if same else 201)
        self._call("PUT", path, status, one=one, content=content, headers={"Content-Digest": digest(content)})
        if one.live:
            one.job.keep(one, step)

    @precondition(lambda self: self.claimed)
    @rule(
        data=st.data(),
        outcome=st.sampled_from(["succeeded", "failed", "failed", "cancelled", "released"]),
        why=st.sampled_from(CLASSES),
    )
    def finish(self, data: st.DataObject, outcome: str, why: str) -> None:
        one = self._try(data)
        failure = {"failure": {"failure_class": why, "message": "m"}} if outcome == "failed" else {}
        if one.finished and one.finished[0] == outcome and not one.job.deleted:
            again = self._call("POST", f"/worker/attempts/{one.id}/finish", 200, one=one, json={"outcome": outcome})
            assert again.json() == one.finished[1]
            return
        if one.live and outcome == "succeeded" and (weights := data.draw(st.booleans())):
            path = f"/worker/attempts/{one.id}/artifacts/best.safetensors"
            self._call("PUT", path, 201, one=one, content=b"w", headers={"Content-Digest": digest(b"w")})
            one.job.weights = weights
        answer = self._report(one, "finish", {"outcome": outcome, **failure})
        if one.live:
            status = one.job.end(one, outcome, why if failure else None)
            one.finished = outcome, {"job": one.job.id, "status": status, "retried": status == "queued"}
            assert answer.json() == one.finished[1]
            self._settle(one.job)

    @precondition(lambda self: self.claimed)
    @rule(data=st.data())
    def lapse(self, data: st.DataObject) -> None:
        """The lease of an attempt lapses while the API is well, and the reaper comes by."""
        one = self._try(data)
        with self.database.transaction() as session:
            now = session.now()
            session.insert_if_absent(ApiUptime, {"id": 1, "at": now, "since": now})
            session.execute(update(ApiUptime).values(at=now, since=now - timedelta(days=1)))
            lapsed = update(Attempt).where(Attempt.id == one.id)
            session.execute(lapsed.values(lease_expires_at=now - timedelta(seconds=1)))
        with self.database.transaction() as session:
            assert attempts.reap(session, self.settings) == one.live
        if one.live:
            one.job.end(one, "lost", "lost")
            self._settle(one.job)

    # --- what always holds ---------------------------------------------------------------------------------------

    @invariant()
    def the_job_is_as_the_model_has_it(self) -> None:
        if (job := self.touched) is None:
            return
        found = self._call("GET", f"/jobs/{job.id}", 404 if job.deleted else 200).json()
        if job.deleted:
            return
        history = [change["to_status"] for change in found["transitions"]]
        assert (found["status"], history) == (job.status, job.history)
        assert set(pairwise([None, *history])) <= LEGAL
        assert FINAL.isdisjoint(history[:-1])  # what is final stays so
        assert [(a["id"], a["number"], a["status"]) for a in found["attempts"]] == [
            (one.id, one.number, one.status) for one in job.tries
        ]
        running = [one for one in job.tries if one.status == "running"]
        assert len(running) == (job.status == "running")
        assert job.resumes <= self.settings.max_resumes
        assert found["queue_position"] == (self.queue.index(job) + 1 if job.status == "queued" else None)
        assert found["last_event"] == job.events

    @invariant()
    def the_series_is_as_the_model_has_it(self) -> None:
        if (job := self.touched) is None or job.deleted or not job.tries:
            return
        rows = self._call("GET", f"/jobs/{job.id}/metrics", 200).json()["items"]
        assert [(row["step"], row["key"], row["value"]) for row in rows] == job.series

    def teardown(self) -> None:
        with self.database.reading() as session:
            for job in self.known:
                numbers = session.scalars(select(Event.seq).where(Event.job_id == job.id).order_by(Event.seq)).all()
                assert list(numbers) == ([] if job.deleted else list(range(1, job.events + 1)))
        with self.database.transaction() as session:
            for table in reversed(Base.metadata.sorted_tables):
                session.execute(table.delete())


@pytest.fixture
def settings(make_settings: Callable[..., Settings]) -> Settings:
    return make_settings(lease_seconds=3600, max_resumes=1)


@pytest.fixture
def live(client: TestClient, database: Database, settings: Settings, spec: dict[str, Any]) -> Live:
    """Live so many lives of at most so many steps."""

    def run(lives: int, steps: int) -> None:
        run_state_machine_as_test(
            lambda: JobMachine(client, database, settings, spec),
            settings=hypothesis.settings(
                max_examples=lives,
                stateful_step_count=steps,
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],  # to shrink a life takes longer than a test may
                suppress_health_check=list(HealthCheck),
            ),
        )

    return run


def test_the_service_lives_like_the_model(live: Live, backend: str) -> None:
    live(12 if backend == "sqlite" else 6, 30)


@pytest.mark.slow
def test_the_service_lives_like_the_model_for_longer(live: Live, backend: str) -> None:
    live(50 if backend == "sqlite" else 25, 80)
