"""Comparisons on the wire: detectors that were measured on the same images, and how sure their differences are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from wire.errors import Text
from wire.reports import CocoMetrics, Model

MIN_COMPARED, MAX_COMPARED = 2, 8
RESAMPLES = 1000
SEED = 0  # one for all, so that the same comparison says the same
TEACHER = ":teacher"  # behind a job's id: not its best student, but the teacher that it was trained under

# A job that is none is told as such; what can be no reference at all is refused at once.
JobOrTeacher = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
Compares = Literal["AP", "AP50", "AP75", "APs", "APm", "APl"]


class JobDifference(BaseModel):
    """Of one number, from the baseline's to this one's: above 0, it is better than the baseline."""

    value: float = Field(description="This one's number less the baseline's, any number.")
    low: float = Field(description="Where the 95 % interval of the difference begins, any number.")
    high: float = Field(description="Where it ends, any number. An interval that holds 0 shows no difference.")
    resamples: int = Field(
        description="In how many resamples, from 0, there was something to measure: the interval is of these."
    )


class Differences(BaseModel):
    """What was measured of both, less what the baseline reached; null where there is nothing to measure."""

    numbers: dict[Compares, JobDifference | None] = Field(description="By the name of the number.")
    classes: dict[Text, JobDifference | None] = Field(description="Of AP, by class name.")


class ComparedJob(BaseModel):
    """One of those that are compared: the best student of a job, or its teacher."""

    ref: str = Field(description="As it was asked for: the job's id, with `:teacher` behind it for its teacher.")
    job: str = Field(description="The job's id.")
    name: Text = Field(description="The job's name.")
    model: Model = Field(description="Whose detections these are: the best student's, or the teacher's.")
    step: int | None = Field(description="The optimizer step, from 0, that the evaluation was made at.")
    matches_sha256: str = Field(description="Of the artifact that the numbers were computed from.")
    metrics: CocoMetrics = Field(description="COCO's 12 numbers; -1: nothing to measure.")
    per_class: dict[Text, float] = Field(description="AP by class name; -1: it has no ground truth.")
    differences: Differences | None = Field(description="From the baseline; null for the baseline itself.")


class Comparison(BaseModel):
    """`GET /compare`: detectors on the same images, each against the baseline."""

    baseline: str = Field(description="The `ref` that the others are compared with.")
    images: int = Field(description="How many images, from 0, all were measured on.")
    resamples: int = Field(
        description="How often, from 0, the images were drawn anew, with replacement, the same for all."
    )
    seed: int = Field(description="Of the draws, from 0: the same jobs give the same intervals.")
    confidence: float = Field(description="Of each interval, in percent, 0..100.")
    jobs: list[ComparedJob] = Field(description="The baseline first, the others as they were asked for.")
