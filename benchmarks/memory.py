"""Memory of a CrossKD training step beyond weights, gradients and optimizer state, counted in bytes on the CPU.

    python -m benchmarks.memory [--detectors gfl retinanet atss fcos] [--size 320] [--classes 80] [--batch 2]

ResNet-18 <- ResNet-50, cut 3. Of each detector: what autograd keeps at the end of the forward pass (each storage once,
without parameters and images); the most that is alive at once in a step, as torch's allocator tells it, inside of
operators too, without what is left behind by the step, which are the gradients; and the same with activation
checkpointing. Then how many tensors of anchors times classes are alive at once, at 1,203 classes and a small image.
Bytes do not depend on what else the machine does. The exit status is 0 where all is within its bound.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.growth import DENSE
from benchmarks.step import Bench
from crosskd.detectors.dense import anchor_windows
from crosskd.engine.recompute import recompute_within
from crosskd.spec.names import DetectorName
from crosskd.structures import Losses

KEPT = 1.1  # peak over what autograd keeps
CHECKPOINTED = 0.6  # the same with activation checkpointing
ALIVE = 4  # tensors of anchors times classes
MANY_CLASSES = 1203
SMALL = 160  # pixels of the image for these
MIB = 2**20


@dataclass(frozen=True)
class _Change:
    """An allocation, or with negative bytes its end."""

    time: int
    place: int
    size: int


@dataclass(eq=False)
class _Kept:
    tensor: Tensor


def kept_bytes(model: nn.Module, forward: Callable[[], Losses], own: Sequence[Tensor]) -> int:
    """Bytes that the graph of a forward pass keeps when the pass has returned; `own` are there in any case."""
    alive: weakref.WeakSet[_Kept] = weakref.WeakSet()

    def pack(tensor: Tensor) -> _Kept:
        kept = _Kept(tensor)
        alive.add(kept)
        return kept

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        losses = forward()
    known = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers(), *own)}
    storages = {kept.tensor.untyped_storage().data_ptr(): kept.tensor.untyped_storage() for kept in alive}
    del losses
    return sum(storage.nbytes() for place, storage in storages.items() if place not in known)


def peak_bytes(run: Callable[[], Any]) -> int:
    """The most that is in use at once of what `run` makes, without what it leaves behind."""
    changes = _changes(run)
    left: dict[int, int] = {}
    for number, change in enumerate(changes):
        if change.size > 0:
            left[change.place] = number
        else:
            left.pop(change.place, None)
    staying, there = set(left.values()), dict[int, int]()
    now = most = 0
    for number, change in enumerate(changes):
        if change.size > 0 and number not in staying:
            there[change.place] = change.size
            now += change.size
        elif change.size < 0:
            now -= there.pop(change.place, 0)
        most = max(most, now)
    return most


def _changes(run: Callable[[], Any]) -> list[_Change]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    found, events = [], list(profile.profiler.kineto_results.experimental_event_tree())
    while events:
        event = events.pop()
        events.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation:
            found.append(_Change(event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size))
    return sorted(found, key=lambda change: change.time)


class AliveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, `most` is how many times all class logits the tensors shaped like them have, at most.

    These are [N, a * K, H, W] as the `maps` of a level, and [N, anchors, K].
    """

    def __init__(self, maps: Sequence[Tensor], classes: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.channels, self.classes = maps[0].shape[1], classes
        self.entries, self.now = sum(x.numel() for x in maps), 0
        self.most: float = 0.0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, Tensor) and self._like_logits(tensor.shape):
                self._count(tensor.untyped_storage(), tensor.element_size())
        return made

    def _like_logits(self, shape: Sequence[int]) -> bool:
        return (len(shape) == 4 and shape[1] == self.channels) or (len(shape) == 3 and shape[2] == self.classes)

    def _count(self, storage: torch.UntypedStorage, width: int) -> None:
        elements, place = storage.nbytes() // width, storage._cdata
        if place in self._known:
            return
        self._known.add(place)
        self.now += elements
        self.most = max(self.most, self.now / self.entries)
        weakref.finalize(storage, self._end, place, elements)

    def _end(self, place: int, elements: int) -> None:
        self._known.discard(place)
        self.now -= elements


def step(bench: Bench) -> None:
    losses = bench.distiller(bench.images, bench.targets)
    torch.stack([term.sum() for term in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]


def measure(bench: Bench) -> tuple[int, int, int]:
    """Bytes that autograd keeps, the peak of a step, and the peak with activation checkpointing."""
    own = [bench.images, *bench.teacher.parameters(), *bench.teacher.buffers()]
    kept = kept_bytes(bench.distiller, lambda: bench.distiller(bench.images, bench.targets), own)
    peaks = []
    for checkpointed in (False, True):
        if checkpointed:
            recompute_within(bench.distiller.recomputed())
        peaks.append(peak_bytes(lambda: step(bench)))
        bench.student.zero_grad(set_to_none=True)
    return kept, peaks[0], peaks[1]


def alive_tensors(bench: Bench) -> float:
    """How many tensors of anchors times classes are alive at once in a step, with the windows of large images."""
    with torch.no_grad():
        maps = bench.student.head(bench.student.features(bench.images)).cls
    windows = mock.patch.multiple(anchor_windows, KEPT=0, ENTRIES=1, VECTOR=2)  # as small as of many more anchors
    with windows, AliveTensors(maps, bench.student.num_classes) as alive:
        step(bench)
        most: float = alive.most
    return most


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detectors", nargs="*", choices=sorted(DENSE), default=list(DENSE))
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--batch", type=int, default=2)
    arguments = parser.parse_args()
    print(f"CrossKD, R18 <- R50, batch {arguments.batch} of {arguments.size}², {arguments.classes} classes; MiB\n")
    print("| detector | kept by autograd | peak | checkpointed | logits alive, 1,203 classes |")
    print("|---|---|---|---|---|")
    within = [_print_row(detector, arguments) for detector in arguments.detectors]
    print(f"\nwithin {KEPT}x, {CHECKPOINTED}x and {ALIVE} tensors: {'yes' if all(within) else 'NO'}")
    return 0 if all(within) else 1


def _print_row(detector: DetectorName, arguments: argparse.Namespace) -> bool:
    bench = Bench.build(arguments.size, detector=detector, classes=arguments.classes, batch=arguments.batch)
    kept, peak, checkpointed = measure(bench)
    del bench
    alive = alive_tensors(Bench.build(SMALL, detector=detector, classes=MANY_CLASSES, batch=1))
    print(
        f"| {detector} | {kept / MIB:.0f} | {peak / MIB:.0f} = **{peak / kept:.2f}x** "
        f"| {checkpointed / MIB:.0f} = **{checkpointed / kept:.2f}x** | {alive:.1f} |",
        flush=True,
    )
    return peak <= KEPT * kept and checkpointed <= CHECKPOINTED * kept and alive <= ALIVE


if __name__ == "__main__":
    sys.exit(main())
