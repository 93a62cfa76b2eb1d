"""A DETR's losses, as transformers names and weighs them, by term and layer."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from crosskd.losses import rank_mean
from crosskd.structures import Losses

# Of a layer before the last; of the encoder's own proposals; of the queries made of noisy objects.
_NAME = re.compile(r"(?P<term>loss_[a-z]+)(?:_(?P<kind>aux|dn|enc)(?=_|$))?(?:_(?P<place>\d+))?")
NOT_DIVIDED = ("loss_ddf",)  # D-FINE's comparison of its layers is no mean over objects


def by_term(found: dict[str, Tensor], model: Any, objects: int) -> Losses:
    """The library's losses -> term -> [L], the decoder's layers in order; `..._enc` and `..._dn` beside them.

    Where no image has an object, there are no noisy queries, and their losses are 0: a training adds up batches, and
    ranks, term by term. Each is weighed: the sum of all is the library's loss, but for the divisor. The library divides
    by the `objects` of the batch, at least one; here by their mean over the ranks, as every detector's losses are.
    """
    own = max(1, objects)
    factor: Tensor | float = own / rank_mean(next(iter(found.values())).new_tensor(float(objects))).clamp(min=1)
    if hasattr(model.config, "group_detr"):
        factor = 1.0  # of these the library itself takes the mean over the ranks, and over the groups of queries
    weights = _weights(model.config)
    layers: dict[str, dict[int, Tensor]] = {}
    last = model.config.decoder_layers - 1
    for name, value in found.items():
        if (parts := _NAME.fullmatch(name)) is None:
            continue  # what it counts for people to read
        term, kind, place = parts["term"], parts["kind"], parts["place"]
        layer = last if place is None else int(place)
        if kind == "aux" and layer == last:  # behind the layers before the last one
            kind, layer = "enc", 0
        scale = weights.get(term, 1.0) * (1.0 if term in NOT_DIVIDED else factor)
        suffix = f"_{kind}" if kind in ("enc", "dn") else ""
        layers.setdefault(term + suffix, {})[layer] = value * scale
    told = {name: torch.stack([of[layer] for layer in sorted(of)]) for name, of in layers.items()}
    nothing = told["loss_bbox"].new_zeros(model.config.decoder_layers)
    return told | {name: nothing for name in _noisy_terms(model) if name not in told}


def _noisy_terms(model: Any) -> list[str]:
    """Names of the losses of the queries made of noisy objects, in the library's order."""
    if not model.training or not getattr(model.config, "num_denoising", 0):
        return []
    bins = ("fgl", "ddf") if hasattr(model.config, "weight_loss_fgl") else ()
    return [f"loss_{term}_dn" for term in ("vfl", "bbox", "giou", *bins)]


def _weights(config: Any) -> dict[str, float]:
    """Of terms that the library has not weighed yet; where it has, none."""
    if hasattr(config, "weight_loss_bbox"):
        return {}
    return {
        "loss_ce": getattr(config, "class_loss_coefficient", 1),
        "loss_bbox": config.bbox_loss_coefficient,
        "loss_giou": config.giou_loss_coefficient,
    }
