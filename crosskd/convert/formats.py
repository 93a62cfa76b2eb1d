"""The forms that a detector's tensors have in files, ours and other projects': told apart and translated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crosskd.convert import megvii, mmdet, mmdet_regions, torchvision
from crosskd.errors import WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.spec.detr.folder_backbone import settings_of
from crosskd.spec.detr.folder_names import from_library, same_tensor, second_names, to_library, with_twins
from crosskd.spec.detr.names import ALONE, INSTEAD, is_library_checkpoint
from crosskd.spec.detr.types import TYPES
from crosskd.spec.weights.shapes import expected_shapes

Format = Literal["native", "mmdet", "torchvision", "megvii", "transformers"]
PROJECTS: dict[Format, str] = {
    "native": "this project",
    "mmdet": "MMDetection",
    "torchvision": "torchvision",
    "megvii": "Megvii's YOLOX",  # only read
    "transformers": "transformers",  # a folder
}


@dataclass(frozen=True)
class Translated:
    """Tensors by our names, and what became of the names in the file."""

    state: dict[str, Tensor]
    names: dict[str, str]  # the file's -> ours
    unexpected: list[str]  # as the file calls them
    implied: list[str]  # ours: what such a file never holds, because it never differs


def format_of(names: Iterable[str], file: str) -> Format:
    """Whose names these are. Raises `WeightsError` for a `file` without a detector's head."""
    names = list(names)
    if any(name.startswith(("bbox_head.", *mmdet_regions.BEGINNINGS)) for name in names):
        return "mmdet"
    if any(name.startswith(("head.classification_head.", "head.regression_head.", "roi_heads.")) for name in names):
        return "torchvision"
    if megvii.is_megvii(names):
        return "megvii"
    if any(name.startswith("head.") for name in names):
        return "native"
    if is_library_checkpoint(names):
        raise WeightsError(f"{file} is {ALONE}", remedy=INSTEAD)
    raise WeightsError(
        f"{file} holds no detector: none of its {len(names)} names starts with `head.` or `bbox_head.`",
        remedy="Use a file this project wrote, an MMDetection checkpoint, Megvii's YOLOX, or torchvision's RetinaNet, "
        "FCOS or Faster R-CNN; a backbone goes to `backbone.init`.",
    )


def our_name(name: str, source: Format, detector: str, model: ModelConfig | None = None) -> str | None:
    """The name in a file as ours; None for what a `detector` does not have.

    A folder of transformers also says its `model`.
    """
    if source == "transformers":
        return from_library(name, model) if model is not None else None
    if source == "native":
        return name
    if source == "torchvision":
        return torchvision.from_torchvision(name, detector)
    if source == "megvii":
        return megvii.from_megvii(name)
    try:
        return mmdet.from_mmdet(name, detector)
    except WeightsError:
        return None


def their_name(name: str, target: Format, model: ModelConfig) -> str | None:
    """Our name in a file; None for what it has no place for."""
    detector = model.detector
    if target == "transformers":
        return to_library(name, model)
    if target == "native":
        return name
    if target == "torchvision":
        return torchvision.to_torchvision(name, detector)
    if target == "megvii":
        return megvii.to_megvii(name)
    return mmdet.to_mmdet(name, detector)


def _same(name: str, tensor: Tensor, model: ModelConfig) -> Tensor:  # noqa: ARG001
    return tensor


# By form: its tensor of our name as a model's, and the way back.
_Turn = Callable[[str, Tensor, ModelConfig], Tensor]
_FROM: Mapping[Format, _Turn] = {
    "native": _same,
    "mmdet": mmdet.tensor_from_mmdet,
    "torchvision": torchvision.tensor_from_torchvision,
    "megvii": _same,
    "transformers": _same,
}
_TO: Mapping[Format, _Turn] = {
    "native": _same, "mmdet": mmdet.tensor_to_mmdet, "torchvision": torchvision.tensor_to_torchvision,
    "transformers": _same,
}  # fmt: skip


def to_native(state: Mapping[str, Tensor], source: Format, model: ModelConfig) -> Translated:
    """A file's tensors as those of a `model`. Whether these are all of its tensors, and as large, is not looked at."""
    found = Translated({}, {}, [], [])
    for name, tensor in state.items():
        ours = our_name(name, source, model.detector, model)
        if ours is None or (ours in found.state and not _shared(name, tensor, ours, found.state[ours], source, model)):
            found.unexpected.append(name)
            continue
        found.names[name] = ours
        found.state[ours] = _FROM[source](ours, tensor, model)
    if source == "transformers":
        _add_twins(found, model)
    if source == "torchvision":
        implied = torchvision.implied(model)
        found.state.update(implied)
        found.implied.extend(implied)
    return found


