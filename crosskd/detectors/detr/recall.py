"""What is kept of a DETR teacher's pass, and a pass out of it: neither backbone, encoder nor decoder runs."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch

from crosskd.detectors.detr.ports.port import DecoderState, Memory, Recording
from crosskd.detectors.detr.view import DetrPass, Maps
from crosskd.detectors.view import SHAPES, Kept, kept_maps, levels_of
from crosskd.spec.config import ModelConfig
from crosskd.spec.distill.needs import DecoderQueries, Need, Pyramid
from crosskd.structures import Size, Targets

ANSWER = ("logits", "pred_boxes")  # by which it says what it is sure of


def keep(made: DetrPass) -> Kept:
    """The maps where a term asks for them; of the decoder the memory, the queries, and what its layers made of them."""
    found: Kept = {}
    for need in made.needs:
        if isinstance(need, Pyramid):
            found |= kept_maps(made.features)
        elif isinstance(need, DecoderQueries):
            found |= _kept_recording(made.recording)
            found |= {f"answer.{name}": getattr(made.output, name) for name in ANSWER}
    return found


def recall(
    head: Any, kept: Kept, whole: Size, targets: Targets, needs: Sequence[Need], config: ModelConfig
) -> DetrPass:
    """The teacher's pass of a batch that was padded to (height, width) `whole`."""
    made = DetrPass("teacher", head, Maps(levels_of(kept, "maps"), whole), targets, needs, config)
    if "memory.cells" in kept:
        answer = SimpleNamespace(**{name: kept[f"answer.{name}"] for name in ANSWER})
        vars(made)["_run"] = (answer, _recording(kept))  # in place of a run
    return made


def _kept_recording(recording: Recording) -> Kept:
    memory, start = recording.memory, recording.start
    shapes = torch.tensor(memory.shapes, dtype=torch.long)
    found = {f"{SHAPES}memory": shapes.expand(len(memory.cells), -1, -1), "memory.cells": memory.cells}
    found |= {f"memory.{name}": x for name in ("valid", "ratios") if (x := getattr(memory, name)) is not None}
    found |= {f"start.{name}": x for name, x in start.tensors().items() if name != "mask"}
    return found | {f"hidden.{layer}": x for layer, x in enumerate(recording.hidden)}


def _recording(kept: Kept) -> Recording:
    recording = Recording()
    shapes = tuple((int(height), int(width)) for height, width in kept[f"{SHAPES}memory"][0].tolist())
    recording.memory = Memory(kept["memory.cells"], shapes, kept.get("memory.valid"), kept.get("memory.ratios"))
    start = {name.removeprefix("start."): x for name, x in kept.items() if name.startswith("start.")}
    recording.start = DecoderState(0, **start)
    recording.hidden = levels_of(kept, "hidden")
    return recording
