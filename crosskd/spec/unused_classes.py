"""Classes that stand for nothing: ids of COCO that nobody uses, and the background. Imports no torch.

Detectors that are published for COCO may have an output for each id up to 90 (torchvision's, Deformable DETR). Whoever
uses such a detector leaves the others out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

BACKGROUND, UNUSED = "__background__", "N/A"  # as published files call them
_NOTHING = re.compile(rf"{BACKGROUND}|{UNUSED} \d{{1,5}}")
_LISTED = 3


def numbered(names: Sequence[str]) -> list[str]:
    """`names` in label order, unused ids called by their id too: names are unique."""
    return [f"{name} {place}" if name == UNUSED else name for place, name in enumerate(names)]


def used(names: Sequence[str], wanted: Collection[str] | None = None) -> list[str]:
    """Those that stand for something, or are `wanted` under such a name, in label order; all, where that is none."""
    return [name for name in names if not _NOTHING.fullmatch(name) or name in (wanted or ())] or list(names)


def left_out_text(names: Sequence[str], kept: Sequence[str]) -> str:
    """A sentence about those of `names` that are not `kept`; empty where there are none."""
    gone = [name for name in names if name not in set(kept)]
    listed = ", ".join(gone[:_LISTED]) + (", …" if len(gone) > _LISTED else "")
    told = f"{len(gone)} of its {len(names)} classes stand for nothing and are left out: {listed}"
    return told if gone else ""
