"""The report of one job, made from what the service knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wire.artifacts import Artifact
from wire.job_report import JobReport, ReportedDetector, ReportedNumber, Role
from wire.jobs import Job
from wire.reports import CocoMetrics, Curves, Evaluation, MetricBuckets, Model
from wire.scalars import figure

_NO_CURVES = "precision over recall of the {title}: its job left no curves"


@dataclass(frozen=True)
class Record:
    """What a service has kept of a job. `result` is the manifest that its worker handed in: any JSON."""

    job: Job
    evaluations: Sequence[Evaluation] = ()
    result: Mapping[str, Any] = field(default_factory=dict)
    curves: Mapping[Model, Curves] = field(default_factory=dict)
    losses: MetricBuckets = field(default_factory=lambda: MetricBuckets(width=1, items=[]))
    artifacts: Sequence[Artifact] = ()
    carried: Mapping[Model, Evaluation] = field(default_factory=dict)  # of a retry: from before its start
    sweep: str | None = None  # the id of the sweep that it is a job of


def build(record: Record, alone: Record | None = None) -> JobReport:
    """The report of a job; `alone` is the same student's training without the teacher, for its column."""
    detectors = _detectors(record, alone)
    student = _of_role(detectors, "student")
    roles = [one.role for one in detectors]
    compared: Role | None = "alone" if "alone" in roles else "teacher" if "teacher" in roles else None
    known = {one.role: _measured(one.metrics.AP) for one in detectors if one.metrics is not None}
    ap = {role: value for role, value in known.items() if value is not None}
    classes = [_class_row(name, detectors, compared) for name in (student.per_class if student else {})]
    return JobReport(
        verdict=_verdict(record, ap, measured=student is not None and student.metrics is not None),
        job=record.job,
        detectors=detectors,
        compared_with=compared,
        numbers=[_number_row(name, detectors, compared) for name in CocoMetrics.model_fields],
        classes=sorted(classes, key=_losers_first),
        gap_closed=gap_closed(ap.get("student"), ap.get("alone"), ap.get("teacher")),
        evaluations=list(record.evaluations),
        losses=record.losses,
        seconds=figure(record.result.get("seconds")),
        device=_text(record.result.get("device")),
        worker=record.job.attempts[-1].worker if record.job.attempts else "",
        seed=seed if isinstance(seed := record.job.spec.get("seed"), int) else None,
        versions={str(name): str(value) for name, value in _mapping(record.result.get("versions")).items()},
        digests=_digests(record),
        artifacts=list(record.artifacts),
        missing=_missing(record, detectors),
    )


def gap_closed(student: float | None, alone: float | None, teacher: float | None) -> float | None:
    """(student - alone) / (teacher - alone); None where one is unknown or the teacher is not above `alone`."""
    if student is None or alone is None or teacher is None or min(student, alone, teacher) < 0 or teacher <= alone:
        return None
    return (student - alone) / (teacher - alone)


def _detectors(record: Record, alone: Record | None) -> list[ReportedDetector]:
    found = []
    if chosen_evaluation(record.evaluations, "teacher", record.carried) is not None:
        found.append(_detector("teacher", "Teacher", record, "teacher"))
    if alone is not None:
        found.append(_detector("alone", "Student alone", alone, "student"))
    found.append(_detector("student", "Student" if found else "Detector", record, "student"))
    return found


def _detector(role: Role, title: str, record: Record, model: Model) -> ReportedDetector:
    measured = chosen_evaluation(record.evaluations, model, record.carried)
    facts = _mapping(record.result.get(model))
    latency = _mapping(_mapping(facts.get("latency")).get("pytorch"))
    image = facts.get("image")
    return ReportedDetector(
        role=role,
        title=title,
        job=record.job.id,
        step=measured.step if measured else None,
        images=measured.images if measured else 0,
        metrics=measured.metrics if measured else None,
        per_class=dict(measured.per_class) if measured else {},
        class_metrics=dict(measured.class_metrics) if measured else {},
        parameters=int(parameters) if (parameters := figure(facts.get("parameters"))) is not None else None,
        megabytes=figure(facts.get("megabytes")),
        gflops=figure(facts.get("gflops")),
        milliseconds=figure(latency.get("milliseconds")),
        latency_device=_text(latency.get("device")),
        cost_image=image if isinstance(image, list) and all(isinstance(side, int) for side in image) else [],
        curves=record.curves.get(model),
    )


