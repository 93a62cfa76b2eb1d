"""A `config.json` of transformers as a model: the published sizes, and what the JSON beside it says of images."""

from __future__ import annotations

import json
from typing import Any

import pytest

from crosskd.errors import WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.folder_config import config_of, preprocessor_of, read_config
from crosskd.spec.detr.folder_contradictions import contradictions
from crosskd.spec.evaluate_export import scale_of

# As the library's own scripts make the published configurations (convert_..._original_pytorch_checkpoint_to_hf.py).
_R18 = {"model_type": "rt_detr_resnet", "hidden_sizes": [64, 128, 256, 512], "depths": [2] * 4, "layer_type": "basic"}
_R50 = {"model_type": "rt_detr_resnet"}
_WIDE = {"encoder_ffn_dim": 2048, "encoder_hidden_dim": 384, "decoder_in_channels": [384] * 3}
_HG = {"model_type": "hgnet_v2", "layer_type": "basic", "embedding_size": 32, "out_indices": [2, 3, 4]}
_B0 = {
    "hidden_sizes": [128, 256, 512, 1024], "stem_channels": [3, 16, 16], "stage_in_channels": [16, 64, 256, 512],
    "stage_mid_channels": [16, 32, 64, 128], "stage_out_channels": [64, 256, 512, 1024],
    "stage_num_blocks": [1, 1, 2, 1], "stage_numb_of_layers": [3] * 4, "use_learnable_affine_block": True,
}  # fmt: skip
_B2 = {
    "hidden_sizes": [192, 384, 768, 1536], "stem_channels": [3, 24, 32], "stage_in_channels": [32, 96, 384, 768],
    "stage_mid_channels": [32, 64, 128, 256], "stage_out_channels": [96, 384, 768, 1536],
    "stage_num_blocks": [1, 1, 3, 1], "stage_numb_of_layers": [4] * 4, "use_learnable_affine_block": True,
}  # fmt: skip
_B5 = {
    "hidden_sizes": [256, 512, 1024, 2048], "stem_channels": [3, 32, 64], "stage_in_channels": [64, 128, 512, 1024],
    "stage_mid_channels": [64, 128, 256, 512], "stage_out_channels": [128, 512, 1024, 2048],
    "stage_num_blocks": [1, 2, 5, 2], "stage_numb_of_layers": [6] * 4,
}  # fmt: skip
_LIGHT = {"model_type": "lw_detr_vit", "image_size": 1024, "hidden_size": 192, "num_attention_heads": 12}
_LIGHT |= {"num_hidden_layers": 10, "window_block_indices": [0, 1, 3, 6, 7, 9], "out_indices": [3, 5, 6, 10]}
_TINY = {"num_hidden_layers": 6, "window_block_indices": [0, 2, 4], "out_indices": [2, 4, 6]}
_PLAIN = {"projector_scale_factors": [1.0], "decoder_n_points": 2, "d_model": 256}
_TWO = {"projector_scale_factors": [2.0, 0.5], "decoder_n_points": 4, "d_model": 384}
_TWO |= {"decoder_self_attention_heads": 12, "decoder_cross_attention_heads": 24}


def _light(width: int, **changes: Any) -> dict[str, Any]:
    return {"model_type": "lw_detr", **changes, "backbone_config": {**_LIGHT, "hidden_size": width}}


