"""What training frameworks put around the names of a model's tensors, and how it is taken off. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# DataParallel, DistributedDataParallel and AveragedModel; torch.compile; Lightning's modules and wrappers of models.
PREFIXES = ("module.", "_orig_mod.", "model.")
_MMDET_AVERAGE = "ema_"  # MMDetection 2's EMAHook: a buffer `ema_` + the name with underscores
_AVERAGED = "n_averaged"  # torch's AveragedModel counts its updates in it


@dataclass(frozen=True)
class Unwrapped:
    """Names as the file has them -> without what is around them; and in words what was taken off or left out."""

    names: dict[str, str]
    notes: list[str]


def unwrap(names: Iterable[str]) -> Unwrapped:
    """The names without the prefixes that at least half of them share, and without copies for averaging.

    A prefix stays where a name would stand twice without it. Names that do not have it stay as they are.
    """
    plain = {name: name for name in names if name != _AVERAGED}
    removed = ""
    while prefix := _shared(plain):
        plain = {name: short.removeprefix(prefix) for name, short in plain.items()}
        removed += prefix
    notes = [f"`{removed}` was taken off the names of the tensors"] if removed else []
    averages = {_MMDET_AVERAGE + short.replace(".", "_") for short in plain.values()}
    if copies := [name for name, short in plain.items() if short in averages]:
        notes.append(
            f"{len(copies)} tensors `{_MMDET_AVERAGE}…` were left out: MMDetection 2 swaps them with the average, "
            "which stands under the plain names"
        )
        plain = {name: short for name, short in plain.items() if short not in averages}
    return Unwrapped(plain, notes)


def _shared(plain: dict[str, str]) -> str:
    for prefix in PREFIXES:
        holders = [short for short in plain.values() if short.startswith(prefix) and short != prefix]
        if not holders or 2 * len(holders) < len(plain):
            continue
        others = {short for short in plain.values() if not short.startswith(prefix)}
        if others.isdisjoint(short.removeprefix(prefix) for short in holders):
            return prefix
    return ""
