"""What the header of a file says of the backbone that is to begin with it."""

from __future__ import annotations

from typing import Any

import pytest

from api.services.submission.backbone_init import misfit
from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.weights.header import WeightsHeader
from crosskd.spec.weights.shapes import backbone_shapes

VIT = {"width": 16, "heads": 2, "maps": [1, 2], "patch": 4}


def header(**backbone: Any) -> WeightsHeader:
    """Of a file with its tensors, by the names of whoever published such ones."""
    config = BackboneConfig.model_validate(backbone)
    return WeightsHeader({name.removeprefix("net."): x for name, x in backbone_shapes(config).items()}, {})


@pytest.mark.parametrize(
    ("given", "changed", "said"),
    [
        ({"name": "resnet18", "width": 16}, {"width": 8}, "of width 16, not 8"),
        ({"name": "rt_detr_resnet18", "width": 64}, {"width": 16}, "of width 64, not 16: embedder.embedder.0"),
        ({"name": "hgnet_v2_b4"}, {"width": 24}, "of width 48, not 24: embedder.stem1.convolution.weight is [32,"),
        ({"name": "lw_detr_vit", "vit": VIT}, {"vit": {**VIT, "maps": [1]}}, ""),  # blocks that nobody needs
        (
            {"name": "lw_detr_vit", "vit": VIT},
            {"vit": {**VIT, "image_side": 16}},
            "position_embeddings is [1, 3137, 16]",
        ),
        (
            {"name": "rf_detr_dinov2", "vit": VIT},
            {"vit": {**VIT, "width": 32}},
            "cls_token is [1, 1, 16], not [1, 1, 32]",
        ),
    ],
)
def test_a_file_of_other_sizes_is_told_by_what_it_has(given: Any, changed: Any, said: str) -> None:
    asked = BackboneConfig.model_validate(given | changed)
    fault = misfit(asked, header(**given), "w.safetensors", "/init")
    assert said in ("" if fault is None else fault.detail)
    assert (fault is None) == (not said)
    if fault is not None and "width" in changed:
        assert f"Set `width` of this backbone to {BackboneConfig.model_validate(given).width}" in fault.remedy
