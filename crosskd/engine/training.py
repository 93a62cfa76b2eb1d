"""What the loop drives: the trainee with its optimizer, and its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from crosskd.engine.device import MixedPrecision
from crosskd.engine.ema import EMA
from crosskd.engine.optim import Schedule
from crosskd.structures import Batch


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
    figures: Callable[[], dict[str, float]] | None = None  # further ones since they were last asked for

    @property
    def model(self) -> nn.Module:
        """What is called for the losses of a batch."""
        return self.trainee if self.parallel is None else self.parallel
