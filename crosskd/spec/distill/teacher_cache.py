"""The teacher cache: its knobs, and which views of an image come again. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from crosskd.spec.data.image_size import Size, fitted, padded
from crosskd.spec.data.section import AugmentConfig
from crosskd.spec.section import Section, refused

KEEPS = "`distill.cache` keeps what the teacher makes of an image"
ONE_CANVAS = (
    "Give `augment.letterbox` one side, or `augment.keep_ratio: false`; or leave `distill.cache` out, and the teacher "
    "runs in each step."
)


class TeacherCacheConfig(Section):
    """What the teacher makes of an image is made once and kept. Its views must come again: one size, flips."""

    store: Literal["memory", "disk"] = Field(
        default="disk",
        description="disk: on the worker's own disk, where a resumed job, another seed and other jobs with the same "
        "teacher find it; memory: of each process of this run alone.",
    )
    dtype: Literal["float32", "float16"] = Field(
        default="float32",
        description="How predictions and maps are kept. float16 takes half the room, and rounds; statistics stay in "
        "float32.",
    )
    limit_mib: int = Field(
        default=16384,
        ge=1,
        le=2**30,
        description="MiB that are kept at most: of this teacher on disk, or of each process in memory. Beyond it no "
        "more is kept, and the teacher runs for the rest.",
    )


def refuse_unrepeatable(augment: AugmentConfig) -> None:
    """Raises a fault, as a validator of a whole section does, where a training image is shown otherwise each time."""
    for name in ("mosaic", "affine", "crop", "hsv", "mixup"):
        if getattr(augment, name) is not None:
            what, remedy = f"{name} shows another one each time", f"leave `augment.{name}` out"
            raise refused(f"{KEEPS}, and {what}; {remedy}, or `distill.cache`", "augment", name)
    for name, sides in (("letterbox", augment.letterbox or []), ("short_edges", augment.short_edges)):
        if len(sides) > 1:
            what = f"its size is drawn anew from {len(sides)} {name} each time"
            raise refused(f"{KEEPS}, and {what}; give one of them, or leave `distill.cache` out", "augment", name)


def canvas(augment: AugmentConfig) -> Size | None:
    """(height, width) of each training batch of a repeatable view; None: it depends on the images that are in it."""
    if augment.letterbox is not None:
        return (augment.letterbox[0],) * 2
    if augment.keep_ratio:
        return None
    return padded((augment.short_edges[0],) * 2, augment.pad_to)


def canvases(augment: AugmentConfig, sizes: Iterable[Size]) -> set[Size]:
    """Of the images of these (height, width); with more than one the batches' own are any that cover some of them."""
    if (one := canvas(augment)) is not None:
        return {one}
    edge, long_edge = augment.short_edges[0], augment.long_edge
    return {padded(fitted(size, edge, long_edge), augment.pad_to) for size in sizes}


def varying(found: set[Size]) -> str:
    """What keeps these canvases from being one, in words; empty where they are."""
    if len(found) < 2:
        return ""
    least, most = min(found), max(found)
    sizes = f"from {least[1]} x {least[0]} to {most[1]} x {most[0]} pixels"
    return f"{KEEPS} on its canvas, and a batch of these is padded to the largest of them, {sizes}: another each time"
