"""CrossKD of DETRs, as the authors' branch `deformable-detr` has it (arXiv 2306.11369)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from crosskd.detectors.detector import Detector
from crosskd.detectors.detr.ports.by_type import port_of
from crosskd.detectors.detr.ports.port import Decoded, DecoderState, LayerPredictions, Memory, Port
from crosskd.distill.queries.memory_grids import on_grid
from crosskd.distill.queries.mimic import mimic_queries
from crosskd.distill.term import Step, Term
from crosskd.spec.config import CrossKDConfig
from crosskd.spec.distill.levels import nearest_levels
from crosskd.structures import Losses

Pair = tuple[LayerPredictions, LayerPredictions]  # ours and the teacher's, of the same queries


def cross(teacher: Port, state: DecoderState, memory: Memory) -> LayerPredictions:
    """What the teacher's layer `state.layer` and its heads make of `memory`, looked at from `state`."""
    return teacher.heads(teacher.layer(state, memory), state)


def from_teachers_queries(teacher: Port, way: Sequence[Decoded], memory: Memory) -> Iterator[Pair]:
    """Each layer from the state that the teacher's own way went through: on the student's memory, and as it was.

    D-FINE's distances are both measured from the teacher's boxes: distributions over others are not to be compared.
    """
    for seen in way:
        yield cross(teacher, replace(seen.state, origin=seen.predictions.origin), memory), seen.predictions


def from_students_queries(
    teacher: Port, states: Sequence[DecoderState], memory: Memory, own: Memory, *, detach: bool
) -> Iterator[Pair]:
    """Each layer from the student's state: on the student's `memory`, and on the teacher's `own`.

    The reference detaches the queries of the second alone. So its boxes, and how much they count, have a gradient into
    the positions of the student's queries; `detach` cuts it.
    """
    for state in states:
        still = state.detached() if detach else replace(state, queries=state.queries.detach())
        theirs = cross(teacher, still, own)
        yield cross(teacher, replace(state, origin=theirs.origin), memory), theirs


class QueryCrossKD(Term):
    """The teacher's decoder layers on the student's memory, against the same layers on its own.

    Where the decoders have other widths, a linear map leads from the student's to the teacher's: one for the memory,
    and, where the student's queries are asked, one for these and one for their positions. Where the memories have other
    levels or cells, the student's is then resampled: each of the teacher's levels is made of the student's of the
    nearest stride.
    """

    config: CrossKDConfig

    def __init__(self, config: CrossKDConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        ours, theirs = port_of(student.head).width, port_of(teacher.head).width  # of the decoders, not of the maps
        mapped = ("memory", "queries", "positions") if config.queries == "student" else ("memory",)
        self.align = nn.ModuleDict({name: nn.Linear(ours, theirs) for name in mapped if ours != theirs})
        self.levels = nearest_levels(student.strides, teacher.strides)

    def forward(self, step: Step) -> Losses:
        teacher, seen = port_of(step.teacher.head), step.student.recording
        own = step.teacher.recording.memory
        cells = self._aligned("memory", seen.memory.cells)
        # What is padding is of the images, and these are the same: so the teacher's grid says it of both.
        memory = replace(own, cells=on_grid(cells, seen.memory.shapes, own.shapes, self.levels))
        if self.config.queries == "teacher":
            with torch.no_grad():
                way = teacher.trajectory(step.teacher.recording)
            layers = list(from_teachers_queries(teacher, way, memory))
        else:
            states = [self._state(x.state) for x in port_of(step.student.head).trajectory(seen)]
            detach = bool(self.config.detach_target)
            layers = list(from_students_queries(teacher, states, memory, own, detach=detach))
        with torch.autocast(cells.device.type, enabled=False):
            return mimic_queries("crosskd", layers, step.teacher.scales, self.config)

    def _state(self, state: DecoderState) -> DecoderState:
        queries, positions = self._aligned("queries", state.queries), self._aligned("positions", state.positions)
        return replace(state, queries=queries, positions=positions)

    def _aligned(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self.align:
            return tensor
        mapped: Tensor = self.align[name](tensor)
        return mapped
