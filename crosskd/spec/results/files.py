"""What the files of a run are called; the service publishes them under these very names. Imports no torch."""

from __future__ import annotations

import re
from typing import Literal

FileKind = Literal[
    "checkpoint",
    "weights",
    "log",
    "manifest",
    "onnx",
    "curves",
    "matches",
    "teacher_matches",
    "detections",
    "samples",
    "annotations",
    "report",
]
MatchesKind = Literal["matches", "teacher_matches"]
BestKind = Literal["matches", "teacher_matches", "detections", "teacher_detections"]

BEST_WEIGHTS = "best.safetensors"  # the best student so far
LAST_WEIGHTS = "last.safetensors"
LOG = "log.txt"
MANIFEST = "manifest.json"
ONNX = "model.onnx"  # what an export makes
# What an import makes: its splits as COCO files, and what it found (`crosskd/spec/results/dataset_report.py`).
ANNOTATIONS: dict[str, str] = {name: f"{name}.json" for name in ("train", "val", "test")}
DATASET_REPORT = "report.json"
# Which detections were right, image by image: of the best student, of the teacher (`crosskd/spec/results/matches.py`).
MATCHES_FILES: dict[MatchesKind, str] = {
    "matches": "matches.safetensors",
    "teacher_matches": "teacher_matches.safetensors",
}
# And what they found in every validation image, as a COCO results list compressed by gzip.
BEST_FILES: dict[BestKind, str] = {
    **{kind: MATCHES_FILES[kind] for kind in MATCHES_FILES},
    "detections": "detections.json.gz",
    "teacher_detections": "teacher_detections.json.gz",
}
# Kinds of which each evaluation leaves a file of its own; they are found through the evaluations.
EVALUATION_KINDS: tuple[FileKind, ...] = ("curves", "samples")
CHECKPOINTS, CURVES, SAMPLES = "checkpoints", "curves", "samples"  # folders of a run
TEACHER_CACHE = "teacher-cache"  # folder of one too, where nobody names another
_CHECKPOINT_NAME = re.compile(r"checkpoint-(\d{8,})\.pt")
_EVALUATION_NAME = re.compile(r"(curves|samples)-(?:student|teacher)-(\d{8,})\.json(?:\.gz)?")


def checkpoint_name(step: int) -> str:
    return f"checkpoint-{step:08d}.pt"


def checkpoint_step(name: str) -> int | None:
    """Of the checkpoint that is called so; None for any other file."""
    match = _CHECKPOINT_NAME.fullmatch(name)
    return None if match is None else int(match[1])


def curves_name(model: str, step: int) -> str:
    """Of the precision-recall curves of an evaluation; `model` is "student" or "teacher"."""
    return f"curves-{model}-{step:08d}.json"


def samples_name(model: str, step: int) -> str:
    """Of the detections in the sample images at an evaluation; `model` as for the curves."""
    return f"samples-{model}-{step:08d}.json.gz"


def of_evaluation(name: str) -> tuple[FileKind, int] | None:
    """Kind and step of a file that an evaluation of its own has left; None for any other."""
    match = _EVALUATION_NAME.fullmatch(name)
    return None if match is None else ("curves" if match[1] == "curves" else "samples", int(match[2]))


def kind_of(kept: BestKind) -> FileKind:
    """The kind of the file: detections are one, whoever made them."""
    return "detections" if kept == "teacher_detections" else kept
