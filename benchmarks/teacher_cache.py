"""Time of a CrossKD step with the teacher cache, against one without it and against the floor, side by side in one run.

    python -m benchmarks.teacher_cache [--detectors gfl retinanet atss fcos] [--size 320] [--rounds 7] [--threads 2]
                                       [--clock wall|cpu]

Models, batch and floor are those of `benchmarks.step`: ResNet-18 <- ResNet-50, 80 classes, batch 2. In each round all
are timed in turn: a step without a cache, one whose images the cache knows (as from the second epoch on) in memory, one
on disk (each entry read and its sha256 checked), and the parts of the floor: the plain student step, the teacher's
inference, the convolutions behind the cut. Its teacher part is left out of what the cached steps are held against. The
ratio is the median over the rounds. With `--clock cpu` times are processor time of all threads: on a machine that is
busy beside, where waiting for a core says nothing. The exit status is 0 where every cached step is within its bound.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.step import BATCH, CLASSES, CUT, Bench
from crosskd.distill.cache.keys import identity
from crosskd.distill.cache.room import Room
from crosskd.distill.cache.stores import DiskStore, MemoryStore, Store
from crosskd.distill.cache.teacher_cache import MIB, TeacherCache
from crosskd.spec.config import PixelConfig, TeacherCacheConfig
from crosskd.spec.names import DetectorName
from crosskd.spec.registry import DENSE
from crosskd.structures import Shown

TARGET = 1.05
ROOM = 10 * 2**30


def with_cache(bench: Bench, store: Store) -> Callable[[], None]:
    """A step with this cache, which knows its images already."""
    distiller = bench.distiller
    known = replace(bench.targets, shown=[Shown(str(number), mirrored=False) for number in range(BATCH)])
    plain = bench.targets
    cache = TeacherCache(store, TeacherCacheConfig(), mirrors=False)

    def step() -> None:
        distiller.cache, bench.targets = cache, known
        bench.distil()
        distiller.cache, bench.targets = None, plain

    step()
    assert cache.whole.misses == BATCH
    return step


def timed(run: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    run()
    return clock() - start


def measure(
    name: DetectorName, size: int, rounds: int, folder: Path, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    bench = Bench.build(size, detector=name)
    section = TeacherCacheConfig()
    whose = identity(bench.teacher, bench.distiller.needs(), PixelConfig(), section)
    disk = DiskStore(Room(folder, ROOM), whose, ROOM)
    parts = {
        "distil": bench.distil,
        "memory": with_cache(bench, MemoryStore(ROOM)),
        "disk": with_cache(bench, disk),
        "plain": bench.plain,
        "teacher": bench.teacher_inference,
        "cross": bench.cross_convolutions(),
    }
    for run in parts.values():
        run()
    rows = [{part: timed(run, clock) for part, run in parts.items()} for _ in range(rounds)]
    found = {part: statistics.median(row[part] for row in rows) for part in parts}
    for kind in ("memory", "disk"):
        ratios = [row[kind] / (row["plain"] + row["cross"]) for row in rows]
        found |= {f"{kind} ratio": statistics.median(ratios), f"{kind} low": min(ratios), f"{kind} high": max(ratios)}
        found[f"{kind} saved"] = 1 - statistics.median(row[kind] / row["distil"] for row in rows)
    return found | {"mib": disk.bytes / BATCH / MIB}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="*", choices=sorted(DENSE), default=["gfl", "retinanet", "atss", "fcos"])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    arguments = parser.parse_args()
    clock = time.perf_counter if arguments.clock == "wall" else time.process_time
    torch.set_num_threads(arguments.threads)
    print(f"R18 <- R50, {arguments.size}², batch {BATCH}, {CLASSES} classes, cut {CUT}, {arguments.threads} threads")
    times = "ms: no cache | memory | disk | plain + cross | teacher"
    print(f"| detector | {times} | memory: ratio (min..max), saved | disk: ratio (min..max), saved | MiB a view |")
    print("|---|---|---|---|---|---|---|---|---|")
    within = True
    for name in arguments.detectors:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(name, arguments.size, arguments.rounds, Path(folder), clock)
        within &= max(row["memory ratio"], row["disk ratio"]) <= TARGET
        milliseconds = [row["distil"], row["memory"], row["disk"], row["plain"] + row["cross"], row["teacher"]]
        ratios = [
            f"**{row[f'{kind} ratio']:.3f}** ({row[f'{kind} low']:.3f}..{row[f'{kind} high']:.3f}), "
            f"{row[f'{kind} saved']:.1%}"
            for kind in ("memory", "disk")
        ]
        cells = [name, *(f"{1000 * time:.0f}" for time in milliseconds), *ratios, f"{row['mib']:.2f}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    print(f"target: within {TARGET}x of the floor without its teacher part: {'met' if within else 'MISSED'}")
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
