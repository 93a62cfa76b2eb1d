"""What the files of a run are called; the service publishes them under these very names. Imports no torch."""

from __future__ import annotations

import re
from typing import Literal

FileKind = Literal["checkpoint", "weights", "log", "manifest", "onnx", "curves", "matches", "teacher_matches"]
MatchesKind = Literal["matches", "teacher_matches"]

BEST_WEIGHTS = "best.safetensors"  # the best student so far
LAST_WEIGHTS = "last.safetensors"
LOG = "log.txt"
MANIFEST = "manifest.json"
ONNX = "model.onnx"  # what an export makes
# Which detections were right, image by image: of the best student, of the teacher (`crosskd/spec/matches.py`).
MATCHES_FILES: dict[MatchesKind, str] = {
    "matches": "matches.safetensors",
    "teacher_matches": "teacher_matches.safetensors",
}
CHECKPOINTS, CURVES = "checkpoints", "curves"  # folders of a run
CURVES_NAME = re.compile(r"curves-(student|teacher)-(\d{8,})\.json")


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step:08d}.pt"


def curves_name(model: str, step: int) -> str:
    """Of the precision-recall curves of an evaluation; `model` is "student" or "teacher"."""
    return f"curves-{model}-{step:08d}.json"
