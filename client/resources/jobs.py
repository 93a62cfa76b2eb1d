"""`client.jobs`: post jobs, find them, and do to each what can be done to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from client import specs
from client.resources.job import Job, JobOperations, JobRef, JobSummary, SubmittedJob
from client.resources.resource import Resource
from client.transport.answers import PAGE, body, given, idempotency_header, parse
from client.transport.connection import Connection
from client.transport.flow import Flow, Item, Items, M, called, called_iteration, iteration, operation
from wire import jobs as of_wire
from wire.jobs import DryRun, JobCreate, JobPage, Preset
from wire.system import PresetList

Source = JobCreate | BaseModel | Mapping[str, Any] | Path | str


class Jobs(Resource[M]):
    """All jobs of a service.

    Where a method takes a job as a text, that is its id, the beginning of its id (4 characters or more), its name, or
    `@last`: the newest one of the token's owner.
    """

    @operation
    def create(
        self,
        job: Source,
        *,
        name: str | None = None,
        kind: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        data: Path | str | None = None,
        key: str | None = None,
    ) -> Flow[SubmittedJob[M]]:
        """Post a job. It goes under an idempotency key, so it is one job however often the request is repeated.

        `job` is one of: a mapping, either the whole job (`name`, `labels`, `spec`, …) or its spec alone; a `JobCreate`;
        a spec as a model, such as a `TrainConfig`; the path of a YAML file with a job or a spec; the name of a preset.
        The others are put in: `kind` is train, distill, evaluate or export, by default what the spec tells; `data` is
        the folder of a data set. `key` is for who repeats the call in another process: the same key within 24 hours is
        the same job. Raises: `InvalidRequest`, whose `pointers` lead to the faults of the spec; `ClientError`.

        >>> posted = client.jobs.create(spec, name="another", labels={"team": "vision"}, data="data/set")
        >>> posted.status, posted.labels
        ('queued', {'team': 'vision'})
        >>> client.jobs.create({"name": "bad", "spec": {**posted.spec, "batch_size": 0}})
        Traceback (most recent call last):
            ...
        client.errors.InvalidRequest: 422 Invalid Specification: ...
        """
        order = yield from _order(self._connection, job, name, kind, labels, priority, data)
        options = {"json": order, "headers": idempotency_header(key)}
        answer = yield from self._connection.send("POST", "/jobs", **options)
        return SubmittedJob.returned(self._connection, parse(of_wire.SubmittedJob, answer))

    @operation
    def dry_run(
        self,
        job: Source,
        *,
        name: str | None = None,
        kind: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        data: Path | str | None = None,
    ) -> Flow[DryRun]:
        """The job as `create` would store it, every default filled in; nothing is stored.

        >>> client.jobs.dry_run("demo_teacher", data="data/set").spec.schedule.epochs
        10
        """
        order = yield from _order(self._connection, job, name, kind, labels, priority, data)
        answer = yield from self._connection.send("POST", "/jobs", params={"dry_run": "true"}, json=order)
        return parse(DryRun, answer)

    @operation
    def get(self, job: str) -> Flow[Job[M]]:
        """One job, with its specification, its history and its attempts.

        >>> client.jobs.get("student").best_ap
        0.25
        """
        return (yield from self.ref(job)._read((yield from self.ref(job)._identify())))

    def ref(self, job: str) -> JobRef[M]:
        """A job to work with that is not asked for now: `client.jobs.ref("student").cancel()`."""
        return JobRef(self._connection, job)

    @iteration
    def list(
        self,
        *,
        status: str | Sequence[str] | None = None,
        labels: Mapping[str, str] | None = None,
        search: str | None = None,
    ) -> Items[JobSummary[M]]:
        """All jobs, newest first, page by page. `search` is part of the name, or the beginning of the id.

        >>> [job.name for job in client.jobs.list(status="succeeded", labels={"team": "vision"})]
        ['student']
        """
        params = given(limit=PAGE, search=search)
        if status:
            params["status"] = status
        if labels:
            params["label"] = [f"{key}={value}" for key, value in labels.items()]
        while True:
            page = parse(JobPage, (yield from self._connection.send("GET", "/jobs", params=params)))
            for job in page.items:
                yield Item(JobSummary.returned(self._connection, job))
            if not page.has_more or not page.items:
                return
            params["after"] = page.items[-1].id

    resolve = called(JobRef[M].resolve)
    wait = called(JobOperations[M].wait)
    cancel = called(JobOperations[M].cancel)
    stop = called(JobOperations[M].stop)
    pause = called(JobOperations[M].pause)
    resume = called(JobOperations[M].resume)
    retry = called(JobOperations[M].retry)
    delete = called(JobOperations[M].delete)
    events = called_iteration(JobOperations[M].events)
    logs = called_iteration(JobOperations[M].logs)
    metrics = called(JobOperations[M].metrics)
    evaluations = called(JobOperations[M].evaluations)
    curves = called(JobOperations[M].curves)
    images = called(JobOperations[M].images)
    thumbnail = called(JobOperations[M].thumbnail)
    report = called(JobOperations[M].report)
    report_as = called(JobOperations[M].report_as)
    chart = called(JobOperations[M].chart)
    artifacts = called(JobOperations[M].artifacts)
    download = called(JobOperations[M].download)
    weights = called(JobOperations[M].weights)
    predict = called(JobOperations[M].predict)
    predict_picture = called(JobOperations[M].predict_picture)


def presets_of(connection: Connection) -> Flow[dict[str, Preset]]:
    """The service's presets, by name."""
    found = parse(PresetList, (yield from connection.send("GET", "/presets"))).items
    return {preset.name: preset for preset in found}


def _order(
    connection: Connection,
    job: Source,
    name: str | None,
    kind: str | None,
    labels: Mapping[str, str] | None,
    priority: int | None,
    data: Path | str | None,
) -> Flow[Any]:
    """The body of `POST /jobs`."""
    order: dict[str, Any]
    if isinstance(job, Path) or (isinstance(job, str) and specs.is_file(job)):
        order = {"name": Path(job).stem, **specs.read_job(Path(job))}
    elif isinstance(job, str):
        order = {"name": job, **specs.of_preset((yield from presets_of(connection)), job)}
    elif isinstance(job, JobCreate):
        order = body(job)
    elif isinstance(job, BaseModel):
        order = {"spec": body(job)}
    else:
        order = dict(job) if "spec" in job or "name" in job else {"spec": dict(job)}
    if data is not None:
        order = specs.with_data(order, kind, Path(data))
    if labels is not None:
        order["labels"] = {**(order.get("labels") or {}), **labels}
    return order | given(name=name, kind=kind, priority=priority)
