"""What a CrossKD training takes on a GPU: time and memory of a step, waits for the host, waits for data.

    python -m benchmarks.gpu [--minutes 7.5] [--batch 4] [--rounds 5]

For three pairs, ResNet-18 <- ResNet-50 at 800 x 1333 with 80 classes: the step in each precision, with channels last
and compiled. One step is a whole one of the loop: forward, assignment, losses, backward, optimizer. It is timed to its
end on the GPU; `host` is the share of that time after which the host was through with it: near 1 it is the host that
the GPU waits for. Where no time is left, rows are left out, and it is said.

Then how often a step waits for the host (torch's own debug mode: nothing is expected), how long a step of the demo
waits for its data, and, where there are two GPUs, what a step takes on both of them. Without a GPU it says so, and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks import waiting
from crosskd.detectors.detector import build_detector
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.engine.callbacks import Run
from crosskd.engine.compiled import compile_within
from crosskd.engine.device import MixedPrecision, Precision
from crosskd.engine.memory_format import to_channels_last
from crosskd.engine.optim import Schedule, build_optimizer
from crosskd.engine.parallel import data_parallel
from crosskd.engine.steps import Steps
from crosskd.engine.training import Training
from crosskd.spec.config import (
    BackboneConfig,
    CrossKDConfig,
    DistillConfig,
    ModelConfig,
    OptimizerConfig,
    ScheduleConfig,
    TrainConfig,
)
from crosskd.structures import Batch, Size, Targets

PAIRS = ("gfl", "retinanet", "fcos")
SIZE: Size = (800, 1344)  # 800 x 1333, padded
CLASSES, BOXES = 80, 12  # boxes of an image
WARM = 3  # steps before those that are timed; the first compiles
RANKS = 2


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    precision: Precision = "fp32"
    channels_last: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        parts = [self.precision, "channels last" if self.channels_last else "", "compiled" if self.compiled else ""]
        return ", ".join(part for part in parts if part)


WAYS = (
    Way(),
    Way("bf16"),
    Way("bf16", channels_last=True),
    Way("bf16", channels_last=True, compiled=True),
    Way("fp16", channels_last=True),
    Way("fp32", channels_last=True),
)


@dataclass(frozen=True)
class Row:
    """Medians of some steps."""

    milliseconds: float
    host: float  # the share of it that the host was busy, or waiting
    mebibytes: float  # the most that was held on a GPU; 0 on a CPU


class Bench:
    """A pair and one batch on a device."""

    def __init__(
        self, student: ModelConfig, teacher: ModelConfig, way: Way, device: torch.device, batch: int, size: Size
    ) -> None:
        torch.manual_seed(0)
        self.device = device
        ours, theirs = (build_detector(config, CLASSES, pretrained=False) for config in (student, teacher))
        self.distiller: Distiller = build_distiller(ours, theirs, DistillConfig(crosskd=CrossKDConfig())).train()
        if way.channels_last:
            to_channels_last(self.distiller, device)
        else:
            self.distiller.to(device)
        if way.compiled:
            compile_within(self.distiller, [*ours.convolutions(), *theirs.convolutions()])
        self.batch = made_batch(batch, size).to(device)
        optimizer = OptimizerConfig(lr=1e-4, base_batch=None)
        self.training = Training(
            trainee=self.distiller,
            student=ours,
            optimizer=build_optimizer(self.distiller, optimizer, total_batch=batch),
            schedule=Schedule(ScheduleConfig(epochs=1, warmup_steps=0), 1),
            batches=_NoBatches(),
            amp=MixedPrecision.on(device, way.precision),
            parallel=data_parallel(self.distiller, idle=self.distiller.sometimes_idle()),
        )
        split = {"annotations": "none", "images": "none"}
        config = TrainConfig.model_validate({"data": {"train": split, "val": split}, "student": student.model_dump()})
        self.steps = Steps(Run(config, Path()), self.training)

    def step(self) -> None:
        """Told to the device; it may still be computing."""
        self.steps.take([self.batch])

    def measure(self, rounds: int) -> Row:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        for _ in range(WARM):
            self.step()
        times = [self._timed() for _ in range(rounds)]
        self.steps.read()  # raises where it has diverged: then no time means anything
        whole = statistics.median(seconds for seconds, _ in times)
        peak = torch.cuda.max_memory_allocated() / 2**20 if self.device.type == "cuda" else 0.0
        return Row(1000 * whole, statistics.median(host / seconds for seconds, host in times), peak)

    def _timed(self) -> tuple[float, float]:
        """Seconds of a step, and of those the host's."""
        self._wait()
        start = time.perf_counter()
        self.step()
        host = time.perf_counter() - start
        self._wait()
        return time.perf_counter() - start, host

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def waits(self) -> list[str]:
        """Where one step, of those behind the first ones, waits for the GPU; of a GPU alone."""
        for _ in range(WARM):
            self.step()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True, action="always") as caught:
                self.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        return [f"{Path(found.filename).name}:{found.lineno}" for found in caught if "synchroniz" in str(found.message)]


