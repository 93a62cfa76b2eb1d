"""Draws the validation images of a data set that has none, by a share and a seed."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key", int, str)


def drawn(groups: Mapping[Key, int], share: float, seed: int) -> set[Key]:
    """The groups that validate, of all and their numbers of images; images of one group stay together.

    So many that their images come near to `share`: at least one group, and at least one is left. There are two or more.
    The same groups, share and seed give the same, in whatever order they come.
    """
    keys = sorted(groups)
    random.Random(seed).shuffle(keys)  # noqa: S311 - nothing secret is drawn
    total = sum(groups.values())
    wanted = min(max(1, round(share * total)), total - 1)
    chosen: set[Key] = set()
    taken = 0
    for key in keys:
        # The larger half of a group decides whether it comes nearer with it or without.
        if taken + groups[key] - wanted <= wanted - taken and len(chosen) < len(keys) - 1:
            chosen.add(key)
            taken += groups[key]
    return chosen or {min(keys, key=lambda key: groups[key])}
