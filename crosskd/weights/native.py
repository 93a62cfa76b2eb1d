"""Our weights files: safetensors with the model and the class names written beside the tensors.

Reading one never runs code, and its header alone (names, types, shapes, metadata) is read without the tensors.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from crosskd.errors import WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.spec.inputs import opened
from crosskd.spec.results.input_contract import input_contract
from crosskd.spec.weights.file_kind import FORMAT, MAX_HEADER
from crosskd.weights.files import file_digest, replacing

VERSION = "1"

Header = dict[str, tuple[str, tuple[int, ...]]]  # tensor name -> ("F32", shape)


def write_weights(
    path: Path | str,
    state: Mapping[str, Tensor],
    *,
    model: ModelConfig,
    classes: Sequence[str],
    extra: Mapping[str, str] | None = None,
) -> str:
    """Write `state` to `path`, wholly or not at all, with all that is needed to build the detector again.

    `extra` goes into the metadata as it is (step, epoch, average precision, ...); what the model wants of its input
    images is written beside it, for people and other programs (`input`). Returns the file's sha256 in hex.
    Raises `OSError` or `CrossKDError` where the disk does not take it.
    """
    path = Path(path)
    metadata = {
        **(extra or {}),
        "format": FORMAT,
        "version": VERSION,
        "model": model.model_dump_json(),
        "classes": json.dumps(list(classes), ensure_ascii=False),
        **input_entry(model, extra or {}),
    }
    # Clones: safetensors refuses tensors that share memory, and a state dict on a device is copied anyway.
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary, metadata)
        _sort_metadata(temporary)
        return file_digest(temporary)


def input_entry(model: ModelConfig, extra: Mapping[str, str]) -> dict[str, str]:
    """The entry `input` of a file's metadata: the contract of its images. Empty where `extra` has no readable scale.

    It follows from `model` and `augment`, which alone are read again.
    """
    try:
        contract = input_contract(model, json.loads(extra.get("augment", "{}")))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return {}  # whoever reads the scale says what is wrong with it
    return {"input": json.dumps(contract)}


def _sort_metadata(path: Path) -> None:
    """Equal weights shall be equal bytes, but the library writes the metadata in an order drawn anew each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) > size:
            raise AssertionError("a reordered header has the length of the one before")
        file.seek(8)
        file.write(text.ljust(size))


def read_header(path: Path | str) -> tuple[dict[str, str], Header]:
    """Metadata, and type and shape of each tensor, of any safetensors file. Raises `WeightsError`."""
    path = Path(path)
    try:
        with opened(path).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= min(MAX_HEADER, os.fstat(file.fileno()).st_size - 8):
                raise _unreadable(path, "its header does not fit into it")
            header = json.loads(file.read(size))
        return _checked(header)
    except OSError as error:
        raise _unreadable(path, error.strerror or "it cannot be opened") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _unreadable(path, "its header is not a safetensors header") from error


def _checked(header: dict[str, Any]) -> tuple[dict[str, str], Header]:
    metadata = {str(name): str(value) for name, value in header.pop("__metadata__", {}).items()}
    entries = {name: (str(entry["dtype"]), tuple(int(n) for n in entry["shape"])) for name, entry in header.items()}
    return metadata, entries


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors (on the CPU) and the metadata of a safetensors file. Raises `WeightsError`."""
    path = Path(path)
    metadata, _ = read_header(path)
    try:
        return load_file(opened(path)), metadata
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, str(error)) from error


def _unreadable(path: Path, why: str) -> WeightsError:
    return WeightsError(
        f"{path.name} cannot be read as a safetensors file: {why}",
        remedy="Check that the upload or the copy is complete, and that the file is the one you mean.",
    )
