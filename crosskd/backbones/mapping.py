"""Which tensor of a file is which of a backbone, where the names differ: proposed by their order and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

FREE = ("num_batches_tracked", "relative_position_index")  # not learnt; older files leave them out
_LEAVES = {"weight", "bias", "running_mean", "running_var"}
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True)
class Proposal:
    """The file's name of each tensor of the backbone. `how` says what speaks for it; `sure`: the names themselves."""

    names: dict[str, str]  # the backbone's -> the file's
    how: str
    sure: bool


def propose(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], optional: Sequence[str] = ()) -> Proposal | None:
    """A file's tensors `given` as those of a backbone, `wanted`; None where not every one finds a place.

    First by the names behind something that all have before them; then in the file's order, where each takes the next
    of its shape; then in the order of names, since safetensors keep no other. `optional` begin the names of tensors
    that the file need not have; counters are never asked for.
    """
    asked = [name for name in wanted if not name.endswith(FREE) and not name.startswith(tuple(optional))]
    if (prefix := _prefix(given, wanted, asked)) is not None:
        names = {name: prefix + name for name in wanted if prefix + name in given}
        return Proposal(names, f"behind `{prefix}` the names are the same", sure=True)
    orders: list[tuple[str, Callable[[Iterable[str]], list[str]]]] = [
        ("by order and shape", list),
        ("by the order of their names and by shape", lambda names: sorted(names, key=_natural)),
    ]
    for how, order in orders:
        learnt = [name for name in order(given) if not name.endswith(FREE)]
        if (found := _in_order(given, learnt, wanted, order(asked))) is not None:
            return Proposal({name: found[name] for name in asked}, how, sure=False)
    return None


def _prefix(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], asked: Sequence[str]) -> str | None:
    if not asked:
        return None
    for name in given:
        prefix = name.removesuffix(asked[0])
        if prefix and prefix != name and all(_same(given.get(prefix + ours), wanted[ours]) for ours in asked):
            return prefix
    return None


def _same(tensor: Tensor | None, other: Tensor) -> bool:
    return tensor is not None and tensor.shape == other.shape


def _in_order(
    given: Mapping[str, Tensor], learnt: Sequence[str], wanted: Mapping[str, Tensor], asked: Sequence[str]
) -> dict[str, str] | None:
    """Each of `asked` with the next of `learnt` that has its shape and its kind."""
    found: dict[str, str] = {}
    rest = iter(learnt)
    for ours in asked:
        theirs = next((name for name in rest if _same(given[name], wanted[ours]) and _akin(name, ours)), None)
        if theirs is None:
            return None
        found[ours] = theirs
    return found


def _akin(first: str, second: str) -> bool:
    """A weight is no mean; a name of another project's own kind may be anything."""
    kinds = {name.rpartition(".")[2] for name in (first, second)}
    return len(kinds) == 1 or not kinds <= _LEAVES


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in _NUMBER.split(name)]
