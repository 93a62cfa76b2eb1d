"""`distill.cache` in a specification: what is told of it, and which views are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crosskd.spec.config import DistillConfig, ModelConfig
from crosskd.spec.distill.teacher_cache_size import MIB, kept
from tests.support.databases import ONE_DATABASE
from tests.support.specs import CLASSES, TINY, Post, errors, write_weights

pytestmark = ONE_DATABASE
Distil = Callable[..., Any]
HERE = "/spec/distill/cache"
EDGE = {"short_edges": [64], "long_edge": 64}
SQUARE = {**EDGE, "letterbox": [96]}


@pytest.fixture
def distil(resolve: Post, root: Path) -> Distil:
    """Post a distillation with a cache, of images that are shown in a way."""
    write_weights(root / "teacher.safetensors")

    def post(augment: dict[str, Any], cache: dict[str, Any] | None = {}, **distill: Any) -> Any:  # noqa: B006
        teacher = {"weights": {"file": "teacher.safetensors"}}
        given = {"student": TINY, "teacher": teacher, "augment": augment}
        return resolve("distill", **given, distill={"cache": cache, **distill})

    return post


def told(answer: Any) -> str:
    assert answer.status_code == 200, answer.text
    found = [each["detail"] for each in answer.json()["warnings"] if each["pointer"] == HERE]
    assert len(found) == 1
    return str(found[0])


def test_what_it_keeps_of_an_image_is_told(distil: Distil) -> None:
    answer = distil(SQUARE)
    assert answer.json()["spec"]["distill"]["cache"] == {"store": "disk", "dtype": "float32", "limit_mib": 16384}
    needs = DistillConfig().terms()["crosskd"].needs(ModelConfig.model_validate(TINY), ModelConfig.model_validate(TINY))
    size = kept(needs, ModelConfig.model_validate(TINY), len(CLASSES), (96, 96), "float32")
    words = told(answer)
    assert f"keeps about {size.total / MIB:.2f} MiB of each view of an image" in words
    assert f"(predictions {size.predictions / MIB:.2f}, statistics {size.statistics / MIB:.2f})" in words
    assert "in 2 views:" in words
    maps = told(distil({**SQUARE, "flip": 0.0}, {"dtype": "float16"}, pkd={}))
    assert "(maps " in maps
    assert "in 1 view:" in maps
    assert "cache" not in distil(SQUARE, None).json()["spec"]["distill"]
    full = told(distil({**EDGE, "letterbox": [2048]}, {"limit_mib": 1}, crosskd={}, fitnet={}))
    assert "of which `limit_mib` 1 holds" in full


@pytest.mark.parametrize(
    ("augment", "pointer", "what"),
    [
        ({"short_edges": [64, 96], "long_edge": 96}, "/augment/short_edges", "drawn anew from 2 short_edges"),
        ({**EDGE, "letterbox": [64, 96]}, "/augment/letterbox", "drawn anew from 2 letterbox"),
        ({**SQUARE, "mosaic": {"off_last_epochs": 0}}, "/augment/mosaic", "mosaic shows another one each time"),
        ({**SQUARE, "mixup": {"off_last_epochs": 0}}, "/augment/mixup", "mixup shows another one each time"),
        ({**SQUARE, "crop": {}}, "/augment/crop", "crop shows another one each time"),
        ({**EDGE, "hsv": {}}, "/augment/hsv", "hsv shows another one each time"),
    ],
)
def test_views_that_never_come_again_are_refused(
    distil: Distil, augment: dict[str, Any], pointer: str, what: str
) -> None:
    assert what in errors(distil(augment))[f"/spec{pointer}"]


def test_images_of_several_sizes_are_refused_but_in_squares(distil: Distil) -> None:
    path = Path(distil(SQUARE).json()["spec"]["data"]["train"]["annotations"])
    content = json.loads(path.read_text())
    wide = {**content["images"][0], "id": 77, "width": 2 * content["images"][0]["width"]}
    content["images"].append(wide)
    content["annotations"].append({**content["annotations"][0], "id": 77, "image_id": 77})
    path.write_text(json.dumps(content))
    answer = distil(EDGE)
    assert "pixels: another each time" in errors(answer)[HERE]
    assert "augment.letterbox" in answer.json()["errors"][0]["remedy"]
    told(distil(SQUARE))
    told(distil({**EDGE, "keep_ratio": False}))
