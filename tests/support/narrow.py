"""The published models, narrow: the same layers, with few channels."""

from __future__ import annotations

from typing import Any

import torch

from crosskd.detectors.detector import build_detector
from crosskd.spec.config import ModelConfig

WIDTHS = {"swin_t": 12}  # a multiple of 3, and of the heads; of all others 8
CHANNELS = 32


def narrow(model: dict[str, Any]) -> None:
    model["backbone"]["width"] = WIDTHS.get(model["backbone"]["name"], 8)
    model["neck"] = {**model.get("neck", {}), "channels": CHANNELS}
    model["head"] = {**model.get("head", {}), "channels": CHANNELS}


def tame(model: dict[str, Any], classes: int, seed: int) -> dict[str, torch.Tensor]:
    """The tensors of a random detector. Its residual branches are weak: nothing has trained the batch norms yet, and
    through thirty blocks the maps would grow a million times."""
    torch.manual_seed(seed)
    state = build_detector(ModelConfig.model_validate(model), classes, pretrained=False).state_dict()
    for name, tensor in state.items():
        if name.startswith("backbone.layer") and name.endswith(("bn2.weight", "bn3.weight")):
            tensor.fill_(0.2)
    return state
