"""Which jobs count as of the same shape, so that the time of the one tells that of the other."""

from __future__ import annotations

from typing import Any

import pytest

from api.services.sweeps.estimates import shape
from crosskd.spec.config import TrainConfig

SPLIT = {"annotations": "a.json", "images": "images"}


@pytest.mark.parametrize(
    ("augment", "edges"),
    [
        ({"short_edges": [96, 128], "long_edge": 200}, (128, 200)),
        ({"short_edges": [64], "long_edge": 64, "letterbox": [320, 480]}, (480, 480)),
    ],
)
def test_the_size_is_that_of_training_images(augment: dict[str, Any], edges: tuple[int, int]) -> None:
    spec = training({"backbone": {"name": "resnet_tiny"}}, augment)
    assert (shape(spec).short_edge, shape(spec).long_edge) == edges


def test_a_vision_transformer_is_of_the_shape_of_its_sizes() -> None:
    vits: list[dict[str, Any]] = [{}, {"width": 96}, {"maps": [1, 2, 3]}, {"windows": 2}, {"patch": 8}]
    students = [{"detector": "lw_detr", "backbone": {"name": "lw_detr_vit", "vit": vit}} for vit in vits]
    plain = training({"detector": "lw_detr", "backbone": {"name": "lw_detr_vit"}}, {})
    shapes = [shape(training(student, {})) for student in students]
    assert len(set(shapes)) == len(vits)
    assert shapes[0] == shape(plain)


def training(student: dict[str, Any], augment: dict[str, Any]) -> TrainConfig:
    data = {"train": SPLIT, "val": SPLIT}
    return TrainConfig.model_validate({"data": data, "student": student, "augment": augment})
