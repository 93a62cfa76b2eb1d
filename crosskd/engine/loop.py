"""The training loop: a page of plain code. What surrounds it hangs on callbacks and on two functions given in.

The trainee is any module whose `forward(images, targets)` returns its loss terms (`structures.Losses`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from crosskd.engine import distributed
from crosskd.engine.callbacks import Callback, Run
from crosskd.engine.device import MixedPrecision, memory_errors
from crosskd.engine.ema import EMA
from crosskd.engine.optim import Schedule, set_learning_rate
from crosskd.engine.parallel import no_sync
from crosskd.engine.stop_reason import StopReason
from crosskd.engine.throughput import ThroughputMeter
from crosskd.errors import Diverged, Interrupted, NoAnswer
from crosskd.structures import Batch, Losses

FINISHED_ON_REQUEST = "on request"
SMALLEST_SCALE = 1e-3  # fp16: still infinite at this loss scale, the gradient itself is broken


class Batches(Protocol):
    """Batches in an order that only the epoch's number decides, so that a resume can start in the middle."""

    corrupt: dict[str, str]  # the images that could not be read so far, and why

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        """Those of epoch `index`, without the first `start`."""


class Group(Protocol):
    """The batches of one optimizer step, to be gone through once: a list, or what fetches them meanwhile."""

    def __len__(self) -> int:
        """How many: the share of each in the loss is known before the last has come."""

    def __iter__(self) -> Iterator[Batch]:
        """One after the other."""


@dataclass(frozen=True)
class Training:
    """The parts that the loop drives."""

    trainee: nn.Module
    student: nn.Module  # what the EMA averages: the trainee itself, or a part of it
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    batches: Batches
    amp: MixedPrecision
    ema: EMA[Any] | None = None
    accumulate: int = 1
    clip_norm: float | None = None
    parallel: nn.Module | None = None  # the trainee as the ranks of a training share it
    begin_epoch: Callable[[int], None] | None = None  # told at each epoch's start, and at a resume's

    @property
    def model(self) -> nn.Module:
        """What is called for the losses of a batch."""
        return self.trainee if self.parallel is None else self.parallel


def fit(
    run: Run, training: Training, callback: Callback, *, save: Callable[[], None], evaluate: Callable[[], str]
) -> StopReason:
    """Train from the position in `run` until there is a reason to stop. Returns it, and says it in words in
    `run.stopped_early` where it comes before the last step.

    `save` writes a checkpoint; `evaluate` takes the AP of the student, and returns why it will hardly get better (empty
    while it may). At an epoch's end the checkpoint comes first: a run that dies while it evaluates has lost nothing,
    and a resume repeats the evaluation. A requested finish makes the present step the last.

    Raises `Diverged`, `OutOfMemory`, and `Interrupted` once a requested stop has been checkpointed.
    """
    every = run.config.checkpoint.every_steps
    meter = ThroughputMeter(run, training.amp.device)
    run.saved_step = run.step  # where it is not 0, the run began from a checkpoint
    reason = _reason(run)  # there may be one: a resume can begin behind the last step
    while True:
        training.trainee.train()
        if training.begin_epoch is not None:
            training.begin_epoch(run.epoch_index)
        for group in _groups(run, training, meter) if reason is None else ():
            losses = _step_or_stop(run, training, group, save)
            run.step += 1
            run.batches_done += len(group)
            meter.count(images=group.images * distributed.world_size())
            if run.step % run.config.log_every == 0 or run.step == run.total_steps:
                callback.on_log(run, losses | meter.read())
            # Asked of one rank, all end after the same step.
            stop, finish = distributed.any_of(run.stopping, run.finishing)
            reason = _reason(run, stop=stop, finish=finish)
            if reason is StopReason.STOP_ASKED or (every and run.step % every == 0):
                save()
                run.saved_step = run.step
            if reason is StopReason.STOP_ASKED:
                raise Interrupted(f"stopped on request after step {run.step}", step=run.step)
            if reason is not None:
                break
        if run.saved_step != run.step:
            save()
            run.saved_step = run.step
        spent = ""
        if reason is not None or (run.epoch_index + 1) % run.config.evaluation.every_epochs == 0:
            with meter.pause():
                spent = evaluate()
            (finish,) = distributed.any_of(run.finishing)  # while it evaluated: no further step is needed
            reason = _reason(run, finish=finish, spent=spent)
        if reason is not None:
            run.stopped_early = _in_words(reason, spent)
            return reason
        run.epoch_index, run.batches_done = run.epoch_index + 1, 0


def _step_or_stop(run: Run, training: Training, group: _Group, save: Callable[[], None]) -> dict[str, float]:
    """`train_step`. Where a stop is asked for and its batches do not come, the last step stays the one before it.

    That one is checkpointed, too, unless the step is half done (with `accumulate`) or other ranks are in it: then the
    run goes on from its last checkpoint. Raises `Interrupted`.
    """
    try:
        return train_step(run, training, group)
    except NoAnswer as stuck:
        if run.saved_step != run.step and not group.images and distributed.world_size() == 1:
            save()
            run.saved_step = run.step
        raise Interrupted(
            f"stopped on request in step {run.step + 1}, for which the loader gave no batch", step=run.saved_step
        ) from stuck


