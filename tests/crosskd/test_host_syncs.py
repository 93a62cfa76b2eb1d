"""A training step of a dense detector asks the device for nothing, and goes through no image by itself."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from crosskd.detectors.detector import Detector
from crosskd.distill.distiller import build_distiller
from crosskd.engine import steps
from crosskd.engine.callbacks import Run
from crosskd.engine.device import MixedPrecision
from crosskd.engine.ema import EMA
from crosskd.engine.optim import Schedule, build_optimizer
from crosskd.engine.training import Training
from crosskd.errors import ConfigError
from crosskd.spec import registry
from crosskd.spec.config import DistillConfig
from crosskd.spec.distill.pairing import require_pair
from crosskd.structures import Batch, Targets
from tests.support import small
from tests.support.host_syncs import HostSyncs
from tests.support.toys import CPU, ToyBatches, toy_config

DETECTORS = sorted(registry.DENSE)
TERMS: dict[str, dict[str, Any]] = {name: {} for name in sorted(registry.TERMS)}
# What waits all the same, and why.
WAITS = {"gid": "suppression decides how many instances there are, and relations are between those of an image"}
SIZE = (64, 96)


def fitting(name: str) -> dict[str, dict[str, Any]]:
    """All terms that go with a pair of such detectors, but those that wait."""
    model = small.config(detector=name)
    found = {}
    for term, knobs in TERMS.items():
        with contextlib.suppress(ConfigError):
            require_pair(DistillConfig.model_validate({term: knobs}), model, model)
            found[term] = knobs
    return {term: knobs for term, knobs in found.items() if term not in WAITS}


def batch(images: int, counts: list[int], padded: tuple[int, int] = SIZE) -> Batch:
    """`counts` boxes in the images, by turns; all but the first image have the padded size `padded`."""
    generator = torch.Generator().manual_seed(images)
    boxes, labels = [], []
    for image in range(images):
        count = counts[image % len(counts)]
        corner = torch.rand(count, 2, generator=generator) * 60
        boxes.append(torch.cat((corner, corner + 8 + 50 * torch.rand(count, 2, generator=generator)), dim=1))
        labels.append(torch.randint(0, small.CLASSES, (count,), generator=generator))
    sizes = [SIZE] + [padded] * (images - 1)
    targets = Targets(boxes, labels, sizes, sizes)
    assert targets.table  # which the loader has made
    pixels = torch.randn(images, 3, *SIZE, generator=generator)
    return Batch(pixels, targets, list(range(images)), [(1.0, 1.0)] * images, sizes)


def counted(name: str, terms: dict[str, Any], group: list[Batch]) -> HostSyncs:
    """Of the second step on the group: the first makes anchors and the optimizer's state."""
    student = small.detector(1, detector=name, depth=1)
    trainee: Any = student
    if terms:
        teacher = small.detector(2, detector=name, depth=1, pixels={"order": "bgr", "padding": 114.0})
        trainee = build_distiller(student, teacher, DistillConfig.model_validate(terms))
    config = toy_config(clip_norm=1.0, ema={"decay": 0.9}, accumulate=len(group))
    training = Training(
        trainee=trainee.train(),
        student=student,
        optimizer=build_optimizer(trainee, config.optimizer, total_batch=2),
        schedule=Schedule(config.schedule, 5),
        batches=ToyBatches(),
        amp=MixedPrecision.on(CPU, "fp32"),
        ema=EMA[Detector](student, config.ema) if config.ema else None,
        clip_norm=config.clip_norm,
    )
    taken = steps.Steps(Run(config, Path()), training)
    taken.take(group)
    with HostSyncs() as found:
        taken.take(group)
    assert taken.read()["loss"] > 0
    return found


@pytest.fixture(autouse=True)
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(steps, "reads_at_once", lambda amp: False)


TWO_SIZES = [batch(2, [3, 0], (32, 64)), batch(3, [0, 1, 2])]  # images with boxes and without, of two padded sizes


@pytest.mark.parametrize("name", DETECTORS)
def test_a_step_asks_the_device_for_nothing(name: str) -> None:
    """Alone, and with all terms at once."""
    terms = fitting(name)
    assert len(terms) >= 10  # LD is GFL's, and FGFI wants anchors
    assert not counted(name, {}, TWO_SIZES).found
    assert not counted(name, terms, TWO_SIZES).found


def test_nor_do_the_other_forms_of_terms() -> None:
    terms = {"imitation": {"region": "inside_boxes"}, "fgd": {"mask_scale": "stride"}, "crosskd": {"box": "giou"}}
    assert not counted("gfl", terms, TWO_SIZES).found


@pytest.mark.parametrize("term", WAITS)
def test_terms_that_wait_do(term: str) -> None:
    assert counted("gfl", {term: {}}, TWO_SIZES).found


@pytest.mark.parametrize("name", DETECTORS)
def test_a_step_over_more_images_is_as_many_operators(name: str) -> None:
    few, many = (counted(name, fitting(name), [batch(images, [3])]) for images in (2, 5))
    assert few.operators == many.operators


def test_what_waits_is_found() -> None:
    x = torch.tensor([1.0, -1.0])
    with HostSyncs() as syncs:
        float(x.sum())
        bool((x > 0).any())
        x[x > 0]
        x[x > 5] = 1.0
        (x > 0).nonzero()
        x.unique()
        x.tolist()
        x.new_tensor(1.0)
        x[torch.arange(2)].sum()
    assert {what.split()[0]: count for what, count in syncs.found.items()} == {
        "_local_scalar_dense": 2, "index": 1, "index_put_": 1, "nonzero": 1, "_unique2": 1, "tolist": 1, "new_tensor": 1
    }  # fmt: skip
