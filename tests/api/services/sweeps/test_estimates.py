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
    student = {"backbone": {"name": "resnet_tiny"}}
    spec = TrainConfig.model_validate({"data": {"train": SPLIT, "val": SPLIT}, "student": student, "augment": augment})
    assert (shape(spec).short_edge, shape(spec).long_edge) == edges
