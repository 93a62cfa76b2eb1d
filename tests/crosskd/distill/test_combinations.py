"""Any terms together: they train, say what they learn themselves, and leave each other alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from crosskd.detectors.view import Met, Pass
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.spec import registry
from crosskd.spec.config import DistillConfig
from crosskd.structures import Targets
from tests.support import small

NAMES = {
    "crosskd": {"crosskd_cls", "crosskd_box"},
    "pkd": {"pkd"},
    "direct": {"direct_cls", "direct_box"},
    "ld": {"ld_main", "ld_vlr"},
    "fitnet": {"fitnet"},
    "fgd": {"fgd_foreground", "fgd_background", "fgd_attention", "fgd_global"},
    "mgd": {"mgd"},
    "cwd": {"cwd"},
    "skd": {"skd"},
    "bckd": {"bckd_cls", "bckd_box"},
    "imitation": {"imitation"},
    "fgfi": {"fgfi"},
    "defeat": {"defeat_foreground", "defeat_background"},
    "gid": {"gid_feature", "gid_relation", "gid_cls", "gid_box"},
}
WHOLE = {"gid_feature", "gid_relation"}  # which have no levels
# What terms learn that some batches do not move: of a single cell; of levels on which nothing is compared.
IDLE = {f"terms.fgd.{whose}_context.4.weigh" for whose in ("student", "teacher")}
IDLE |= {f"terms.{part}.{level}" for part in ("imitation.align", "fgfi.adapt", "gid.adapt") for level in range(5)}
DETECTION = {"loss_cls", "loss_bbox", "loss_dfl"}


def distiller(*terms: str, teacher: dict[str, Any] | None = None, **knobs: dict[str, Any]) -> Distiller:
    config = DistillConfig.model_validate({term: knobs.get(term, {}) for term in terms})
    return build_distiller(
        small.detector(0, channels=8), small.detector(1, **{"channels": 8, **(teacher or {})}), config
    )


def doubled(images: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    return torch.cat([images, images]), Targets(
        targets.boxes * 2, targets.labels * 2, targets.sizes * 2, targets.padded * 2
    )


def test_every_term_of_the_registry_is_here() -> None:
    assert set(NAMES) == set(registry.TERMS)


@pytest.mark.parametrize(
    ("terms", "teacher"),
    [(tuple(NAMES), {}), (tuple(name for name in NAMES if name != "pkd"), {"channels": 16})],
    ids=["all", "all but PKD, of a wider teacher"],
)
def test_a_combination_trains(terms: tuple[str, ...], teacher: dict[str, Any]) -> None:
    # In double, nothing masked, and no softmax over P7's one cell: within two steps every parameter of the terms is to
    # move, however little.
    pair = distiller(*terms, teacher=teacher, mgd={"masked": 0.0}, cwd={"levels": 4}).double().train()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    theirs = {name: value.clone() for name, value in pair.teacher.state_dict().items()}
    optimizer = torch.optim.SGD(pair.parameters(), lr=1e-3)
    for step in range(2):
        images, targets = small.batch(step)
        losses = pair(images.double(), targets.to("cpu", torch.float64))
        assert set(losses) == DETECTION.union(*(NAMES[term] for term in terms))
        assert all(values.isfinite().all() for values in losses.values())
        assert all(values.shape == (() if name in WHOLE else (5,)) for name, values in losses.items())
        optimizer.zero_grad()
        small.total(losses).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in pair.parameters() if p.requires_grad)
        optimizer.step()
    learnt = {
        name.rpartition(".")[0] for name, value in pair.state_dict().items() if not torch.equal(value, before[name])
    }
    own = {name.rpartition(".")[0] for name in before if name.startswith("terms.")}
    assert {name.removeprefix("terms.") for name in own} == set(pair.adapters())
    assert own - learnt <= IDLE
    assert any(name.startswith("student.neck") for name in learnt)
    assert all(torch.equal(value, theirs[name]) for name, value in pair.teacher.state_dict().items())


def test_terms_leave_each_other_alone() -> None:
    batch = small.batch()
    terms = ("crosskd", "pkd", "direct", "ld", "cwd", "bckd", "imitation")  # which draw no random numbers
    pkd = {"weight": 6.0, "levels": 5}  # whose defaults alone are others
    together = distiller(*terms, pkd=pkd).train()(*batch)
    for term in terms:
        alone = distiller(term, pkd=pkd).train()(*batch)
        assert set(alone) == DETECTION | NAMES[term]
        assert all(torch.equal(together[name], values) for name, values in alone.items())


def test_more_of_the_same_images_change_no_loss() -> None:
    terms = ("direct", "ld", "fitnet", "fgd", "cwd", "bckd", "imitation", "fgfi", "defeat", "gid")
    pair = distiller(*terms).double()
    images, targets = small.batch()
    images, targets = images.double(), targets.to("cpu", torch.float64)
    once, twice = pair(images, targets), pair(*doubled(images, targets))
    for name in set().union(*(NAMES[term] for term in terms)):
        torch.testing.assert_close(twice[name], once[name], rtol=1e-6, atol=1e-12)


def test_one_image_without_boxes_whose_last_level_is_a_single_cell_gives_numbers() -> None:
    pair = distiller(*NAMES).train()
    images, targets = small.batch(images=1, size=(128, 128))
    nothing = Targets([torch.zeros(0, 4)], [torch.zeros(0, dtype=torch.long)], targets.sizes, targets.padded)
    assert pair.student.features(images)[-1].shape[-2:] == (1, 1)
    for some in (targets, nothing):
        pair.zero_grad()
        losses = pair(images, some)
        assert all(values.isfinite().all() for values in losses.values())
        small.total(losses).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in pair.parameters())


def test_half_precision_stays_close_to_full() -> None:
    pair = distiller(*NAMES)
    images, targets = small.batch()
    torch.manual_seed(0)
    full = pair(images, targets)
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        half = pair(images, targets)
    for name, values in full.items():
        assert half[name].dtype == torch.float32
        torch.testing.assert_close(half[name].sum(), values.sum(), rtol=0.1, atol=1e-3)


def test_the_maps_of_the_step_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = distiller(*NAMES)
    seen: list[tuple[Tensor, Tensor]] = []
    meet = Pass.meet

    def watch(made: Pass) -> Met:
        met = meet(made)
        view = met.view(made.needs)
        tensors = [*view.features, *view.held.cls, *view.held.box, *view.predictions.cls, *view.predictions.box]
        seen.extend((tensor, tensor.detach().clone()) for tensor in tensors)
        return met

    monkeypatch.setattr(Pass, "meet", watch)
    pair(*small.batch())
    assert len(seen) == 2 * 25
    assert all(torch.equal(tensor, before) for tensor, before in seen)


@pytest.mark.parametrize("weights", [{}, {"box_weight": 0.0}])
def test_what_a_batch_without_boxes_leaves_without_a_gradient_is_named(weights: dict[str, float]) -> None:
    """Ranks would wait for it. With boxes only what has no loss at all is left out."""
    pair = distiller(*(name for name in NAMES if name != "pkd"), teacher={"channels": 16}, crosskd=weights).train()
    images, targets = small.batch()
    named = set(pair.sometimes_idle())
    for boxes in (targets.boxes, [x[:0] for x in targets.boxes]):
        labels = [label[: len(own)] for label, own in zip(targets.labels, boxes, strict=True)]
        pair.zero_grad()
        small.total(pair(images, Targets(boxes, labels, targets.sizes, targets.padded))).backward()
        idle = {
            name for name, parameter in pair.named_parameters() if parameter.requires_grad and parameter.grad is None
        }
        assert idle <= named
    assert {name.split(".")[1] for name in named} == ({"crosskd", "gid"} if weights else {"gid"})
    assert bool(weights) == any("crosskd" in name for name in idle)
