"""Jobs on the wire: what a client posts and what it reads back."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints, ValidationInfo, WrapValidator

from crosskd.spec.bounds import AtMost
from crosskd.spec.config import EvaluateConfig, ExportConfig, Section, TrainConfig
from wire.errors import Text
from wire.request import RequestModel
from wire.scalars import Count, Known, Number
from wire.tasks import HIGHEST_PRIORITY, LOWEST_PRIORITY, NORMAL_PRIORITY

Kind = Literal["train", "distill", "evaluate", "export"]
SPECS: dict[str, type[Section]] = {
    "train": TrainConfig,
    "distill": TrainConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
}
Status = Literal["waiting", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
UNFINISHED: tuple[str, ...] = ("waiting", "queued", "running", "paused")
FINAL: frozenset[str] = frozenset({"succeeded", "failed", "cancelled"})
AttemptStatus = Literal["running", "succeeded", "failed", "cancelled", "released", "lost"]
FailureClass = Literal["user", "data", "diverged", "out_of_memory", "infrastructure", "lost", "dependency"]
DependencyRole = Literal["teacher", "weights", "init"]

LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]


def _of_kind(value: Any, _union: object, info: ValidationInfo) -> Any:
    """The kind says which specification it is: a fault is told of that one, not of whichever it nearly fits."""
    model = SPECS.get(info.data.get("kind", "train"), TrainConfig)
    return value if isinstance(value, model) else model.model_validate(value)


Spec = Annotated[TrainConfig | EvaluateConfig | ExportConfig, WrapValidator(_of_kind)]


Priority = Annotated[
    int, Field(ge=LOWEST_PRIORITY, le=HIGHEST_PRIORITY, description="1 (last) to 9 (first) among the jobs that wait.")
]


class JobCreate(RequestModel):
    """`POST /jobs`."""

    kind: Kind
    name: Annotated[str, StringConstraints(min_length=1, max_length=200, strip_whitespace=True, pattern=r"^[^\x00]+$")]
    labels: Annotated[dict[LabelKey, LabelValue], AtMost(64)] = {}
    priority: Priority = NORMAL_PRIORITY
    spec: Spec = Field(
        description="TrainConfig to train and distill, EvaluateConfig to evaluate, ExportConfig to export."
    )


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

    failure_class: FailureClass
    message: Text
    where: Text = ""
    remedy: Text = ""
    log_tail: Annotated[list[Text], AtMost(200)] = []


class Progress(BaseModel):
    """How far the running attempt is. `step` counts optimizer steps; of an evaluation or export, batches."""

    phase: Literal["preparing", "evaluating_teacher", "training", "evaluating", "exporting", "uploading"] = "preparing"
    step: Count = 0
    total_steps: Count = 0
    epoch: Annotated[Number, Field(allow_inf_nan=False)] = 0.0
    loss: Known = None  # one that is not finite is spelt in the metrics
    steps_per_second: Known = None
    eta_seconds: Known = None
    waiting_for: Annotated[Text, Field(max_length=100)] = Field(
        default="", description="What files wait for that cannot be uploaded, such as `room in the storage`."
    )


class Transition(BaseModel):
    """One change of a job's state."""

    at: datetime
    from_status: Status | None
    to_status: Status
    reason: str


class Dependency(BaseModel):
    """A job whose weights this one needs."""

    role: DependencyRole = Field(description="For `teacher`, for `weights`, or for `student.init` of the spec.")
    job: str
    status: Status | None = Field(description="Null: it has been deleted.")


class Attempt(BaseModel):
    """One worker's try at a job. `number` is the fencing token: it only grows."""

    id: str
    number: int
    status: AttemptStatus
    worker: str
    device: str = ""
    started_at: datetime
    ended_at: datetime | None = None
    resumed_from_step: int = Field(default=0, description="Its checkpoint's step; 0: from the beginning.")
    failure: Failure | None = None


class JobSummary(BaseModel):
    """A job in a list."""

    id: str
    kind: Kind
    name: str
    owner: str = Field(default="local", description="Of the token that posted it; `local` without one.")
    labels: dict[str, str]
    priority: Priority = NORMAL_PRIORITY
    status: Status
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    progress: Progress | None = None
    best_ap: float | None = Field(default=None, description="COCO AP of the best student so far, 0..1.")
    teacher_ap: float | None = Field(default=None, description="COCO AP of the teacher on the same images, 0..1.")
    failure: Failure | None = None


class Job(JobSummary):
    """`GET /jobs/{id}`."""

    spec_version: int
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
        default=None, description="While it is queued: how many of its queue come first, and itself. 1 is next."
    )
    waiting: str | None = Field(
        default=None,
        description="While it is waiting or queued: for what, such as the weights of another job, a worker with a "
        "GPU, its owner's quota, or other jobs.",
    )
    depends_on: list[Dependency] = Field(default=[], description="The jobs whose weights it needs.")
    request_id: str | None = Field(default=None, description="Of the request that made it; its log lines carry it.")
    last_event: int = Field(default=0, description="Number of its newest event: what to follow `/events` from.")
    transitions: list[Transition]
    attempts: list[Attempt]
    links: dict[str, str] = Field(default={}, description="Where its metrics, evaluations, artifacts and weights are.")


class SubmittedJob(Job):
    """What `POST /jobs` answers: the job, and what is good to know of it at this moment."""

    notes: list[str] = Field(default=[], description="Such as what `student.init` takes, or that no worker is known.")


class JobPage(BaseModel):
    """`GET /jobs`, newest first; `after` is the id of the last job of the page before."""

    items: list[JobSummary]
    has_more: bool


class DryRun(BaseModel):
    """`POST /jobs?dry_run=true`: the job as it would be stored."""

    kind: Kind
    name: str
    labels: dict[str, str]
    priority: Priority = NORMAL_PRIORITY
    spec_version: int
    spec: Spec
    notes: list[str] = Field(default=[], description="What is good to know of it, such as what `student.init` takes.")
    warnings: list[DataWarning] = Field(default=[], description="What was found in its data and does not stop it.")


class Preset(BaseModel):
    """A published or ready-made configuration; `spec` lacks the data section (and a teacher's weights)."""

    name: str
    title: str
    kind: Kind
    spec: dict[str, Any]
