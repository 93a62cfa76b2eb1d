"""Optimizer and schedule. The learning rate is a pure function of the step, so a resume has nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from crosskd.spec.config import OptimizerConfig, ScheduleConfig

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_SAMPLING = ("sampling_offsets", "reference_points")  # what a DETR's layers are called that say where attention looks


def build_optimizer(model: nn.Module, config: OptimizerConfig, *, total_batch: int) -> torch.optim.Optimizer:
    """SGD or AdamW over the trainable parameters of `model`.

    With `base_batch` set, the learning rate is scaled by `total_batch / base_batch` (arXiv 1706.02677), where
    `total_batch` counts the images of one optimizer step over all processes.
    """
    lr = config.lr * (total_batch / config.base_batch if config.base_batch else 1.0)
    groups = parameter_groups(model, config)
    for group in groups:
        group["initial_lr"] = group["lr"] = lr * group.pop("lr_factor")
    # One fused pass over all parameters, on CPU and CUDA alike: the plain loop costs a third of a small step.
    if config.name == "adamw":
        return torch.optim.AdamW(groups, betas=config.betas, fused=True)
    optimizer = torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov, fused=True)
    optimizer.register_step_pre_hook(_remember_nothing)
    return optimizer


def _remember_nothing(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Give momentum to what gets its first gradient after others: the fused step takes that of all or of none.

    From zeros it becomes the gradient, as in a first step.
    """
    for group in optimizer.param_groups:
        moved = [parameter for parameter in group["params"] if parameter.grad is not None]
        late = [parameter for parameter in moved if optimizer.state[parameter].get("momentum_buffer") is None]
        if group["momentum"] and len(late) < len(moved):
            for parameter in late:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Trainable parameters by their weight decay and learning rate factor, in the order of `named_parameters`.

    Each group holds `params`, `weight_decay` and `lr_factor`. Biases of norm layers count as norm, not as bias. Where
    any has the full rate the first group has it, so that it is the one that is told.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter, place, is_norm, is_bias in _classified(model):
        spared = (is_norm or is_bias) and not config.norm_decay
        spared = spared or (is_bias and not is_norm and not config.bias_decay)
        decay = 0.0 if spared else config.weight_decay
        factor = config.bias_lr_factor if is_bias and not is_norm else 1.0
        factor *= config.backbone_lr_factor if _of_backbone(place) else 1.0
        factor *= config.sampling_lr_factor if place.rpartition(".")[2] in _SAMPLING else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "lr_factor": factor}
        for (decay, factor), parameters in groups.items()
    ]
    full = next((place for place, group in enumerate(listed) if group["lr_factor"] == 1.0), 0)
    return [listed[full], *listed[:full], *listed[full + 1 :]] if listed else []


def _of_backbone(place: str) -> bool:
    """Whether the module at `place` belongs to the student's backbone; of a distillation the student is a part."""
    return f"{place}.".removeprefix("student.").startswith("backbone.")


def _classified(model: nn.Module) -> Iterator[tuple[nn.Parameter, str, bool, bool]]:
    """Each trainable parameter once: itself, its module's place, whether that is a norm layer, whether it is a bias."""
    seen: set[nn.Parameter] = set()
    for place, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad and parameter not in seen:
                seen.add(parameter)
                yield parameter, place, isinstance(module, _NORMS), name == "bias"


@torch.no_grad()
def match_layout(optimizer: torch.optim.Optimizer) -> None:
    """Lay out what the optimizer remembers of each parameter as the parameter is, in memory.

    A checkpoint may come from a run with another memory format, and a fused optimizer reads both side by side,
    element by element, as they lie there.
    """
    for parameter, memory in optimizer.state.items():
        for name, value in memory.items():
            if value.shape == parameter.shape and value.stride() != parameter.stride():
                memory[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def set_learning_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set each group to `factor` times its full rate. Returns the first group's, `OptimizerConfig.lr` where it can."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])


class Schedule:
    """The factor on the learning rate before optimizer step `step` (0-based): warm-up times decay."""

    def __init__(self, config: ScheduleConfig, steps_per_epoch: int) -> None:
        self.config = config
        self.steps_per_epoch = steps_per_epoch

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        planned = self.config.epochs * self.steps_per_epoch
        return planned if self.config.max_steps is None else min(planned, self.config.max_steps)

    def __call__(self, step: int) -> float:
        return self._warmup(step) * self._decay(step)

    def _warmup(self, step: int) -> float:
        config = self.config
        if step >= config.warmup_steps:
            return 1.0
        if config.warmup == "constant":
            return config.warmup_factor
        progress = step / config.warmup_steps
        if config.warmup == "quadratic":
            progress *= progress
        return config.warmup_factor + (1 - config.warmup_factor) * progress

    def _decay(self, step: int) -> float:
        config = self.config
        if config.decay == "none":
            return 1.0
        if config.decay == "multistep":
            passed = sum(step >= milestone * self.steps_per_epoch for milestone in config.milestones)
            return float(config.gamma**passed)
        # The cosine spans the planned epochs: `max_steps` cuts a run short and leaves its curve as it was.
        progress = min(step / ((config.epochs - config.final_epochs) * self.steps_per_epoch), 1.0)
        progress = max(progress - config.flat, 0.0) / (1 - config.flat)
        return config.final_factor + (1 - config.final_factor) * (1 + math.cos(math.pi * progress)) / 2
