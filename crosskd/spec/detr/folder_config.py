"""A `config.json` of transformers as a model of ours, and the way back. Imports neither torch nor transformers.

The mapping is closed. Each field is one of our knobs; or has the value that we build with, which is the library's own;
or only says how the library trains or begins. Whatever else stands there is refused by its name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from crosskd.errors import WeightsError
from crosskd.spec.backbones.vit import VITS, VitConfig
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.folder_backbone import backbone_of, settings_of
from crosskd.spec.detr.folder_vit import vit_field, vit_of, vit_settings
from crosskd.spec.detr.section import DetrConfig, library_values
from crosskd.spec.detr.types import TYPES, ModelType
from crosskd.spec.registry import BACKBONES as OURS
from crosskd.spec.registry import use_one_of
from crosskd.spec.section import MAX_CLASSES, Section
from crosskd.spec.unused_classes import left_out_text, numbered, used

FIELDS = Path(__file__).with_name("fields.json")
# Model types of backbones -> the library's class of their configuration.
BACKBONES = {
    "rt_detr_resnet": "RTDetrResNetConfig", "hgnet_v2": "HGNetV2Config", "resnet": "ResNetConfig",
    **{name: vit.config for name, vit in VITS.items()},
}  # fmt: skip
MAX_NAME = 200
MAPS = 3
_MIN_EDGE, _MAX_EDGE = 32, 4096  # pixels
_LONG_EDGE = 1333  # pixels, where an older preprocessor says one edge alone

# Fields of every configuration that change nothing in what a model computes.
_OF_ALL = frozenset(
    {
        "_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset", "architectures",
        "transformers_version", "torch_dtype", "dtype", "model_type", "id2label", "label2id", "num_labels",
        "problem_type", "return_dict", "output_attentions", "output_hidden_states", "chunk_size_feed_forward",
        "is_encoder_decoder", "use_cache", "num_hidden_layers", "head_dim", "finetuning_task", "task_specific_params",
    }
)  # fmt: skip
# Of a DETR: how its backbone is named, which is judged by itself.
_OF_BACKBONE = frozenset(
    {"backbone_config", "backbone", "backbone_kwargs", "use_timm_backbone", "use_pretrained_backbone", "num_channels"}
)
# How the library trains, begins or computes; what a model detects does not depend on it.
_OF_TRAINING = re.compile(
    r"matcher_.+|weight_loss_.+|focal_.+|use_focal_loss|.+_cost|.+_coefficient|label_noise_ratio|box_noise_scale|"
    r"auxiliary_loss|attention_dropout|activation_dropout|encoder_layerdrop|initializer_.+|init_.+|"
    r"freeze_backbone_batch_norms|tie_word_embeddings|return_intermediate|disable_custom_kernels|"
    r"max_position_embeddings|two_stage_num_proposals"
)
# What a model for masks alone reads.
_OF_MASKS = re.compile(r"mask_.+|segmentation_head_.+|intermediate_size")
# What older versions of the library call a field.
_FORMER = {"lw_detr": {"mask_loss_coefficient": "class_loss_coefficient"}}
_TYPES: Mapping[str, ModelType] = {str(name): kind for name, kind in TYPES.items()}
_IMAGENET = ("deformable_detr", "lw_detr", "rf_detr")  # published for images that are normalised so
_REMOTE = ("auto_map", "custom_pipelines", "trust_remote_code")
_GENERIC = re.compile(r"LABEL_\d+")
_REMEDY = "Use a checkpoint of a size that this project builds; docs/training.md says which fields have knobs."


@dataclass(frozen=True)
class Told:
    """What a folder's JSON says; `classes` in label order, None where they have no names of their own."""

    model: ModelConfig
    classes: list[str] | None
    count: int | None  # of classes; None: not said
    augment: dict[str, Any]  # as weights files record the scale at which they are evaluated
    notes: list[str]
    images_told: bool  # whether a file says the pixels; else they are assumed


@cache
def fields() -> dict[str, dict[str, Any]]:
    """Model type -> field -> the library's default."""
    told: dict[str, dict[str, Any]] = json.loads(FIELDS.read_text(encoding="utf-8"))["fields"]
    return told


