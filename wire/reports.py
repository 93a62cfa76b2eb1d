"""What passes between a worker and the API, and the series a client reads.

Every call below `/worker/attempts/{attempt}` carries the worker's token (`Authorization: Bearer …`) and the
attempt's fencing token (`Fencing-Token: <number>`). 409 means that the attempt is no longer the job's live one:
the worker kills its training.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from crosskd.spec.bounds import AtMost
from crosskd.spec.section import MAX_CLASSES
from wire.artifacts import ArtifactRef
from wire.errors import Text
from wire.jobs import Failure, Kind, Progress
from wire.request import RequestModel
from wire.scalars import Count, Flag, NonFinite, Number, Spelt
from wire.workers import Devices

FENCING_HEADER = "Fencing-Token"
INTERVAL_HEADER = "Report-Interval"  # of an answer: seconds that the next batch of metrics may wait
MAX_POINTS = 1000  # of a batch; more are refused with 413
MAX_BATCH_BYTES = 1_000_000  # of a batch as JSON; a thousand points with the longest names are a quarter of it
BATCH_TOO_LARGE: Final = "batch_too_large"  # the type of the error of a batch of more points
MAX_LEVELS = 32  # of a manifest
YEARS = range(1970, 2201)  # any other is a clock gone wrong; the first and last years even break when zones change

MetricKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,99}$")]


class _Report(RequestModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ClaimRequest(_Report):
    """`POST /worker/jobs/{job}/claim`: 200 with a `Claim`, 404 for no such job, 409 when it is not to be had."""

    worker: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")] = Field(
        description="Name of the worker, which no other has."
    )
    device: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = Field(
        default="", description="What it will run on: `cpu`, or indices of GPUs."
    )
    versions: Annotated[dict[Text, Text], AtMost(100)] = Field(
        default={}, description="Versions of Python and of the packages that the attempt will run with."
    )
    devices: Devices = Field(default=[], description="Its devices as their driver tells of them.")
    checkpoint_step: Count | None = Field(
        default=None,
        description="Of the job's newest checkpoint that the worker has itself.",
    )
    checkpoint_attempt: Count | None = Field(
        default=None,
        description="Number of the attempt that wrote that checkpoint. It is gone on from if no later attempt began "
        "before it, and the API has none of a later step; the claim's `resume_step` tells.",
    )


class Claim(BaseModel):
    """An attempt: the spec, a lease and a fencing token."""

    attempt: str = Field(description="Id of the attempt: 32 hex digits.")
    fencing_token: int = Field(description="Number of the attempt, from 1; every later call carries it.")
    attempt_token: str = Field(
        default="", repr=False, description="Speaks for this attempt alone, while it lives; never on disk."
    )
    lease_seconds: float = Field(description="Seconds, from 0, until the attempt is lost unless a heartbeat comes.")
    job: str = Field(description="Id of the job.")
    kind: Kind = Field(description="What the job does.")
    spec: dict[str, Any] = Field(description="The resolved specification, as stored.")
    request_id: str = Field(default="", description="Of the request that made the job: to log, and to send with calls.")
    traceparent: str = Field(default="", description="The trace of that request, where traces are made.")
    resume: ArtifactRef | None = Field(default=None, description="The last committed checkpoint.")
    resume_step: int = Field(
        default=0,
        description="The step, from 0, that the attempt goes on from: that of `resume`, or of the worker's own "
        "checkpoint if it is a later one.",
    )
    teacher: ArtifactRef | None = Field(default=None, description="Teacher weights that a former job made.")
    weights: ArtifactRef | None = Field(default=None, description="Weights of a former job to evaluate or export.")
    init: ArtifactRef | None = Field(default=None, description="Weights of a former job that the student begins with.")
    annotations: dict[str, ArtifactRef] = Field(
        default={}, description="Of a job that reads an imported data set: the annotation file of each split."
    )


WorkerCommand = Literal["cancel", "pause", "stop"]  # the first of these that is asked for


class Heartbeat(BaseModel):
    """`POST /worker/attempts/{attempt}/heartbeat` renews the lease."""

    lease_expires_at: datetime = Field(description="Until when the attempt lives without another heartbeat, in UTC.")
    command: WorkerCommand | None = Field(default=None, description="What a client has asked for; null: nothing.")


class Command(BaseModel):
    """`GET /worker/attempts/{attempt}/commands?wait=20`: held until there is one or the time is over.

    With `known=pause` it is held for as long as that is still the command. `cancel`: end within the grace, nothing is
    kept. `pause`: end after a checkpoint. `stop`: take no further step, evaluate, deliver. `pause` and `stop` come to
    trainings alone.
    """

    command: WorkerCommand | None = Field(
        default=None, description="What a client has asked for; null: nothing, until the time was over."
    )


def _utc(moment: datetime) -> datetime:
    if moment.year not in YEARS:
        raise ValueError(f"the time is outside the years {YEARS[0]} to {YEARS[-1]}; set the clock of the worker")
    # Without a zone it would be read in the zone of whichever machine the API runs on.
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _require_iso_text(value: Any) -> Any:
    """Pydantic reads a number, or a text of digits, as seconds or milliseconds since 1970, by how large it is."""
    if isinstance(value, datetime) or (isinstance(value, str) and "-" in value[1:]):
        return value
    raise ValueError("it is no date and time; write it as in 2026-01-31T12:00:00Z")


def _require_shallow(value: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [value]
    for _ in range(MAX_LEVELS):
        level = [inner for outer in level for inner in _containers(outer)]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {MAX_LEVELS} levels; report a flatter one")


def _containers(outer: Any) -> list[Any]:
    items = outer.values() if isinstance(outer, dict) else outer
    return [item for item in items if isinstance(item, dict | list)]


Moment = Annotated[datetime, BeforeValidator(_require_iso_text), AfterValidator(_utc)]


class MetricPoint(BaseModel):
    """One of the many of a batch, which looks at their lengths for them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    key: MetricKey = Field(description="Name of the series, such as `loss` or `lr`.")
    step: Count = Field(description="Optimizer step it was measured at.")
    value: Spelt = Field(description="The figure, any number in the series' own unit; what is not finite is spelt.")
    at: Moment = Field(description="When it was measured; without a zone, UTC.")


