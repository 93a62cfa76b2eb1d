"""Time and peak memory of one CrossKD training step against its floor, side by side in one run.

    python -m benchmarks.step [--sizes 320 640] [--rounds 7] [--threads 2] [--channels-last]

GFL ResNet-18 <- GFL ResNet-50, 80 classes, batch 2, SGD left out (it is the same on both sides). The floor is what
cannot be saved: the plain student step with its assignment and losses, the teacher's inference, and the convolutions
of the teacher's head behind the cut, forward and backward to their input. All of them are timed in turn, round by
round, so that a machine whose speed drifts slows both sides alike; the ratio is the median over the rounds.
With `--channels-last` both sides lie so in memory, and the plain layout's step is timed in the same rounds.
Peak memory is each side's own process: the resident maximum above what was resident before its first step, that is
without models, batch and the floor's stand-ins for the student's maps. It is shown beside the same bound, and decides
nothing.

Then how long a step of the demo waits for its data (`benchmarks.waiting`; alone: --sizes with no size). The exit
status is 0 where the time and the waiting are within their bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import waiting
from crosskd.detectors.detector import Detector, build_detector
from crosskd.distill.distiller import Distiller, build_distiller
from crosskd.engine.memory_format import to_channels_last
from crosskd.spec.config import BackboneConfig, CrossKDConfig, DistillConfig, ModelConfig
from crosskd.spec.names import DetectorName
from crosskd.structures import Targets

CLASSES = 80
BATCH = 2
OBJECTS = 8  # in an image
CUT = 3
TARGET = 1.10
WAIT = 0.05  # the share of a step's time from which it starves


@dataclass
class Bench:
    """Both models and one batch, and every part of a step as a function to time."""

    student: Detector
    teacher: Detector
    distiller: Distiller
    images: Tensor  # [N, 3, S, S]
    targets: Targets

    @classmethod
    def build(
        cls,
        size: int,
        *,
        detector: DetectorName = "gfl",
        batch: int = BATCH,
        classes: int = CLASSES,
        objects: int = OBJECTS,
        channels_last: bool = False,
    ) -> Bench:
        torch.manual_seed(0)
        student = _detector(detector, "resnet18", classes).train()
        teacher = _detector(detector, "resnet50", classes).eval().requires_grad_(False)
        distiller = build_distiller(student, teacher, DistillConfig(crosskd=CrossKDConfig(cut=CUT))).train()
        if channels_last:
            to_channels_last(distiller, torch.device("cpu"))
        corners = torch.rand(batch, objects, 2) * size * 0.6
        boxes = torch.cat([corners, corners + 16 + torch.rand(batch, objects, 2) * size * 0.3], dim=2)
        labels = torch.randint(0, classes, (batch, objects))
        sizes = [(size, size)] * batch
        return cls(
            student, teacher, distiller, torch.randn(batch, 3, size, size), Targets([*boxes], [*labels], sizes, sizes)
        )

    def distil(self) -> None:
        self._step(self.distiller)

    def plain(self) -> None:
        self._step(self.student)

    def _step(self, model: nn.Module) -> None:
        losses: dict[str, Tensor] = model(self.images, self.targets)
        torch.stack([term.sum() for term in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        self.student.zero_grad(set_to_none=True)

    @torch.no_grad()
    def teacher_inference(self) -> None:
        features = self.teacher.features(self.images)
        self.teacher.head.back(self.teacher.head.front(features, CUT), CUT)

    def cross_convolutions(self) -> Callable[[], None]:
        """The convolutions behind the cut alone, on maps as the student would hand over."""
        with torch.no_grad():
            held = self.teacher.head.front(self.teacher.features(self.images), CUT)
        head = self.teacher.head
        branches = [
            ([m.clone().requires_grad_() for m in maps], [*(layer.conv for layer in list(tower)[CUT:]), last])
            for maps, tower, last in (
                (held.cls, head.cls_tower, head.cls),
                (held.box, head.box_tower, head.box),
            )
        ]

        def run() -> None:
            inputs, outputs = [], []
            for maps, convolutions in branches:
                for level in maps:
                    x = level
                    for convolution in convolutions:
                        x = convolution(x)
                    inputs.append(level)
                    outputs.append(x)
            torch.autograd.grad(outputs, inputs, [torch.ones_like(x) for x in outputs])

        return run

    def outside_pool(self) -> None:
        """The floor's parts in one step with one backward pass: what any implementation must hold together."""
        head, student = self.teacher.head, self.student
        with torch.no_grad():
            kept = head(self.teacher.features(self.images))
        features = student.features(self.images)
        held = student.head.front(features, CUT)
        predictions = student.head.back(held, CUT)
        losses = student.head.loss(predictions, student.head.assign(predictions, self.targets))
        crossed = []
        for maps, tower, last in ((held.cls, head.cls_tower, head.cls), (held.box, head.box_tower, head.box)):
            for x in maps:
                for layer in list(tower)[CUT:]:
                    x = layer.conv(x)
                crossed.append(last(x).sum())
        del features, held, predictions  # as a step does when its forward pass returns
        total = torch.stack([*crossed, *(term.sum() for term in losses.values())]).sum()
        total.backward()  # type: ignore[no-untyped-call]
        student.zero_grad(set_to_none=True)
        del kept


