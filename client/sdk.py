"""The service in Python: one method per endpoint, answers as the wire's own models.

client = Client("http://127.0.0.1:8470")
job = client.create_job(JobCreate(kind="train", name="teacher", spec=...))
job = client.wait(job.id)
client.weights(job.id, Path("student.safetensors"))
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel

from client import audit, charts, predict, references
from client.events import StreamLost, stream
from client.job import Job, JobSummary, SubmittedJob
from client.transport import Transport, checked, parse, unreachable
from crosskd.spec.predictions import Predictions
from wire import jobs as of_wire
from wire.artifacts import BEST_WEIGHTS, Artifact, ArtifactList
from wire.audit import Finding, Progress, Summary
from wire.compare import Comparison
from wire.download import OnBytes
from wire.errors import IDEMPOTENCY_HEADER
from wire.events import Event, EventKind, LogEvent
from wire.images import PAGE as IMAGES
from wire.images import THUMBNAIL, ImagePage, Order
from wire.job_report import JobReport
from wire.jobs import FINAL, DryRun, JobCreate, JobPage, Preset
from wire.logs import LogPage, StoredLine
from wire.reports import Curves, Evaluation, EvaluationList, MetricPage, MetricRow, Model
from wire.sweeps import ENDED, SubmittedSweep, Sweep, SweepCreate, SweepDryRun, SweepPage, SweepSummary
from wire.system import Health, PresetList

if TYPE_CHECKING:
    from report.charts.parts import AnyChart

COMPARE_TIMEOUT = httpx.Timeout(300.0, connect=10.0)  # of what is computed once: others may be computed first
PAGE = 100  # jobs asked for at once
POINTS = 1000  # metric points asked for at once


class Client(Transport):
    """A service at `base_url`. Every method raises `ApiProblem` for a refusal and `Unreachable` for silence.

    Wherever a method takes a job or a sweep, it may be called by its id, by the beginning of its id (4 characters or
    more), by its name, or as `@last`: see `resolve`.

    Once the service has answered, a request is repeated for up to `patience` seconds while the service is away: a
    restart of the API interrupts nobody. All are safe to repeat; those that create carry an idempotency key. `token`
    is an API token, for a service that asks for one. `http` is used as it is and stays open.
    """

    # --- jobs --------------------------------------------------------------------------------------------------------

    def create_job(self, job: JobCreate | Mapping[str, Any], *, key: str | None = None) -> SubmittedJob:
        """Post a job. It goes under an idempotency key, so it is one job however often the request is repeated.

        `key` is for who repeats it himself, in another process perhaps: the same key within 24 hours is the same job.
        """
        answer = self._send("POST", "/jobs", json=_body(job), headers=_idempotency_header(key))
        return SubmittedJob.returned(self, parse(of_wire.SubmittedJob, answer))

    def dry_run(self, job: JobCreate | Mapping[str, Any]) -> DryRun:
        """The job as it would be stored, every default filled in; nothing is stored."""
        return parse(DryRun, self._send("POST", "/jobs", params={"dry_run": "true"}, json=_body(job)))

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
        self, *, status: str | Sequence[str] | None = None, labels: Mapping[str, str] | None = None
    ) -> Iterator[JobSummary]:
        """All jobs, newest first, page by page."""
        params: dict[str, Any] = {"limit": PAGE}
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

    # --- sweeps ------------------------------------------------------------------------------------------------------

    def create_sweep(self, sweep: SweepCreate | Mapping[str, Any], *, key: str | None = None) -> SubmittedSweep:
        """Post arms to compare: all of their jobs, or none. `key` as in `create_job`."""
        headers = _idempotency_header(key)
        return parse(SubmittedSweep, self._send("POST", "/sweeps", json=_body(sweep), headers=headers))

    def dry_run_sweep(self, sweep: SweepCreate | Mapping[str, Any]) -> SweepDryRun:
        """The jobs as they would be made, and how long they would take; nothing is stored."""
        return parse(SweepDryRun, self._send("POST", "/sweeps", params={"dry_run": "true"}, json=_body(sweep)))

    def resolve_sweep(self, sweep: str) -> str:
        """The id of the sweep that is called `sweep`, as `resolve` does it for jobs."""
        return references.resolve(sweep, self._newest_sweeps, "sweep")

    def _newest_sweeps(self, **filters: Any) -> list[SweepSummary]:
        """As `_newest`, under filters of `GET /sweeps`."""
        return parse(SweepPage, self._send("GET", "/sweeps", params=filters)).items

    def sweep(self, sweep: str) -> Sweep:
        """With its jobs, what each arm has reached, and the verdicts."""
        return parse(Sweep, self._send("GET", f"/sweeps/{self.resolve_sweep(sweep)}"))

    def sweeps(self, *, owner: str | None = None) -> Iterator[SweepSummary]:
        """All sweeps, newest first, page by page."""
        params: dict[str, Any] = {"limit": PAGE} | ({"owner": owner} if owner else {})
        while True:
            page = parse(SweepPage, self._send("GET", "/sweeps", params=params))
            yield from page.items
            if not page.has_more or not page.items:
                return
            params["after"] = page.items[-1].id

    def wait_sweep(
        self,
        sweep: str,
        on_update: Callable[[Sweep], None] | None = None,
        *,
        interval: float = 2.0,
        timeout: float | None = None,
    ) -> Sweep:
        """Follow a sweep until all of its jobs have ended, as `wait` does with a job."""
        deadline = None if timeout is None else time.monotonic() + timeout
        sweep = self.resolve_sweep(sweep)
        while True:
            current = self.sweep(sweep)
            if on_update is not None:
                on_update(current)
            if current.status in ENDED:
                return current
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError(f"sweep {sweep} is still {current.status} after {timeout:g} s")
            time.sleep(interval)

    def cancel_sweep(self, sweep: str) -> Sweep:
        """Discard every job that has not ended."""
        return self._act_on_sweep(sweep, "cancel")

    def pause_sweep(self, sweep: str) -> Sweep:
        """Free the devices; running trainings publish a checkpoint first."""
        return self._act_on_sweep(sweep, "pause")

    def resume_sweep(self, sweep: str) -> Sweep:
        """Queue the paused jobs again."""
        return self._act_on_sweep(sweep, "resume")

    def retry_sweep(self, sweep: str) -> Sweep:
        """A new job in the place of each that failed or was cancelled, from its last checkpoint."""
        return self._act_on_sweep(sweep, "retry")

    def delete_sweep(self, sweep: str) -> None:
        """Delete a sweep whose jobs have all ended, with the jobs and all that they have made."""
        self._send("DELETE", f"/sweeps/{self.resolve_sweep(sweep)}")

    def _act_on_sweep(self, sweep: str, action: str) -> Sweep:
        return parse(Sweep, self._send("POST", f"/sweeps/{self.resolve_sweep(sweep)}/{action}"))

    # --- what a job made ---------------------------------------------------------------------------------------------

    def metrics(
        self, job: str, *, key: str | None = None, since_step: int = 0, attempt: int | None = None
    ) -> Iterator[MetricRow]:
        """The series by step, page by page; `attempt` shows an earlier try as it was."""
        params: dict[str, Any] = {"since_step": since_step, "limit": POINTS}
        if key is not None:
            params["key"] = key
        if attempt is not None:
            params["attempt"] = attempt
        job = self.resolve(job)
        while True:
            page = parse(MetricPage, self._send("GET", f"/jobs/{job}/metrics", params=params))
            yield from page.items
            if not page.has_more or page.next_step is None:
                return
            params["since_step"] = page.next_step

    def evaluations(self, job: str) -> list[Evaluation]:
        """All of them, by step; several pages of a job with thousands of classes."""
        path, found = f"/jobs/{self.resolve(job)}/evaluations", list[Evaluation]()
        params: dict[str, int] = {}
        while True:
            page = parse(EvaluationList, self._send("GET", path, params=params))
            found += page.items
            if page.next_step is None:
                return found
            params = {"since_step": page.next_step}

    def curves(self, job: str, step: int, *, model: Model = "student") -> Curves:
        """Precision over recall of one evaluation, per class and their mean."""
        path = f"/jobs/{self.resolve(job)}/evaluations/{step}/curves"
        return parse(Curves, self._send("GET", path, params={"model": model}))

    def compare(self, jobs: Sequence[str], *, baseline: str | None = None) -> Comparison:
        """How 2 to 8 jobs differ that were measured on the same images, with 95 % intervals.

        A job is called as in `resolve`; with `:teacher` behind, it is its teacher. `baseline` is by default the first.
        The service needs seconds for an answer that nobody has asked for before.
        """
        ids = [references.job_or_teacher(job, self.resolve) for job in jobs]
        params = _given(job=ids, baseline=baseline and references.job_or_teacher(baseline, self.resolve))
        return parse(Comparison, self._send("GET", "/compare", params=params, timeout=COMPARE_TIMEOUT))

    def images(
        self,
        job: str,
        *,
        order: Order = "f1_loss",
        against: str | None = None,
        class_name: str | None = None,
        step: int | None = None,
        limit: int = IMAGES,
        after: int | None = None,
    ) -> ImagePage:
        """A page of the validation images of a job, the worst first: true, false and missed boxes at IoU 0.5.

        `order` is "gain" with another job to hold it `against`. `class_name` leaves the boxes of one class, `step` the
        sample images of one evaluation. `after` is the id of the last image of the page before. The service needs
        seconds for the first page of a job.
        """
        params = _given(order=order, step=step, limit=limit, after=after, **{"class": class_name})
        if against is not None:
            params["against"] = self.resolve(against)
        path = f"/jobs/{self.resolve(job)}/images"
        return parse(ImagePage, self._send("GET", path, params=params, timeout=COMPARE_TIMEOUT))

    def thumbnail(self, job: str, image: int, *, size: int = THUMBNAIL) -> bytes:
        """A validation image as a JPEG whose longer side has `size` pixels at most, oriented so that its boxes fit."""
        path = f"/jobs/{self.resolve(job)}/images/{image}/thumbnail"
        return self._send("GET", path, params={"size": size}, timeout=COMPARE_TIMEOUT).content

    def report(self, job: str, *, alone: str | None = None) -> JobReport:
        """What became of a job. `alone`: the job that trained the same student without the teacher."""
        return parse(JobReport, self._send("GET", f"/jobs/{self.resolve(job)}/report", params=self._alone(alone)))

    def report_as(self, job: str, media_type: str, *, alone: str | None = None) -> str:
        """The same as `text/html`, a page that needs nothing else, or as `text/markdown`, a model card."""
        return self._text(f"/jobs/{self.resolve(job)}/report", media_type, **self._alone(alone))

    def _alone(self, alone: str | None) -> dict[str, Any]:
        return _given(alone=None if alone is None else self.resolve(alone))

    def sweep_report(self, sweep: str, media_type: str = "text/html") -> str:
        """What the arms of a sweep reached, as a page that needs nothing else."""
        return self._text(f"/sweeps/{self.resolve_sweep(sweep)}/report", media_type)

    def chart(self, job: str, name: str = "loss", *, alone: str | None = None) -> AnyChart:
        """A chart of a job, as Altair's: a notebook shows it. It needs `pip install 'crosskd[charts]'`.

        `name`: loss, ap, lr, throughput, steps_per_second, gradient_norm, memory, classes, curves, cost. A job that
        this client has returned has the same as `job.chart("loss")`.
        Raises: `ClientError` for another name, and where the job has nothing to draw for it.
        """
        return charts.of_job(self.report(job, alone=alone), name)

    def sweep_chart(self, sweep: str, name: str = "differences") -> AnyChart:
        """As `chart`, of a sweep: differences, sweep_ap, sweep_classes."""
        return charts.of_sweep(self.sweep(sweep), name)

    def _text(self, path: str, media_type: str, **params: Any) -> str:
        headers = {"accept": media_type}
        return self._send("GET", path, params=params, headers=headers, timeout=COMPARE_TIMEOUT).text

    def artifacts(self, job: str) -> list[Artifact]:
        return parse(ArtifactList, self._send("GET", f"/jobs/{self.resolve(job)}/artifacts")).items

    def download(self, job: str, name: str, target: Path, on_bytes: OnBytes | None = None) -> Path:
        """Fetch an artifact to `target` (a file, or a folder to put it in), verified by its sha256.

        A broken transfer goes on where it stopped, in this call or the next; `target` appears whole or not at all.
        Raises: `DownloadError` when the bytes do not match their digest or cannot be stored.
        """
        return self._fetch(f"/jobs/{self.resolve(job)}/artifacts/{_segment(name)}", name, target, on_bytes)

    def weights(self, job: str, target: Path, on_bytes: OnBytes | None = None) -> Path:
        """Fetch the best student of a job; see `download`."""
        return self._fetch(f"/jobs/{self.resolve(job)}/weights", BEST_WEIGHTS, target, on_bytes)

    # --- what a job's model finds ------------------------------------------------------------------------------------

    def predict(
        self,
        job: str,
        images: Path | str | Sequence[Path | str],
        *,
        score: float | None = None,
        most: int | None = None,
    ) -> Predictions:
        """What the best student of a job finds in an image, or in each of several, in their order.

        `score` is that of the least sure detection, 0..1, `most` how many an image may have; the service has defaults.
        Of several, an image that cannot be used has its `fault` in the answer.
        Raises: `ApiProblem` where the only image cannot be used; `ConfigError` where a file cannot be read.
        """
        one = isinstance(images, Path | str)
        paths = [Path(images)] if isinstance(images, Path | str) else [Path(path) for path in images]
        params, path = predict.query(score, most), f"/jobs/{self.resolve(job)}/predict"

        def ask(some: list[predict.Image]) -> Predictions:
            files = predict.files(some)
            return parse(Predictions, self._send("POST", path, params=params, files=files, timeout=predict.TIMEOUT))

        return ask(next(predict.read(paths))) if one else predict.ask_all(ask, paths)

    def predict_picture(
        self, job: str, image: Path | str, *, score: float | None = None, most: int | None = None
    ) -> bytes:
        """An image with the boxes of what the best student of a job finds in it, as PNG; see `predict`."""
        files, headers = predict.files(next(predict.read([Path(image)]))), {"accept": "image/png"}
        path, params = f"/jobs/{self.resolve(job)}/predict", predict.query(score, most)
        options = {"params": params, "files": files, "headers": headers, "timeout": predict.TIMEOUT}
        return self._send("POST", path, **options).content

    # --- what happens to a job ---------------------------------------------------------------------------------------

    def events(self, job: str, *, kinds: Sequence[EventKind] = (), after: int = 0) -> Iterator[Event]:
        """All that has happened to a job behind the event `after`, then each event as it comes, until the job ends.

        Over broken connections and restarts of the service nothing is left out and nothing comes twice.
        """
        job = self.job(job).id  # a service that was never reached, or a job that there is not, is told at once
        path = f"/jobs/{job}/events"
        try:
            yield from stream(self._http, path, list(kinds), after, patience=self.patience, check=checked)
        except StreamLost as lost:
            raise unreachable(self.base_url, lost.error) from lost

    def logs(self, job: str, *, tail: int = 200, follow: bool = False) -> Iterator[StoredLine]:
        """The last lines of a job's log; with `follow` also those that come, until the job ends."""
        job = self.resolve(job)
        path, headers = f"/jobs/{job}/logs", {"accept": "application/json"}
        page = parse(LogPage, self._send("GET", path, params={"tail": tail}, headers=headers))
        yield from page.items
        if not follow:
            return
        for event in self.events(job, kinds=["log"], after=page.last_event):
            if isinstance(event.data, LogEvent):
                yield from (line for line in event.data.lines if line.number > page.total)

    # --- the service -------------------------------------------------------------------------------------------------

    def presets(self) -> list[Preset]:
        return parse(PresetList, self._send("GET", "/presets")).items

    def health(self) -> Health:
        """Whether the service answers, and its version."""
        return parse(Health, self._send("GET", "/health"))

    def audit(self, *, verify: bool = False) -> Iterator[Finding | Progress | Summary]:
        """What the service's rows and files say differently, each as it is found, then a summary; for administrators.

        `verify` reads every file. Raises: `ClientError` when it breaks off before the summary.
        """
        self.health()  # a service that was never reached is told at once
        return audit.stream(self._http, verify, checked)


def _body(job: BaseModel | Mapping[str, Any]) -> Any:
    # Only what was set travels: the service fills in the defaults of its own version.
    return job.model_dump(mode="json", exclude_unset=True) if isinstance(job, BaseModel) else dict(job)


def _given(**params: Any) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _idempotency_header(key: str | None) -> dict[str, str]:
    """The header of a request that creates."""
    return {IDEMPOTENCY_HEADER: key or str(uuid4())}


def _segment(text: str) -> str:
    return quote(text, safe="")
