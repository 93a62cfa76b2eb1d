"""Sweeps on the wire: one base job, several arms, several seeds; and what their comparison answers."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from crosskd.spec.bounds import AtMost
from wire.errors import Text
from wire.jobs import DataWarning, Failure, Kind, LabelKey, LabelValue, Priority, Progress, Status
from wire.request import RequestModel
from wire.tasks import NORMAL_PRIORITY

MAX_CHILDREN = 200  # jobs of one sweep, the teacher's training not counted
MAX_SEEDS_NEEDED = 1000  # beyond it a verdict says "more than"
OWN_LABELS = ("sweep", "role", "arm", "seed", "point")  # that the service puts on every job of a sweep

ArmName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$")]
KnobPath = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){0,7}$")]
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Spec = dict[str, Any]
Point = dict[str, Any]


class SweepCreate(RequestModel):
    """`POST /sweeps`: every arm with every seed, and with every point of the grid, becomes a job."""

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=100, strip_whitespace=True, pattern=r"^[^\x00]+$")
    ] = Field(description="Its jobs are called after it.")
    base: Spec = Field(description="The specification that every job has: a TrainConfig, with or without a teacher.")
    arms: Annotated[dict[ArmName, Spec], Field(min_length=1), AtMost(MAX_CHILDREN)] = Field(
        description="By name, what an arm changes of `base`: a merge patch (RFC 7386). `{}` changes nothing; "
        '`{"distill": null}` trains the student alone; null brings a knob back to its default, or to null where that '
        "is a value of its own."
    )
    seeds: Annotated[list[Seed], Field(min_length=1), AtMost(MAX_CHILDREN)] = Field(
        default=[0], description="Each once. Arms are compared seed by seed: five or more make a verdict likely."
    )
    grid: Annotated[dict[KnobPath, Annotated[list[Any], Field(min_length=1), AtMost(MAX_CHILDREN)]], AtMost(8)] = Field(
        default={},
        description="Values by knob, such as `distill.crosskd.cls_weight`: every arm that has the knob is trained with "
        "each combination.",
    )
    teacher: Spec | None = Field(
        default=None,
        description="The specification of a teacher to train first; without `data` it takes those of `base`. Every "
        "arm that distils and names no teacher learns from it.",
    )
    baseline: ArmName | None = Field(
        default=None, description="The arm that the others are compared with; without it: `alone`, or else the first."
    )
    labels: Annotated[dict[LabelKey, LabelValue], AtMost(59)] = Field(
        default={}, description="Of the sweep and of each of its jobs."
    )
    priority: Priority = NORMAL_PRIORITY


# --- what a dry run answers ------------------------------------------------------------------------------------------

Role = Literal["teacher", "arm"]


class PlannedJob(BaseModel):
    """A job that a sweep would make."""

    role: Role = Field(description="`teacher`: the training that the others wait for.")
    arm: str | None = Field(default=None, description="Null: it is the teacher's training.")
    seed: int = Field(description="Of its random numbers, from 0.")
    point: Point = Field(default={}, description="Its values of the grid's knobs.")
    kind: Kind = Field(description="`train`, or `distill` with a teacher.")
    name: str = Field(description="The sweep, the arm, the point and the seed.")
    spec_sha256: str = Field(description="Of the resolved specification: the same for jobs that are the same.")
    estimated_seconds: float | None = Field(
        default=None, description="By finished jobs of the same shape, from 0; null: there is none yet."
    )


class SweepDryRun(BaseModel):
    """`POST /sweeps?dry_run=true`: the jobs as they would be made. Nothing is stored."""

    name: str = Field(description="Of the sweep.")
    baseline: str = Field(description="The arm that the others would be compared with.")
    jobs: list[PlannedJob] = Field(description="The teacher's training first, if there is one.")
    estimated_seconds: float | None = Field(
        description="Of all jobs one after the other, from 0, on devices as those that were measured; null: not known."
    )
    estimate: str = Field(description="What the estimate is made from, or why there is none.")
    notes: list[str] = Field(default=[], description="What is good to know of the jobs, each with its arm.")
    warnings: list[DataWarning] = Field(default=[], description="What was found in the data and does not stop it.")


# --- what a sweep answers --------------------------------------------------------------------------------------------

SweepStatus = Literal["waiting", "running", "paused", "finished", "failed", "cancelled"]
ENDED: frozenset[str] = frozenset({"finished", "failed", "cancelled"})  # until a retry
ChildStatus = Status | Literal["deleted"]
Outcome = Literal["helps", "hurts", "not shown"]


class SweepSummary(BaseModel):
    """A sweep in a list."""

    id: str = Field(description="Of the sweep.")
    name: str = Field(description="As it was posted.")
    owner: str = Field(description="Of the token that posted it; `local` without one.")
    labels: dict[str, str] = Field(description="As they were posted.")
    status: SweepStatus = Field(
        description="By its jobs. `waiting`: none was begun; `running`: some were, and not all have ended; `paused`: "
        "none runs or waits, and some are paused. When all have ended: `failed` if one failed, else `cancelled` if "
        "one was cancelled or deleted, else `finished`."
    )
    created_at: datetime = Field(description="When it was posted.")
    baseline: str = Field(description="The arm that the others are compared with.")
    arms: list[str] = Field(description="By name, in the order in which they were given.")
    seeds: list[int] = Field(description="With which each arm is trained.")
    jobs: dict[str, int] = Field(description="How many jobs are in which state.")
    verdicts: dict[str, Outcome] = Field(
        default={},
        description="By arm but the baseline, as of the jobs that have ended; without arms that have no pair.",
    )


class SweepPage(BaseModel):
    """`GET /sweeps`, newest first; `after` is the id of the last sweep of the page before."""

    items: list[SweepSummary] = Field(description="The newest first.")
    has_more: bool = Field(description="Whether there are older ones.")


class SweepChild(BaseModel):
    """A job of a sweep."""

    job: str = Field(description="Its id; after a retry the id of that.")
    role: Role = Field(description="`teacher`: the training that the others wait for.")
    arm: str | None = Field(default=None, description="Null: it is the teacher's training.")
    seed: int = Field(description="Of its random numbers, from 0.")
    point: Point = Field(default={}, description="Its values of the grid's knobs.")
    name: str = Field(description="Of the job.")
    status: ChildStatus = Field(description="Of the job; `deleted`: it was deleted by itself.")
    best_ap: float | None = Field(default=None, description="COCO AP of its best student so far, 0..1.")
    progress: Progress | None = Field(default=None, description="How far its last attempt is.")
    failure: Failure | None = Field(default=None, description="Why it failed, if it did.")


class Spread(BaseModel):
    """A figure of several jobs."""

    mean: float = Field(description="Over those jobs, any number.")
    standard_error: float | None = Field(
        description="Standard deviation (n - 1) over the root of n, from 0; null for one job alone."
    )
    n: int = Field(description="Of how many jobs, from 1.")


class Difference(BaseModel):
    """An arm less the baseline in AP, 0..1, over pairs of the same seed and grid point."""

    mean: float = Field(description="Of the pairs' differences, any number.")
    standard_error: float | None = Field(description="Of that mean, from 0; null below two pairs.")
    low: float | None = Field(
        description="Lower end of the 95 % t-interval of the mean, any number; null below two pairs."
    )
    high: float | None = Field(description="Upper end of that interval, any number; null below two pairs.")
    pairs: int = Field(description="How many pairs there are, from 0.")
    unpaired: int = Field(
        default=0, description="How many jobs of the arm, from 0, ended well and have no partner (yet)."
    )


class Verdict(BaseModel):
    """What may be said of an arm against the baseline, by the interval alone."""

    outcome: Outcome = Field(
        description="`helps`: the interval lies above 0; `hurts`: below 0; `not shown`: it contains 0, or there are "
        "fewer than two pairs."
    )
    more_seeds: int | None = Field(
        default=None,
        description="Of `not shown`: how many more seeds, from 1, a difference of this size would need, if they "
        f"scatter as those so far; null: that cannot be said, or in all more than {MAX_SEEDS_NEEDED}.",
    )
    sentence: Text = Field(description="The verdict in words, with its figures.")


class PointResult(BaseModel):
    """One arm at one point of the grid."""

    point: Point = Field(description="Its values of the grid's knobs.")
    ap: Spread | None = Field(description="Null: no job there has ended well.")
    difference: Difference | None = Field(default=None, description="To the baseline; null of the baseline itself.")
    verdict: Verdict | None = Field(default=None, description="Null of the baseline itself.")


class ArmResult(BaseModel):
    """What the jobs of an arm that ended well have reached. AP and its parts are 0..1."""

    arm: str = Field(description="Name of the arm.")
    baseline: bool = Field(default=False, description="Whether the others are compared with it.")
    jobs: int = Field(description="All jobs of the arm, from 1.")
    finished: int = Field(description="Those that ended well, from 0, and so are counted.")
    failed: list[str] = Field(default=[], description="Jobs that failed, were cancelled or deleted, with the reason.")
    ap: Spread | None = Field(default=None, description="Of the best student of each job; null: none has ended well.")
    ap50: Spread | None = Field(default=None, description="At an IoU of 0.5.")
    ap75: Spread | None = Field(default=None, description="At an IoU of 0.75.")
    by_size: dict[str, Spread] = Field(default={}, description="AP of small, medium and large objects.")
    by_class: dict[str, Spread] = Field(default={}, description="AP by class.")
    training_seconds: Spread | None = Field(default=None, description="Of a whole job, evaluations included.")
    milliseconds: Spread | None = Field(default=None, description="Of one image, as its training measured it.")
    parameters: int | None = Field(
        default=None, description="How many the student has, from 0; null where the arm's students differ."
    )
    megabytes: float | None = Field(default=None, description="Of the student's weights, in 10^6 bytes, from 0.")
    difference: Difference | None = Field(default=None, description="To the baseline.")
    gap_closed: float | None = Field(
        default=None,
        description="(arm - baseline) / (teacher - baseline), any number; null without a teacher that is better.",
    )
    verdict: Verdict | None = Field(default=None, description="Null of the baseline itself.")
    points: list[PointResult] = Field(default=[], description="By grid point, where the arm has several.")


class TeacherResult(BaseModel):
    """The teacher of a sweep's arms."""

    job: str | None = Field(default=None, description="The training that the sweep began with, if it did.")
    status: ChildStatus | None = Field(default=None, description="Of that training.")
    ap: float | None = Field(
        default=None,
        description="On the validation images, 0..1, as the distillations measured it, or its own training.",
    )


class Sweep(SweepSummary):
    """`GET /sweeps/{id}`. While jobs run, the results are of those that have ended."""

    priority: Priority = Field(description="Of its jobs among those that wait.")
    spec: dict[str, Any] = Field(description="As it was posted.")
    partial: bool = Field(description="Whether jobs are still to end: the verdicts may change.")
    teacher: TeacherResult | None = Field(default=None, description="Null: no arm has one.")
    results: list[ArmResult] = Field(description="The baseline first.")
    answer: list[Text] = Field(description="The verdicts in words, and what limits them.")
    children: list[SweepChild] = Field(description="The teacher's training first; then by arm, grid point and seed.")
    links: dict[str, str] = Field(default={}, description="Where it stands, and what may be done to it.")


class SubmittedSweep(Sweep):
    """What `POST /sweeps` answers."""

    notes: list[str] = Field(default=[], description="What is good to know of the jobs, each with its arm.")
    warnings: list[DataWarning] = Field(default=[], description="What was found in the data and does not stop it.")