def _reason(run: Run, *, stop: bool = False, finish: bool = False, spent: str = "") -> StopReason | None:
    """The reason to take no further step, if there is one. `stop`, `finish`: asked of any rank."""
    if stop:
        return StopReason.STOP_ASKED
    if run.step >= run.total_steps:
        return StopReason.FINISHED
    if finish:
        return StopReason.FINISH_ASKED
    if spent:
        return StopReason.OUT_OF_PATIENCE
    return None


def _in_words(reason: StopReason, spent: str) -> str:
    """Why a run ends before its last step; empty where it does not."""
    if reason is StopReason.FINISH_ASKED:
        return FINISHED_ON_REQUEST
    return spent if reason is StopReason.OUT_OF_PATIENCE else ""


class _Group:
    """The batches of one step, fetched one by one while it goes on: all of them together may not fit into memory."""

    def __init__(self, batches: Iterator[Batch], length: int) -> None:
        self._batches, self._length = batches, length
        self.images = 0  # in the batches fetched so far

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        for batch in islice(self._batches, self._length):
            self.images += len(batch.images)
            yield batch


def _groups(run: Run, training: Training, meter: ThroughputMeter) -> Iterator[_Group]:
    """What is left of the epoch, in groups of `accumulate` batches; the epoch's last group may be shorter."""
    left = len(training.batches) - run.batches_done
    if left <= 0:
        return
    batches = meter.waiting(training.batches.epoch(run.epoch_index, run.batches_done))
    while left > 0:
        group = _Group(batches, min(training.accumulate, left))
        left -= len(group)
        yield group
    next(batches, None)  # there is none; the loader gets to its own end


def train_step(run: Run, training: Training, group: Group) -> dict[str, float]:
    """One optimizer step over the mean loss of a group of batches. Returns each term, `loss`, `lr`, `grad_norm`."""
    amp, optimizer = training.amp, training.optimizer
    lr = set_learning_rate(optimizer, training.schedule(run.step))
    optimizer.zero_grad(set_to_none=True)
    history: list[Losses] = []
    for left, batch in zip(reversed(range(len(group))), group, strict=True):
        with memory_errors(amp.device, batch.images), no_sync(training.model, left > 0):
            batch = batch.to(amp.device)
            with amp.autocast():
                losses = training.model(batch.images, batch.targets)
            loss = torch.stack([term.sum() for term in losses.values()]).sum() / len(group)
            amp.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        history.append({name: term.detach() for name, term in losses.items()})

    with memory_errors(amp.device, batch.images):  # the optimizer's state is made by its first step
        values = _update(run, training, history)
    run.loss = values["loss"]
    return values | {"lr": lr}


def _update(run: Run, training: Training, history: list[Losses]) -> dict[str, float]:
    """Move the weights, and their average, by the gradients at hand. Returns the values of `_checked`."""
    amp, optimizer = training.amp, training.optimizer
    amp.scaler.unscale_(optimizer)
    gradients = [p.grad for g in optimizer.param_groups for p in g["params"] if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    values = _checked(run, amp, history, norm)  # nothing that is not finite may reach the weights
    # After an overflow in fp16 there is no step. Left to the scaler, a fused optimizer would be called all the same,
    # and its first call leaves momentum behind that nothing was written to.
    if _finite(values["grad_norm"]):
        if training.clip_norm is not None and values["grad_norm"] > training.clip_norm:
            torch._foreach_mul_(gradients, training.clip_norm / values["grad_norm"])
        amp.scaler.step(optimizer)
        if training.ema is not None:
            training.ema.update(training.student)
    amp.scaler.update()
    return values


def _checked(run: Run, amp: MixedPrecision, history: list[Losses], norm: Tensor) -> dict[str, float]:
    """The means of the terms over the group, as numbers. One transfer from the device. Raises `Diverged`."""
    names = list(history[0])
    sums = torch.stack([torch.stack([losses[name].sum() for name in names]) for losses in history])
    told = torch.cat([sums.float().mean(dim=0), norm.float().reshape(1)])
    *means, grad_norm = distributed.mean(told).tolist()  # what is not finite on one rank ends all of them
    values = dict(zip(names, means, strict=True))
    values["loss"] = sum(means)
    for name, value in values.items():
        if not _finite(value):
            raise _diverged(f"the loss term {name} is {value}{_level(history, name)}", run)
    # In fp16 an infinite gradient is ordinary: the scaler skips the step and lowers its scale.
    if not _finite(grad_norm) and (not amp.scaler.is_enabled() or amp.scaler.get_scale() < SMALLEST_SCALE):
        raise _diverged(f"the gradient's norm is {grad_norm}", run)
    return values | {"grad_norm": grad_norm}


def _finite(value: float) -> bool:
    return abs(value) < float("inf")  # false for NaN, too


def _level(history: list[Losses], name: str) -> str:
    """Where the first broken value stands, in words."""
    for losses in history:
        broken = (~losses[name].reshape(-1).isfinite()).nonzero()
        if len(broken) and losses[name].numel() > 1:
            return f" on level {int(broken[0])} of the pyramid"
    return ""


def _diverged(what: str, run: Run) -> Diverged:
    kept = f"; the checkpoint of step {run.saved_step} is from before" if run.saved_step else ""
    return Diverged(
        f"{what} in step {run.step + 1}",
        where="/optimizer/lr",
        remedy=f"Lower the learning rate, warm up longer, or set clip_norm{kept}.",
    )
