"""A job's report on the wire: its answer in one document, for programs. The page of it is made from the same."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from wire.artifacts import Artifact
from wire.jobs import Job
from wire.reports import ClassMetrics, CocoMetrics, Curves, Evaluation, MetricBuckets

Role = Literal["teacher", "alone", "student"]


class ReportedDetector(BaseModel):
    """One column of a report: a detector, what it reached on the validation images, and what it costs."""

    role: Role = Field(description="`alone`: the same student, trained without the teacher by another job.")
    title: str = Field(description="Its name in tables and charts.")
    job: str | None = Field(description="The job that trained or measured it.")
    step: int | None = Field(default=None, description="The optimizer step, from 0, of the weights that were measured.")
    images: int = Field(default=0, description="How many validation images it was measured on, from 0.")
    metrics: CocoMetrics | None = Field(default=None, description="The 12 numbers of COCO; null: not measured.")
    per_class: dict[str, float] = Field(default={}, description="AP by class name, 0..1; -1 without ground truth.")
    class_metrics: dict[str, ClassMetrics] = Field(default={}, description="More numbers by class name.")
    parameters: int | None = Field(
        default=None, description="How many it has, from 0, trainable and fixed ones together."
    )
    megabytes: float | None = Field(default=None, description="Of all weights and buffers, in 10^6 bytes, from 0.")
    gflops: float | None = Field(
        default=None, description="10^9 operations, from 0, for one image of `cost_image` pixels."
    )
    milliseconds: float | None = Field(
        default=None, description="Median time of one such image, from 0, detections included."
    )
    latency_device: str = Field(default="", description="Where that time was taken.")
    cost_image: list[int] = Field(default=[], description="[height, width] in pixels of the image that was timed.")
    curves: Curves | None = Field(default=None, description="Precision over recall; null: its job left none.")


class ReportedNumber(BaseModel):
    """One row of the table of COCO's numbers, or of classes."""

    name: str = Field(description="Such as `AP50`, or a class name.")
    values: dict[Role, float | None] = Field(description="0..1 by detector; null where there is nothing to measure.")
    difference: float | None = Field(
        description="Student minus `compared_with`, any number; null where one of them is null."
    )


class JobReport(BaseModel):
    """`GET /jobs/{id}/report`: what became of a job, most important first."""

    verdict: str = Field(description="In words: what was reached, and what may be concluded from it.")
    job: Job = Field(description="The job as `GET /jobs/{id}` shows it.")
    detectors: list[ReportedDetector] = Field(description="Teacher, student alone, student: those that there are.")
    compared_with: Role | None = Field(description="What differences are taken from: `alone`, else `teacher`.")
    numbers: list[ReportedNumber] = Field(description="The 12 numbers of COCO.")
    classes: list[ReportedNumber] = Field(description="AP by class, those that lost most first.")
    gap_closed: float | None = Field(
        default=None,
        description="(student - alone) / (teacher - alone) in AP, any number; null unless the teacher is above alone.",
    )
    evaluations: list[Evaluation] = Field(
        description="All of them, by step. If they are more than a page of `GET /jobs/{id}/evaluations`, only the "
        "first, the best and the last of each model have their classes."
    )
    losses: MetricBuckets = Field(description="The loss and its terms over the whole training.")
    seconds: float | None = Field(default=None, description="The training's own time in seconds, from 0, all attempts.")
    device: str = Field(default="", description="What it computed on.")
    worker: str = Field(default="", description="The worker of the last attempt.")
    seed: int | None = Field(default=None, description="The spec's, from 0.")
    versions: dict[str, str] = Field(default={}, description="Of what computed the numbers.")
    digests: dict[str, str] = Field(default={}, description="sha256 of annotations, teacher and artifacts, by name.")
    artifacts: list[Artifact] = Field(description="The files of the job.")
    missing: list[str] = Field(default=[], description="What this report lacks, and how to get it.")
