"""Tensors out of files that other programs wrote, without running what stands in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from crosskd.errors import WeightsError
from crosskd.spec.inputs import opened
from crosskd.spec.weights.file_kind import beginning_of
from crosskd.spec.weights.wrapped_names import unwrap
from crosskd.weights.pytorch import LISTED, read_foreign, top_level

# Where a training's file has the model, the one to take first. Of several the average is what a project evaluates
# and publishes; MMEngine alone writes it in the place of the model, and the model under `ema_state_dict`.
PLACES = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model", "module", "ema_state_dict")
DEEPEST = 4  # dictionaries inside each other that are looked into


@dataclass(frozen=True)
class Found:
    """The tensors of a model in a file, and in words what was around them and what was left out."""

    tensors: dict[str, Tensor]
    notes: list[str]


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a safetensors file or in a PyTorch file, as `tensors_in` finds it; on the CPU.

    A PyTorch file is a pickle, and a pickle can name any function to call. Here only tensors and plain
    containers are admitted: what asks for more is refused before anything of it runs. Raises `WeightsError`.
    """
    return tensors_in(read_content(path), Path(path).name).tensors


def is_safetensors(path: Path) -> bool:
    """By its content, whatever its ending. Raises `WeightsError` for what can be no weights file, and says what it is.

    A file that is not there or cannot be opened is judged by its ending: who reads it says so.
    """
    try:
        with opened(path).open("rb") as file:
            found = beginning_of(file, path.suffix)
    except OSError:
        return path.suffix == ".safetensors"
    if found.form == "none":
        raise WeightsError(f"{path.name} is {found.what}", remedy=found.remedy)
    return found.form == "safetensors"


def read_content(path: Path | str) -> Any:
    """All that a safetensors or PyTorch file holds, on the CPU: as `read_tensors`, whatever it is."""
    path = Path(path)
    try:
        return load_file(opened(path)) if is_safetensors(path) else read_foreign(path)
    except FileNotFoundError as error:
        raise WeightsError(f"there is no file {path.name}", remedy="Check the path.") from error
    except WeightsError:
        raise
    except Exception as error:
        raise WeightsError(
            f"{path.name} cannot be read: {_first_line(error)}",
            remedy="Check that the file is complete and is a weights file.",
        ) from error


def tensors_in(content: Any, name: str) -> Found:
    """The state dict in what `read_content` found in the file `name`: bare, or where trainings keep it (`PLACES`),
    without the prefixes of wrappers. Raises `WeightsError`, which says what the file holds instead."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"{name} holds a {type(content).__name__}, not tensors by name", remedy="Save a state dict.")
    state, place, others = _innermost(content)
    if state is None:
        raise WeightsError(
            f"{name} holds no tensors by name{top_level(content)}",
            remedy="Save a state dict, bare or under `state_dict`.",
        )
    notes = [f"the tensors stand under `{place}`"] if place else []
    if others:
        notes.append(f"further tensors were left out: those under `{'`, `'.join(others)}`")
    tensors = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if lost := len(state) - len(tensors):
        notes.append(f"{lost} entries that are no tensors were left out")
    if odd := [key for key, value in tensors.items() if not _plain(value)]:
        raise WeightsError(
            f"{name} has {len(odd)} tensors that are sparse, quantised or without values, such as {odd[0]}",
            remedy="Save dense tensors of floating-point numbers.",
        )
    plain = unwrap(tensors)
    return Found({short: tensors[key] for key, short in plain.names.items()}, notes + plain.notes)


def _innermost(content: Mapping[Any, Any], depth: int = 0) -> tuple[Mapping[Any, Any] | None, str, list[str]]:
    """The dictionary with the tensors, the keys that lead to it, and the keys beside it that lead to others."""
    inner = {
        key: found
        for key in sorted(content, key=_rank)
        if isinstance(key, str) and depth < DEEPEST and isinstance(value := content[key], Mapping)
        if (found := _innermost(value, depth + 1))[0] is not None
    }
    known = [key for key in inner if key in PLACES]
    bare = any(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items())
    if known or (len(inner) == 1 and not bare):
        first = (known or list(inner))[0]
        state, place, _ = inner[first]
        return state, f"{first}.{place}" if place else first, [key for key in known if key != first]
    return (content if bare else None), "", []


def _rank(key: Any) -> int:
    return PLACES.index(key) if key in PLACES else len(PLACES)


def _plain(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta


def check_shapes(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], name: str) -> None:
    """Raise a `WeightsError` that lists every tensor of `given` whose shape is not the one in `wanted`, or which are
    no floating-point numbers where those in `wanted` are."""
    wrong = [
        f"{key} is {list(tensor.shape)}, the model has {list(wanted[key].shape)}"
        for key, tensor in given.items()
        if key in wanted and tensor.shape != wanted[key].shape
    ]
    if wrong:
        raise WeightsError(
            f"{name} has {len(wrong)} tensors of other shapes: " + "; ".join(wrong),
            remedy="Use the backbone, widths, strides and number of classes that the file was trained with.",
        )
    other = [
        f"{key} is {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in given.items()
        if key in wanted and wanted[key].is_floating_point() and not tensor.is_floating_point()
    ]
    if other:
        raise WeightsError(
            f"{name} has {len(other)} tensors that are no floating-point numbers: {', '.join(other[:LISTED])}",
            remedy="Save them as float32, float16 or bfloat16; quantised weights cannot be used.",
        )


def check_finite(given: Mapping[str, Tensor], name: str) -> None:
    """Raise a `WeightsError` where a tensor holds NaN or infinity: such weights detect nothing, in silence."""
    wrong = [key for key, tensor in given.items() if not tensor.float().isfinite().all()]
    if wrong:
        raise WeightsError(
            f"{name} has {len(wrong)} tensors with NaN or infinity: {', '.join(wrong[:LISTED])}",
            remedy="Use weights from before the training diverged.",
        )


def _first_line(error: Exception) -> str:
    if isinstance(error, LookupError):  # what torch makes of bytes that are no pickle: its text is a bare number
        return "it is no PyTorch file"
    return (str(error).splitlines() or [type(error).__name__])[0]