class MetricBatch(_Report):
    """`POST /worker/attempts/{attempt}/metrics`: all or nothing; the same `sequence` again changes nothing."""

    sequence: Count = Field(description="Number of the batch within the attempt.")
    points: Annotated[list[MetricPoint], AtMost(MAX_POINTS, fields=16, kind=BATCH_TOO_LARGE)] = Field(
        default=[], description="Up to 1000 points, in the order in which they were measured."
    )
    progress: Progress | None = Field(default=None, description="How far the attempt is; null: as before.")


class CocoMetrics(_Report):
    """The 12 numbers of COCO, 0..1; -1 where there is nothing to measure, as pycocotools has it."""

    AP: Number = Field(
        description="Mean of the average precision at IoU 0.50 to 0.95 in steps of 0.05, over classes; 0..1 or -1."
    )
    AP50: Number = Field(description="Average precision at IoU 0.50, 0..1 or -1.")
    AP75: Number = Field(description="Average precision at IoU 0.75, 0..1 or -1.")
    APs: Number = Field(description="AP of small objects, below 32 x 32 pixels, 0..1 or -1.")
    APm: Number = Field(description="AP of medium objects, 32 x 32 to 96 x 96 pixels, 0..1 or -1.")
    APl: Number = Field(description="AP of large objects, above 96 x 96 pixels, 0..1 or -1.")
    AR1: Number = Field(description="Mean recall at IoU 0.50 to 0.95 with 1 detection an image, 0..1 or -1.")
    AR10: Number = Field(description="The same with 10 detections an image, 0..1 or -1.")
    AR100: Number = Field(description="The same with 100 detections an image, 0..1 or -1.")
    ARs: Number = Field(description="Mean recall of small objects, below 32 x 32 pixels, 0..1 or -1.")
    ARm: Number = Field(description="Mean recall of medium objects, 32 x 32 to 96 x 96 pixels, 0..1 or -1.")
    ARl: Number = Field(description="Mean recall of large objects, above 96 x 96 pixels, 0..1 or -1.")


class ClassMetrics(_Report):
    """Of one class, 0..1; -1 where it has no ground truth."""

    AP50: Number = Field(description="Average precision of the class at IoU 0.50, 0..1 or -1.")
    AP75: Number = Field(description="Average precision of the class at IoU 0.75, 0..1 or -1.")
    AR100: Number = Field(description="Mean recall of the class with 100 detections an image, 0..1 or -1.")


def _require_class_metrics(value: Any) -> Any:
    """There may be thousands: the first with other fields is told, and not each of each."""
    if isinstance(value, dict):
        for name, entry in value.items():
            if isinstance(entry, dict) and entry.keys() != ClassMetrics.model_fields.keys():
                needed = ", ".join(ClassMetrics.model_fields)
                raise ValueError(f"class {str(name)[:100]!r} has other fields; give {needed} of each")
    return value


Model = Literal["student", "teacher"]


class EvaluationReport(_Report):
    """`POST /worker/attempts/{attempt}/evaluations`: idempotent on (attempt, model, step)."""

    model: Model = Field(description="Which of the two was evaluated.")
    step: Count = Field(description="Optimizer step of the weights.")
    epoch: Number = Field(default=0.0, description="Passes over the training images by then, from 0.")
    metrics: CocoMetrics = Field(description="COCO's 12 numbers over all classes.")
    per_class: Annotated[dict[Text, Number], AtMost(MAX_CLASSES)] = Field(default={}, description="AP by class name.")
    class_metrics: Annotated[dict[Text, ClassMetrics], BeforeValidator(_require_class_metrics), AtMost(MAX_CLASSES)] = (
        Field(default={}, description="More numbers by class name.")
    )
    images: Count = Field(default=0, description="How many images were evaluated.")
    seconds: Number = Field(default=0.0, ge=0, description="How long it took, in seconds.")
    best: Flag = Field(default=False, description="The best student so far.")
    milliseconds_per_image: Number | None = Field(
        default=None,
        description="Milliseconds of the model for one image, without reading it, from 0; null: not measured.",
    )
    max_detections: Count = Field(
        default=100,
        description="Detections an image at most: what AP, recall by area and the curves count. AR100 counts 100.",
    )
    boxes: Count = Field(default=0, description="Of the ground truth, in the whole file.")
    boxes_left_out: Count = Field(
        default=0, description="Besides: they have no size, or nothing of them lies in their image."
    )
    as_is: Flag = Field(default=False, description="Plain pycocotools' numbers: the ground truth as the file has it.")