def read_config(name: str, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None) -> Told:
    """What the folder `name` holds. Raises `WeightsError`, which names the field that is at fault."""
    for field in _REMOTE:
        if config.get(field) or (preprocessor or {}).get(field):
            raise WeightsError(
                f"{name} brings code of its own ({field}), and such code is never run",
                remedy="Use a checkpoint of a model that transformers itself has.",
            )
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _TYPES:
        told = repr(kind)[:100] if kind is not None else "none"
        raise WeightsError(f"config.json of {name} is of model type {told}", remedy=use_one_of(_TYPES, str(kind)[:100]))
    _refuse_masks(name, config)
    reader = _Reader(name, kind, _TYPES[kind], config)
    values, notes = reader.values()
    classes, count = _classes(name, config)
    if unused := left_out_text(classes or [], used(classes or [])):
        notes.append(f"{unused}; a teacher's classes are taken by name")
    pixels = _pixels(name, kind, preprocessor, notes)
    of_vit = _TYPES[kind].backbone is not None
    backbone = vit_of(name, config, fields(), notes) if of_vit else backbone_of(name, config, fields())
    section = {"detector": kind, "backbone": backbone, "detr": values, "pixels": pixels}
    try:
        model = ModelConfig.model_validate(section)
    except ValidationError as error:
        raise reader.unfit(error) from error
    reader.require_numbers(values, backbone)
    reader.require_derived(model)
    return Told(model, classes, count, _scale(preprocessor, model, notes), notes, preprocessor is not None)


def _refuse_masks(name: str, config: Mapping[str, Any]) -> None:
    told = config.get("architectures")
    if masks := [text for text in told if "Segmentation" in str(text)] if isinstance(told, list) else []:
        raise WeightsError(
            f"{name} holds a {str(masks[0])[:100]}, which finds masks, and nothing here reads them",
            remedy="Use the checkpoint of the same model that is published for detection.",
        )


