"""Checkpoints: everything a resume needs, written so that a reader never sees half of one.

A checkpoint is a dictionary of tensors and plain values, read with `weights_only=True`: it cannot carry code.
Its sha256 stands beside it in the form of `sha256sum`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from crosskd.errors import CheckpointCorrupt, CheckpointMismatch, ConfigError
from crosskd.spec.config import TrainConfig
from crosskd.spec.evaluate_export import image_settings
from crosskd.spec.results.files import checkpoint_name, checkpoint_step
from crosskd.weights.files import File, file_digest, remove_leftovers, replacing, write_text
from crosskd.weights.pytorch import read_pytorch

log = logging.getLogger(__name__)

FORMAT = 2


def write_checkpoint(folder: Path, step: int, state: dict[str, Any]) -> File:
    """Write `state` as the checkpoint of `step`, with its digest, or nothing at all.

    Raises `OSError` or `CrossKDError` where the disk does not take it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / checkpoint_name(step)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
        # The digest goes first: killed in between, the folder holds a digest without a checkpoint, which nobody reads.
        path.unlink(missing_ok=True)
        digest = file_digest(temporary)
        write_text(digest_path(path), f"{digest}  {path.name}\n")
    return File(path, "checkpoint", step, digest)


def digest_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints, and what a killed process left half-written."""
    for path in list_checkpoints(folder)[keep:]:
        _remove(path)
    remove_leftovers(folder)


def remove_later(folder: Path, step: int) -> None:
    """Remove the checkpoints of later steps: a run that goes on after `step` makes its own, and keeps the newest."""
    for path in list_checkpoints(folder):
        if (checkpoint_step(path.name) or 0) > step:
            _remove(path)


def _remove(path: Path) -> None:
    path.unlink()
    digest_path(path).unlink(missing_ok=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, newest first."""
    if not folder.is_dir():
        return []
    found = [(step, path) for path in folder.iterdir() if (step := checkpoint_step(path.name)) is not None]
    return [path for _, path in sorted(found, reverse=True)]


def read_checkpoint(source: Path) -> dict[str, Any]:
    """The checkpoint `source`, or the newest sound one in the folder `source`, on the CPU.

    In a folder each must have its digest beside it, as it is written there; a single file may have been brought
    alone, and is then judged by what is inside.

    Raises `ConfigError` where there is none, and `CheckpointCorrupt` when the bytes are not what was written; in a
    folder, when no checkpoint is sound. One that is passed over is logged.
    """
    if source.is_file():
        return _read_file(source)
    faults = []
    for path in list_checkpoints(source):
        try:
            _require_digest(path)
            return _read_file(path)
        except CheckpointCorrupt as error:
            log.warning("%s; trying the one before", error.message)
            faults.append(error.message)
    if not faults:
        raise ConfigError("there is no checkpoint", where=str(source), remedy="Start the run without resume.")
    raise CheckpointCorrupt(
        f"no checkpoint in the folder is sound: {'; '.join(faults)}",
        where=str(source),
        remedy="Start the run anew, without resume.",
    )


def _require_digest(path: Path) -> None:
    if not digest_path(path).exists():
        raise CheckpointCorrupt(
            f"{path.name} has no sha256 beside it", where=str(path), remedy="Resume from an earlier checkpoint."
        )


def _read_file(path: Path) -> dict[str, Any]:
    beside = digest_path(path)
    try:
        if beside.exists() and beside.read_text(encoding="ascii").split()[:1] != [file_digest(path)]:
            raise CheckpointCorrupt(
                f"{path.name} does not have the sha256 that was written with it",
                where=str(path),
                remedy="Resume from an earlier checkpoint.",
            )
        if not zipfile.is_zipfile(path):  # torch would take it for a bare pickle
            raise ValueError("it is cut short, or no checkpoint at all")
        state = read_pytorch(path)
        if not isinstance(state, dict) or state.get("format") != FORMAT:
            raise ValueError(f"not a checkpoint of format {FORMAT}")
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointCorrupt(
            f"{path.name} cannot be read: {reason}", where=str(path), remedy="Resume from an earlier checkpoint."
        ) from error
    return state


