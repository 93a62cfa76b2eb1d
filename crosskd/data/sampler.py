"""Which images come together in which batch, decided by seed and epoch alone.

The order knows nothing of workers, and any batch of any epoch can be named without the ones before it: that is
what makes a resume in the middle of an epoch exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from crosskd.structures import Size

Indices = list[int]
T = TypeVar("T")


def training_batches(wide: NDArray[np.bool_], batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """An epoch's batches in random order of images, `wide` [N] ones and the others in batches of their own.

    What is left of both at the end is put together, and the last batch is filled up from the epoch's first images:
    every batch has min(batch_size, N) of them, and the number of batches is the same in every epoch.
    """
    order = np.random.default_rng([seed, 0, epoch]).permutation(len(wide))
    size = min(batch_size, len(order))
    batches: list[Indices] = []
    open_batches: dict[bool, Indices] = {True: [], False: []}
    for index in order.tolist():
        group = bool(wide[index])
        open_batches[group].append(index)
        if len(open_batches[group]) == size:
            batches.append(open_batches[group])
            open_batches[group] = []
    rest = open_batches[True] + open_batches[False]
    batches += [rest[start : start + size] for start in range(0, len(rest), size)]
    if len(batches[-1]) < size:
        there = set(batches[-1])
        batches[-1] += [index for index in order.tolist() if index not in there][: size - len(there)]
    return batches


def unlabelled_batches(
    batches: Sequence[Indices], wide: NDArray[np.bool_], others: NDArray[np.bool_], count: int, seed: int, epoch: int
) -> list[list[tuple[int, int]]]:
    """`count` images without labels for each of an epoch's batches, as (pass, index): `others` [U] says which are wide.

    Epochs go on where the one before ended: all U come once in each pass, in an order of its own, before any comes
    again. Which batch of the epoch gets which is chosen by shape: wide ones go with `wide` [N] images, as far as there
    are any.
    """
    total = len(others)
    first = epoch * len(batches) * count
    orders: dict[int, NDArray[np.int64]] = {}
    waiting: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
    for place in range(first, first + len(batches) * count):
        turn, position = divmod(place, total)
        if turn not in orders:
            orders[turn] = np.random.default_rng([seed, 3, turn]).permutation(total)
        index = int(orders[turn][position])
        waiting[bool(others[index])].append((turn, index))
    for group in waiting.values():
        group.reverse()
    chosen: list[list[tuple[int, int]]] = []
    for batch in batches:
        group = waiting[bool(wide[batch[0]])]
        chosen.append([group.pop() for _ in range(min(count, len(group)))])
    rest = waiting[True] + waiting[False]
    for taken in chosen:
        taken += [rest.pop() for _ in range(count - len(taken))]
    return chosen


def validation_batches(sizes: Sequence[Size], batch_size: int) -> list[Indices]:
    """Every image once, those of one padded size together.

    No image is padded for the sake of another, so what a model says of it (group norm sees the padding) does not
    depend on the batch size.
    """
    groups: dict[Size, Indices] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size, []).append(index)
    return [
        group[start : start + batch_size]
        for _, group in sorted(groups.items())
        for start in range(0, len(group), batch_size)
    ]


def shard(batches: list[T], rank: int, world_size: int, *, even: bool) -> list[T]:
    """Every `world_size`-th batch from `rank` on. `even`: as many for each rank, by repeating the first ones."""
    if even:
        batches = batches + [batches[i % len(batches)] for i in range(-len(batches) % world_size)]
    return batches[rank::world_size]
