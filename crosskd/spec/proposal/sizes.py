"""How large images become, and how many are a batch: by the images' own size and by the smallest objects."""

from __future__ import annotations

import math
from dataclasses import dataclass

from crosskd.spec.evaluate_export import ScaleConfig
from crosskd.spec.proposal.goals import Goal
from crosskd.spec.proposal.statistics import Shapes, Statistics
from crosskd.spec.proposal.text import Said, Tree
from crosskd.spec.quantiles import HIGH, LOW, quantile

MULTIPLE = 32  # pixels: images are padded to it in any case
LEAST = 64  # pixels: of a smaller image the last map has one cell, of which batch norm can say nothing


@dataclass(frozen=True)
class Size:
    """The short edge and the long one, and how large the smallest and the largest objects are then, in pixels."""

    short: int
    long: int
    small: float  # five in a hundred are at most so large
    large: float  # five in a hundred are above this
    why: str
    keep_ratio: bool = True
    pad_to: int = MULTIPLE

    @property
    def pixels(self) -> int:
        return self.short * (self.long if self.keep_ratio else self.short)


def choose_size(shapes: Shapes, goal: Goal) -> Size:
    """By the goal's bounds."""
    ratio, relative = shapes.ratio, shapes.relative()
    own = quantile(shapes.effective(), 0.5)
    small, large = quantile(relative, LOW), quantile(relative, HIGH)
    needed = goal.small_side / small
    wanted = min(own, needed) if goal.shrink else max(own, needed)
    highest = min(goal.short_edges[1], goal.long_edge / ratio, goal.enlarge * own)
    bounded = max(min(wanted, highest), min(goal.short_edges[0], highest))
    short = int(own) if bounded == own and own >= LEAST else max(LEAST, MULTIPLE * round(bounded / MULTIPLE))
    long = min(8192, max(short, math.ceil(short * ratio - 1e-6)))
    enlarged = "the images' own size" if goal.enlarge == 1 else f"{goal.enlarge:g} times the images' own size"
    why = (
        f"Images have a shorter side of {own:g} pixels (median); the longer one is at most {ratio:.3g} times that, in "
        f"95 of 100. Five in 100 boxes have a side of {small * own:.3g} pixels or less there, which is "
        f"{small * short:.3g} when trained; {goal.small_side:g} are wanted, {goal.small_side / 8:g} cells of stride 8. "
        f"Bounds: {goal.short_edges[0]} to {goal.short_edges[1]}, {enlarged}, a long edge of {goal.long_edge}."
    )
    return Size(short, long, small * short, large * short, why)


def size_of_teacher(shapes: Shapes, scale: ScaleConfig) -> Size:
    """That at which the teacher was trained: it knows objects of that size."""
    small, large = quantile(shapes.relative(), LOW), quantile(shapes.relative(), HIGH)
    short = scale.short_edge
    why = f"As the teacher was trained. Five in 100 boxes then have a side of {small * short:.3g} pixels or less."
    return Size(short, scale.long_edge, small * short, large * short, why, scale.keep_ratio, scale.pad_to)


def augment(size: Size, goal: Goal, classes: list[str], *, fixed: bool) -> Tree:
    """The section; `fixed`: the one size of a teacher."""
    scales = (1.0,) if fixed else goal.scales
    edges = sorted(
        {max(LEAST, MULTIPLE * round(scale * size.short / MULTIPLE)) for scale in scales[:-1]} | {size.short}
    )
    edges = [edge for edge in edges if edge <= size.short]
    drawn = " One of these is drawn for each image; evaluations take the largest." if len(edges) > 1 else ""
    tree: Tree = {"short_edges": Said(edges, size.why + drawn), "long_edge": Said(size.long)}
    if not size.keep_ratio:
        tree["keep_ratio"] = Said(False, "Stretched to a square, as the teacher was trained.")
    if size.pad_to != MULTIPLE:
        tree["pad_to"] = Said(size.pad_to, "As the teacher was trained.")
    sided = [
        name for name in classes if {"left", "right"} & set(name.lower().replace("-", " ").replace("_", " ").split())
    ]
    if sided:
        tree["flip"] = Said(0.0, f"{sided[0]!r} and its mirror image are two classes: nothing is mirrored.")
    else:
        tree["flip"] = Said(0.5, "Half of the images are mirrored left to right: no class is named after a side.")
    return tree


def batch_size(size: Size, goal: Goal, statistics: Statistics) -> Said:
    """A power of two."""
    room = max(1, min(goal.batches, int(goal.batch_pixels / size.pixels), statistics.images))
    batch = 2 ** int(math.log2(room))
    why = (
        f"{size.pixels / 1e6:.2g} million pixels an image, of {statistics.images:,} images; at most "
        f"{goal.batch_pixels / 1e6:.2g} million a batch and {goal.batches} images. If memory runs out, halve it: the "
        "learning rate goes with it."
    )
    return Said(batch, why)
