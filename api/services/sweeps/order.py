"""What can be said of an order for a sweep by itself, before any of its jobs is looked at."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any

from wire.errors import Fault
from wire.faults import pointer
from wire.sweeps import OWN_LABELS, SweepCreate

MAX_DEPTH = 32  # of a specification; no real one is nearly as deep
LARGEST = 2**63


def baseline_of(order: SweepCreate) -> str:
    """The arm that the others are compared with."""
    return order.baseline or ("alone" if "alone" in order.arms else next(iter(order.arms)))


def faults(order: SweepCreate) -> list[Fault]:
    """What is wrong with it, but for its jobs."""
    return [*_seeds(order), *_arms(order), *_grid(order), *_labels(order)]


def unstorable(order: SweepCreate) -> list[Fault]:
    """What neither a job nor a database could hold, wherever it stands."""
    parts = {"base": order.base, "arms": order.arms, "grid": order.grid, "teacher": order.teacher}
    return [fault for name, value in parts.items() for fault in _unstorable(value, (name,))][:10]


def _seeds(order: SweepCreate) -> Iterator[Fault]:
    for place, seed in _repeated(order.seeds):
        remedy = "Give each seed once: the same job twice would look like two that agree."
        yield Fault(pointer=f"/seeds/{place}", detail=f"seed {seed} is given twice", remedy=remedy)


def _arms(order: SweepCreate) -> Iterator[Fault]:
    if baseline_of(order) not in order.arms:
        remedy = f"Name one of the arms: {', '.join(order.arms)}."
        yield Fault(pointer="/baseline", detail=f"there is no arm {order.baseline!r}", remedy=remedy)
    for arm, patch in order.arms.items():
        if "seed" in patch:
            remedy = "List the seeds in `seeds`: every arm is trained with each of them."
            yield Fault(pointer=pointer(("arms", arm, "seed")), detail="an arm has no seed of its own", remedy=remedy)


def _grid(order: SweepCreate) -> Iterator[Fault]:
    for path, values in order.grid.items():
        if path == "seed":
            remedy = "List the seeds in `seeds`."
            yield Fault(pointer="/grid/seed", detail="the grid is no place for seeds", remedy=remedy)
        for place, value in _repeated([json.dumps(value, sort_keys=True) for value in values]):
            where = pointer(("grid", path, place))
            yield Fault(pointer=where, detail=f"{value[:100]} is given twice", remedy="Give each value once.")


def _labels(order: SweepCreate) -> Iterator[Fault]:
    for name in OWN_LABELS:
        if name in order.labels:
            detail = f"the service itself puts the label {name!r} on every job of a sweep"
            yield Fault(pointer=f"/labels/{name}", detail=detail, remedy="Name yours otherwise.")


def _repeated(values: Iterable[Hashable]) -> Iterator[tuple[int, Any]]:
    """The values that stand there a second time, and where."""
    seen: Counter[Any] = Counter()
    for place, value in enumerate(values):
        seen[value] += 1
        if seen[value] == 2:
            yield place, value


def _unstorable(value: Any, path: tuple[str | int, ...]) -> Iterator[Fault]:
    where = pointer(path[:MAX_DEPTH])
    if len(path) > MAX_DEPTH:
        yield Fault(pointer=where, detail=f"it nests deeper than {MAX_DEPTH} levels", remedy="Give a flatter one.")
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _unstorable(key, path)
            yield from _unstorable(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _unstorable(inner, (*path, place))
    elif isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
        yield Fault(pointer=where, detail="a text holds a NUL or half a character", remedy="Remove it.")
    elif isinstance(value, float) and not math.isfinite(value):
        yield Fault(pointer=where, detail="a number is not finite", remedy="Give a finite number.")
    elif isinstance(value, int) and not -LARGEST <= value < LARGEST:
        yield Fault(pointer=where, detail="a number is beyond 64 bits", remedy="Give a smaller number.")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
