"""The training loop: a page of plain code. What surrounds it hangs on callbacks and on two functions given in.

The trainee is any module whose `forward(images, targets)` returns its loss terms (`structures.Losses`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from crosskd.engine import distributed
from crosskd.engine.callbacks import Callback, Run
from crosskd.engine.steps import Steps
from crosskd.engine.stop_reason import StopReason
from crosskd.engine.throughput import ThroughputMeter
from crosskd.engine.training import Training
from crosskd.errors import Interrupted, NoAnswer
from crosskd.structures import Batch

FINISHED_ON_REQUEST = "on request"


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
    steps = Steps(run, training)

    def checkpoint() -> None:
        steps.read()  # what is not finite goes into no checkpoint
        save()
        run.saved_step = run.step

    meter = ThroughputMeter(run, training.amp.device)
    run.saved_step = run.step  # where it is not 0, the run began from a checkpoint
    reason = _reason(run)  # there may be one: a resume can begin behind the last step
    while True:
        training.trainee.train()
        if training.begin_epoch is not None:
            training.begin_epoch(run.epoch_index)
        for group in _groups(run, training, meter) if reason is None else ():
            _step_or_stop(run, steps, group, checkpoint)
            run.step += 1
            run.batches_done += len(group)
            meter.count(images=group.images * distributed.world_size())
            if run.step % run.config.log_every == 0 or run.step == run.total_steps:
                further = {} if training.figures is None else training.figures()
                callback.on_log(run, steps.read() | meter.read() | further)
            # Asked of one rank, all end after the same step.
            stop, finish = distributed.any_of(run.stopping, run.finishing)
            reason = _reason(run, stop=stop, finish=finish)
            if reason is StopReason.STOP_ASKED or (every and run.step % every == 0):
                checkpoint()
            if reason is StopReason.STOP_ASKED:
                raise Interrupted(f"stopped on request after step {run.step}", step=run.step)
            if reason is not None:
                break
        if run.saved_step != run.step:
            checkpoint()
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


def _step_or_stop(run: Run, steps: Steps, group: _Group, checkpoint: Callable[[], None]) -> None:
    """`steps.take`. Where a stop is asked for and its batches do not come, the last step stays the one before it.

    That one is checkpointed, too, unless the step is half done (with `accumulate`) or other ranks are in it: then the
    run goes on from its last checkpoint. Raises `Interrupted`.
    """
    try:
        steps.take(group)
    except NoAnswer as stuck:
        if run.saved_step != run.step and not group.images and distributed.world_size() == 1:
            checkpoint()
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
