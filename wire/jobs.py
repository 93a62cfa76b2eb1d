"""Jobs on the wire: what a client posts and what it reads back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    WrapValidator,
    model_validator,
)

from crosskd.spec.bounds import AtMost
from crosskd.spec.config import EvaluateConfig, ExportConfig, Section, TrainConfig
from crosskd.spec.data.import_config import ImportConfig
from wire.errors import Text
from wire.kinds import AmbiguousKind, kind_of, known_or_inferred
from wire.kinds import Kind as Kind
from wire.request import RequestModel
from wire.scalars import Count, Known, Number
from wire.tasks import HIGHEST_PRIORITY, LOWEST_PRIORITY, NORMAL_PRIORITY

SPECS: dict[str, type[Section]] = {
    "train": TrainConfig,
    "distill": TrainConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "import": ImportConfig,
}
Status = Literal["waiting", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
UNFINISHED: tuple[str, ...] = ("waiting", "queued", "running", "paused")
FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
AttemptStatus = Literal["running", "succeeded", "failed", "cancelled", "released", "lost"]
FailureClass = Literal["user", "data", "diverged", "out_of_memory", "infrastructure", "lost", "dependency"]
DependencyRole = Literal["teacher", "weights", "init"]

LONGEST_NAME = 200  # characters of a job's name
SHORTEST_PREFIX = 4  # characters of an id's beginning by which a job is looked for

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


def _of_kind(value: Any, _union: object, info: ValidationInfo) -> Any:
    """The kind says which specification it is: a fault is told of that one, not of whichever it nearly fits."""
    kind = known_or_inferred(info.data.get("kind"), value)
    if kind is None:
        return value  # the fault of the kind is told: of which model would the specification's be?
    model = SPECS[kind]
    return value if isinstance(value, model) else model.model_validate(value)


Spec = Annotated[TrainConfig | EvaluateConfig | ExportConfig | ImportConfig, WrapValidator(_of_kind)]


Priority = Annotated[
    int, Field(ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY, description="1 (last) to 9 (first) among the jobs that wait.")
]


def _told(kind: Any) -> Any:
    if isinstance(kind, AmbiguousKind):
        raise kind
    return kind


def _without_spec() -> Kind:
    return "train"  # nothing tells it, and the job is refused for the spec that it lacks


class JobCreate(RequestModel):
    """`POST /jobs`."""

    kind: Annotated[Kind, BeforeValidator(_told)] = Field(
        default_factory=_without_spec,
        description="Default: told by the sections of `spec`: distill with a teacher, evaluate with weights and data, "
        "export with weights alone, import with a source, else train.",
    )
    name: Annotated[
        str, StringConstraints(min_length=1, max_length=LONGEST_NAME, strip_whitespace=True, pattern=r"^[^\x00]+$")
    ] = Field(description="What people call it; several jobs may have the same name.")
    labels: Annotated[dict[LabelKey, LabelValue], AtMost(64)] = Field(
        default={}, description="Up to 64 words of your own to find it by: key and value, `team` and `cells`."
    )
    priority: Priority = NORMAL_PRIORITY
    spec: Spec = Field(
        description="TrainConfig to train and distill, EvaluateConfig to evaluate, ExportConfig to export, "
        "ImportConfig to import a data set."
    )

    @model_validator(mode="before")
    @classmethod
    def _infer_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("kind") is not None or "spec" not in value:
            return value
        try:
            return {**value, "kind": kind_of(value["spec"])}
        except AmbiguousKind as ambiguous:
            return {**value, "kind": ambiguous}  # refused at the field, beside all other faults


class DataWarning(BaseModel):
    """Something about a job's data that its owner should know, and that does not stop it."""

    pointer: Text = Field(description="JSON pointer (RFC 6901) into the body that was posted.")
    kind: Text = Field(description="What happened: `clipped`, `outside`, `narrow`, `empty_image`, `empty_class`, …")
    count: Count = Field(description="How many boxes, images or classes it concerns.")
    detail: Text = Field(description="What was found.")
    of: Literal["annotations", "images", "categories"] = Field(description="What the ids are ids of.")
    ids: list[int] = Field(default=[], description="The first of their ids in the annotation file.")
    remedy: Text = Field(default="", description="What to do if it was not meant so.")


