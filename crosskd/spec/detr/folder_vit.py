"""The backbone in a `config.json` of LW-DETR or RF-DETR as one of ours, and the way back. Imports no torch.

As in `folder_config`, each field of the backbone is one of our knobs, or has the value that we build with, or only says
how the library trains or begins.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from crosskd.errors import WeightsError
from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.backbones.vit import library_values
from crosskd.spec.detr.folder_backbone import FREE
from crosskd.spec.detr.types import TYPES

# What the library takes where a config.json has no `backbone_config`; a test compares.
UNSAID: Mapping[str, Mapping[str, Any]] = {
    "lw_detr": {
        "model_type": "lw_detr_vit", "image_size": 1024, "hidden_size": 192, "num_hidden_layers": 10,
        "window_block_indices": [0, 1, 3, 6, 7, 9], "out_indices": [2, 4, 5, 9],
    },
    "rf_detr": {
        "model_type": "rf_detr_dinov2", "num_attention_heads": 6, "hidden_size": 384, "image_size": 518,
        "out_features": ["stage2", "stage5", "stage8", "stage11"],
    },
}  # fmt: skip
# Our knobs -> the library's fields, where it has the same number.
_PLAIN = {"width": "hidden_size", "heads": "num_attention_heads", "patch": "patch_size", "mlp_ratio": "mlp_ratio"}
_BLOCKS, _SIDE = "num_hidden_layers", {"lw_detr_vit": "pretrain_image_size", "rf_detr_dinov2": "image_size"}
_KNOBS = {**_PLAIN, "maps": "out_indices", "windows": "num_windows", "window_blocks": "window_block_indices"}
# How the library trains it.
_REGULARISED = ("dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob", "drop_path_rate")
# How it begins; what a check of the library's alone reads; and of DINOv2 what no RF-DETR has.
_FREE = FREE | {"cae_init_values", "layerscale_value", "initializer_range", "use_mask_token"}
_FOLLOWING = ("num_windows_side", "window_block_indexes", "num_register_tokens")
_STAGE = re.compile(r"stage(\d{1,3})")
_REMEDY = "Use a checkpoint of a size that this project builds; docs/training.md says which fields have knobs."


def vit_of(
    name: str, config: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]], notes: list[str]
) -> dict[str, Any]:
    """The section `backbone` for the `config.json` of the folder `name`; `fields` are the library's defaults.

    Adds to `notes` what is worth saying. Raises `WeightsError` for one that is not built here.
    """
    return _Reader(name, config, fields).section(notes)


def vit_settings(backbone: BackboneConfig) -> dict[str, Any]:
    """The `backbone_config` of one of ours."""
    assert backbone.vit is not None
    return {"model_type": backbone.name, **library_values(backbone.name, backbone.vit)}


def vit_field(config: Mapping[str, Any], knob: str) -> tuple[str, Any]:
    """The field of a `config.json` that says a knob of `backbone.vit`, and its value."""
    told = _told(config)
    field = _SIDE[TYPES[config["model_type"]].backbone or ""] if knob == "image_side" else _KNOBS.get(knob, knob)
    return f"backbone_config.{field}", told.get(field)


def _told(config: Mapping[str, Any]) -> Any:
    told = config.get("backbone_config")
    return UNSAID[config["model_type"]] if told is None else told


class _Reader:
    def __init__(self, name: str, config: Mapping[str, Any], fields: Mapping[str, Mapping[str, Any]]) -> None:
        self.name, self.kind = name, str(TYPES[config["model_type"]].backbone)
        told = _told(config)
        if config.get("backbone") is not None:
            raise self.refused("backbone", config["backbone"], "which would have to be fetched")
        if not isinstance(told, dict | Mapping) or told.get("model_type") != self.kind:
            kind = told.get("model_type") if isinstance(told, Mapping) else told
            raise self.refused("backbone_config.model_type", kind, f"and its backbone here is {self.kind} alone")
        self.told, self.defaults = told, fields[self.kind]

    def get(self, field: str) -> Any:
        return self.told.get(field, self.defaults.get(field))

    def section(self, notes: list[str]) -> dict[str, Any]:
        knobs = {*_KNOBS.values(), _SIDE[self.kind], _BLOCKS}
        if self.kind == "lw_detr_vit":
            knobs.add("image_size")
        for field, value in self.told.items():
            if field in _FREE or field in knobs or field in _FOLLOWING:
                continue
            if field not in self.defaults:
                raise self.unfit(field, "which this version does not know")
            if value == self.defaults[field]:
                continue
            if field not in _REGULARISED:
                raise self.unfit(field, f"and this project builds it with {_short(self.defaults[field])} alone")
            notes.append(f"backbone_config.{field} is {_short(value)} there; this project trains without")
        vit = {ours: self.get(theirs) for ours, theirs in _PLAIN.items()}
        vit |= {"maps": self._maps(), "windows": self._windows(), "image_side": self._side(_SIDE[self.kind])}
        self._check_windows(vit)
        return {"name": self.kind, "init": "random", "vit": vit}

    def _maps(self) -> Any:
        """Behind which blocks; the library has them by number, by name, or by default behind the last one."""
        depth, told, names = self.get(_BLOCKS), self.told.get("out_indices"), self.told.get("out_features")
        if names is not None:
            found = [_STAGE.fullmatch(str(name)) for name in names] if isinstance(names, list) else [None]
            numbers = [int(match[1]) if match else None for match in found]
            if None in numbers or (told is not None and told != numbers):
                raise self.unfit("out_features", "which are not the blocks of out_indices by their names")
            told = numbers
        told = [depth] if told is None else told
        last = told[-1] if isinstance(told, list) and told else None
        if type(last) is int and (type(depth) is not int or depth < last):
            raise self.unfit(_BLOCKS, f"and its last map lies behind block {last}")
        return told

    def _windows(self) -> Any:
        """A side of the image; LW-DETR's library says how many there are in all."""
        told = self.get("num_windows")
        if self.kind != "lw_detr_vit":
            return told
        side = math.isqrt(told) if type(told) is int and 0 < told < 10**6 else 0
        if side == 0 or side**2 != told:
            raise self.unfit("num_windows", "which is no square: a side of the image has as many as the other")
        size = self.get("image_size")
        if type(size) is not int or (size / told) % side:
            raise self.unfit("image_size", f"and the library asks for a multiple of num_windows {told} times {side}")
        return side

    def _side(self, field: str) -> Any:
        told = self.get(field)
        if isinstance(told, list) and len(told) == 2:
            if told[0] != told[1]:
                raise self.unfit(field, "and positions of a square alone are built here")
            return told[0]
        return told

    def _check_windows(self, vit: dict[str, Any]) -> None:
        """Which blocks look at a window alone, and what else the library writes down though it follows of others."""
        maps = vit["maps"]
        last = maps[-1] if isinstance(maps, list) and maps else 0
        blocks = range(last) if type(last) is int and 0 < last < 1000 else range(0)
        wanted: dict[str, Any] = {"num_register_tokens": 0, "num_windows_side": vit["windows"]}
        if self.kind == "lw_detr_vit":
            vit["window_blocks"] = self._known(self.get("window_block_indices"), blocks)
            if not _numbers(vit["window_blocks"]):
                raise self.unfit("window_block_indices", "which is no list of numbers of blocks")
        else:
            wanted["window_block_indexes"] = [block for block in blocks if block not in maps]
        for field, value in wanted.items():
            if field in self.told and self._known(self.told[field], blocks) != value:
                raise self.unfit(field, f"and its other sizes make it {_short(value)}")

    @staticmethod
    def _known(numbers: Any, blocks: range) -> Any:
        """Of a list of blocks those that are built, in order; what is no such list as it is."""
        if _numbers(numbers):
            return sorted({number for number in numbers if number < len(blocks)})
        return numbers

    def unfit(self, field: str, why: str) -> WeightsError:
        return self.refused(f"backbone_config.{field}", self.get(field), why)

    def refused(self, field: str, value: Any, why: str) -> WeightsError:
        return WeightsError(f"config.json of {self.name} has {field[:100]}: {_short(value)}, {why}", remedy=_REMEDY)


def _numbers(value: Any) -> bool:
    """Whether it is a list of whole numbers."""
    return isinstance(value, list) and all(type(number) is int for number in value)


def _short(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else text[:100] + "…"
