"""What tests of specifications share: a small model, weights of it, and what a refusal says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from crosskd.spec.config import ModelConfig
from crosskd.spec.weights.shapes import expected_shapes

TINY = {"backbone": {"name": "resnet_tiny", "width": 8}, "neck": {"channels": 32}, "head": {"channels": 32, "depth": 2}}
CLASSES = ["ring", "square"]
Post = Callable[..., Any]


def errors(answer: Any) -> dict[str, str]:
    """Pointer -> detail; the answer must be a 422 in which each fault says what to do."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()["errors"]
    assert all(fault["remedy"] for fault in found), found
    return {fault["pointer"]: fault["detail"] for fault in found}


def write_weights(
    path: Path, model_: dict[str, Any] = TINY, classes: list[str] = CLASSES, said: Any = None, **metadata: str
) -> Path:
    """Weights of `model` as the core writes them, under its names and with its metadata.

    With `said`, the metadata says that instead of the classes.
    """
    config = ModelConfig.model_validate(model_)
    own = {
        "format": "crosskd",
        "version": "1",
        "model": config.model_dump_json(),
        "classes": json.dumps(classes if said is None else said),
    }
    tensors = {name: torch.zeros(shape) for name, shape in expected_shapes(config, len(classes)).items()}
    save_file(tensors, path, {**own, **metadata})
    return path
