"""Class names as the command line gives them."""

from __future__ import annotations

from pathlib import Path

from torchvision.models.detection import RetinaNet_ResNet50_FPN_Weights

from crosskd.data.annotations import read_classes
from crosskd.errors import ConfigError
from crosskd.spec.unused_classes import BACKGROUND, UNUSED, numbered

# Classes of the files that others publish, which may not name them; Faster R-CNN has no class of the background.
_PUBLISHED = {"mmdet": (80,), "megvii": (80,), "torchvision": (90, 91)}
MOST_DIGITS = 9  # of a count; a longer number is a name


def coco_classes(count: int) -> list[str]:
    """COCO's names in label order: the 80 of its data, or torchvision's 91, which stand at their category ids, or the
    90 of its Faster R-CNN, without the background.

    Of the 91, the background and the ids that COCO does not use are called by their id too: names are unique.
    Raises `ConfigError` for another count.
    """
    names: list[str] = RetinaNet_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    if count in (len(names), len(names) - 1):
        return numbered(names)[-count:]
    used = [name for name in names if name not in (BACKGROUND, UNUSED)]
    if count == len(used):
        return used
    raise ConfigError(
        f"{count} is neither the {len(used)} classes of COCO nor torchvision's {len(names)} or {len(names) - 1}",
        remedy="Give the names themselves, separated by commas.",
    )


def published_classes(project: str, count: int) -> list[str] | None:
    """COCO's names, for a file of another project with as many classes as those that it publishes; else None."""
    return coco_classes(count) if count in _PUBLISHED.get(project, ()) else None


def parse_classes(text: str) -> list[str]:
    """`a,b,c`, or 80 or 91 for COCO's, or a COCO annotation file, whose categories are taken by id.

    Raises `ConfigError`, or `DataError` for an annotation file that is none.
    """
    if text.isdecimal() and len(text) <= MOST_DIGITS:
        return coco_classes(int(text))
    if text.endswith(".json"):
        return read_classes(Path(text))
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(f"--classes {text!r} has an empty name", remedy="Write a,b,c.")
    return names
