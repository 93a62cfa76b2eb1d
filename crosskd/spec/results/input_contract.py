"""What a detector wants of its input images, in words and numbers for who uses its weights elsewhere.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosskd.spec.evaluate_export import ScaleConfig, image_settings, scale_of
from crosskd.spec.model import ModelConfig


def scale_in(augment: Mapping[str, Any]) -> ScaleConfig | None:
    """The scale in the record of a weights file; None where it holds `image_settings` alone, or nothing.

    Raises `ValueError` for values that are none.
    """
    return None if augment.keys() <= image_settings({}).keys() else scale_of(augment)


def evaluation_scale(augment: Mapping[str, Any]) -> ScaleConfig:
    """The scale at which a file with this record is evaluated by default: no field is None.

    Raises `ValueError` for values that are none.
    """
    known = scale_in(augment)
    return ScaleConfig(**image_settings(augment)) if known is None else known


def input_contract(model: ModelConfig, augment: Mapping[str, Any]) -> dict[str, Any]:
    """Size, order, mean, deviation and padding, ready for JSON. `augment` is the record of the scale.

    Raises `ValueError` for a record with values that are none.
    """
    scale, pixels = evaluation_scale(augment), model.pixels
    how = "with antialiasing, as Pillow's BILINEAR" if scale.antialias else "without antialiasing, as OpenCV's"
    around = "zeros after normalisation"
    if pixels.padding is not None:
        around = f"the value {pixels.padding:g} in all channels before normalisation"
    sides = "both sides times min(short_edge / shorter side, long_edge / longer side), rounded to whole pixels"
    if not scale.keep_ratio:
        sides = "both sides stretched to min(short_edge, long_edge), whatever the ratio"
    return {
        "layout": "float32 [images, 3, height, width]",
        "orientation": "upright: the EXIF orientation is applied",
        "sixteen_bit": scale.sixteen_bit,
        "short_edge": scale.short_edge,
        "long_edge": scale.long_edge,
        "size_is": "by default, the file does not record one" if scale_in(augment) is None else "recorded",
        "resize": f"{sides}; bilinear {how}; 8 bits a value",
        "keep_ratio": scale.keep_ratio,
        "antialias": scale.antialias,
        "order": pixels.order,
        "mean": list(pixels.mean),
        "std": list(pixels.std),
        "normalisation": "(value - mean) / std for each channel in this order, values 0..255",
        "pad_to": scale.pad_to,
        "padding": f"{around}, at the right and at the bottom, to a multiple of pad_to",
    }
