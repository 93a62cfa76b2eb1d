"""The backbone in a `config.json` of transformers as one of ours, and the way back. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from crosskd.errors import WeightsError
from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.backbones.library import HGNET, RT_DETR_RESNET, hgnet_settings, resnet_settings
from crosskd.spec.registry import BACKBONES

PLAIN = "resnet"  # the model type of the library's own ResNet
TIMM = "timm_backbone"
_INDICES = [2, 3, 4]  # of its maps: those at strides 8, 16 and 32
_STAGES = ["stage2", "stage3", "stage4"]
_OF_TIMM = frozenset({"resnet18", "resnet34", "resnet50", "resnet101"})  # which are torchvision's under timm's names
_TIMM_DEFAULTS: Sequence[Any] = ({}, {"out_indices": _INDICES}, {"out_indices": _INDICES, "in_chans": 3})
# What changes nothing in the maps of a backbone, or follows of other fields.
FREE = frozenset(
    {
        "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "architectures",
        "chunk_size_feed_forward", "dtype", "torch_dtype", "id2label", "label2id", "num_labels", "initializer_range",
        "is_encoder_decoder", "output_attentions", "output_hidden_states", "problem_type", "return_dict",
        "stage_names", "transformers_version", "model_type", "out_features", "out_indices", "use_pretrained_backbone",
        "features_only", "freeze_batch_norm_2d", "use_cache",
    }
)  # fmt: skip
# What an HGNetV2's has of another network, and does not read; published D-FINEs say anything there.
_OF_HGNET = frozenset(
    {"embedding_size", "depths", "layer_type", "downsample_in_first_stage", "downsample_in_bottleneck"}
)


def settings_of(backbone: BackboneConfig) -> dict[str, Any]:
    """The `backbone_config` of one of ours. Raises `WeightsError` where the library has no such backbone."""
    entry = BACKBONES[backbone.name]
    if backbone.norm_eps is not None or backbone.width is None or entry.family not in (PLAIN, RT_DETR_RESNET, HGNET):
        why = f"with norm_eps {backbone.norm_eps:g}" if backbone.norm_eps is not None else "or none that is read here"
        raise WeightsError(
            f"transformers has no {backbone.name} {why}",
            remedy="Train on resnet…, rt_detr_resnet… or hgnet_v2_…, or keep the file as this project's own.",
        )
    told = _told(backbone.name, backbone.width)
    told["downsample_in_bottleneck"] = backbone.style == "caffe" and entry.block == "bottleneck"  # others stride alike
    if entry.family == HGNET:
        del told["downsample_in_bottleneck"]
    return {**told, "out_indices": _INDICES}


def _told(name: str, width: int) -> dict[str, Any]:
    entry = BACKBONES[name]
    if entry.family == HGNET:
        return hgnet_settings(name, width)
    return resnet_settings(entry.family, entry.block, entry.layers, width)


def backbone_of(name: str, config: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The section `backbone` for the `config.json` of the folder `name`. `fields` are the library's defaults.

    Raises `WeightsError` for one that is not built here.
    """
    told = config.get("backbone_config")
    if told is None:
        told = _unsaid(name, config)
    if not isinstance(told, dict):
        raise _refused(name, "a backbone_config that is no object")
    kind = told.get("model_type")
    if kind == TIMM:
        return _timm(name, told)
    if kind not in (PLAIN, RT_DETR_RESNET, HGNET):
        raise _refused(name, f"a backbone of model type {str(kind)[:100]!r}")
    if told.get("out_indices", _INDICES) != _INDICES or told.get("out_features", _STAGES) != _STAGES:
        raise _refused(name, "a backbone that gives other maps than those at strides 8, 16 and 32")
    given = {field: told.get(field, value) for field, value in fields[str(kind)].items()}
    free = FREE | (_OF_HGNET if kind == HGNET else frozenset())
    if unknown := sorted(told.keys() - given.keys() - free):
        raise _refused(name, f"a backbone_config with {unknown[0][:100]}, which this version does not know")
    caffe = kind == PLAIN and given.get("layer_type") == "bottleneck" and given.get("downsample_in_bottleneck") is True
    width = given.get("embedding_size")
    if kind == HGNET:
        width = _of_list(given["stem_channels"], -1)
        # The first of these says what nobody asks for, and published files say anything there.
        given["hidden_sizes"] = [_of_list(given["stage_out_channels"], 0), *_behind(given["hidden_sizes"])]
    for ours, entry in BACKBONES.items():
        if entry.family != kind or type(width) is not int or width % entry.divisor or width <= 0:
            continue
        wanted = _told(ours, width) | ({"downsample_in_bottleneck": True} if caffe else {})
        if all(given[field] == value for field, value in wanted.items() if field in given and field not in free):
            return {"name": ours, "width": width, "init": "random", **({"style": "caffe"} if caffe else {})}
    raise _refused(name, f"a {kind} backbone of sizes that no backbone of this project has at any width")


def _of_list(value: Any, place: int) -> Any:
    return value[place] if isinstance(value, list) and value else None


def _behind(value: Any) -> list[Any]:
    return value[1:] if isinstance(value, list) else []


def _unsaid(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The library's own default, or a backbone of timm, as older files name it."""
    kind, backbone = config.get("model_type"), config.get("backbone")
    if backbone is None and kind != "deformable_detr":
        return {"model_type": HGNET if kind == "d_fine" else RT_DETR_RESNET}
    of_timm = config.get("use_timm_backbone", kind == "deformable_detr") is True
    if not of_timm or (config.get("backbone_kwargs") or {}) not in _TIMM_DEFAULTS:
        raise _refused(name, "its backbone by name alone, which would have to be fetched")
    return {"model_type": TIMM, "backbone": backbone or "resnet50"}


def _timm(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    backbone = told.get("backbone")
    if not isinstance(backbone, str) or backbone.partition(".")[0] not in _OF_TIMM:
        raise _refused(name, f"{str(backbone)[:100]!r} of timm as its backbone")
    odd = (told.get("output_stride") not in (None, 32), told.get("num_channels", 3) != 3)
    if any(odd) or told.get("out_indices", _INDICES) != _INDICES:
        raise _refused(name, "a backbone of timm that gives other maps than those at strides 8, 16 and 32")
    return {"name": backbone.partition(".")[0], "init": "random"}


def _refused(name: str, what: str) -> WeightsError:
    return WeightsError(
        f"config.json of {name} has {what}",
        remedy="Use one on RT-DETR's ResNet, HGNetV2, transformers' ResNet, or timm's resnet18, 34, 50 or 101.",
    )
