"""Puts a proposal together: a training, a distillation or a sweep, each choice with its reason. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.coco.categories import listed
from crosskd.spec.config import DataConfig, TrainConfig
from crosskd.spec.proposal.data import Data
from crosskd.spec.proposal.goals import GOALS, GoalName
from crosskd.spec.proposal.models import DetectorChoice, choose_detector, student, trained_teacher
from crosskd.spec.proposal.schedule import schedule
from crosskd.spec.proposal.sizes import augment, batch_size, choose_size, size_of_teacher
from crosskd.spec.proposal.students import student_of
from crosskd.spec.proposal.teacher import Teacher
from crosskd.spec.proposal.text import Said, Tree, bare, plain, reasons, to_yaml
from crosskd.spec.section import MAX_PIXELS

Kind = Literal["train", "distill", "sweep"]
SEEDS = [0, 1, 2]
PUBLISHED = ("gfl", "retinanet", "atss", "fcos")  # teachers for which the paper has CrossKD's weights
PIXELS: int = DataConfig.model_fields["max_image_pixels"].default


@dataclass(frozen=True)
class Wish:
    """What is asked for beside the data. `alone`: a training without any teacher."""

    goal: GoalName = "balanced"
    detector: DetectorChoice | None = None
    alone: bool = False
    student_init: Path | None = None
    teacher_init: Path | None = None


@dataclass(frozen=True)
class Proposal:
    """A file for `crosskd submit`, or of a `sweep` for `crosskd sweep`."""

    kind: Kind
    tree: Tree
    head: str

    @property
    def text(self) -> str:
        return to_yaml(self.head, self.tree)

    @property
    def values(self) -> dict[str, Any]:
        return plain(self.tree)

    @property
    def choices(self) -> list[tuple[str, Any, str]]:
        """Name, value and reason."""
        return reasons(self.tree)


def propose(name: str, data: Data, wish: Wish, teacher: Teacher | None = None) -> Proposal:
    """What to train on the data set `name`. The same data and wish give the same text.

    Raises: `ConfigError` where the teacher cannot teach these classes, or has no student.
    """
    if teacher is not None:
        _require_classes(teacher, data)
    base, train_teacher = _trainings(data, wish, teacher)
    if teacher is not None:
        return Proposal("distill", base, _head(name, data, wish, "submit"))
    if wish.alone:
        return Proposal("train", base, _head(name, data, wish, "submit"))
    order: Tree = {
        "name": Said(f"init {name}"[:100]),
        "base": Said(base, "Every training of a student."),
        "teacher": Said(
            train_teacher, "A teacher is trained first: the same detector on a larger backbone, in the same way."
        ),
        "arms": Said(
            {
                "alone": Said({"distill": Said(None)}),
                "crosskd": Said(
                    {"distill": Said({"crosskd": Said({})})}, _method(str(base["student"].value["detector"].value))
                ),
            }
        ),
        "seeds": Said(
            SEEDS,
            f"Each arm is trained {len(SEEDS)} times, so that chance can be told from a gain: with the teacher "
            f"{1 + 2 * len(SEEDS)} trainings. Five or more make a verdict likely; [0] is enough to see it run.",
        ),
        "baseline": Said("alone"),
    }
    return Proposal("sweep", order, _head(name, data, wish, "sweep"))


def _trainings(data: Data, wish: Wish, teacher: Teacher | None) -> tuple[Tree, Tree]:
    """The training of a student, and that of a teacher for it; the latter is empty where there is no use for it."""
    goal, statistics = GOALS[wish.goal], data.statistics
    fixed = teacher is not None and teacher.scale is not None
    size = size_of_teacher(data.shapes, teacher.scale) if teacher and teacher.scale else choose_size(data.shapes, goal)
    if teacher is not None:
        if wish.detector not in (None, teacher.model.detector):
            raise ConfigError(
                f"the teacher is a {teacher.model.detector}, and a student of it is proposed as one",
                remedy="Leave --detector out.",
            )
        model = student_of(teacher, wish.goal, len(data.learnt), wish.student_init)
    else:
        model = student(choose_detector(wish.detector, size), goal, size, statistics, wish.student_init)
    detector = str(model["detector"].value)
    batch = batch_size(size, goal, statistics)
    rest: Tree = {
        "augment": Said(augment(size, goal, data.learnt, fixed=fixed)),
        **({"loader": Said({"workers": Said(1)})} if goal.random else {}),
        "batch_size": batch,
        **schedule(detector, goal, statistics, batch.value),
    }
    taught: Tree = {}
    if teacher is not None:
        weights: Tree = {"file": Said(str(teacher.path))}
        taught = {
            "teacher": Said({"weights": Said(weights)}, f"The file says: {teacher.text()}."),
            "distill": Said({"crosskd": Said({})}, _method(detector)),
        }
    base: Tree = {"data": Said(_data(data)), "student": Said(model), **taught, **rest}
    _validate(base, data)
    if teacher is not None or wish.alone:
        return base, {}
    second = bare({"student": Said(trained_teacher(model, goal, wish.teacher_init)), **rest})
    _validate({"data": base["data"], **second}, data)
    return base, second


def _data(data: Data) -> Tree:
    tree: Tree = {
        split: Said({"annotations": Said(str(place.annotations)), "images": Said(str(place.images))})
        for split, place in (("train", data.train), ("val", data.val))
    }
    if data.classes is not None:
        tree["classes"] = Said(data.classes, "Those with boxes to train on that validation knows, too.")
    if data.missing:
        tree["max_corrupt_images"] = Said(data.missing, "So many images of a split are not there, and are left out.")
    if (most := data.statistics.most_pixels) > PIXELS:
        if most > MAX_PIXELS:
            raise ConfigError(
                f"an image has {most:,} pixels; at most {MAX_PIXELS:,} are read", remedy="Cut the images into tiles."
            )
        tree["max_image_pixels"] = Said(most, f"The largest image has so many; by default {PIXELS:,} are the most.")
    return tree


def _method(detector: str) -> str:
    if detector in PUBLISHED:
        return "CrossKD, with the weights that are published for this detector."
    if registry.DETECTORS[detector].family == "two_stage":
        return "CrossKD, with the weights of its authors' branch for this detector; no AP is published."
    return "CrossKD. Nobody has published weights for this detector: docs/training.md says what the defaults are."


def _require_classes(teacher: Teacher, data: Data) -> None:
    missing = [name for name in data.learnt if name not in (teacher.classes or data.learnt)]
    if missing:
        raise ConfigError(
            f"the teacher does not know {listed(missing)}; it was trained on {listed(teacher.classes or [])}",
            remedy="Use a teacher that knows every class of the data, or fine-tune it first: docs/training.md.",
        )


def _validate(tree: Tree, data: Data) -> None:
    """By the rules of a submission. Raises: `ConfigError`, for what data can break that no rule here foresees."""
    values: dict[str, Any] = plain(tree)
    classes: Mapping[str, Any] = {"classes": data.learnt}
    try:
        TrainConfig.model_validate({**values, "data": {**values["data"], **classes}})
    except ValidationError as error:
        first = error.errors()[0]
        where = "/" + "/".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(message, where=where, remedy="Change the data set, or write the spec by hand.") from None


def _head(name: str, data: Data, wish: Wish, verb: str) -> str:
    goal = GOALS[wish.goal]
    return "\n".join(
        [
            f"Proposed by `crosskd init` for {name!r}, goal {wish.goal}: the recipe {goal.recipe}, {goal.source}, "
            "fitted to the data.",
            "These are starting points by rules (docs/init.md), not the result of a search.",
            *data.statistics.lines(),
            f"Next: `crosskd {verb} FILE --watch`; with `--dry-run` the service only checks it.",
        ]
    )
