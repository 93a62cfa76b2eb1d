"""The file in which the trainings of a machine remember for each other which memory layout is faster."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crosskd.errors import CrossKDError
from crosskd.spec.config import TrainConfig
from crosskd.structures import Size
from crosskd.weights.files import write_text

log = logging.getLogger(__name__)

MOST_KEPT = 1000  # choices of a file


def key(config: TrainConfig, trainee: nn.Module, device: torch.device, size: Size) -> str:
    """Of all that a step's time depends on: device, torch, networks, sizes."""
    shapes = [[name, *x.shape] for name, x in trainee.state_dict().items()]
    teacher = None if config.teacher is None else config.teacher.model_dump(mode="json", exclude={"weights"})
    terms = None if config.distill is None else config.distill.model_dump(mode="json")
    model = config.student.model_dump(mode="json", exclude={"init": True, "backbone": {"init"}})
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    knobs = [config.precision, config.activation_checkpointing, config.batch_size, config.gpus, *size]
    what = [named, torch.get_num_threads(), torch.__version__, model, teacher, terms, shapes, knobs]
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode()).hexdigest()


def _processor() -> str:
    """The model of the CPU, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("model name")), platform.processor())


def read(file: Path) -> dict[str, Any]:
    """The choices of a file, by key; none of one that is missing or damaged."""
    try:
        found = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s is left out, and made anew: %s", file.name, error)
        return {}
    entries = found.items() if isinstance(found, dict) else ()
    return {key: entry for key, entry in entries if _is_choice(entry)}


def _is_choice(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("channels_last"), bool)
        and isinstance(entry.get("ratio"), int | float)
    )


def remember(file: Path, key: str, *, channels_last: bool, ratio: float) -> None:
    """Add a choice; a file that cannot be written is told in the log."""
    entries = [*read(file).items(), (key, {"channels_last": channels_last, "ratio": ratio})]
    try:
        write_text(file, json.dumps(dict(entries[-MOST_KEPT:]), indent=1))
    except (OSError, CrossKDError) as error:
        log.warning("the choice of a layout is not remembered: %s", error)