def _add_twins(found: Translated, model: ModelConfig) -> None:
    """What the library saves once, by its other names too.

    Raises `WeightsError` where two names should be one tensor's and are not.
    """
    wanted = expected_shapes(model, 1)
    second = second_names(found.state, wanted)
    for name, tensor in list(found.state.items()):
        other = found.state.get(second.get(name) or same_tensor(name, model) or name, tensor)
        if other.shape != tensor.shape or not (tensor.is_meta or torch.equal(other, tensor)):
            raise WeightsError(
                f"{to_library(name, model)} is another tensor than the one that it should be a second name of",
                remedy="Save the model anew with transformers: `model.save_pretrained(FOLDER)`.",
            )
    for name, first in second.items():
        found.state[first] = found.state.pop(name)
        theirs = next(theirs for theirs, ours in found.names.items() if ours == name)
        found.names[theirs] = first
    added = with_twins(found.state, wanted)
    found.state.update({name: found.state[twin] for name, twin in added.items()})
    found.implied.extend(added)


def _shared(name: str, tensor: Tensor, ours: str, known: Tensor, source: Format, model: ModelConfig) -> bool:
    """Whether this is one of several names of a tensor that is there already. Raises `WeightsError` for another one."""
    if source != "mmdet" or name not in mmdet.further_names(mmdet.to_mmdet(ours, model.detector), model):
        return False
    alike = tensor.shape == known.shape and (tensor.is_meta or torch.equal(tensor, known))
    if not alike:
        raise WeightsError(
            f"{name} is another tensor than the first level's: the convolutions of this file's head are not shared",
            remedy="Use an RTMDet whose head has share_conv, as all published ones have.",
        )
    return True


def from_native(state: Mapping[str, Tensor], target: Format, model: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a `model` as they stand in a file of the other project. Raises `WeightsError` where it has no
    such detector, with every reason."""
    if target == "native":
        return dict(state)
    if target == "megvii":
        raise WeightsError(f"files of {PROJECTS[target]} are only read", remedy="Write an MMDetection file.")
    if target == "transformers":
        return _to_folder(state, model)
    reasons = torchvision.incompatibilities(model, state) if target == "torchvision" else mmdet.incompatibilities(model)
    if reasons:
        raise WeightsError(
            f"{PROJECTS[target]} cannot be this detector: {'; '.join(reasons)}",
            remedy="Keep it as this project's own, or train a model that both can be.",
        )
    left_out = set(torchvision.unmappable_names(state, model)) if target == "torchvision" else set()
    written = {}
    for ours, tensor in state.items():
        if ours in left_out:
            continue
        theirs = their_name(ours, target, model)
        if theirs is None:
            raise AssertionError(
                f"{ours} has no place in a file of {PROJECTS[target]}: `incompatibilities` is incomplete"
            )
        written[theirs] = _TO[target](ours, tensor, model)
        for name in mmdet.further_names(theirs, model) if target == "mmdet" else ():
            written[name] = tensor.clone()  # safetensors refuse tensors that share memory
    return written


def _to_folder(state: Mapping[str, Tensor], model: ModelConfig) -> dict[str, Tensor]:
    if model.detector not in TYPES:
        raise WeightsError(
            f"{model.detector} is not written as transformers has it; of its models {', '.join(TYPES)} are",
            remedy="Keep the file as this project's own, or write another project's: --to mmdet or torchvision.",
        )
    if TYPES[model.detector].backbone is None:
        settings_of(model.backbone)  # raises where there is none
    if model.pixels.order != "rgb":
        raise WeightsError(
            "transformers gives its models RGB, and pixels.order is bgr",
            remedy="Keep the file as this project's own, or train with pixels.order rgb.",
        )
    named = {to_library(ours, model): tensor for ours, tensor in state.items()}
    return {theirs: tensor for theirs, tensor in named.items() if theirs is not None}


def require_readable(source: Format, model: ModelConfig, file: str) -> None:
    """Raise `WeightsError` where a file of torchvision's, or one of MMDetection's of two stages, is to be a `model`
    that computes something else with it.

    The tensors fit many models: that P7 lies behind a ReLU, or where the anchors stand, is in none of them.
    """
    reasons = torchvision.incompatibilities(model) if source == "torchvision" else []
    if source == "mmdet" and model.two_stage:
        reasons = mmdet.incompatibilities(model)
    if reasons:
        raise WeightsError(
            f"{file} is of {PROJECTS[source]}, which cannot be the model it is to be: {'; '.join(reasons)}",
            remedy="Convert the file first (`crosskd convert`): the model is then recognised and written beside it.",
        )
