"""Which memory layout a training's maps have: as its configuration says, or whichever a short measurement finds faster.

A choice stays: a resume keeps that of its checkpoint, and the next training of the same kind on the same device reads
it from a file.
"""

from __future__ import annotations

import copy
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crosskd.engine import distributed
from crosskd.engine.device import MixedPrecision
from crosskd.engine.memory_format import to_channels_last
from crosskd.engine.recompute import recompute_within
from crosskd.errors import CrossKDError
from crosskd.evaluation.cost import evaluation_size
from crosskd.runs import layout_file
from crosskd.spec.config import TrainConfig
from crosskd.structures import Size, Targets

log = logging.getLogger(__name__)

LEAST_STEPS = 2000  # of a run that is measured for: some eight steps more are then less than half a percent
ROUNDS = 3  # timed steps of each layout, behind one that warms up
GAIN = 0.97  # of the plain layout's time: channels last is taken where it needs less than this
BOXES = 8  # in a made-up image


@dataclass(frozen=True)
class Layout:
    """A choice, and how it came about: `configured`, `resumed`, `remembered`, `measured`, or why it was not measured.

    `ratio`: the time of a step with channels last over that without, where it was measured.
    """

    channels_last: bool
    how: str
    ratio: float | None = None

    def as_dict(self) -> dict[str, Any]:
        return {"channels_last": self.channels_last, "how": self.how, "ratio": self.ratio}


def choose(
    config: TrainConfig,
    trainee: nn.Module,
    amp: MixedPrecision,
    *,
    steps: int,
    classes: int,
    saved: bool | None = None,
    file: Path | None = None,
) -> Layout:
    """The layout of a run of `steps` steps whose `trainee` is still in the plain one. Collective: one for all ranks.

    `saved`: the choice of the checkpoint that the run goes on from. `file`: the choices of this machine, a JSON file
    that is made where it is missing; one that is damaged counts as missing. Neither `trainee` nor the position of a
    loader changes; random numbers are drawn.
    """
    if config.channels_last != "auto":
        return Layout(config.channels_last, "configured")
    if saved is not None:
        return Layout(saved, "resumed")
    if config.compile:
        return Layout(False, "not measured: each layout would be compiled")
    if steps < LEAST_STEPS:
        return Layout(False, f"not measured: the run has fewer than {LEAST_STEPS} steps")
    key = layout_file.key(config, trainee, amp.device, _size(config))
    known = distributed.broadcast(
        layout_file.read(file).get(key) if file is not None and distributed.is_main() else None
    )
    if known is not None:
        return Layout(known["channels_last"], "remembered", known["ratio"])
    ratio = distributed.broadcast(_ratio(config, trainee, amp, classes))
    if ratio is None:
        return Layout(False, "not measured: the made-up steps failed")
    channels_last, ratio = ratio < GAIN, round(ratio, 3)
    if file is not None and distributed.is_main():
        layout_file.remember(file, key, channels_last=channels_last, ratio=ratio)
    return Layout(channels_last, "measured", ratio)


def _ratio(config: TrainConfig, trainee: nn.Module, amp: MixedPrecision, classes: int) -> float | None:
    """The time of a step with channels last over that without; None where such a step fails.

    On copies: they alone see the made-up batch, so no statistic and no gradient of the run is touched.
    """
    try:
        plain, last = (_copied(trainee).train() for _ in range(2))
        plain.to(amp.device)
        to_channels_last(last, amp.device)
        works = [_step(config, model, amp, classes) for model in (plain, last)]
        for work in works:
            work()
        rows = [[_timed(work, amp.device) for work in works] for _ in range(ROUNDS)]
    except (CrossKDError, RuntimeError) as error:
        if distributed.world_size() > 1:  # the others are in the middle of a sum
            raise
        log.warning("channels last could not be measured: %s", str(error).partition("\n")[0])
        return None
    return statistics.median(ours / theirs for theirs, ours in rows)


def _copied(trainee: nn.Module) -> nn.Module:
    """A copy that remembers nothing of a teacher: what this says of made-up images is asked for once."""
    cache = getattr(trainee, "cache", None)
    return copy.deepcopy(trainee, {} if cache is None else {id(cache): None})


def _step(config: TrainConfig, model: Any, amp: MixedPrecision, classes: int) -> Callable[[], None]:
    if config.activation_checkpointing:
        recompute_within(model.recomputed())
    unlabelled = 0 if config.data.unlabelled is None else config.data.unlabelled.per_batch(config.batch_size)
    images, targets = _batch(config.batch_size + unlabelled, _size(config), classes)
    images, targets = images.to(amp.device), targets.to(amp.device)

    def work() -> None:
        with amp.autocast():
            losses = model(images, targets)
        torch.stack([term.sum() for term in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)

    return work


def _size(config: TrainConfig) -> Size:
    """(height, width) of a batch of training images that fill their scale."""
    augment = config.augment
    if augment.letterbox is not None:
        return max(augment.letterbox), max(augment.letterbox)
    edges = sorted(augment.short_edges)
    return evaluation_size(augment.model_copy(update={"val_short_edge": edges[len(edges) // 2]}))


def _batch(count: int, size: Size, classes: int) -> tuple[torch.Tensor, Targets]:
    """Noise, with boxes anywhere."""
    height, width = size
    low = torch.rand(count, BOXES, 2) * torch.tensor([width, height]) * 0.6
    boxes = torch.cat((low, low + 8 + torch.rand(count, BOXES, 2) * min(size) * 0.3), dim=2)
    labels = torch.randint(0, classes, (count, BOXES))
    sizes = [size] * count
    return torch.randn(count, 3, height, width), Targets([*boxes], [*labels], sizes, sizes)


def _timed(work: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def tell(layout: Layout) -> None:
    """Say in the log what was chosen, where there was a choice."""
    if layout.how == "configured":
        return
    measured = "" if layout.ratio is None else f"; a step takes {layout.ratio:.2f} of the other layout's time with it"
    log.info("channels last: %s (%s%s)", "on" if layout.channels_last else "off", layout.how, measured)
