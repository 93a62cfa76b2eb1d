"""The teacher cache of a specification: whether its images' views come again, and what it will keep of them."""

from __future__ import annotations

from typing import Any

from api.services.submission.datasets import CheckResult
from api.services.submission.findings import Findings
from crosskd.spec.config import TrainConfig
from crosskd.spec.data.image_size import Size
from crosskd.spec.distill.teacher_cache import ONE_CANVAS, canvas, canvases, varying
from crosskd.spec.distill.teacher_cache_size import told
from wire.jobs import DataWarning

POINTER = "/spec/distill/cache"


def check(config: TrainConfig, resolved: dict[str, Any], train: CheckResult | None, findings: Findings) -> None:
    """Add the fault of images that come on several canvases, or tell what is kept of each.

    `resolved` are the sections of `config` with what files and weights say, `train` is what its training file holds.
    Images without labels are judged by the training, which opens all of them.
    """
    if config.distill is None or config.distill.cache is None or train is None or train.use is None:
        return
    sizes = train.use["sizes"]
    found: set[Size] = set()
    if sizes is not None:
        found = canvases(config.augment, ((height, width) for height, width in sizes))
        if what := varying(found):
            findings.add(POINTER, what, ONE_CANVAS)
            return
    one = canvas(config.augment) or next(iter(found), None)
    data = config.data.model_copy(update={"classes": resolved["data"]["classes"]})
    known = config.model_copy(update={"data": data, "teacher": resolved["teacher"] or config.teacher})
    images = train.use["images"]
    detail = told(known, one, images)
    findings.warnings.append(
        DataWarning(pointer=POINTER, kind="teacher_cache", count=images, detail=detail, of="images", remedy="")
    )
