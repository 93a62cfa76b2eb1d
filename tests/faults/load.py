"""Clients of the service under faults: they post small real trainings, watch them, and download what comes of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx

from client.errors import ApiProblem, ClientError
from client.sdk import Crosskd
from client.transport.download import announced
from crosskd.data.demo import write_demo
from tests.faults.checker.rows import Accepted, Download, Observation, Seen
from tests.faults.checker.tensors import digests
from tests.faults.processes import until
from tests.faults.stack import MAX_RESUMES, Stack
from tests.support.worker_stack import spec
from wire.artifacts import BEST_WEIGHTS, LAST_WEIGHTS
from wire.jobs import FINAL

EPOCHS = 12
STEPS = 10 * EPOCHS
EVERY = 10  # steps of an epoch, and between two checkpoints
CHECKPOINT_BYTES = 1_000_000  # less than a checkpoint has, and more than anything else that is written
POLL_SECONDS = 0.5
WAITING_EVERY = 3  # of so many trainings one has a job that waits for its weights
WEIGHTS = (BEST_WEIGHTS, LAST_WEIGHTS)


class Reference:
    """The job that everybody posts, and the weights that it ends with when nothing disturbs it."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        images = write_demo(self.data, train=4 * EVERY, val=8, size=64, classes=2)
        self.spec = spec(self.data, epochs=EPOCHS) | {
            "data": {name: getattr(images, name).model_dump(mode="json") for name in ("train", "val")},
            "device": "cpu",
            "evaluation": {"every_epochs": EPOCHS // 2},
            "checkpoint": {"every_steps": EVERY},
        }
        recipe = folder / "recipe.json"  # which is YAML too
        recipe.write_text(json.dumps(self.spec))
        command = [sys.executable, "-m", "crosskd", "train", str(recipe), "--workdir", str(folder / "run")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        self.tensors = {name: digests(folder / "run" / name) for name in WEIGHTS}


class Load:
    """What clients do and see. Everything they were told is in `seen`."""

    def __init__(self, stack: Stack, reference: Reference) -> None:
        self.stack = stack
        self.seen = Seen(max_resumes=MAX_RESUMES)
        self.faults: list[str] = []  # refusals that no client should ever see
        self._reference = reference
        self._posting = uuid4().hex  # of this load: a key is never used twice
        self._count = 0
        self._final: dict[str, str] = {}  # final status by job, as clients saw it
        self._fetched: set[str] = set()
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._watch, name="watch", daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join(60)

    # --- posting -----------------------------------------------------------------------------------------------------

    def post(self, needs: str | None = None) -> str:
        """Post a training, as often as it takes until it is accepted. Its id.

        With `needs`, an evaluation of the weights of that job, which may still be on its way.
        """
        with self._lock:
            self._count += 1
            name, key = f"job {self._count:04d}", f"{self._posting}-{self._count}"
        body = {"kind": "train", "name": name, "spec": self._reference.spec}
        if needs is not None:
            data = {"val": self._reference.spec["data"]["val"]}
            measure = {"weights": {"job": needs}, "data": data, "device": "cpu", "workers": 0}
            body |= {"kind": "evaluate", "spec": measure}
        while True:
            try:
                with Crosskd(self.stack.url, patience=5.0) as client:
                    job = client.jobs.create(body, key=key)
            except ClientError as error:  # the next try goes under the same key: it is the same job
                if isinstance(error, ApiProblem) and 400 <= error.problem.status < 500:
                    self.faults.append(f"{name} was refused: {error}")
                    raise
                time.sleep(0.3)
                continue
            if needs is None:
                self.seen.references[name] = self._reference.tensors
            else:
                self._fetched.add(job.id)  # it makes no weights
            self.seen.accepted.append(Accepted(job.id, job.model_dump(mode="json"), key))
            return job.id

    @contextmanager
    def keeping(self, count: int) -> Iterator[None]:
        """Meanwhile so many jobs are on their way at any time; now and then one that waits for the one before it."""
        done = threading.Event()

        def post() -> None:
            trained = 0
            while not done.is_set():
                if len(self.seen.accepted) - len(self._final) < count:
                    job = self.post()
                    trained += 1
                    if trained % WAITING_EVERY == 1:
                        self.post(needs=job)
                else:
                    done.wait(0.2)

        thread = threading.Thread(target=post, name="post", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(120)
            assert not thread.is_alive(), "a job is still being posted"

    def settle(self, seconds: float) -> None:
        """Wait until every accepted job is final, clients know, and no training is left. Fails after `seconds`."""
        deadline = time.monotonic() + seconds
        while waiting := self._unfinished():
            assert time.monotonic() < deadline, f"not final after {seconds:g} s: {waiting}\n{self.stack.tails()}"
            time.sleep(0.3)
        until(lambda: len(self._fetched) == len(self.seen.accepted), 120, "the download of every job's weights")
        until(lambda: not self.stack.trainings(), 120, "the end of every training")

    def _unfinished(self) -> list[Any]:
        ids = [accepted.job_id for accepted in self.seen.accepted]
        found = self.stack.postgres.rows(
            "SELECT j.id, j.name, j.status, j.attempt, a.status AS attempt_status, a.worker, a.failure"
            " FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id AND a.number = j.attempt WHERE j.id = ANY(%(ids)s)",
            ids=ids,
        )
        lost = set(ids) - {row["id"] for row in found}
        return [row for row in found if row["status"] not in FINAL] + sorted(lost)

    # --- watching ----------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Ask for all jobs again and again, and for the weights of those that have come to their end."""
        with httpx.Client(base_url=self.stack.url, timeout=5.0, trust_env=False) as http:
            while not self._done.wait(POLL_SECONDS):
                for look in (self._list, self._download):
                    try:
                        look(http)
                    except (httpx.HTTPError, ClientError, ValueError):
                        continue  # a fault is on; whoever asks again is told

    def _list(self, http: httpx.Client) -> None:
        after: dict[str, str] = {}
        while True:
            asked = time.monotonic()
            answer = http.get("/jobs", params={"limit": 100, **after}).raise_for_status()
            answered = time.monotonic()
            page = answer.json()
            for item in page["items"]:
                self.seen.observations.append(Observation(item["id"], item["status"], asked, answered))
                if item["status"] in FINAL:
                    self._final[item["id"]] = item["status"]
            if not page["has_more"]:
                return
            after = {"after": page["items"][-1]["id"]}

    def _download(self, http: httpx.Client) -> None:
        for job in [job for job in self._final if job not in self._fetched]:
            answer = http.get(f"/jobs/{job}/weights", headers={"accept-encoding": "identity"})
            if self._final[job] == "succeeded":
                answer.raise_for_status()
                promised, _ = announced(answer)
                sha256 = hashlib.sha256(answer.content).hexdigest()
                download = Download(job, BEST_WEIGHTS, promised, sha256, len(answer.content), final=True)
                self.seen.downloads.append(download)
            self._fetched.add(job)

    def statuses(self) -> dict[str, str]:
        """Every accepted job's status, from the database."""
        rows = self.stack.postgres.rows("SELECT id, status FROM jobs")
        return {row["id"]: row["status"] for row in rows}
