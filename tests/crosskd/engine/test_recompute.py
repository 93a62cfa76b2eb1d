"""Activation checkpointing: the same losses, gradients and statistics, from less that is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from crosskd.distill.distiller import build_distiller
from crosskd.engine.recompute import recompute_within
from crosskd.spec.config import CrossKDConfig, DistillConfig
from tests.support import detrs, small

TIMM = {"name": "timm/test_efficientnet", "width": None, "init": "random"}


def distiller(detector: str) -> nn.Module:
    teacher = small.detector(1, detector=detector)
    cross = DistillConfig(crosskd=CrossKDConfig(cut=1))
    return build_distiller(small.detector(0, detector=detector), teacher, cross)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "gfl": lambda: distiller("gfl"),
    "fcos": lambda: distiller("fcos"),
    "rtmdet": lambda: distiller("rtmdet"),  # batch norm of each level's own, and a neck of blocks
    "yolox": lambda: small.detector(detector="yolox"),
    "swin": lambda: small.detector(backbone={"name": "swin_t", "width": 24, "drop_path": 0.5, "init": "random"}),
    "mobilenet": lambda: small.detector(backbone={"name": "mobilenet_v2", "width": 8, "init": "random"}),
    "timm": lambda: small.detector(backbone=TIMM),
    "two stages": small.two_stage,
    "detr": lambda: detrs.detector("rt_detr"),
    "windows": lambda: detrs.detector("rf_detr"),
}


def step(model: nn.Module) -> tuple[dict[str, Tensor], list[Tensor | None], dict[str, Tensor], int]:
    """Losses, gradients, buffers, and bytes that the graph keeps besides the parameters."""
    images, targets = small.batch()
    own = {x.data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        if x.data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        losses = model(images, targets)
    size = sum(kept.values())
    small.total(losses).backward()
    return losses, [p.grad for p in model.parameters()], dict(model.named_buffers()), size


@pytest.mark.parametrize("name", MODELS)
def test_a_step_is_the_same(name: str) -> None:
    plain = MODELS[name]().train()
    other = copy.deepcopy(plain)
    if hasattr(plain, "teacher"):
        object.__setattr__(other, "teacher", copy.deepcopy(plain.teacher))
    recompute_within(other.recomputed())  # type: ignore[operator]
    losses, gradients, buffers, size = step(plain)
    again, others, counted, less = step(other)
    torch.testing.assert_close(again, losses, rtol=0, atol=0)
    torch.testing.assert_close(counted, buffers, rtol=0, atol=0)  # batch norm counts each batch once
    torch.testing.assert_close(others, gradients, rtol=1e-4, atol=1e-6)
    assert less < 0.95 * size  # least of a DETR: its layers are not run again
