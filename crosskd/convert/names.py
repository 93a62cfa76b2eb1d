"""Parameter names of two projects, one to one, as tables of patterns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

# Ours and theirs, each a pattern over whole names; what a group catches on one side stands in the same place on the
# other. Literal dots are escaped.
Pairs = Sequence[tuple[str, str]]
OURS: Literal[0] = 0
THEIRS: Literal[1] = 1
AFFINE = "(weight|bias)"
RESNET = (r"(conv1\..+)", r"(bn1\..+)", r"(layer[1-4]\..+)")  # a backbone's parts; groups do not nest
_GROUP = re.compile(r"\([^()]*\)")


def translate(name: str, pairs: Pairs, source: Literal[0, 1]) -> str | None:
    """`name`, which is one of the names on the side `source`, as the other side calls it; None: it is none of them."""
    for pair in pairs:
        if match := re.fullmatch(pair[source], name):
            return _fill(pair[1 - source], match.groups())
    return None


def _fill(pattern: str, groups: tuple[str, ...]) -> str:
    """The name that a pattern matches when its groups caught `groups`."""
    parts = iter(groups)
    return _GROUP.sub(lambda _: next(parts).replace("\\", ""), pattern).replace("\\.", ".")
