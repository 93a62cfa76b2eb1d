"""Optimizer steps whose numbers stay on the device until somebody reads them, so that a GPU never waits for the host.

A step that is not finite moves no weights, and none after it does: the device itself sees to it. The next reading finds
it and names it. There is one before each log line and each checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.engine import distributed
from crosskd.engine.callbacks import Run
from crosskd.engine.device import MixedPrecision, memory_errors
from crosskd.engine.optim import set_learning_rate
from crosskd.engine.parallel import no_sync
from crosskd.engine.training import Group, Training
from crosskd.errors import Diverged
from crosskd.structures import Losses

SMALLEST_SCALE = 1e-3  # fp16: still infinite at this loss scale, the gradient itself is broken
UNREAD = 100  # steps at most: their losses, a few small tensors each, are kept until they are read


def reads_at_once(amp: MixedPrecision) -> bool:
    """Whether each step is read when it has been taken.

    On a CPU that costs nothing, and a run that diverges ends there and then. The scaler of fp16 has to know in each
    step whether the gradient is finite.
    """
    return amp.device.type == "cpu" or amp.scaler.is_enabled()


@dataclass(frozen=True)
class _Taken:
    """A step, and what it leaves on the device."""

    number: int  # of the step, from 0
    lr: float
    history: list[Losses]  # of each of its batches
    told: Tensor  # [T + 1] the mean of each term over the batches, and the gradient's norm


class Steps:
    """The steps of a run, one after the other."""

    def __init__(self, run: Run, training: Training) -> None:
        self._run, self._training = run, training
        self._at_once = reads_at_once(training.amp)
        self._unread: list[_Taken] = []
        self._values: dict[str, float] = {}
        self._broken = torch.zeros((), device=training.amp.device)  # 1 from the first step on that is not finite

    def take(self, group: Group) -> None:
        """One optimizer step over the mean loss of a group of batches. May raise what `read` raises."""
        training, amp = self._training, self._training.amp
        sizes = "augment.short_edges" if self._run.config.augment.letterbox is None else "augment.letterbox"
        lr = set_learning_rate(training.optimizer, training.schedule(self._run.step))
        training.optimizer.zero_grad(set_to_none=True)
        history: list[Losses] = []
        for left, batch in zip(reversed(range(len(group))), group, strict=True):
            with memory_errors(amp.device, batch.images, sizes=sizes), no_sync(training.model, left > 0):
                batch = batch.to(amp.device)
                with amp.autocast():
                    losses = training.model(batch.images, batch.targets)
                loss = torch.stack([term.sum() for term in losses.values()]).sum() / len(group)
                amp.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            history.append({name: term.detach() for name, term in losses.items()})
        with memory_errors(amp.device, batch.images, sizes=sizes):  # the optimizer's state is made by its first step
            self._update(lr, history)
        if self._at_once or len(self._unread) >= UNREAD:
            self.read()

    def read(self) -> dict[str, float]:
        """Each term of the last step, its `loss`, `lr` and `grad_norm`. One transfer from the device. Collective.

        Raises `Diverged`, which names the first step that is not finite; `run.step` is then the one before it.
        """
        unread, self._unread = self._unread, []
        if unread:
            # What is not finite on one rank ends all of them.
            numbers = iter(distributed.mean(torch.cat([taken.told for taken in unread])).tolist())
            for taken in unread:
                self._values = self._checked(taken, [next(numbers) for _ in taken.told])
            self._run.loss = self._values["loss"]
        return self._values

    def _update(self, lr: float, history: list[Losses]) -> None:
        """Move the weights, and their average, by the gradients at hand."""
        training, scaler = self._training, self._training.amp.scaler
        scaler.unscale_(training.optimizer)
        gradients = [p.grad for g in training.optimizer.param_groups for p in g["params"] if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        sums = torch.stack([torch.stack([losses[name].sum() for name in history[0]]) for losses in history])
        told = torch.cat([sums.float().mean(dim=0), norm.float().reshape(1)])
        self._unread.append(_Taken(self._run.step, lr, history, told))
        moves = self._scaled_move(gradients) if scaler.is_enabled() else self._move(told)
        if moves and training.ema is not None:
            training.ema.update(training.student)

    def _move(self, told: Tensor) -> bool:
        """The fused optimizers skip a step and scale gradients by what lies on the device: made for a `GradScaler`."""
        optimizer: Any = self._training.optimizer
        norm, limit = told[-1], self._training.clip_norm
        self._broken = torch.maximum(self._broken, (~told.isfinite().all()).to(self._broken))
        optimizer.found_inf = self._broken
        optimizer.grad_scale = None if limit is None else (norm / limit).clamp(min=1)
        optimizer.step()
        return True

    def _scaled_move(self, gradients: list[Tensor]) -> bool:
        """Returns whether the weights have moved."""
        training, norm = self._training, self.read()["grad_norm"]
        # After an overflow in fp16 there is no step. Left to the scaler, a fused optimizer would be called all the
        # same, and its first call leaves momentum behind that nothing was written to.
        if moves := _finite(norm):
            if training.clip_norm is not None and norm > training.clip_norm:
                torch._foreach_mul_(gradients, training.clip_norm / norm)
            training.amp.scaler.step(training.optimizer)
        training.amp.scaler.update()
        return moves

    def _checked(self, taken: _Taken, numbers: list[float]) -> dict[str, float]:
        *means, grad_norm = numbers
        values = dict(zip(taken.history[0], means, strict=True))
        values["loss"] = sum(means)
        for name, value in values.items():
            if not _finite(value):
                raise self._diverged(taken, f"the loss term {name} is {value}{_level(taken.history, name)}")
        # In fp16 an infinite gradient is ordinary: the scaler skips the step and lowers its scale.
        scaler = self._training.amp.scaler
        if not _finite(grad_norm) and (not scaler.is_enabled() or scaler.get_scale() < SMALLEST_SCALE):
            raise self._diverged(taken, f"the gradient's norm is {grad_norm}")
        return values | {"grad_norm": grad_norm, "lr": taken.lr}

    def _diverged(self, taken: _Taken, what: str) -> Diverged:
        run = self._run
        run.step = taken.number
        kept = f"; the checkpoint of step {run.saved_step} is from before" if run.saved_step else ""
        return Diverged(
            f"{what} in step {run.step + 1}",
            where="/optimizer/lr",
            remedy=f"Lower the learning rate, warm up longer, or set clip_norm{kept}.",
        )


def _finite(value: float) -> bool:
    return abs(value) < float("inf")  # false for NaN, too


def _level(history: list[Losses], name: str) -> str:
    """Where the first broken value stands, in words."""
    for losses in history:
        broken = (~losses[name].reshape(-1).isfinite()).nonzero()
        if len(broken) and losses[name].numel() > 1:
            return f" on level {int(broken[0])} of the pyramid"
    return ""
