"""A trainee and batches small enough for a loop's test: two-level losses, dropout (so the RNG counts), batch norm."""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.engine.callbacks import Callback, Run
from crosskd.engine.device import MixedPrecision
from crosskd.engine.ema import EMA
from crosskd.engine.loop import fit
from crosskd.engine.optim import Schedule, build_optimizer
from crosskd.engine.random_state import seed_all
from crosskd.engine.steps import Steps
from crosskd.engine.training import Training
from crosskd.spec.config import TrainConfig
from crosskd.structures import Batch, Losses, Targets

CPU = torch.device("cpu")


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.3)
        self.out = nn.Conv2d(4, 1, 1)
        self.before_loss: Callable[[int], None] = lambda call: None
        self.calls = 0

    def forward(self, images: Tensor, targets: Targets) -> Losses:
        self.calls += 1
        self.before_loss(self.calls)
        out = self.out(self.drop(self.norm(self.conv(images)).relu())).float()
        wanted = torch.stack([boxes.sum() for boxes in targets.boxes]).reshape(-1, 1, 1, 1)
        coarse = (out.mean(dim=(2, 3), keepdim=True) - wanted).square().mean()
        return {"loss_fit": torch.stack([coarse, (out - wanted).abs().mean()]), "loss_size": out.square().mean()[None]}


class ToyBatches:
    """`count` batches an epoch, each decided by its epoch and number alone."""

    def __init__(self, count: int = 5, size: int = 2) -> None:
        self.count, self.size = count, size
        self.yielded: list[tuple[int, int]] = []
        self.corrupt: dict[str, str] = {}

    def __len__(self) -> int:
        return self.count

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:
        for number in range(start, self.count):
            self.yielded.append((index, number))
            generator = torch.Generator().manual_seed(1000 * index + number)
            images = torch.randn(self.size, 3, 8, 8, generator=generator)
            boxes = [torch.rand(1, 4, generator=generator) for _ in range(self.size)]
            sizes = [(8, 8)] * self.size
            targets = Targets(boxes, [torch.zeros(1, dtype=torch.long)] * self.size, sizes, sizes)
            yield Batch(images, targets, list(range(self.size)), [(1.0, 1.0)] * self.size, sizes)


def toy_config(**changes: Any) -> TrainConfig:
    split = {"annotations": "a.json", "images": "images"}
    values = {
        "data": {"train": split, "val": split},
        "student": {"backbone": {"name": "resnet_tiny"}},
        "batch_size": 2,
        "log_every": 1,
        "optimizer": {"name": "adamw", "lr": 0.01, "base_batch": None},
        "schedule": {"epochs": 3, "warmup_steps": 2, "milestones": [2]},
    }
    return TrainConfig.model_validate(values | changes)


def toy_run(workdir: Path, config: TrainConfig, batches: ToyBatches | None = None) -> tuple[Run, Training]:
    """A run at its start, seeded, and the parts it drives."""
    seed_all(config.seed)
    batches = batches or ToyBatches()
    model = Toy()
    steps_per_epoch = -(-len(batches) // config.accumulate)
    schedule = Schedule(config.schedule, steps_per_epoch)
    training = Training(
        trainee=model,
        student=model,
        optimizer=build_optimizer(model, config.optimizer, total_batch=config.batch_size * config.accumulate),
        schedule=schedule,
        batches=batches,
        amp=MixedPrecision.on(CPU, config.precision),
        ema=EMA(model, config.ema) if config.ema else None,
        accumulate=config.accumulate,
        clip_norm=config.clip_norm,
    )
    run = Run(config, workdir, total_steps=schedule.total_steps, steps_per_epoch=steps_per_epoch)
    return run, training


def weights(training: Training) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in training.trainee.state_dict().items()}


def run_through(run: Run, training: Training, callback: Callback | None = None) -> None:
    """Fit, with nothing to save or to evaluate."""
    fit(run, training, callback or Callback(), save=lambda: None, evaluate=lambda: "")


def train_step(run: Run, training: Training, batches: list[Batch]) -> dict[str, float]:
    steps = Steps(run, training)
    steps.take(batches)
    return steps.read()


@contextlib.contextmanager
def full_disk(free: int = 50_000) -> Iterator[None]:
    """No file grows beyond `free` bytes; the system says so as it says that a disk is full, by a failing write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, hard))  # Python ignores the signal that would come first
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Recorder(Callback):
    """Remembers what it was told, and can act on a step."""

    def __init__(self, act: Callable[[Run], None] = lambda run: None) -> None:
        self.act = act
        self.logs: list[dict[str, float]] = []

    def on_log(self, run: Run, values: dict[str, float]) -> None:
        self.logs.append({"step": run.step, **values})
        self.act(run)