# --- does it belong to this run? -------------------------------------------------------------------------------------

# What may differ between a run and its resume: where files lie, how fast the machine is, what is reported when.
_FREE = {
    "data", "device", "threads", "channels_last", "compile", "activation_checkpointing", "evaluation", "checkpoint",
    "export", "log_every", "track",
}  # fmt: skip


def fingerprint(config: TrainConfig, data_digests: dict[str, str], teacher_digest: str | None = None) -> dict[str, Any]:
    """The part of a configuration that decides the weights, as JSON values; data and teacher by content, not path."""
    values = config.model_dump(mode="json", exclude=_FREE)
    for knob in ("workers", "cache_mib"):
        values["loader"].pop(knob)
    if isinstance(values["distill"], dict) and (cache := values["distill"].pop("cache", None)) is not None:
        # Kept in float32 it changes nothing.
        values["distill"] |= {"cache": {"dtype": cache["dtype"]}} if cache["dtype"] != "float32" else {}
    values["schedule"].pop("max_steps")
    values["student"]["backbone"].pop("init")
    values["student"].pop("init", None)
    if values["teacher"] is not None:
        values["teacher"]["weights"] = teacher_digest
    data: dict[str, Any] = {"classes": config.data.classes, **data_digests}
    if config.data.unlabelled is not None:
        data["unlabelled"] = {
            "images": data_digests.get("unlabelled"),
            "ratio": config.data.unlabelled.ratio,
            "confidence": config.data.unlabelled.confidence,
        }
    return {**values, "data": data}


def fingerprint_digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def require_same_run(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raises `CheckpointMismatch`, naming every setting that differs by its JSON pointer."""
    saved = _with_later_knobs(saved)
    differences = [
        f"{pointer} was {json.dumps(_short(old))} and is {json.dumps(_short(new))}"
        for pointer, old, new in _differences(saved, current)
    ]
    if differences:
        raise CheckpointMismatch(
            f"the checkpoint belongs to a run with other settings: {'; '.join(differences)}",
            remedy="Resume with the settings of that run, or start a new run.",
        )


# Knobs that 0.2 did not have, and what it did: a run from before there was a choice goes on as it was.
_OF_MODELS: Mapping[str, Mapping[str, Any]] = {
    "neck": {"kind": "fpn", "blocks": 1, "depthwise": False},
    "head": {"exp_on_reg": False, "depthwise": False},
    "losses": {"l1_last_epochs": 15, "cross_entropy": 1.0, "objectness": 1.0},
    "pixels": {"padding": None},
}
_OF_RUNS: Mapping[str, Mapping[str, Any]] = {
    "augment": image_settings({})
    | {"keep_ratio": True}
    | dict.fromkeys(("letterbox", "mosaic", "affine", "crop", "hsv", "mixup")),
    "schedule": {"flat": 0.0, "final_epochs": 0},
    "optimizer": {"nesterov": False, "backbone_lr_factor": 1.0, "sampling_lr_factor": 1.0},
}


def _with_later_knobs(saved: dict[str, Any]) -> dict[str, Any]:
    found = _under(saved, _OF_RUNS)
    if isinstance(found.get("student"), dict):
        found["student"] = _under(found["student"], _OF_MODELS)
    teacher = found.get("teacher")
    if isinstance(teacher, dict) and isinstance(teacher.get("model"), dict):
        found["teacher"] = {**teacher, "model": _under(teacher["model"], _OF_MODELS)}
    return found


def _under(values: Mapping[str, Any], sections: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """With `sections` below what the sections of `values` say themselves."""
    there = {name: knobs for name, knobs in sections.items() if isinstance(values.get(name), dict)}
    return {**values, **{name: {**knobs, **values[name]} for name, knobs in there.items()}}


def _differences(old: Any, new: Any, pointer: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [found for key in keys for found in _differences(old.get(key), new.get(key), f"{pointer}/{key}")]
    return [] if old == new else [(pointer, old, new)]


def _short(value: Any) -> Any:
    text = json.dumps(value)
    return value if len(text) <= 80 else f"{text[:77]}..."
