"""DETRs small enough for tests of a second: 32 channels, a layer or two, eight queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from crosskd.detectors.detector import Detector, build_detector
from crosskd.detectors.detr.ports.by_type import port_of
from crosskd.detectors.detr.view import DetrPass
from crosskd.spec.config import ModelConfig
from crosskd.spec.distill.needs import DecoderQueries
from crosskd.weights.native import read_weights
from tests.support import small

# Of each type what differs from the others in the way it is built, trained or decoded.
KNOBS: dict[str, dict[str, Any]] = {
    "deformable_detr": {"box_refine": True},
    "rt_detr": {"denoising": 8, "expansion": 0.5},
    "rt_detr_v2": {"denoising": 8},
    "d_fine": {"denoising": 8, "depth": 0.34, "bins": 8},
    "lw_detr": {"cross_heads": 4, "groups": 2, "scales": [2, 0.5]},
    "rf_detr": {"cross_heads": 4, "groups": 2},
}
# Blocks in windows and over the whole image, and several maps.
_VIT = {"width": 16, "heads": 2, "windows": 2, "patch": 16, "image_side": 64}
VITS: dict[str, dict[str, Any]] = {
    "lw_detr": {"name": "lw_detr_vit", "vit": {**_VIT, "maps": [1, 2], "window_blocks": [0]}},
    "rf_detr": {"name": "rf_detr_dinov2", "vit": {**_VIT, "maps": [2, 3]}},
}


def config(detector: str, **knobs: Any) -> ModelConfig:
    sizes = {"width": 32, "heads": 4, "feedforward": 32, "encoder_layers": 1, "decoder_layers": 2, "queries": 8}
    backbone = VITS.get(detector, {"name": "resnet_tiny", "width": 8})
    detr = {**sizes, **KNOBS[detector], **knobs}
    if detector in VITS:
        del detr["encoder_layers"]
    return ModelConfig.model_validate({"detector": detector, "backbone": backbone, "detr": detr})


def detector(kind: str, seed: int = 0, classes: int = small.CLASSES, **knobs: Any) -> Detector:
    """Its heads say different things of different queries: those of a new one begin at zero."""
    torch.manual_seed(seed)
    model = build_detector(config(kind, **knobs), classes)
    with torch.no_grad():
        for name, parameter in model.head.named_parameters():
            if parameter.dim() == 2 and "embed" in name:
                parameter.normal_(std=0.02 if "bbox" in name else 0.3)
    return model


@torch.no_grad()
def replays(path: Path, config: ModelConfig, classes: int) -> None:
    """Hold the trained model of a file, layer by layer from its own states on its own memory, bit for bit."""
    model = build_detector(config, classes, pretrained=False).eval()
    model.load_state_dict(read_weights(path)[0])
    images, targets = small.batch()
    made = model.view("teacher", model.features(images), targets, (DecoderQueries(None),))
    assert isinstance(made, DetrPass)
    port, recording = port_of(model.head), made.recording
    replayed = port.decode(recording.start, recording.memory)
    assert len(replayed) == len(recording.hidden) > 1
    for seen, hidden in zip(replayed, recording.hidden, strict=True):
        assert torch.equal(seen.hidden, hidden)
    assert torch.equal(replayed[-1].predictions.logits, made.output.logits)
    assert torch.equal(replayed[-1].predictions.boxes, made.output.pred_boxes)
