"""Exponential moving average of a model's weights, as used by arXiv 1703.01780."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from crosskd.spec.config import EMAConfig

M = TypeVar("M", bound=nn.Module)


class EMA(Generic[M]):
    """A second model, in evaluation mode, whose floating-point state trails that of `model`.

    Norm statistics are averaged like the weights they belong to; integer buffers are copied.
    """

    def __init__(self, model: M, config: EMAConfig) -> None:
        self.config = config
        self.updates = 0
        self.model: M = copy.deepcopy(model).eval().requires_grad_(False)

    @property
    def decay(self) -> float:
        """Of the next update."""
        if not self.config.warmup:
            return self.config.decay
        return min(self.config.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average one step towards `model`, which has the same structure."""
        averages, currents = [], []
        current_state = model.state_dict()
        for name, average in self.model.state_dict().items():
            if average.is_floating_point():
                averages.append(average)
                currents.append(current_state[name])
            else:
                average.copy_(current_state[name])
        torch._foreach_lerp_(averages, currents, 1 - self.decay)
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = state["updates"]
        self.model.load_state_dict(state["model"])