class Failure(BaseModel):
    """Why an attempt ended badly. `failure_class` decides whether the job is tried again."""

    failure_class: FailureClass = Field(
        description="Who or what is to blame. infrastructure and lost are tried again; all others end it."
    )
    message: Text = Field(description="What happened, in a sentence.")
    where: Text = Field(default="", description="The file, image, tensor or field that it is about; empty: none.")
    remedy: Text = Field(default="", description="What to do about it; empty: nothing is known.")
    log_tail: Annotated[list[Text], AtMost(200)] = Field(
        default=[], description="The last lines of the attempt's log, 200 at most; a list of jobs leaves them out."
    )


class Progress(BaseModel):
    """How far the running attempt is. `step` counts optimizer steps; elsewhere batches, and of an import images."""

    phase: Literal[
        "preparing", "evaluating_teacher", "training", "evaluating", "exporting", "importing", "uploading"
    ] = Field(default="preparing", description="What it is doing.")
    step: Count = Field(
        default=0, description="Optimizer steps done; of an evaluation or export batches, of an import images."
    )
    total_steps: Count = Field(default=0, description="Steps in all; 0: not known yet.")
    epoch: Annotated[Number, Field(allow_inf_nan=False)] = Field(
        default=0.0, description="Passes over the training images so far, from 0."
    )
    loss: Known = Field(
        default=None, description="The whole loss of the newest step, any finite number; null: none yet, or not finite."
    )  # one that is not finite is spelt in the metrics
    steps_per_second: Known = Field(
        default=None, description="Optimizer steps per second of late, from 0; null: not known yet."
    )
    eta_seconds: Known = Field(
        default=None, description="Seconds until the last step at this speed, from 0; null: not known yet."
    )
    waiting_for: Annotated[Text, Field(max_length=100)] = Field(
        default="", description="What files wait for that cannot be uploaded, such as `room in the storage`."
    )


class Transition(BaseModel):
    """One change of a job's state."""

    at: datetime = Field(description="When, in UTC.")
    from_status: Status | None = Field(description="The state before; null: it was submitted.")
    to_status: Status = Field(description="The state since then.")
    reason: str = Field(description="Why, in words.")


class Dependency(BaseModel):
    """A job whose weights this one needs."""

    role: DependencyRole = Field(description="For `teacher`, for `weights`, or for `student.init` of the spec.")
    job: str = Field(description="Id of that job.")
    status: Status | None = Field(description="Null: it has been deleted.")


class Attempt(BaseModel):
    """One worker's try at a job. `number` is the fencing token: it only grows."""

    id: str = Field(description="Of the attempt: 32 hex digits.")
    number: int = Field(description="Its place among the job's attempts, from 1; also its fencing token.")
    status: AttemptStatus = Field(
        description="How it stands. released: its worker gave the job back; lost: its worker was not heard of any more."
    )
    worker: str = Field(description="Name of the worker.")
    device: str = Field(default="", description="What it ran on: `cpu`, or indices of GPUs.")
    started_at: datetime = Field(description="When the worker claimed the job, in UTC.")
    ended_at: datetime | None = Field(default=None, description="When it ended, in UTC; null: it runs.")
    resumed_from_step: int = Field(
        default=0, description="Its checkpoint's optimizer step, from 1; 0: it began at the beginning."
    )
    failure: Failure | None = Field(default=None, description="Why it ended badly; null: it did not.")


