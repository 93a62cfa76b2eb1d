"""A weights file as a training leaves it, and images to use it on."""

from __future__ import annotations

import json
from pathlib import Path

from crosskd.data.demo import write_demo
from crosskd.detectors.detector import Detector
from crosskd.spec.config import DataConfig
from crosskd.weights.native import write_weights
from tests.support import small

CLASSES = ["A", "B", "E"]
SCALE = {"val_short_edge": 64, "long_edge": 96, "pad_to": 32}


def write_images(folder: Path) -> DataConfig:
    return write_demo(folder, train=1, val=4, size=96, classes=len(CLASSES), seed=2)


def detector() -> Detector:
    """What `write_finished` writes."""
    postprocess = {"score_threshold": 0.01, "pre_nms": 60, "max_detections": 40}
    return small.detector(1, depth=1, strides=[8, 16, 32], postprocess=postprocess).eval()


def write_finished(path: Path) -> Path:
    """Weights of a tiny detector, and beside them what ours say of themselves."""
    model = detector()
    extra = {"augment": json.dumps(SCALE)}
    write_weights(path, model.state_dict(), model=model.config, classes=CLASSES, extra=extra)
    return path