def _roboflow(patch: int, side: int, windows: int, stages: tuple[int, ...] = (3, 6, 9, 12)) -> dict[str, Any]:
    backbone = {"model_type": "rf_detr_dinov2", "hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
    backbone |= {"image_size": side, "patch_size": patch, "num_windows": windows}
    backbone["out_features"] = [f"stage{stage}" for stage in stages]  # type: ignore[assignment]
    return {"model_type": "rf_detr", **_PLAIN, "backbone_config": backbone}


_POINTS = {"decoder_n_points": [3, 6, 3]}
PUBLISHED: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
    "rtdetr_r18vd": (
        {"model_type": "rt_detr", "backbone_config": _R18, "encoder_in_channels": [128, 256, 512]}
        | {"hidden_expansion": 0.5, "decoder_layers": 3, "backbone": None, "use_timm_backbone": False},
        "rt_detr_resnet18",
        {"expansion": 0.5, "decoder_layers": 3, "encoder_layers": 1, "dropout": 0.0},
    ),
    "rtdetr_r50vd": ({"model_type": "rt_detr"}, "rt_detr_resnet50", {}),
    "rtdetr_v2_r101vd": (
        {
            "model_type": "rt_detr_v2",
            "backbone_config": {**_R50, "depths": [3, 4, 23, 3]},
            **_WIDE,
        },
        "rt_detr_resnet101",
        {"encoder_width": 384, "encoder_feedforward": 2048, "width": 256},
    ),
    "dfine_s": (
        {"model_type": "d_fine", "backbone_config": _HG | _B0, "encoder_in_channels": [256, 512, 1024], **_POINTS}
        | {"decoder_layers": 3, "hidden_expansion": 0.5, "depth_mult": 0.34},
        "hgnet_v2_b0",
        {"depth": 0.34, "level_points": [3, 6, 3]},
    ),
    "dfine_m": (
        {"model_type": "d_fine", "backbone_config": _HG | _B2, "encoder_in_channels": [384, 768, 1536], **_POINTS}
        | {"decoder_layers": 4, "depth_mult": 0.67},
        "hgnet_v2_b2",
        {"depth": 0.67},
    ),
    "dfine_l": ({"model_type": "d_fine", **_POINTS}, "hgnet_v2_b4", {}),
    "dfine_x": ({"model_type": "d_fine", "backbone_config": _HG | _B5, **_WIDE, **_POINTS}, "hgnet_v2_b5", {}),
    "lwdetr_tiny": (
        {"model_type": "lw_detr", **_PLAIN, "num_queries": 100, "backbone_config": _LIGHT | _TINY},
        "lw_detr_vit",
        {"queries": 100, "points": 2, "scales": [1.0], "cross_heads": 16, "groups": 13},
    ),
    "lwdetr_small": (_light(192, **_PLAIN), "lw_detr_vit", {}),
    "lwdetr_medium": (_light(384, **_PLAIN), "lw_detr_vit", {}),
    "lwdetr_large": (_light(384, **_TWO), "lw_detr_vit", {"scales": [2.0, 0.5], "heads": 12, "width": 384}),
    "lwdetr_xlarge": (_light(768, **_TWO), "lw_detr_vit", {}),
    "rf-detr-nano": (_roboflow(16, 384, 2) | {"decoder_layers": 2}, "rf_detr_dinov2", {"decoder_layers": 2}),
    "rf-detr-small": (_roboflow(16, 512, 2), "rf_detr_dinov2", {"points": 2}),
    "rf-detr-base": (_roboflow(14, 518, 4, (2, 5, 8, 11)), "rf_detr_dinov2", {}),
    "rf-detr-medium": (_roboflow(16, 576, 2) | {"decoder_layers": 4}, "rf_detr_dinov2", {}),
    "rf-detr-large": (_roboflow(16, 704, 2) | {"decoder_layers": 4}, "rf_detr_dinov2", {}),
    "deformable-detr-with-box-refine": (
        {"model_type": "deformable_detr", "backbone": "resnet50", "use_timm_backbone": True, "with_box_refine": True},
        "resnet50",
        {"box_refine": True, "levels": 4, "dropout": 0.1},
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_ours_and_go_back(name: str) -> None:
    config, backbone, knobs = PUBLISHED[name]
    told = read_config(name, config, None)
    assert told.model.detector == config["model_type"]
    assert (told.model.backbone.name, told.model.backbone.init) == (backbone, "random")
    assert told.model.detr is not None
    assert {knob: getattr(told.model.detr, knob) for knob in knobs} == knobs
    assert told.model == ModelConfig.model_validate(told.model.model_dump(mode="json"))
    again = read_config("again", config_of(told.model, ["a"]), preprocessor_of(told.model, {}))
    assert (again.model, again.classes) == (told.model, ["a"])


def test_what_is_published_in_other_sizes_is_refused_by_name() -> None:
    nano = _HG | _B0 | {"out_indices": [3, 4]}
    for config, match in (
        ({"model_type": "d_fine", "backbone_config": nano, "num_feature_levels": 2}, "num_feature_levels: 2"),
        ({"model_type": "yolos"}, "of model type 'yolos'"),
        (_roboflow(16, 312, 1) | {"architectures": ["RfDetrForInstanceSegmentation"]}, "which finds masks"),
        ({"model_type": "deformable_detr", "two_stage": True}, "two_stage: true"),
        ({"model_type": "deformable_detr", "dilation": True}, "dilation: true"),
        (
            {"model_type": "deformable_detr", "num_feature_levels": 1},
            r"num_feature_levels: .* 3 levels at least \(it is 1\)",
        ),
    ):
        with pytest.raises(WeightsError, match=match):
            read_config("published", config, None)


NONE = "there is no preprocessor_config.json: images are normalised as published for the model type"
AS_EDGES = {"shortest_edge": 800, "longest_edge": 1200}


@pytest.mark.parametrize(
    ("told", "mean", "std", "scale"),
    [
        (None, 0.0, 255.0, {}),
        (
            {"do_normalize": False, "image_mean": [1, 1, 1], "size": {"height": 640, "width": 640}},
            0.0,
            255.0,
            {"short_edges": [640], "long_edge": 640, "pad_to": 32, "keep_ratio": False},
        ),
        (
            {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.25] * 3},
            127.5,
            63.75,
            {},
        ),
        (
            {"do_rescale": False, "do_normalize": True, "image_mean": [100] * 3, "image_std": [50] * 3}
            | {"size": {"shortest_edge": 800, "longest_edge": 1333}},
            100.0,
            50.0,
            {"short_edges": [800], "long_edge": 1333, "pad_to": 32},
        ),
        ({"do_rescale": False, "size": {"height": 640, "width": 480}}, 0.0, 1.0, {}),
        ({"size": 800, "max_size": 1200}, 0.0, 255.0, {"short_edges": [800], "long_edge": 1200, "pad_to": 32}),
    ],
)
def test_the_preprocessor_says_pixels_and_size(told: Any, mean: float, std: float, scale: dict[str, Any]) -> None:
    found = read_config("folder", {"model_type": "rt_detr"}, told)
    assert found.model.pixels.mean == (mean,) * 3
    assert found.model.pixels.std == (std,) * 3
    assert found.augment == {"antialias": True, **scale}
    if not scale:
        size = json.dumps((told or {}).get("size"))
        said = f"has size {size}, which is not taken" if size != "null" else "has no size"
        said = f"preprocessor_config.json {said}: by default images are evaluated at 800 x 1333"
        assert found.notes == ([said] if told else [NONE])
    else:
        evaluated = scale_of(found.augment)
        assert evaluated.keep_ratio == scale.get("keep_ratio", True)
        size = preprocessor_of(found.model, found.augment)["size"]
        assert size == (told["size"] if isinstance(told["size"], dict) else AS_EDGES)  # and back


def test_classes_are_named_once_and_generic_names_are_none() -> None:
    names = ["N/A", "person", "N/A"]
    told = read_config("coco", {"model_type": "rt_detr", "id2label": dict(zip("012", names, strict=True))}, None)
    assert (told.classes, told.count) == (["N/A 0", "person", "N/A 2"], 3)
    generic = {"0": "LABEL_0", "1": "LABEL_1"}
    told = read_config("new", {"model_type": "rt_detr", "id2label": generic, "weight_loss_bbox": 2.0}, None)
    assert (told.classes, told.count) == (None, 2)
    assert told.notes[0] == "weight_loss_bbox is 2.0 there; this project trains with 5.0"


@pytest.mark.parametrize(
    ("part", "knobs", "places"),
    [
        ("vit", {"window_blocks": None}, []),  # the published ones
        ("vit", {"heads": 6}, ["/backbone/vit"]),
        ("vit", {"window_blocks": [0]}, ["/backbone/vit"]),
        ("detr", {"groups": 12}, ["/detr/groups"]),
        ("detr", {"dropout": 0.5}, []),
    ],
)
def test_a_section_contradicts_a_folder_where_it_is_of_another_model(
    part: str, knobs: dict[str, Any], places: list[str]
) -> None:
    told = read_config("lwdetr_small", PUBLISHED["lwdetr_small"][0], None)
    values = told.model.model_dump(mode="json")
    (values["detr"] if part == "detr" else values["backbone"]["vit"]).update(knobs)
    found = contradictions(ModelConfig.model_validate(values), told, "folder", "teacher.model")
    assert [each.place for each in found] == places


def test_what_is_written_of_a_basic_resnet_in_caffe_style_is_read() -> None:
    """Its blocks stride where PyTorch's do: the library's field for it is of bottlenecks alone."""
    backbone = {"name": "resnet18", "style": "caffe"}
    model = ModelConfig.model_validate({"detector": "rt_detr", "backbone": backbone})
    again = read_config("again", config_of(model, ["a"]), None).model
    assert (again.backbone.name, again.backbone.style) == ("resnet18", "pytorch")
