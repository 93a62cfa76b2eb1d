"""Tensors out of files that other programs wrote, without running what stands in them."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from crosskd.errors import WeightsError
from crosskd.spec.inputs import opened

LISTED = 20  # names in a message
MAX_ENTRIES = 100_000  # of a PyTorch archive; the largest detectors have a few thousand tensors
MAX_GROWTH = 8  # unpacked bytes to each packed one; torch itself packs nothing


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The state dict in a safetensors file or in a PyTorch file, bare or under `state_dict`; on the CPU.

    A PyTorch file is a pickle, and a pickle can name any function to call. Here only tensors and plain
    containers are admitted: what asks for more is refused before anything of it runs. Raises `WeightsError`.
    """
    return tensors_in(read_content(path), Path(path).name)


def read_content(path: Path | str) -> Any:
    """All that a safetensors or PyTorch file holds, on the CPU: as `read_tensors`, whatever it is."""
    path = Path(path)
    try:
        return load_file(opened(path)) if path.suffix == ".safetensors" else read_pytorch(opened(path))
    except FileNotFoundError as error:
        raise WeightsError(f"there is no file {path.name}", remedy="Check the path.") from error
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} holds more than tensors, or is no PyTorch file; nothing of it was run",
            remedy="Save the state dict alone, as safetensors or by torch.save(model.state_dict(), ...).",
        ) from error
    except Exception as error:
        raise WeightsError(
            f"{path.name} cannot be read: {_first_line(error)}",
            remedy="Check that the file is complete and is a weights file.",
        ) from error


def read_pytorch(path: Path) -> Any:
    """What `torch.save` wrote, on the CPU: tensors and plain containers. Nothing of it is run or unpacked to disk.

    Raises `ValueError` for an archive that would take many times its size in memory, before any of it is read, and
    what `torch.load` raises.
    """
    if zipfile.is_zipfile(path):
        _require_modest(path)
    with warnings.catch_warnings(action="ignore"):  # about odd pickles, which are refused or read either way
        return torch.load(path, map_location="cpu", weights_only=True)


def _require_modest(path: Path) -> None:
    """torch stores tensors as they are, but reads compressed ones too, and a megabyte of those can hold gigabytes."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    packed, unpacked = path.stat().st_size, sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"it holds {len(entries)} entries, and at most {MAX_ENTRIES} are read")
    if unpacked > MAX_GROWTH * packed:
        raise ValueError(f"its {packed} bytes unpack to {unpacked}, more than {MAX_GROWTH} times as many")


def tensors_in(content: Any, name: str) -> dict[str, Tensor]:
    """The state dict in what `read_content` found in the file `name`. Raises `WeightsError`."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise WeightsError(f"{name} holds a {type(content).__name__}, not tensors by name", remedy="Save a state dict.")
    state = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if not state:
        raise WeightsError(f"{name} holds no tensors by name", remedy="Save a state dict, bare or under `state_dict`.")
    if odd := [key for key, value in state.items() if not _plain(value)]:
        raise WeightsError(
            f"{name} has {len(odd)} tensors that are sparse, quantised or without values, such as {odd[0]}",
            remedy="Save dense tensors of floating-point numbers.",
        )
    return state


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
