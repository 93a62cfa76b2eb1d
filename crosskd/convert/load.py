"""Weights of any known origin into a detector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from crosskd.convert.mmdet import from_mmdet
from crosskd.detectors.detector import Detector
from crosskd.errors import WeightsError
from crosskd.tensorfile import check_shapes, read_tensors

LISTED = 20  # names in a message


@dataclass(frozen=True)
class LoadReport:
    """Parameter names, ours, by what became of them; `unexpected` ones are called as the file calls them."""

    matched: list[str]
    missing: list[str]
    unexpected: list[str]


def load_weights(detector: Detector, path: Path | str, *, strict: bool = True) -> LoadReport:
    """Load our safetensors, or an MMDetection checkpoint (.pth or safetensors), or a bare state dict of either.

    Nothing in the file is run: an MMDetection checkpoint as it is published loads, while one straight from a
    training with MMEngine also carries its message hub, objects of MMEngine's own, and is refused. Publish it first
    (MMDetection's `publish_model.py`), or save its `state_dict` alone.

    With `strict`, every tensor of the detector must be there and no other; without it, what is not there keeps its
    value. A tensor of another shape is always an error. Raises `WeightsError`.
    """
    name = Path(path).name
    state, unexpected = _ours(read_tensors(path), name)
    wanted = detector.state_dict()
    unexpected += [key for key in state if key not in wanted]
    check_shapes(state, wanted, name)
    matched = [key for key in wanted if key in state]
    # Counters that only batch norm without momentum reads; older files leave them out.
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    if strict and (missing or unexpected):
        raise WeightsError(
            f"{name} does not fit the model: {_listed('missing', missing)}; {_listed('unknown', unexpected)}",
            remedy="Name the model that the file was trained as.",
        )
    detector.load_state_dict({key: state[key] for key in matched}, strict=False)
    return LoadReport(matched, missing, unexpected)


def _ours(state: dict[str, Tensor], name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors under our names, and the names that nothing of ours stands for."""
    if any(key.startswith("head.") for key in state):
        return state, []
    if not any(key.startswith("bbox_head.") for key in state):
        raise WeightsError(
            f"{name} holds no detector: none of its {len(state)} names starts with `head.` or `bbox_head.`",
            remedy="Use a file this project wrote, or an MMDetection checkpoint; a backbone goes to `backbone.init`.",
        )
    renamed, unexpected = {}, []
    for key, tensor in state.items():
        try:
            renamed[from_mmdet(key)] = tensor
        except WeightsError:
            unexpected.append(key)
    return renamed, unexpected


def _listed(what: str, names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:LISTED])}{more})" if names else "")