class _NoBatches:
    """A step is handed its batch."""

    def __init__(self) -> None:
        self.corrupt: dict[str, str] = {}

    def __len__(self) -> int:
        return 0

    def epoch(self, index: int, start: int = 0) -> Iterator[Batch]:  # noqa: ARG002
        return iter(())


def made_batch(images: int, size: Size) -> Batch:
    """Noise, and `BOXES` boxes an image."""
    corners = torch.rand(images, BOXES, 2) * torch.tensor([size[1], size[0]]) * 0.6
    boxes = torch.cat([corners, corners + 16 + torch.rand(images, BOXES, 2) * min(size) * 0.3], dim=2)
    labels = torch.randint(0, CLASSES, (images, BOXES))
    sizes = [size] * images
    targets = Targets([*boxes], [*labels], sizes, sizes)
    return Batch(torch.randn(images, 3, *size), targets, list(range(images)), [(1.0, 1.0)] * images, sizes)


def model(detector: str, backbone: str) -> ModelConfig:
    return ModelConfig(
        detector=detector,
        backbone=BackboneConfig(name=backbone, init="random", frozen_stages=1, norm_eval=True),
    )


def table(device: torch.device, batch: int, rounds: int, deadline: float) -> None:
    """A row for each pair and way, until the deadline."""
    print(f"\nCrossKD, ResNet-18 <- ResNet-50, batch {batch} of {SIZE[0]} x {SIZE[1]}, {CLASSES} classes")
    print("| pair | step | ms | images/s | host | MiB |")
    print("|---|---|---|---|---|---|")
    left_out = []
    for way in WAYS:
        for name in PAIRS:
            if time.monotonic() > deadline:
                left_out.append(f"{name} ({way})")
                continue
            bench = Bench(model(name, "resnet18"), model(name, "resnet50"), way, device, batch, SIZE)
            row = bench.measure(rounds)
            rate = 1000 * batch / row.milliseconds
            print(f"| {name} | {way} | {row.milliseconds:.1f} | {rate:.1f} | {row.host:.2f} | {row.mebibytes:.0f} |")
            del bench
            torch.cuda.empty_cache()
    if left_out:
        print(f"left out for want of time: {', '.join(left_out)}")


def count_waits(device: torch.device, batch: int) -> bool:
    """Returns whether no step waits for the host."""
    free = True
    for name in PAIRS:
        found = Bench(model(name, "resnet18"), model(name, "resnet50"), Way("bf16"), device, batch, SIZE).waits()
        free &= not found
        print(f"{name}: a step waits {len(found)} times{': ' if found else ''}{', '.join(found)}")
    return free


def two_gpus(batch: int, rounds: int) -> None:
    """What a step takes on two, each with a batch of its own, by NCCL."""
    if torch.cuda.device_count() < RANKS:
        print(f"GPUs here: {torch.cuda.device_count()}; a step on {RANKS} was not measured")
        return
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={RANKS}", "-m", "benchmarks.gpu"]
    subprocess.run([*command, "--as-rank", "--batch", str(batch), "--rounds", str(rounds)], check=True)


def as_rank(batch: int, rounds: int) -> None:
    """One of the processes of `two_gpus`."""
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl")
    try:
        device = torch.device("cuda", torch.cuda.current_device())
        way = Way("bf16", channels_last=True)
        bench = Bench(model("gfl", "resnet18"), model("gfl", "resnet50"), way, device, batch, SIZE)
        row = bench.measure(rounds)
        if dist.get_rank() == 0:
            rate = 1000 * RANKS * batch / row.milliseconds
            print(f"gfl ({way}) on {RANKS} GPUs: {row.milliseconds:.1f} ms, {rate:.1f} images/s")
    finally:
        dist.destroy_process_group()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5, help="no row of the table begins in the last 90 seconds")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--as-rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("torch sees no GPU here: nothing was measured")
        return 1
    if arguments.as_rank:
        as_rank(arguments.batch, arguments.rounds)
        return 0
    deadline = time.monotonic() + 60 * arguments.minutes - 90
    device = torch.device("cuda", torch.cuda.current_device())
    print(f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}")
    free = count_waits(device, arguments.batch)
    share, seconds = waiting.measure(torch.get_num_threads(), device="cuda")
    print(f"data wait at demo size ({waiting.RECIPE}): {share:.1%} of a step of {1000 * seconds:.1f} ms")
    two_gpus(arguments.batch, arguments.rounds)
    table(device, arguments.batch, arguments.rounds, deadline)
    return 0 if free else 1


if __name__ == "__main__":
    sys.exit(main())
