"""Folders that transformers itself writes: tiny DETRs of each type with random weights, on each kind of backbone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.folder_names import to_library
from crosskd.spec.detr.types import TYPES
from crosskd.spec.registry import BACKBONES
from crosskd.spec.weights.shapes import expected_shapes
from crosskd.weights.folder import write_folder
from tests.support.detr_library import shake

CLASSES = ["platelet", "red", "white"]
_SIZES = {"d_model": 32, "decoder_layers": 2, "decoder_ffn_dim": 24, "num_queries": 6, "encoder_attention_heads": 4}
_SIZES |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 40, "id2label": dict(enumerate(CLASSES))}
_WINDOWED = {name: _SIZES[name] for name in ("d_model", "decoder_layers", "decoder_ffn_dim", "num_queries", "id2label")}
_WINDOWED |= {"decoder_self_attention_heads": 4, "decoder_cross_attention_heads": 8, "decoder_n_points": 2}
_VIT = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 4, "patch_size": 4, "image_size": 32}
_HYBRID = {"encoder_hidden_dim": 64, "decoder_in_channels": [64] * 3, "num_denoising": 0}
_PLAIN = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1]}

# Each on the backbone that it is published with, and one on the library's plain ResNet.
KINDS: dict[str, dict[str, Any]] = {
    "deformable_detr": {
        "encoder_layers": 1, "encoder_ffn_dim": 24, "d_model": 64, "with_box_refine": True,
        "backbone_config": {**_PLAIN, "layer_type": "basic", "out_indices": [2, 3, 4]},
    },
    "rt_detr": {**_HYBRID, "hidden_expansion": 0.5, "backbone": "rt_detr_resnet_tiny"},
    "rt_detr_v2": {
        **_HYBRID, "encoder_hidden_dim": 32, "decoder_in_channels": [32] * 3, "backbone": "rt_detr_resnet18",
    },
    "d_fine": {
        **_HYBRID, "backbone": "hgnet_v2_b0", "decoder_n_points": [3, 6, 3], "depth_mult": 0.34, "reg_scale": 8.0,
        "max_num_bins": 8, "hidden_expansion": 0.5,
    },
    # Of four blocks three are read.
    "lw_detr": {
        "group_detr": 3, "projector_scale_factors": [2.0, 0.5], "backbone_config": {
            **_VIT, "model_type": "lw_detr_vit", "num_windows": 4, "window_block_indices": [0, 3],
            "pretrain_image_size": 24, "out_indices": [1, 3],
        },
    },
    "rf_detr": {
        "group_detr": 3, "dropout": 0.0, "backbone_config": {
            **_VIT, "model_type": "rf_detr_dinov2", "num_windows": 2, "out_features": ["stage2", "stage3"],
        },
    },
}  # fmt: skip


def build(kind: str, seed: int = 0, **changes: Any) -> Any:
    """The library's `...ForObjectDetection`, shaken: as built, its heads say next to nothing."""
    from transformers import AutoConfig, AutoModelForObjectDetection

    from crosskd.backbones.library import settings_of

    values = {**(_SIZES if TYPES[kind].backbone is None else _WINDOWED), **KINDS[kind], **changes}  # type: ignore[index]
    if name := values.pop("backbone", None):
        values["backbone_config"] = {**settings_of(name, 8), "out_indices": [2, 3, 4]}
        values["encoder_in_channels"] = list(BACKBONES[name].channels(8)[-3:])
    torch.manual_seed(seed)
    model = AutoModelForObjectDetection.from_config(AutoConfig.for_model(kind, **values))
    shake(model)
    for module in model.modules():
        if "BatchNorm" in type(module).__name__:
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def write(folder: Path, kind: str, *, unit: bool | None = None, **changes: Any) -> Any:
    """The model, saved to `folder` by the library; `unit`: with a preprocessor that only divides by 255, or not."""
    shards = {"max_shard_size": changes.pop("max_shard_size")} if "max_shard_size" in changes else {}
    model = build(kind, **changes)
    model.save_pretrained(folder, **shards)
    if unit is not None:
        told = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": not unit, "size": {"shortest_edge": 96}}
        told |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.25, 0.5]}
        (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return model


def craft(folder: Path, model: ModelConfig, classes: list[str]) -> None:
    """A folder whose tensors are all zeros, made without the library."""
    shapes = {to_library(name, model): shape for name, shape in expected_shapes(model, len(classes)).items()}
    state = {name: torch.zeros(shape) for name, shape in shapes.items() if name is not None}
    write_folder(folder, state, model=model, classes=classes, extra={})
