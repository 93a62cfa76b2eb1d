"""How long a job will take, by finished jobs of the same shape."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from sqlalchemy import select

from api.database import Session
from api.models import Attempt, Job
from crosskd.spec.config import TrainConfig
from wire.scalars import figure

LOOKED_AT = 1000  # finished jobs, the newest: older ones ran on other machines and versions
COUNTED = 20  # of one shape


class Shape(NamedTuple):
    """What decides the time of one image in a training: what is computed, and on how many pixels."""

    distils: bool
    detector: str
    backbone: str
    width: str  # of a vision transformer all its sizes
    short_edge: int
    long_edge: int
    device: str
    gpus: int


@dataclass
class Measured:
    """Seconds that one image of one step took in finished jobs, by shape."""

    rates: dict[Shape, list[float]] = field(default_factory=lambda: defaultdict(list))

    def seconds(self, spec: TrainConfig, images: Mapping[str, int]) -> float | None:
        """Of a whole training; None where nothing of its shape was measured, or its images are not counted."""
        rates = self.rates.get(shape(spec))
        count = images.get(spec.data.train.annotations)
        if not rates or count is None:
            return None
        steps = spec.schedule.epochs * count
        if spec.schedule.max_steps is not None:
            steps = min(steps, spec.schedule.max_steps * spec.batch_size * spec.accumulate * spec.gpus)
        return round(median(rates) * steps, 1)

    def text(self, jobs: int, known: int) -> str:
        """What the estimate is made from."""
        if not known:
            return "No job of the same shape (detector, backbone, image size, device) has ended well yet: no estimate."
        rest = f"; of {jobs - known} of the {jobs} jobs there is no such job yet, so the sum is not known"
        return (
            "By the median time of an image in finished jobs of the same shape (detector, backbone, image size, device)"
            f"{rest if known < jobs else ''}."
        )


def shape(spec: TrainConfig) -> Shape:
    return _shape(spec.model_dump(mode="json"))


def measured(session: Session, specs: Iterable[TrainConfig]) -> Measured:
    """What finished jobs of the shapes of `specs` took."""
    wanted = {shape(spec) for spec in specs}
    newest = select(Job.id).where(Job.status == "succeeded").order_by(Job.id.desc()).limit(LOOKED_AT).subquery()
    parts = ("student", "teacher", "augment", "device", "gpus", "batch_size", "accumulate")
    columns = [Job.spec[part].label(part) for part in parts]
    query = select(Job.id, *columns).join(newest, newest.c.id == Job.id).where(Job.kind.in_(("train", "distill")))
    alike: dict[str, tuple[Shape, int]] = {}
    counts: dict[Shape, int] = defaultdict(int)
    for row in session.execute(query.order_by(Job.id.desc())).mappings():
        found = _shape(dict(row))
        if found in wanted and counts[found] < COUNTED:
            counts[found] += 1
            alike[row["id"]] = found, row["batch_size"] * row["accumulate"] * row["gpus"]
    return _rates(session, alike)


def _rates(session: Session, jobs: Mapping[str, tuple[Shape, int]]) -> Measured:
    told = (Attempt.result["seconds"].label("seconds"), Attempt.result["steps"].label("steps"))
    query = select(Attempt.job_id, *told).where(Attempt.job_id.in_(list(jobs)), Attempt.status == "succeeded")
    known = Measured()
    for job, seconds, steps in session.execute(query):
        took, made = figure(seconds), figure(steps)
        if took is None or made is None or took <= 0 or made < 1:
            continue
        found, batch = jobs[job]
        known.rates[found].append(took / (made * batch))
    return known


def _shape(spec: Mapping[str, Any]) -> Shape:
    student, augment = spec["student"], spec["augment"]
    squares: Sequence[int] = augment.get("letterbox") or []  # which a job of before there were any does not say
    edges: Sequence[int] = squares or augment["short_edges"]
    return Shape(
        spec.get("teacher") is not None,
        student["detector"],
        student["backbone"]["name"],
        json.dumps(student["backbone"].get("vit") or student["backbone"].get("width"), sort_keys=True),
        max(edges),
        max(squares, default=augment["long_edge"] if augment.get("keep_ratio", True) else max(edges)),
        spec["device"],
        spec["gpus"],
    )
