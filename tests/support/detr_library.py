"""The smallest DETR of each model type that transformers builds, with random weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from crosskd.detectors.detr.ports.port import Memory

WIDTH, QUERIES, CLASSES = 32, 6, 3
_DEEP = {"d_model": WIDTH, "decoder_layers": 2, "decoder_ffn_dim": 32, "num_queries": QUERIES, "num_labels": CLASSES}
_HEADS = {"encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 32}
_STAGES = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "layer_type": "basic"}
_HYBRID = {
    "encoder_hidden_dim": WIDTH,
    "encoder_in_channels": [8, 16, 16],
    "decoder_in_channels": [WIDTH] * 3,
    "num_denoising": 4,
}
_WINDOWS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "out_indices": [1, 2]}
_GROUPS = {"decoder_self_attention_heads": 4, "decoder_cross_attention_heads": 4, "group_detr": 2}

CONFIGS: dict[str, dict[str, Any]] = {
    "deformable_detr": {
        **_DEEP,
        **_HEADS,
        "encoder_layers": 1,
        "num_feature_levels": 3,
        "two_stage": True,
        "with_box_refine": True,
        "two_stage_num_proposals": QUERIES,
        "backbone_config": {"model_type": "resnet", **_STAGES, "out_features": ["stage2", "stage3", "stage4"]},
    },
    "rt_detr": {
        **_DEEP,
        **_HEADS,
        **_HYBRID,
        "backbone_config": {"model_type": "rt_detr_resnet", **_STAGES, "out_indices": [2, 3, 4]},
    },
    "d_fine": {
        **_DEEP,
        **_HEADS,
        **_HYBRID,
        "max_num_bins": 8,
        "backbone_config": {
            "model_type": "hgnet_v2",
            "embedding_size": 8,
            "hidden_sizes": [8, 8, 16, 16],
            "stem_channels": [3, 4, 8],
            "stage_in_channels": [8, 8, 8, 16],
            "stage_mid_channels": [4, 4, 8, 8],
            "stage_out_channels": [8, 8, 16, 16],
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [1, 1, 1, 1],
            "stage_downsample": [False, True, True, True],
            "stage_light_block": [False, False, True, True],
            "stage_kernel_size": [3, 3, 5, 5],
            "out_indices": [2, 3, 4],
        },
    },
    "lw_detr": {
        **_DEEP,
        **_GROUPS,
        "projector_scale_factors": [1.0, 0.5],
        "backbone_config": {
            "model_type": "lw_detr_vit",
            **_WINDOWS,
            "image_size": 64,
            "pretrain_image_size": 64,
            "window_block_indices": [0],
            "num_windows": 4,
        },
    },
    "rf_detr": {
        **_DEEP,
        **_GROUPS,
        "backbone_config": {
            "model_type": "rf_detr_dinov2",
            **_WINDOWS,
            "image_size": 64,
            "patch_size": 16,
            "num_windows": 2,
        },
    },
}
CONFIGS["rt_detr_v2"] = CONFIGS["rt_detr"]


def build(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """The library's `...ForObjectDetection`, shaken: as built, heads and attention say next to nothing."""
    from transformers import AutoConfig, AutoModelForObjectDetection

    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **changes})
    model = AutoModelForObjectDetection.from_config(config)
    shake(model)
    return model.eval()


def batch(seed: int = 0, side: int = 64) -> tuple[Tensor, Tensor]:
    """Two images and their mask; the second is padded on the right and at the bottom, where the type allows it."""
    torch.manual_seed(seed)
    images, mask = torch.randn(2, 3, side, side), torch.ones(2, side, side, dtype=torch.long)
    mask[1, 3 * side // 4 :] = 0
    mask[1, :, side // 2 :] = 0
    return images * mask[:, None], mask


def labels() -> list[dict[str, Tensor]]:
    """The objects of `batch`, as transformers takes them."""
    first = {"class_labels": torch.tensor([0, 2]), "boxes": torch.tensor([[0.3, 0.3, 0.2, 0.2], [0.6, 0.4, 0.3, 0.2]])}
    return [first, {"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.2, 0.3, 0.2, 0.2]])}]


def changed(memory: Memory) -> Memory:
    """Another one of the same shape."""
    return replace(memory, cells=memory.cells.flip(1))


def of_each_layer(outputs: Any, layers: int) -> list[tuple[Tensor, Tensor]]:
    """Logits and boxes of all queries, as a model in training gives them: each [B, Q, ...]."""
    if hasattr(outputs, "intermediate_logits"):  # D-FINE's begin with what it says before the first layer's heads
        said = outputs.intermediate_logits[:, -layers:], outputs.intermediate_reference_points[:, -layers:]
        return list(zip(*(tensor.unbind(1) for tensor in said), strict=True))
    told = [*outputs.auxiliary_outputs, {"logits": outputs.logits, "pred_boxes": outputs.pred_boxes}]
    return [(each["logits"], each["pred_boxes"]) for each in told]


@torch.no_grad()
def shake(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "backbone" not in name:
            parameter.add_(torch.randn_like(parameter) * 0.1)
