"""From an order to the jobs of the sweep, judged as any other job is; every fault is told once, with its arm.

Variants differ in little: each is judged once, whatever the number of seeds, and what they share (a data set, say) is
looked at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import ValidationError

from api.database import Session
from api.errors import InvalidSpec, invalid
from api.models import new_id
from api.services.submission import submit, validation
from api.services.submission.shared import Shared
from api.services.sweeps import order as orders
from api.services.sweeps.variants import BASE, TEACHER, Variant, origin, point_text, variants
from api.settings import Settings
from api.storage import Storage
from crosskd.spec.config import TrainConfig
from wire.errors import Fault
from wire.faults import faults as as_faults
from wire.faults import pointer
from wire.jobs import DataWarning, JobCreate
from wire.sweeps import Point, Role, SweepCreate

NAME_LENGTH = 200
Place = Callable[[str], str]  # from a pointer into a job's body to the place in the order that it comes from
COMPARED = {  # what must be the same for APs to be comparable: where it stands, and why
    ("data", "val"): "other validation images",
    ("data", "classes"): "other classes",
    ("evaluation", "as_is"): "another way of counting boxes",
}


@dataclass(frozen=True)
class PlannedChild:
    """A job to make, with its judged specification."""

    id: str
    role: Role
    arm: str | None
    seed: int
    point: Point
    order: JobCreate
    spec: TrainConfig
    warnings: list[DataWarning]  # with pointers into its own specification


class _Judged(NamedTuple):
    spec: TrainConfig
    warnings: list[DataWarning]


@dataclass(frozen=True)
class Plan:
    """`images`: how many each annotation file gives."""

    children: list[PlannedChild]
    notes: list[str]
    warnings: list[DataWarning]
    images: dict[str, int]


class _Found:
    """Faults, notes and warnings, each once."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._faults: dict[tuple[str, str], Fault] = {}
        self.notes: dict[str, None] = {}
        self._warnings: dict[tuple[str, str], DataWarning] = {}
        self.add(faults)

    def add(self, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._faults.setdefault((fault.pointer, fault.detail), fault)

    def warn(self, warning: DataWarning) -> None:
        self._warnings.setdefault((warning.pointer, warning.detail), warning)

    @property
    def faults(self) -> list[Fault]:
        return list(self._faults.values())

    @property
    def warnings(self) -> list[DataWarning]:
        return list(self._warnings.values())


def plan(session: Session, settings: Settings, storage: Storage, order: SweepCreate, sweep: str) -> Plan:
    """Before the request's first statement, as `submit.judge` says.

    Raises:
        InvalidSpec: with every fault.
        Unavailable: too many annotation files are being checked.
    """
    if broken := orders.unstorable(order):
        raise invalid("sweep", broken)
    planner = _Planner(session, settings, storage, order, sweep)
    teacher = planner.teacher()
    found, faults = variants(order, planner.teacher_job)
    planner.found.add(faults)
    judged = [(variant, planner.variant(variant)) for variant in found]
    planner.compare([(variant, one and one.spec) for variant, one in judged])
    planner.tell_apart([(variant, one.spec) for variant, one in judged if one])
    if planner.found.faults:
        raise invalid("sweep", planner.found.faults)
    first = [] if teacher is None else [teacher]
    children = [planner.child(variant, one, seed) for variant, one in judged if one for seed in order.seeds]
    return Plan([*first, *children], list(planner.found.notes), planner.found.warnings, planner.shared.images)


class _Planner:
    def __init__(self, session: Session, settings: Settings, storage: Storage, order: SweepCreate, sweep: str) -> None:
        self.session, self.settings, self.order, self.sweep = session, settings, order, sweep
        self.found = _Found(orders.faults(order))
        self.shared = Shared(storage)
        self.teacher_job = new_id()

    def teacher(self) -> PlannedChild | None:
        """The training of the teacher, if there is one to train; None, too, where it is at fault."""
        if self.order.teacher is None:
            return None
        values = dict(self.order.teacher)
        inherited = "data" not in values and "data" in self.order.base
        if inherited:
            values["data"] = self.order.base["data"]
        name = f"{self.order.name} / teacher"[:NAME_LENGTH]
        body = self._body("train", name, {"role": TEACHER}, values)

        def place(where: str) -> str:
            inner = where.removeprefix("/spec")
            return f"/{BASE}{inner}" if inherited and inner.startswith("/data") else f"/{TEACHER}{inner}"

        judged = self._judge(body, place, TEACHER)
        if judged is None:
            # Only its place is known then: what hangs on its model is not looked at.
            return None
        spec = judged.spec
        self.shared.planned[self.teacher_job] = spec.model_dump(mode="json")
        made = JobCreate.model_validate(body)
        return PlannedChild(self.teacher_job, "teacher", None, spec.seed, {}, made, spec, judged.warnings)

    def variant(self, variant: Variant) -> _Judged | None:
        """The judged specification; None if it is at fault."""
        waits = self.order.teacher is not None and self.teacher_job not in self.shared.planned
        spec = variant.spec
        if waits and _learns_from(spec, self.teacher_job):  # of a teacher that is at fault: that is told already
            spec = {key: value for key, value in spec.items() if key not in ("teacher", "distill", "init_student")}
        kind = "train" if spec.get("teacher") is None else "distill"
        body = self._body(kind, variant.arm, {}, {**spec, "seed": self.order.seeds[0]})
        return self._judge(body, lambda where: origin(where, self.order, variant), variant.arm)

    def child(self, variant: Variant, judged: _Judged, seed: int) -> PlannedChild:
        spec = judged.spec
        own = spec.model_copy(update={"seed": seed})
        text = point_text(variant.point)
        name = " / ".join([self.order.name, variant.arm, *([text] if text else []), f"seed {seed}"])[:NAME_LENGTH]
        labels = {"arm": variant.arm, "seed": str(seed)} | ({"point": text} if text else {})
        made = JobCreate.model_construct(
            kind="distill" if spec.teacher else "train",
            name=name,
            labels=self._labels(labels),
            priority=self.order.priority,
            spec=own,
        )
        return PlannedChild(new_id(), "arm", variant.arm, seed, variant.point, made, own, judged.warnings)

    def compare(self, judged: Sequence[tuple[Variant, TrainConfig | None]]) -> None:
        """AP says something only on the same images, counted in the same way."""
        baseline = orders.baseline_of(self.order)
        reference = next((spec for variant, spec in judged if variant.arm == baseline and spec), None)
        if reference is None:
            return
        for variant, spec in judged:
            for path, what in COMPARED.items():
                if spec is not None and _at(spec, path) != _at(reference, path):
                    where = origin(pointer(("spec", *path)), self.order, variant)
                    detail = f"arm {variant.arm} has {what} than {baseline}, so their APs cannot be compared"
                    self.found.add([Fault(pointer=where, detail=detail, remedy="Give it in `base`, for all arms.")])

    def tell_apart(self, judged: Sequence[tuple[Variant, TrainConfig]]) -> None:
        """The same job at two points of a grid would look like two that agree, as the same seed twice would."""
        seen: dict[tuple[str, str], Variant] = {}
        for variant, spec in judged:
            first = seen.setdefault((variant.arm, spec.model_dump_json()), variant)
            knob = next((path for path, value in variant.point.items() if _other(value, first.point[path])), None)
            if knob is None:  # the first itself, or a value that is given twice, which is told already
                continue
            where = pointer(("grid", knob))
            if any(fault.pointer == where for fault in self.found.faults):
                continue
            one, other = point_text(first.point), point_text(variant.point)
            detail = f"two points of the grid are the same job of arm {variant.arm}: {one}; and {other}"
            remedy = "Give each value once, and no knob beside the section that it stands in."
            self.found.add([Fault(pointer=where, detail=detail, remedy=remedy)])

    def _judge(self, body: dict[str, Any], place: Place, arm: str) -> _Judged | None:
        try:
            order = JobCreate.model_validate(body)
            judged = submit.judge(self.session, self.settings, order, self.shared)
        except ValidationError as error:
            complaints = [{**complaint, "loc": ("body", *complaint["loc"])} for complaint in error.errors()]
            faults = as_faults(complaints, body, JobCreate).listed
            faults += validation.further_faults(self.session.database, self.settings, body, self.shared)
            self._tell(faults, place)
            return None
        except InvalidSpec as refused:
            self._tell(refused.errors, place)
            return None
        for warning in judged.warnings:
            self.found.warn(warning.model_copy(update={"pointer": place(warning.pointer)}))
        self.found.notes |= dict.fromkeys(f"{arm}: {note}" for note in judged.notes)
        assert isinstance(judged.spec, TrainConfig)
        return _Judged(judged.spec, judged.warnings)

    def _tell(self, faults: Iterable[Fault], place: Place) -> None:
        self.found.add(fault.model_copy(update={"pointer": place(fault.pointer)}) for fault in faults)

    def _body(self, kind: str, name: str, labels: dict[str, str], spec: dict[str, Any]) -> dict[str, Any]:
        labels = self._labels(labels)
        return {"kind": kind, "name": name, "labels": labels, "priority": self.order.priority, "spec": spec}

    def _labels(self, own: dict[str, str]) -> dict[str, str]:
        return {**self.order.labels, "sweep": self.sweep, **own}


def _learns_from(spec: dict[str, Any], job: str) -> bool:
    section = spec.get("teacher")
    weights = section.get("weights") if isinstance(section, dict) else None
    return isinstance(weights, dict) and weights.get("job") == job


def _other(value: Any, first: Any) -> bool:
    """As they were written: 0 and 0.0 are equal."""
    return json.dumps(value, sort_keys=True) != json.dumps(first, sort_keys=True)


def _at(spec: TrainConfig, path: Sequence[str]) -> Any:
    node: Any = spec
    for part in path:
        node = getattr(node, part)
    return node
