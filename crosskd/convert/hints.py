"""What a file of another project cannot say of a detector, in words for who builds it there."""

from __future__ import annotations

from collections.abc import Mapping

from crosskd.convert import mmdet_regions
from crosskd.convert.formats import PROJECTS, Format
from crosskd.convert.torchvision_regions import MOBILENET
from crosskd.spec import registry
from crosskd.spec.config import ModelConfig
from crosskd.weights.description import Description


def hints(model: ModelConfig, classes: int, target: Format) -> list[str]:
    """How to say in the other project what of a `model` is in no tensor."""
    if target == "native":  # it says it itself
        return []
    if target == "transformers":  # so does this, but for what is around images
        padding = model.pixels.padding
        told = f"its images were padded with {padding}, and transformers pads with what is 0 once normalised"
        return [] if padding is None else [told]
    if target == "mmdet":
        pixels, post = model.pixels, model.postprocess
        return [
            f"in the {PROJECTS[target]} config: num_classes={classes}; "
            f"{mmdet_regions.knobs(model) if model.two_stage else _mmdet_knobs(model)}"
            f"mean={list(pixels.mean)}, std={list(pixels.std)}, bgr_to_rgb={pixels.order == 'rgb'}; "
            f"score_thr={post.score_threshold:g}, nms iou_threshold={post.nms_iou:g}, nms_pre={post.pre_nms}, "
            f"max_per_img={post.max_detections}"
        ]
    if model.two_stage:
        return [_two_stage(model, classes)]
    mean, std = ([round(value / 255, 6) for value in values] for values in (model.pixels.mean, model.pixels.std))
    post = model.postprocess
    notes = [
        f"build it in {PROJECTS[target]} with {_builder(model)}, num_classes={classes}, image_mean={mean}, "
        f"image_std={std}, score_thresh={post.score_threshold:g}, nms_thresh={post.nms_iou:g}, "
        f"detections_per_img={post.max_detections}, topk_candidates={post.pre_nms}"
    ]
    if model.backbone.norm_eps is not None:
        notes.append(f"set the eps of its backbone's norms to {model.backbone.norm_eps:g}: the file cannot say it")
    return notes


def _two_stage(model: ModelConfig, classes: int) -> str:
    """torchvision counts the background as a class."""
    mean, std = ([round(value / 255, 6) for value in values] for values in (model.pixels.mean, model.pixels.std))
    post, regions = model.postprocess, model.regions
    assert regions is not None
    name = {
        ("resnet50", "v1"): "fasterrcnn_resnet50_fpn",
        ("resnet50", "v2"): "fasterrcnn_resnet50_fpn_v2",
        (MOBILENET, "v1"): "fasterrcnn_mobilenet_v3_large_fpn",
    }.get((model.backbone.name, regions.version))
    plain = name is not None and (model.neck.channels, regions.channels) == (256, 1024)
    built = (
        f"{name}(weights=None, weights_backbone=None)" if plain else f"its FasterRCNN class on {model.backbone.name}"
    )
    return (
        f"build it in torchvision with {built}, num_classes={classes + 1} (the background is the first), "
        f"image_mean={mean}, image_std={std}, box_score_thresh={post.score_threshold:g}, "
        f"box_nms_thresh={post.nms_iou:g}, box_detections_per_img={post.max_detections}, "
        f"rpn_pre_nms_top_n_test={post.pre_nms}, rpn_post_nms_top_n_test={regions.proposals}, "
        f"rpn_nms_thresh={regions.rpn_nms_iou:g}, rpn_score_thresh={regions.rpn_score_threshold:g}, "
        f"bbox_reg_weights={tuple(round(1 / deviation, 6) for deviation in regions.box_stds)}"
    )


def image_hints(source: Format, extra: Mapping[str, str], target: Format) -> list[str]:
    """How images are to be resized. `extra` is what a file says of itself beside model and classes."""
    if "augment" not in extra:
        return []
    antialias = Description("the file", extra).image_settings()["antialias"]
    if target == "native":
        return [] if antialias else [f"its images are resized without antialiasing, as {PROJECTS[source]} does"]
    if target == "transformers":
        return [] if antialias else ["its images were resized without antialiasing, and transformers resizes with it"]
    if antialias:
        return [f"it was trained on images resized with antialiasing, which {PROJECTS[target]} resizes without"]
    return []


def _mmdet_knobs(model: ModelConfig) -> str:
    """What of a model shapes no tensor there, and may differ from the defaults of its classes."""
    neck, head = model.neck, model.head
    said = (
        []
        if neck.kind != "fpn"
        else [
            f"neck add_extra_convs='{'on_input' if neck.p6_from == 'c5' else 'on_output'}', "
            f"relu_before_extra_convs={neck.relu_before_p7}"
        ]
    )
    if registry.BACKBONES[model.backbone.name].family == "resnet":
        said.append(f"backbone style='{model.backbone.style}'")
    if head.norm == "group":
        said.append(f"bbox_head norm_cfg=dict(type='GN', num_groups={head.norm_groups})")
    if neck.kind == "pafpn":
        said.append(f"neck type='CSPNeXtPAFPN', num_csp_blocks={neck.blocks}")
    if neck.kind == "yolox_pafpn":
        said.append(f"neck type='YOLOXPAFPN', num_csp_blocks={neck.blocks}, use_depthwise={neck.depthwise}")
    if model.detector == "yolox":
        said.append(f"bbox_head type='YOLOXHead', use_depthwise={head.depthwise}")
    elif model.detector == "rtmdet":
        said.append(f"bbox_head type='RTMDetSepBNHead', share_conv=True, exp_on_reg={head.exp_on_reg}")
    elif model.detector == "fcos":
        said.append(
            f"bbox_head norm_on_bbox={head.norm_on_bbox}, centerness_on_reg={head.centerness_on_reg}, "
            f"conv_bias={head.tower_bias}, center_sampling={head.center_sampling}"
        )
    else:
        said.append(f"anchor_generator octave_base_scale={model.anchor_scale:g}")
    if model.detector == "retinanet":
        said.append(f"scales_per_octave={head.octaves}, ratios={list(head.ratios)}")
    return "".join(f"{part}; " for part in said)


def _builder(model: ModelConfig) -> str:
    parts = (model.neck.channels, model.head.depth, model.neck.p6_from, model.head.norm)
    known = {
        ("retinanet", (256, 4, "p5", "none")): "retinanet_resnet50_fpn",
        ("retinanet", (256, 4, "c5", "group")): "retinanet_resnet50_fpn_v2",
        ("fcos", (256, 4, "p5", "group")): "fcos_resnet50_fpn",
    }
    if model.backbone.name == "resnet50" and (name := known.get((model.detector, parts))) is not None:
        return f"{name}(weights=None, weights_backbone=None)"
    return f"its {'RetinaNet' if model.detector == 'retinanet' else 'FCOS'} class on a {model.backbone.name} with FPN"