class JobSummary(BaseModel):
    """A job in a list."""

    id: str = Field(description="Of the job: 32 hex digits, which sort by the time at which it was submitted.")
    kind: Kind = Field(
        description="What it does: train alone, distil from a teacher, evaluate or export finished weights, import a "
        "data set."
    )
    name: str = Field(description="What people call it; several jobs may have the same name.")
    owner: str = Field(default="local", description="Of the token that posted it; `local` without one.")
    labels: dict[str, str] = Field(description="Words of its owner's, by key.")
    priority: Priority = NORMAL_PRIORITY
    status: Status = Field(description="How it stands. succeeded, failed and cancelled are final.")
    created_at: datetime = Field(description="When it was submitted, in UTC.")
    updated_at: datetime = Field(description="When anything of it last changed, in UTC.")
    started_at: datetime | None = Field(
        default=None, description="When its first attempt began, in UTC; null: none has."
    )
    finished_at: datetime | None = Field(
        default=None, description="When it reached its final state, in UTC; null: it has not."
    )
    progress: Progress | None = Field(
        default=None, description="How far its attempt is; null: nothing was reported yet."
    )
    best_ap: float | None = Field(
        default=None, description="COCO AP of the best student so far, 0..1, or -1: nothing to measure; null: none yet."
    )
    teacher_ap: float | None = Field(
        default=None,
        description="COCO AP of the teacher on the same images, 0..1, or -1: nothing to measure; null: none.",
    )
    failure: Failure | None = Field(
        default=None, description="Why it failed, or why its last attempt did; null: nothing has gone wrong."
    )


class Job(JobSummary):
    """`GET /jobs/{id}`."""

    spec_version: int = Field(description="Version of the specification's format, from 1.")
    spec: dict[str, Any] = Field(description="The resolved specification, as stored.")
    warnings: list[DataWarning] = Field(
        default=[],
        description="What was found in its data at submission and does not stop it; also in its log and its manifest.",
    )
    cancel_requested_at: datetime | None = Field(default=None, description="When its cancellation was asked for.")
    stop_requested_at: datetime | None = Field(default=None, description="When its early end was asked for.")
    pause_requested_at: datetime | None = Field(default=None, description="When its pause was asked for.")
    retried_from: str | None = Field(default=None, description="The job that this one is a retry of.")
    stopped_early: bool = Field(
        default=False,
        description="It was stopped, or ran out of `evaluation.patience`; the last transition says at which step.",
    )
    queue_position: int | None = Field(
        default=None,
        description="While it is queued: its place in its queue, from 1, which is next; null: it is not queued.",
    )
    waiting: str | None = Field(
        default=None,
        description="While it is waiting or queued: for what, such as the weights of another job, a worker with a "
        "GPU, its owner's quota, or other jobs.",
    )
    depends_on: list[Dependency] = Field(default=[], description="The jobs whose weights it needs.")
    request_id: str | None = Field(default=None, description="Of the request that made it; its log lines carry it.")
    last_event: int = Field(default=0, description="Number of its newest event, from 0: what to follow `/events` from.")
    transitions: list[Transition] = Field(description="Every change of its state, oldest first.")
    attempts: list[Attempt] = Field(description="Every worker's try at it, oldest first.")
    links: dict[str, str] = Field(default={}, description="Where its metrics, evaluations, artifacts and weights are.")


class SubmittedJob(Job):
    """What `POST /jobs` answers: the job, and what is good to know of it at this moment."""

    notes: list[str] = Field(default=[], description="Such as what `student.init` takes, or that no worker is known.")


class JobPage(BaseModel):
    """`GET /jobs`, newest first; `after` is the id of the last job of the page before."""

    items: list[JobSummary] = Field(description="The jobs of this page, newest first.")
    has_more: bool = Field(description="Whether there are older ones: ask again with `after`.")


class DryRun(BaseModel):
    """`POST /jobs?dry_run=true`: the job as it would be stored."""

    kind: Kind = Field(description="As it was sent, or as the specification tells it.")
    name: str = Field(description="What people would call it.")
    labels: dict[str, str] = Field(description="Words of its owner's, by key.")
    priority: Priority = NORMAL_PRIORITY
    spec_version: int = Field(description="Version of the specification's format, from 1.")
    spec: Spec = Field(description="The specification with every default filled in; it can be posted as it is.")
    notes: list[str] = Field(default=[], description="What is good to know of it, such as what `student.init` takes.")
    warnings: list[DataWarning] = Field(default=[], description="What was found in its data and does not stop it.")


class Preset(BaseModel):
    """A published or ready-made configuration; `spec` lacks the data section (and a teacher's weights)."""

    name: str = Field(description="What `crosskd submit` and recipes call it.")
    title: str = Field(description="What it reproduces or is for, in a line.")
    kind: Kind = Field(description="What a job made of it does.")
    spec: dict[str, Any] = Field(
        description="The specification without `data`, and for distill without the teacher's weights."
    )