class Evaluation(EvaluationReport):
    """`GET /jobs/{id}/evaluations`."""

    model_config = ConfigDict(extra="ignore")

    attempt: int = Field(description="Number of the attempt that made it, from 1.")
    at: datetime = Field(description="When it was reported, in UTC.")
    curves: str | None = Field(default=None, description="Where its precision-recall curves are.")


Curve = dict[Literal["0.50", "0.75", "0.50:0.95"], list[float]]


class Curves(BaseModel):
    """`GET /jobs/{id}/evaluations/{step}/curves`: precision at 101 recalls, by IoU (last: the mean of all ten)."""

    model: Model = Field(description="Which of the two was evaluated.")
    step: int = Field(description="Optimizer step of the weights, from 0.")
    epoch: float = Field(description="Passes over the training images by then, from 0.")
    recall: list[float] = Field(description="The axis of every curve: 0, 0.01 ... 1.")
    mean: Curve | None = Field(description="Over the classes that have ground truth.")
    classes: dict[str, Curve | None] = Field(description="By class name; null: it has no ground truth.")


class EvaluationList(BaseModel):
    """`GET /jobs/{id}/evaluations`, by step and model. `since_step` of the next page is `next_step`."""

    items: list[Evaluation] = Field(description="The evaluations of the job, by step; of a large one those of a page.")
    has_more: bool = Field(default=False, description="Whether there are later ones.")
    next_step: int | None = Field(
        default=None, description="The step with which the next page begins, from 0; null: this is the last page."
    )


class MetricRow(BaseModel):
    key: str = Field(description="Name of the series, such as `loss` or `lr`.")
    step: int = Field(description="Optimizer step it was measured at, from 0.")
    value: Spelt = Field(description="The figure, any number in the series' own unit; what is not finite is spelt.")
    at: datetime = Field(description="When it was measured, in UTC.")
    attempt: int = Field(description="Number of the attempt that measured it, from 1.")


class MetricPage(BaseModel):
    """`GET /jobs/{id}/metrics`, ordered by step, key. `since_step` of the next page is `next_step`."""

    items: list[MetricRow] = Field(description="Points of this page, by step and key.")
    has_more: bool = Field(description="Whether there are later ones.")
    next_step: int | None = Field(
        default=None, description="The step with which the next page begins, from 0; null: this is the last page."
    )


class MetricBucket(BaseModel):
    """The points of a key whose step is `step` or one of the `width` - 1 behind it."""

    key: str = Field(description="Name of the series, such as `loss` or `lr`.")
    step: int = Field(description="The first optimizer step of the bucket, from 0.")
    points: int = Field(description="How many there are, from 1; a bucket without any is left out.")
    min: float | None = Field(description="The least of the finite values, any number; null: there is none.")
    max: float | None = Field(description="The greatest of the finite values, any number; null: there is none.")
    last: Spelt = Field(description="The value at the last step, any number; what is not finite is spelt.")
    last_step: int = Field(description="The step of `last`, from 0.")
    non_finite: list[NonFinite] = Field(description="Which of them occur, in this order.")


class MetricBuckets(BaseModel):
    """`GET /jobs/{id}/metrics?buckets=1000`, ordered by step, key: series from afar, in which spikes survive."""

    width: int = Field(description="Steps in a bucket, from 1.")
    items: list[MetricBucket] = Field(description="Buckets by step and key.")


class FinishReport(_Report):
    """`POST /worker/attempts/{attempt}/finish`: repeating it repeats the answer.

    `released`: the worker gives the job back unharmed (it is being shut down); the job is queued again.
    """

    outcome: Literal["succeeded", "failed", "cancelled", "released"] = Field(
        description="How the attempt ended. released: the worker gives the job back unharmed."
    )
    failure: Failure | None = Field(default=None, description="Why it failed; null: it did not.")
    result: Annotated[dict[str, Any], AfterValidator(_require_shallow)] = Field(
        default={}, description="The manifest: sizes, parameters, speed, best AP."
    )
    log_tail: Annotated[list[Text], AtMost(200)] = Field(
        default=[], description="The last lines of its log, 200 at most."
    )


class Finish(BaseModel):
    """What became of the job: its new status, and whether it will be tried again."""

    job: str = Field(description="Id of the job.")
    status: str = Field(description="The job's state since then.")
    retried: bool = Field(default=False, description="Whether it waits for another attempt.")
