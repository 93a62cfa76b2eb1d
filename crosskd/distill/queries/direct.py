"""Direct mimicking for DETRs: the teacher's queries through the student's decoder (KD-DETR, arXiv 2211.08071)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from crosskd.detectors.detector import Detector
from crosskd.detectors.detr.ports.by_type import port_of
from crosskd.distill.queries.mimic import mimic_queries
from crosskd.distill.term import Step, Term
from crosskd.spec.config import DirectConfig
from crosskd.structures import Losses


class QueryDirect(Term):
    """The student's decoder and heads on its own memory, asked about the queries with which the teacher's began.

    So both say something of the same queries, and nothing has to be matched. These are the paper's specific queries;
    its general ones, which are random, are left out. Where the decoders have other widths, a linear map leads from the
    teacher's queries to the student's, and one from their positions where the student does not make its own.
    """

    config: DirectConfig

    def __init__(self, config: DirectConfig, student: Detector, teacher: Detector) -> None:
        super().__init__(config, student, teacher)
        ours, theirs = port_of(student.head).width, port_of(teacher.head).width  # of the decoders, not of the maps
        mapped = ("queries", "positions") if student.config.detector == "deformable_detr" else ("queries",)
        self.align = nn.ModuleDict({name: nn.Linear(theirs, ours) for name in mapped if ours != theirs})

    def forward(self, step: Step) -> Losses:
        student, memory = port_of(step.student.head), step.student.recording.memory
        with torch.no_grad():
            way = port_of(step.teacher.head).trajectory(step.teacher.recording)
        state = way[0].state
        start = replace(
            state,
            queries=self._aligned("queries", state.queries),
            positions=self._aligned("positions", state.positions),
            origin=way[0].predictions.origin,  # or D-FINE's distributions would not be of the same distances
        )
        ours = student.decode(student.adopted(start, memory), memory)
        layers = [(mine.predictions, theirs.predictions) for mine, theirs in zip(ours, way, strict=True)]
        with torch.autocast(memory.cells.device.type, enabled=False):
            return mimic_queries("direct", layers, step.teacher.scales, self.config)

    def _aligned(self, name: str, tensor: Tensor) -> Tensor:
        if name not in self.align:
            return tensor
        mapped: Tensor = self.align[name](tensor)
        return mapped