def _detector(name: DetectorName, backbone: str, classes: int) -> Detector:
    """Its pyramid, head and statistics are the published ones of the detector."""
    section = BackboneConfig(name=backbone, init="random", frozen_stages=1, norm_eval=True)
    return build_detector(ModelConfig(detector=name, backbone=section), classes, pretrained=False)


def timed(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(size: int, rounds: int, *, channels_last: bool = False) -> dict[str, float]:
    bench = Bench.build(size, channels_last=channels_last)
    parts = {
        "distil": bench.distil,
        "plain": bench.plain,
        "teacher": bench.teacher_inference,
        "cross": bench.cross_convolutions(),
    }
    if channels_last:
        parts["other"] = Bench.build(size).distil
    for run in parts.values():
        run()
    rows = [{name: timed(run) for name, run in parts.items()} for _ in range(rounds)]
    ratios = [row["distil"] / (row["plain"] + row["teacher"] + row["cross"]) for row in rows]
    medians = {name: statistics.median(row[name] for row in rows) for name in parts}
    found = medians | {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    if channels_last:
        found["gain"] = statistics.median(row["distil"] / row["other"] for row in rows)
    return found


def peak(size: int, side: str, threads: int) -> float:
    """MiB that three steps of one side add to a fresh process's resident maximum."""
    command = [sys.executable, "-m", "benchmarks.step", "--memory-of", side, "--sizes", str(size)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command += ["--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(json.loads(done.stdout)["mib"])


def memory_of(side: str, size: int) -> None:
    bench = Bench.build(size)
    run = bench.distil if side == "distil" else bench.outside_pool
    before = resident("VmRSS:")
    for _ in range(3):
        run()
    # Not getrusage's maximum: that one outlives an exec, and would be the parent's.
    print(json.dumps({"mib": (resident("VmHWM:") - before) / 1024}))


def resident(line: str) -> int:
    """KiB of this process in memory: now (VmRSS), or at most so far (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(text.split()[1]) for text in lines if text.startswith(line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[320, 640])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--channels-last", action="store_true", help="both sides; memory is of the plain layout")
    parser.add_argument("--memory-of", choices=["distil", "floor"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory_of:
        memory_of(arguments.memory_of, arguments.sizes[0])
        return 0
    within = True
    if arguments.sizes:
        within = _print_step(arguments.sizes, arguments.rounds, arguments.threads, arguments.channels_last)
    share, seconds = waiting.measure(arguments.threads)
    print(f"data wait at demo size ({waiting.RECIPE}): {share:.1%} of a step of {1000 * seconds:.0f} ms")
    print(f"target: less than {WAIT:.0%}: {'met' if share < WAIT else 'MISSED'}")
    return 0 if within and share < WAIT else 1


def _print_step(sizes: list[int], rounds: int, threads: int, channels_last: bool) -> bool:
    """The table of steps against their floor. Returns whether the time is within its bound."""
    print(f"GFL R18 <- R50, batch {BATCH}, {CLASSES} classes, cut {CUT}, {threads} threads; milliseconds")
    print("| size | CrossKD step | plain step | teacher | cross convs | ratio (min..max) | MiB: CrossKD / floor |")
    print("|---|---|---|---|---|---|---|")
    within, lean = True, True
    for size in sizes:
        row = measure(size, rounds, channels_last=channels_last)
        mib = [peak(size, side, threads) for side in ("distil", "floor")]
        within &= row["ratio"] <= TARGET
        lean &= mib[0] <= TARGET * mib[1]
        times = " | ".join(f"{1000 * row[name]:.0f}" for name in ("distil", "plain", "teacher", "cross"))
        print(
            f"| {size}² | {times} | **{row['ratio']:.3f}** ({row['low']:.3f}..{row['high']:.3f}) "
            f"| {mib[0]:.0f} / {mib[1]:.0f} = {mib[0] / mib[1]:.3f} |"
        )
        if channels_last:
            print(f"channels last at {size}²: {row['gain']:.3f} of the plain layout's step")
    print(f"target: time within {TARGET}x of the floor: {'met' if within else 'MISSED'}")
    print(f"peak memory within {TARGET}x of the floor's: {'yes' if lean else 'no'}")
    return within


if __name__ == "__main__":
    sys.exit(main())
