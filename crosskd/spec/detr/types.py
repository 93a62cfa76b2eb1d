"""The DETRs that transformers has and this project trains, by their names there: a closed list. Imports no torch.

Its models, losses and matchers are used as they are. A model is built of a configuration made here, and of nothing that
a file names: nothing is fetched, and no code that comes with a checkpoint is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

TypeName = Literal["deformable_detr", "rt_detr", "rt_detr_v2", "d_fine", "lw_detr", "rf_detr"]
LIBRARY = "transformers"
EXTRA = "detr"


@dataclass(frozen=True)
class ModelType:
    """A model type of the library: its classes, and how knobs of `DetrConfig` are called there."""

    config: str  # class of its configuration, in `transformers`
    model: str
    module: str  # where the model is defined
    knobs: Mapping[str, tuple[str, ...]]  # ours -> the library's, each
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of knobs, where they differ from the section's
    fixed: Mapping[str, Any] = field(default_factory=dict)  # the library's values that are always so
    fits_maps: bool = True  # whether it is told how many channels the backbone's maps and the encoder's have
    masked: bool = False  # whether it is told where an image is padding: boxes are then shares of the image itself
    one_map: bool = False  # whether it reads one map, and no list of them
    max_detections: int = 300
    backbone: str | None = None  # the only one that it has; None: any that gives C3..C5


_COMMON = {
    "heads": ("encoder_attention_heads", "decoder_attention_heads"),
    "encoder_layers": ("encoder_layers",),
    "decoder_layers": ("decoder_layers",),
    "queries": ("num_queries",),
    "dropout": ("dropout",),
}
_REAL_TIME = {
    **_COMMON,
    "width": ("d_model",),
    "encoder_width": ("encoder_hidden_dim",),
    "feedforward": ("decoder_ffn_dim",),
    "encoder_feedforward": ("encoder_ffn_dim",),
    "points": ("decoder_n_points",),
    "denoising": ("num_denoising",),
    "expansion": ("hidden_expansion",),
}
_WINDOWED = {
    "width": ("d_model",),
    "heads": ("decoder_self_attention_heads",),
    "cross_heads": ("decoder_cross_attention_heads",),
    "feedforward": ("decoder_ffn_dim",),
    "decoder_layers": ("decoder_layers",),
    "queries": ("num_queries",),
    "points": ("decoder_n_points",),
    "expansion": ("hidden_expansion",),
    "groups": ("group_detr",),
    "dropout": ("dropout",),
}
_WINDOWED_DEFAULTS = {"feedforward": 2048, "decoder_layers": 3, "expansion": 0.5, "levels": 1}
_REAL_TIME_DEFAULTS = {"encoder_layers": 1, "dropout": 0.0, "levels": 3}

TYPES: dict[TypeName, ModelType] = {
    "deformable_detr": ModelType(
        "DeformableDetrConfig",
        "DeformableDetrForObjectDetection",
        "transformers.models.deformable_detr.modeling_deformable_detr",
        knobs={
            **_COMMON,
            "width": ("d_model",),
            "feedforward": ("encoder_ffn_dim", "decoder_ffn_dim"),
            "points": ("encoder_n_points", "decoder_n_points"),
            "levels": ("num_feature_levels",),
            "box_refine": ("with_box_refine",),
        },
        # The library's own default leaves the layers but the last without a loss, and its kernels come from a hub.
        fixed={"auxiliary_loss": True, "disable_custom_kernels": True},
        fits_maps=False,
        masked=True,
        max_detections=100,
    ),
    "rt_detr": ModelType(
        "RTDetrConfig",
        "RTDetrForObjectDetection",
        "transformers.models.rt_detr.modeling_rt_detr",
        knobs=_REAL_TIME,
        defaults=_REAL_TIME_DEFAULTS,
    ),
    "rt_detr_v2": ModelType(
        "RTDetrV2Config",
        "RTDetrV2ForObjectDetection",
        "transformers.models.rt_detr_v2.modeling_rt_detr_v2",
        knobs=_REAL_TIME,
        defaults=_REAL_TIME_DEFAULTS,
    ),
    "d_fine": ModelType(
        "DFineConfig",
        "DFineForObjectDetection",
        "transformers.models.d_fine.modeling_d_fine",
        knobs={
            **_REAL_TIME,
            "level_points": ("decoder_n_points",),
            "bins": ("max_num_bins",),
            "depth": ("depth_mult",),
            "reg_scale": ("reg_scale",),
        },
        defaults=_REAL_TIME_DEFAULTS,
    ),
    "lw_detr": ModelType(
        "LwDetrConfig",
        "LwDetrForObjectDetection",
        "transformers.models.lw_detr.modeling_lw_detr",
        knobs={**_WINDOWED, "scales": ("projector_scale_factors",)},
        defaults={**_WINDOWED_DEFAULTS, "dropout": 0.0},
        fits_maps=False,
        masked=True,
        backbone="lw_detr_vit",
    ),
    "rf_detr": ModelType(
        "RfDetrConfig",
        "RfDetrForObjectDetection",
        "transformers.models.rf_detr.modeling_rf_detr",
        knobs=_WINDOWED,
        defaults=_WINDOWED_DEFAULTS,
        fits_maps=False,
        masked=True,
        one_map=True,
        backbone="rf_detr_dinov2",
    ),
}
