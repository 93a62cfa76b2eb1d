"""The detector of a proposal: its levels and anchors follow the objects."""

from __future__ import annotations

from typing import Any

import pytest

from crosskd.spec.config import ModelConfig
from crosskd.spec.proposal.goals import GOALS, GoalName
from crosskd.spec.proposal.models import DETECTORS, choose_detector, student, trained_teacher
from crosskd.spec.proposal.sizes import Size
from crosskd.spec.proposal.statistics import Quantiles, Statistics
from crosskd.spec.proposal.text import plain
from crosskd.spec.weights.shapes import parameter_count


def size(small: float, large: float) -> Size:
    return Size(short=640, long=640, small=small, large=large, why="")


def spread(low: float, high: float) -> Quantiles:
    return Quantiles(least=low, low=low, middle=low, high=high, most=high)


def counted(aspect: tuple[float, float] = (0.5, 2.0), most: int = 9) -> Statistics:
    same = spread(1, 1)
    return Statistics(
        images=10, boxes=10, val_images=10, classes={"a": 10}, short=same, long=same, side=same,
        aspect=spread(*aspect), per_image=spread(1, most), small=0, medium=0, crowds=0, most_pixels=1,
    )  # fmt: skip


@pytest.mark.parametrize("goal", GOALS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_every_detector_is_one_whose_teacher_is_larger(detector: Any, goal: GoalName) -> None:
    found = student(choose_detector(detector, size(10, 100)), GOALS[goal], size(10, 100), counted(), None)
    models = [ModelConfig.model_validate(plain(tree)) for tree in (found, trained_teacher(found, GOALS[goal], None))]
    small, large = (parameter_count(model, 3) for model in models)
    assert small < 0.7 * large
    assert {model.detector for model in models} == {detector}


@pytest.mark.parametrize(
    ("small", "large", "detector", "strides"),
    [(7.9, 100, "faster_rcnn", None), (8.0, 512, "gfl", 3), (20, 513, "gfl", 4), (20, 1025, "gfl", 5)],
)
def test_levels_go_from_the_smallest_objects_to_the_largest(
    small: float, large: float, detector: str, strides: int | None
) -> None:
    chosen = choose_detector(None, size(small, large))
    values = plain(student(chosen, GOALS["balanced"], size(small, large), counted(), None))
    assert values["detector"] == detector
    assert values.get("strides") == (None if strides is None else [8, 16, 32, 64, 128][:strides])


@pytest.mark.parametrize(
    ("aspect", "ratios"),
    [
        ((0.25, 4.0), [0.5, 1, 2]),
        ((0.2, 1.0), [0.25, 0.5, 1, 2]),
        ((1.0, 4.1), [0.5, 1, 2, 4]),
        ((1e-9, 1e9), [2.0**n for n in range(-6, 7)]),
    ],
)
def test_ratios_follow_the_boxes(aspect: tuple[float, float], ratios: list[float]) -> None:
    chosen = choose_detector("retinanet", size(30, 100))
    assert plain(student(chosen, GOALS["fast"], size(30, 100), counted(aspect), None))["head"]["ratios"] == ratios


@pytest.mark.parametrize(("small", "scale"), [(22.7, 4.0), (22.0, 2.8), (2.0, 1.0)])
def test_the_smallest_anchors_are_as_small_as_the_objects(small: float, scale: float) -> None:
    chosen = choose_detector("retinanet", size(small, 100))
    assert plain(student(chosen, GOALS["fast"], size(small, 100), counted(), None))["anchor_scale"] == scale


@pytest.mark.parametrize(("most", "kept"), [(100, None), (101, 200), (5000, 1000)])
def test_no_more_detections_are_kept_than_there_may_be(most: int, kept: int | None) -> None:
    values = plain(student(choose_detector("gfl", size(9, 9)), GOALS["fast"], size(9, 9), counted(most=most), None))
    assert values.get("postprocess", {}).get("max_detections") == kept
