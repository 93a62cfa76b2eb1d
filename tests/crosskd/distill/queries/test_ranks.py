"""The terms of decoder queries on two ranks: with synchronised statistics the gradient of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd import ranks
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.engine.parallel import data_parallel
from crosskd.spec.config import DistillConfig
from crosskd.structures import Targets
from tests.support import detrs, small
from tests.support.detr_library import shake
from tests.support.ranks import on_ranks

# Both of CrossKD's ways and direct mimicking, of a type that is told what is padding and of D-FINE.
CASES: list[tuple[str, dict[str, Any]]] = [
    ("deformable_detr", {"crosskd": {"queries": "teacher"}}),
    ("deformable_detr", {"crosskd": {"queries": "student"}, "direct": {}}),
    ("d_fine", {"crosskd": {"queries": "teacher"}}),
    ("d_fine", {"crosskd": {"queries": "student"}, "direct": {}}),
]
Gradients = dict[str, Tensor]


def pair(kind: str, terms: dict[str, Any]) -> Distiller:
    """Without what is random."""
    sizes = {"dropout": 0.0} | ({"denoising": 0} if "denoising" in detrs.KNOBS[kind] else {})
    models = detrs.detector(kind, 0, **sizes), detrs.detector(kind, 1, **sizes, width=64)
    for model in models:
        shake(model.head)
    return build_distiller(*models, DistillConfig.model_validate(terms)).to(precision(kind)).train()


def precision(kind: str) -> torch.dtype:
    """Double where the library's losses can be taken in it."""
    return torch.float32 if kind == "d_fine" else torch.float64


def share(rank: int, kind: str) -> tuple[Tensor, Targets]:
    images, targets = small.batch(seed=rank)
    if rank:  # another number of objects, and none in its first image
        targets = Targets(
            [targets.boxes[0][:0], targets.boxes[1]],
            [targets.labels[0][:0], targets.labels[1]],
            targets.sizes,
            targets.padded,
        )
    return images.to(precision(kind)), targets.to("cpu", precision(kind))


def whole(kind: str) -> tuple[Tensor, Targets]:
    (images, x), (others, y) = share(0, kind), share(1, kind)
    targets = Targets(x.boxes + y.boxes, x.labels + y.labels, x.sizes + y.sizes, x.padded + y.padded)
    return torch.cat([images, others]), targets


def of_rank(rank: int) -> list[Gradients]:
    """Of each case the gradients of a step."""
    found = []
    for kind, terms in CASES:
        model = pair(kind, terms)
        with ranks.synchronised_statistics(True):
            shared = data_parallel(model, idle=model.sometimes_idle())
            assert shared is not None
            of_terms(shared(*share(rank, kind))).backward()
        found.append(gradients(model))
    return found


def of_terms(losses: dict[str, Tensor]) -> Tensor:
    """Their sum, without the detection loss; but the ranks are to wait for no gradient that never comes."""
    return small.total({n: x if n.startswith(("crosskd", "direct")) else 0 * x for n, x in losses.items()})


def gradients(model: Distiller) -> Gradients:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[list[Gradients]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return on_ranks(of_rank, folder)


@pytest.mark.slow
@pytest.mark.parametrize("case", range(len(CASES)), ids=lambda case: f"{CASES[case][0]}-{list(CASES[case][1])}")
def test_the_gradient_is_that_of_one_process_with_the_whole_batch(two: list[list[Gradients]], case: int) -> None:
    alone = pair(*CASES[case])
    losses = alone(*whole(CASES[case][0]))
    assert set(CASES[case][1]) <= {name.partition("_")[0] for name in losses}
    of_terms(losses).backward()
    expected, first, second = gradients(alone), two[0][case], two[1][case]
    assert any(name.startswith("student.backbone.") and value.any() for name, value in expected.items())
    assert any(name.startswith("terms.crosskd.align") and value.any() for name, value in expected.items())
    assert expected.keys() <= first.keys()
    tolerance = 1e-7 if precision(CASES[case][0]) == torch.float64 else 1e-3
    for name, value in expected.items():
        assert torch.equal(first[name], second[name])
        assert (first[name] - value).abs().max() <= tolerance * (1 + value.abs().max()), name
