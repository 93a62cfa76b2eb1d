"""What a `Client` does with jobs: post, find, follow, steer and delete them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from client import references
from client.returned import Charts, Job, JobSummary, SubmittedJob
from client.transport import PAGE, Transport, body, given, idempotency_header, parse
from wire import jobs as of_wire
from wire.jobs import FINAL, DryRun, JobCreate, JobPage


class JobCalls(Transport, Charts):
    """Methods of a `Client`."""

    def create_job(self, job: JobCreate | Mapping[str, Any], *, key: str | None = None) -> SubmittedJob:
        """Post a job. It goes under an idempotency key, so it is one job however often the request is repeated.

        `key` is for who repeats it himself, in another process perhaps: the same key within 24 hours is the same job.
        """
        answer = self._send("POST", "/jobs", json=body(job), headers=idempotency_header(key))
        return SubmittedJob.returned(self, parse(of_wire.SubmittedJob, answer))

    def dry_run(self, job: JobCreate | Mapping[str, Any]) -> DryRun:
        """The job as it would be stored, every default filled in; nothing is stored."""
        return parse(DryRun, self._send("POST", "/jobs", params={"dry_run": "true"}, json=body(job)))

    def resolve(self, job: str) -> str:
        """The id of the job that is called `job`: by its id, the beginning of it, its name, or `@last`.

        `@last` is the newest job of the token's owner. An id is given back as it is, whether there is such a job or
        not. Raises: `UnknownReference`, which is an `ApiProblem` with status 404, and `AmbiguousReference`.
        """
        return references.resolve(job, self._newest)

    def _newest(self, **filters: Any) -> list[of_wire.JobSummary]:
        """The newest jobs under these filters of `GET /jobs`, one page of them."""
        return parse(JobPage, self._send("GET", "/jobs", params=filters)).items

    def job(self, job: str) -> Job:
        return Job.returned(self, parse(of_wire.Job, self._send("GET", f"/jobs/{self.resolve(job)}")))

    def jobs(
        self,
        *,
        status: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        search: str | None = None,
    ) -> Iterator[JobSummary]:
        """All jobs, newest first, page by page. `search` is part of the name, or the beginning of the id."""
        params = given(limit=PAGE, search=search)
        if status:
            params["status"] = status
        if labels:
            params["label"] = [f"{key}={value}" for key, value in labels.items()]
        while True:
            page = parse(JobPage, self._send("GET", "/jobs", params=params))
            yield from (JobSummary.returned(self, job) for job in page.items)
            if not page.has_more or not page.items:
                return
            params["after"] = page.items[-1].id

    def wait(
        self,
        job: str,
        on_update: Callable[[Job], None] | None = None,
        *,
        interval: float = 1.0,
        timeout: float | None = None,
    ) -> Job:
        """Follow a job to its end and return it. `on_update` sees each answer.

        Raises: `TimeoutError` when it has not ended after `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        job = self.resolve(job)
        while True:
            current = self.job(job)
            if on_update is not None:
                on_update(current)
            if current.status in FINAL:
                return current
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"job {job} is still {current.status} after {timeout:g} s")
            time.sleep(interval)

    def cancel(self, job: str) -> Job:
        """Discard a job; a running one is cancelled as soon as its worker has stopped."""
        return self._act(job, "cancel")

    def stop(self, job: str) -> Job:
        """End a training early as a success, with its best student."""
        return self._act(job, "stop")

    def pause(self, job: str) -> Job:
        """Free the device; a running training publishes a checkpoint first."""
        return self._act(job, "pause")

    def resume(self, job: str) -> Job:
        """Queue a paused job again, from its checkpoint."""
        return self._act(job, "resume")

    def retry(self, job: str) -> Job:
        """The retry of a failed or cancelled job: a new one, from its last checkpoint, or the one that there is."""
        return self._act(job, "retry")

    def delete(self, job: str) -> None:
        """Delete a job that is at its end, with its reports and artifacts."""
        self._send("DELETE", f"/jobs/{self.resolve(job)}")

    def _act(self, job: str, action: str) -> Job:
        return Job.returned(self, parse(of_wire.Job, self._send("POST", f"/jobs/{self.resolve(job)}/{action}")))