class _Reader:
    def __init__(self, name: str, kind: str, entry: ModelType, config: Mapping[str, Any]) -> None:
        former = _FORMER.get(kind, {})
        self.name, self.entry = name, entry
        self.config = {former.get(field, field): value for field, value in config.items()}
        self.defaults = fields()[kind]
        self.ours = {theirs: knob for knob, names in entry.knobs.items() for theirs in names}

    def get(self, field: str) -> Any:
        return self.config.get(field, self.defaults.get(field))

    def values(self) -> tuple[dict[str, Any], list[str]]:
        """The section `detr`, and what is worth saying."""
        notes = []
        derived = _OF_VIT if self.entry.backbone is not None else _OF_MAPS
        for field, value in self.config.items():
            if field in _OF_ALL | _OF_BACKBONE or field in derived or field in self.ours:
                continue
            if field not in self.defaults:
                raise self.refused(field, "which this version does not know")
            if value == self.defaults[field] or _OF_MASKS.fullmatch(field):
                continue
            if not _OF_TRAINING.fullmatch(field):
                raise self.refused(field, f"and this project builds it with {_short(self.defaults[field])} alone")
            if field not in self.entry.fixed:
                notes.append(f"{field} is {_short(value)} there; this project trains with {self.defaults[field]!r}")
        return self._knobs(), notes

    def _knobs(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for knob, names in self.entry.knobs.items():
            told = [self.get(field) for field in names]
            if any(value != told[0] for value in told):
                both = " and ".join(f"{field} {_short(value)}" for field, value in zip(names, told, strict=True))
                raise WeightsError(f"config.json of {self.name} has {both}, and they are one knob here", remedy=_REMEDY)
            found[knob] = told[0]
        if isinstance(found.get("level_points"), list):
            del found["points"]
        else:
            found.pop("level_points", None)
        for knob, alike in (("encoder_width", "width"), ("encoder_feedforward", "feedforward")):
            if knob in found and found[knob] == found[alike]:
                del found[knob]
        return found

    def require_derived(self, model: ModelConfig) -> None:
        """What the library derives of others it also writes down."""
        for field, value in _derived(model, self.entry).items():
            if (field in self.config or field in self.defaults) and self.get(field) != value:
                raise self.refused(field, f"and its other sizes make it {_short(value)}")

    def require_numbers(self, values: Mapping[str, Any], backbone: Mapping[str, Any]) -> None:
        """A text of digits is no number here, as a specification may have it: the library builds no model of it."""
        sections: list[tuple[type[Section], Any, tuple[str, ...]]] = [(DetrConfig, values, ("detr",))]
        if "vit" in backbone:
            sections.append((VitConfig, backbone["vit"], ("backbone", "vit")))
        for section, told, place in sections:
            try:
                section.model_validate(told, strict=True)
            except ValidationError as error:
                raise self.unfit(error, *place) from error

    def refused(self, field: str, why: str) -> WeightsError:
        value = _short(self.config.get(field, self.defaults.get(field)))
        return WeightsError(f"config.json of {self.name} has {field[:100]}: {value}, {why}", remedy=_REMEDY)

    def unfit(self, error: ValidationError, *above: str) -> WeightsError:
        """Our knobs' faults, by the names that stand in the file; what was refused stands in the sections `above`."""
        told = []
        for fault in error.errors():
            place, what = (*above, *fault["loc"]), fault["msg"].removeprefix("Value error, ")
            if place[:2] == ("backbone", "vit") and len(place) > 2:
                field, value = vit_field(self.config, str(place[2]))
                told.append(f"{field}: {what} (it is {_short(value)})")
                continue
            names = self.entry.knobs.get(str(place[1]), ()) if place[:1] == ("detr",) and len(place) > 1 else ()
            field = " and ".join(names) or ".".join(map(str, place))
            value = self.get(names[0]) if names else fault["input"]
            told.append(f"{field}: {what} (it is {_short(value)})")
        return WeightsError(
            f"config.json of {self.name} is of no size that is built here: {'; '.join(told)}", remedy=_REMEDY
        )


# Of the maps that the encoder or the decoder reads.
_OF_MAPS = ("encoder_in_channels", "decoder_in_channels")
_OF_VIT = ("projector_in_channels", "projector_out_channels", "projector_scale_factors", "num_feature_levels")


def _derived(model: ModelConfig, kind: ModelType) -> dict[str, Any]:
    """Fields that follow of others."""
    assert model.detr is not None
    width, levels = model.detr.maps_width, model.detr.levels
    if kind.backbone is not None:
        return dict(zip(_OF_VIT, ([width] * levels, width, model.detr.scales, levels), strict=True))
    if not kind.fits_maps:
        return {}
    channels = list(OURS[model.backbone.name].channels(model.backbone.width)[-MAPS:])
    return dict(zip(_OF_MAPS, (channels, [width] * MAPS), strict=True))


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else text[:100] + "…"


def _classes(name: str, config: Mapping[str, Any]) -> tuple[list[str] | None, int | None]:
    """Of `id2label`; ids of COCO that nobody uses have no names of their own, and are called by their id too."""
    told = config.get("id2label")
    if told is None:
        return None, None
    remedy = "Give each class a name: `id2label` must map 0, 1, 2 … to texts of their own."
    fault = WeightsError(f"id2label of {name} does not name classes in label order", remedy=remedy)
    if not isinstance(told, dict) or not 0 < len(told) <= MAX_CLASSES:
        raise fault
    names = [told.get(str(place)) for place in range(len(told))]
    if not all(isinstance(text, str) and 0 < len(text) <= MAX_NAME for text in names):
        raise fault
    unique = numbered([str(text) for text in names])
    if len(set(unique)) != len(unique):
        twice = next(text for text in unique if unique.count(text) > 1)
        raise WeightsError(f"id2label of {name} has {twice!r} twice", remedy=remedy)
    return (None if all(_GENERIC.fullmatch(text) for text in unique) else unique), len(unique)


def _pixels(name: str, kind: str, preprocessor: Mapping[str, Any] | None, notes: list[str]) -> dict[str, Any]:
    """How images are normalised, in values 0..255; published real-time DETRs are given values from 0 to 1."""
    told = preprocessor
    if told is None:
        told = {"do_normalize": kind in _IMAGENET}
        notes.append("there is no preprocessor_config.json: images are normalised as published for the model type")
    factor = told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 1.0
    mean, std = [0.0] * MAPS, [1.0] * MAPS
    if told.get("do_normalize", kind in _IMAGENET):
        mean = told.get("image_mean", [0.485, 0.456, 0.406])
        std = told.get("image_std", [0.229, 0.224, 0.225])
    try:
        made = {
            part: [round(float(v) / float(factor), 6) for v in values]
            for part, values in (("mean", mean), ("std", std))
        }
        if any(len(values) != MAPS for values in made.values()):
            raise ValueError
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise WeightsError(
            f"preprocessor_config.json of {name} does not say how images are normalised",
            remedy="It must have rescale_factor, and image_mean and image_std of three numbers each.",
        ) from None
    return made


def _scale(preprocessor: Mapping[str, Any] | None, model: ModelConfig, notes: list[str]) -> dict[str, Any]:
    """What of its resizing can be recorded: the two edges, or the square to which images are stretched."""
    told: dict[str, Any] = {"antialias": True}
    if preprocessor is None:
        return told
    size = preprocessor.get("size")
    if isinstance(size, int):  # as older versions of the library write it
        size = {"shortest_edge": size, "longest_edge": preprocessor.get("max_size", _LONG_EDGE)}
    pad_to = 32 if model.backbone.vit is None else model.backbone.vit.step  # whole windows: such a square as it is
    if isinstance(size, dict) and (found := _edges(size, pad_to)):
        return {**told, **found}
    said = f"has size {_short(size)}, which is not taken" if size is not None else "has no size"
    notes.append(f"preprocessor_config.json {said}: by default images are evaluated at 800 x 1333")
    return told


def _edges(size: Mapping[str, Any], pad_to: int) -> dict[str, Any]:
    """{}: a size that no evaluation here has."""
    side = size.get("height")
    if isinstance(side, int) and side == size.get("width") and _MIN_EDGE <= side <= _MAX_EDGE:
        return {"short_edges": [side], "long_edge": side, "pad_to": pad_to, "keep_ratio": False}
    short, long = size.get("shortest_edge"), size.get("longest_edge")
    if (
        isinstance(short, int)
        and isinstance(long, int)
        and all(_MIN_EDGE <= edge <= _MAX_EDGE for edge in (short, long))
    ):
        return {"short_edges": [short], "long_edge": max(short, long), "pad_to": pad_to}
    return {}


# --- the way back ----------------------------------------------------------------------------------------------------


def config_of(model: ModelConfig, classes: list[str]) -> dict[str, Any]:
    """The `config.json` of a model. Raises `WeightsError` where the library has no such backbone."""
    kind = TYPES[model.detector]  # type: ignore[index]  # a DETR's
    assert model.detr is not None
    of_maps = _derived(model, kind) if kind.fits_maps else {}
    values = {**fields()[model.detector], **library_values(model.detr, kind), **of_maps}
    return {
        "architectures": [kind.model],
        "model_type": model.detector,
        **values,
        "backbone_config": settings_of(model.backbone) if kind.backbone is None else vit_settings(model.backbone),
        "id2label": {str(place): name for place, name in enumerate(classes)},
        "label2id": {name: place for place, name in enumerate(classes)},
    }


def preprocessor_of(model: ModelConfig, augment: Mapping[str, Any]) -> dict[str, Any]:
    """The `preprocessor_config.json`: the normalisation, and the edges at which it was evaluated, if known."""
    names = dict.fromkeys(("deformable_detr", "lw_detr"), "DeformableDetrImageProcessor")
    names["rf_detr"] = "RfDetrImageProcessor"
    short = augment.get("val_short_edge") or max(augment.get("short_edges") or [800])
    size = {"shortest_edge": short, "longest_edge": augment.get("long_edge", 1333)}
    if not augment.get("keep_ratio", True):
        size = {"height": short, "width": short}
    return {
        "image_processor_type": names.get(model.detector, "RTDetrImageProcessor"),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in model.pixels.mean],
        "image_std": [value / 255 for value in model.pixels.std],
        "do_resize": True,
        "resample": 2,
        "do_pad": True,
        "size": size,
        "format": "coco_detection",
    }
