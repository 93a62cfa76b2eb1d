"""A run as a checkpoint's content, and back."""

from __future__ import annotations

from typing import Any

from crosskd.engine import distributed
from crosskd.engine.callbacks import Run
from crosskd.engine.checkpoint import fingerprint_digest
from crosskd.engine.optim import match_layout
from crosskd.engine.random_state import random_state, restore_random_state
from crosskd.engine.results import Results
from crosskd.engine.training import Training


def capture(
    run: Run, training: Training, results: Results, settings: dict[str, Any], *, seconds: float
) -> dict[str, Any]:
    """Everything that decides how the run goes on. `settings` is the run's fingerprint. Collective."""
    return {
        "settings": settings,
        "settings_digest": fingerprint_digest(settings),
        "position": {"step": run.step, "epoch_index": run.epoch_index, "batches_done": run.batches_done},
        "trainee": training.trainee.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "scaler": training.amp.scaler.state_dict(),
        "ema": None if training.ema is None else training.ema.state_dict(),
        "random": distributed.gather(random_state()),  # of each rank; None on all but the main one, which writes
        "results": results.state_dict(seconds),
        "skipped": distributed.gather(training.batches.corrupt),  # by each rank, as above
    }


def restore(state: dict[str, Any], run: Run, training: Training, results: Results) -> None:
    """Put the run back where `capture` found it. The learning rate needs nothing: it follows from the step."""
    position = state["position"]
    run.step, run.epoch_index, run.batches_done = (
        position["step"],
        position["epoch_index"],
        position["batches_done"],
    )
    training.trainee.load_state_dict(state["trainee"])
    training.optimizer.load_state_dict(state["optimizer"])
    match_layout(training.optimizer)
    if training.amp.scaler.is_enabled():
        training.amp.scaler.load_state_dict(state["scaler"])
    if training.ema is not None:
        training.ema.load_state_dict(state["ema"])
    results.load_state_dict(state["results"])
    if results.best is not None:
        run.best_ap, run.best_step = results.best.ap, results.best.step
    restore_random_state(state["random"][distributed.rank()])
    training.batches.corrupt.update(state["skipped"][distributed.rank()])
