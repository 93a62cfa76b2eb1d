"""Which detector a file of torchvision's holds, told by the names of its tensors alone. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

READ = "of torchvision's detectors RetinaNet, FCOS and Faster R-CNN are read"
INSTEAD = "Use one of these; a backbone alone goes to `backbone.init`."
_HEADS = ("head.classification_head.", "head.regression_head.", "roi_heads.")
# Parts of names that others have beside those of Faster R-CNN, and what each is.
_OTHERS = {"roi_heads.mask_": "a Mask R-CNN", "roi_heads.keypoint_": "a Keypoint R-CNN"}
_SSD = ".module_list."  # in names of its head: a layer for each level


@dataclass(frozen=True)
class Held:
    """One of our `detector`s, or in words what it is instead."""

    detector: str = ""
    other: str = ""


def torchvision_detector(names: Collection[str]) -> Held | None:
    """None where these are no names of a torchvision detector."""
    if not any(name.startswith(_HEADS) for name in names):
        return None
    for beginning, words in _OTHERS.items():
        if any(name.startswith(beginning) for name in names):
            return Held(other=f"{words} of torchvision's")
    if any(name.startswith("roi_heads.") for name in names):
        return Held("faster_rcnn")
    if any(_SSD in name for name in names):
        return Held(other="an SSD of torchvision's")
    return Held("fcos" if any("bbox_ctrness" in name for name in names) else "retinanet")