def chosen_evaluation(
    evaluations: Sequence[Evaluation], model: Model, carried: Mapping[Model, Evaluation]
) -> Evaluation | None:
    """The student whose weights are delivered, which a retry may have from before its start; of a teacher, and where
    none is marked, the last.
    """
    rows = [row for row in evaluations if row.model == model]
    before = [carried[model]] if model in carried else []
    marked = [row for row in rows if row.best]
    found = marked or (before or rows if model == "student" else rows or before)
    return found[-1] if found else None


def _of_role(detectors: Sequence[ReportedDetector], role: Role) -> ReportedDetector | None:
    return next((one for one in detectors if one.role == role), None)


def _number_row(name: str, detectors: Sequence[ReportedDetector], compared: Role | None) -> ReportedNumber:
    values = {one.role: _measured(getattr(one.metrics, name, None)) for one in detectors}
    return ReportedNumber(name=name, values=values, difference=_difference(values, compared))


def _class_row(name: str, detectors: Sequence[ReportedDetector], compared: Role | None) -> ReportedNumber:
    values = {one.role: _measured(one.per_class.get(name)) for one in detectors}
    return ReportedNumber(name=name, values=values, difference=_difference(values, compared))


def _difference(values: Mapping[Role, float | None], compared: Role | None) -> float | None:
    student, other = values.get("student"), values.get(compared) if compared else None
    return None if student is None or other is None else student - other


def _losers_first(row: ReportedNumber) -> tuple[bool, float, str]:
    """Those without a difference by their AP, behind the others."""
    student = row.values.get("student")
    order = row.difference if row.difference is not None else (2.0 if student is None else student)
    return row.difference is None, order, row.name


def _verdict(record: Record, ap: Mapping[Role, float], *, measured: bool) -> str:
    job = record.job
    if job.status == "failed":
        return f"The job has failed: {job.failure.message if job.failure else 'nothing is known of why'}"
    if job.status == "cancelled":
        return "The job was cancelled before its end."
    unfinished = "" if job.status == "succeeded" else f"The job is {job.status}; so far: "
    student = ap.get("student")
    if student is None and measured:
        return f"{unfinished}there is no AP, for no box of the validation images counts."
    if student is None:
        return f"{unfinished}nothing has been measured{'.' if unfinished else ' by this job.'}"
    teacher, alone = ap.get("teacher"), ap.get("alone")
    told = f"{unfinished}AP {student:.3f}"
    if teacher is not None:
        told += f", its teacher {teacher:.3f}"
    if alone is not None:
        return (
            f"{told}; the same student alone {alone:.3f}, a difference of {student - alone:+.3f}. "
            f"One pair of runs cannot tell a gain from chance: {_sweep_can(record.sweep)}."
        )
    if job.kind == "distill" and record.sweep is not None:
        return f"{told}. Whether distilling has helped cannot be told from this job: {_sweep_can(record.sweep)}."
    if job.kind == "distill":
        return (
            f"{told}. Whether distilling has helped cannot be told from this job: it needs the same student without "
            "the teacher, over several seeds (POST /sweeps, or crosskd distill --data DIR)."
        )
    return f"{told}."


def _sweep_can(sweep: str | None) -> str:
    if sweep is None:
        return "a sweep over several seeds can (POST /sweeps)"
    return f"its sweep compares all of its seeds (GET /sweeps/{sweep}/report, or crosskd report {sweep})"


def _missing(record: Record, detectors: Sequence[ReportedDetector]) -> list[str]:
    told = []
    if record.job.kind == "distill" and _of_role(detectors, "alone") is None:
        told.append("the student alone: ask for the report with ?alone=ID, the id of its training without the teacher")
    if record.job.status == "succeeded":
        told += [
            _NO_CURVES.format(title=one.title.lower())
            for one in detectors
            if one.metrics is not None and one.curves is None
        ]
    return told


def _digests(record: Record) -> dict[str, str]:
    annotations = _mapping(record.result.get("annotations_sha256"))
    found = {f"{split} annotations": str(digest) for split, digest in annotations.items()}
    if teacher := _text(record.result.get("teacher_weights_sha256")):
        found["teacher weights"] = teacher
    return found | {artifact.name: artifact.sha256 for artifact in record.artifacts}


def _measured(value: float | None) -> float | None:
    """COCO writes -1 where there is nothing to measure."""
    return None if value is None or value < 0 else value


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
