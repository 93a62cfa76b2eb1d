"""DETRs as graphs: what they find, where queries begin in cells that are nearly as likely, and images that are padded.

One file for all types: the library takes seconds to import.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from crosskd.data.transforms import Sample, collate
from crosskd.detectors.detector import Detector
from crosskd.errors import ExportError
from crosskd.onnx.check import Graph, compare, raw_batch
from crosskd.onnx.families import pipeline_of
from crosskd.onnx.graph import write_graph
from crosskd.onnx.query_rounding import may_be_chosen, scoring_of
from crosskd.spec.detr.types import TYPES
from crosskd.structures import Detections
from tests.support import detrs
from tests.support.shifted import Shifted

ALL = sorted(TYPES)

MULTIPLE = 32
# Images of any size are padded to whole windows in the graph itself.
MULTIPLES: dict[str, int] = {name: 1 if kind.backbone else MULTIPLE for name, kind in TYPES.items()}
# One layer each where the second is traced as the first is.
KNOBS: dict[str, dict[str, Any]] = {
    "deformable_detr": {"levels": 3},
    "rt_detr": {"decoder_layers": 1, "queries": 60},
    "rt_detr_v2": {"decoder_layers": 1},
    "d_fine": {"queries": 60},
    "lw_detr": {"decoder_layers": 1, "queries": 60},
    "rf_detr": {"decoder_layers": 1, "queries": 20},
}


def make(kind: str, **postprocess: Any) -> Detector:
    """It keeps fewer pairs than there are, and some of them have no area."""
    detector = detrs.detector(kind, 1, **KNOBS[kind]).eval().requires_grad_(False)
    wanted = detector.config.postprocess.model_copy(update={"max_detections": 20, **postprocess})
    detector.config = detector.config.model_copy(update={"postprocess": wanted})
    return detector


def noise(*size: int) -> Sample:
    """An image of (height, width)."""
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (*size, 3), np.uint8)
    return Sample(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 1, (1.0, 1.0), (size[0], size[1]))


# The first fills what it is padded to, the second does not; the third is smaller than what any of them can look at.
BATCHES = [[noise(96, 128), noise(87, 77)], [noise(20, 30)]]


def expected(detector: Detector, samples: list[Sample]) -> list[Detections]:
    batch = collate(samples, detector.config.pixels, MULTIPLES[detector.config.detector])
    return detector.detect(batch.images, batch.targets.sizes)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("threshold", [0.0, 0.1])
def test_the_pipeline_is_what_the_detector_does(kind: str, threshold: float) -> None:
    detector = make(kind, score_threshold=threshold)
    pipeline = pipeline_of(detector)
    for samples in BATCHES:
        with torch.no_grad():
            boxes, scores, labels, counts = pipeline(*map(torch.from_numpy, raw_batch(samples, MULTIPLES[kind])))
        for image, wanted in enumerate(expected(detector, samples)):
            count = len(wanted.scores)
            assert count == counts[image] > 0
            torch.testing.assert_close(boxes[image, :count], wanted.boxes, atol=1e-3, rtol=0)
            torch.testing.assert_close(scores[image, :count], wanted.scores)
            assert labels[image, :count].tolist() == wanted.labels.tolist()
            assert not boxes[image, count:].any()
            assert (labels[image, count:] == -1).all()


@pytest.mark.slow  # tracing takes half a minute each
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ALL)
def test_onnxruntime_finds_what_pytorch_finds_at_any_size(kind: str, tmp_path: Path) -> None:
    detector, path = make(kind, max_detections=100), tmp_path / "model.onnx"
    write_graph(pipeline_of(detector), path, opset=18, metadata={})
    graph = Graph(path, threads=1)
    for samples in (*BATCHES, [noise(224, 160), noise(40, 224), noise(64, 64)]):
        check = compare(graph, detector, samples, MULTIPLES[kind])
        assert check.detections > 2 * check.batches
        assert check.box_difference < 0.01
        assert check.score_difference < 1e-5
        assert (graph.cells is None) == (kind == "deformable_detr")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    axes = [side.dim_param or side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]


class Chooser(Shifted):
    """A graph that says in which cells its queries begin; `by` so much a cell's logits are moved."""

    barred: torch.Tensor | None = None  # [N, A, 1], where the library bars cells

    def __init__(self, detector: Detector, cell: int, by: float) -> None:
        super().__init__(deepcopy(detector))
        self.cell, self.by, self.model = cell, by, self.detector.head.model
        self.propose = getattr(self.model, "gen_encoder_output_proposals", None)
        if self.propose is not None:
            self.model.gen_encoder_output_proposals = self.proposed
        scoring = scoring_of(self.detector)
        assert scoring is not None
        scoring.register_forward_hook(self.hook)

    def proposed(self, *given: Any) -> Any:
        assert self.propose is not None
        told = self.propose(*given)
        self.barred = told[2]
        return told

    def hook(self, _module: object, _given: object, logits: torch.Tensor) -> torch.Tensor:
        queries = self.model.config.num_queries
        if logits.shape[1] == queries:
            return logits  # those of the cells that were chosen
        logits = logits.clone()
        if self.cell < logits.shape[1]:  # the check also looks at a piece
            logits[:, self.cell] += self.by
        known = logits if self.barred is None else logits.masked_fill(self.barred, -torch.inf)
        self.cells = known.amax(dim=2).topk(queries).indices
        return logits


@pytest.mark.parametrize("kind", ["rt_detr", "lw_detr"])
@pytest.mark.parametrize(("apart", "right"), [(3e-4, True), (2e-3, False)])
def test_which_cells_queries_begin_in_rounding_may_decide(kind: str, apart: float, right: bool) -> None:
    """The detector and its graph find other things from there on, and only where the cells are about as likely."""
    detector = make(kind, max_detections=180)
    scoring, queries = scoring_of(detector), detector.head.config.num_queries
    assert isinstance(scoring, torch.nn.Linear)
    scoring.weight *= 1e4  # its cells are hardly told apart
    sample = noise(96, 128)
    plain = Chooser(detector, 0, 0.0)
    said: list[torch.Tensor] = []
    first = scoring_of(plain.detector)
    assert first is not None
    with first.register_forward_hook(lambda _m, _g, logits: said.append(logits[0])):
        theirs = plain.detect([sample], MULTIPLE)[0]
    likely = said[0].amax(dim=1).sort(descending=True)
    gap = float(likely.values[queries - 1] - likely.values[queries])
    scoring.weight *= apart / 2 / gap  # the next cell is below the last one by half of what it is moved
    graph = Chooser(detector, int(likely.indices[queries]), apart)
    assert not torch.equal(theirs.boxes, graph.detect([sample], MULTIPLE)[0].boxes)
    if right:
        assert compare(graph, detector, [sample], MULTIPLE).at_the_limit >= 2  # alone, and beside its piece
    else:
        with pytest.raises(ExportError, match="finds other boxes"):
            compare(graph, detector, [sample], MULTIPLE)


def test_cells_may_be_chosen_that_are_the_likeliest_in_this_order_but_for_rounding() -> None:
    likely = torch.tensor([0.5, 2.0, 0.5001, 0.1, 0.5002])
    for chosen in ([1, 4, 2], [1, 0, 4], [1, 2, 0]):
        assert may_be_chosen(likely, torch.tensor(chosen)), chosen
    for chosen in ([4, 1, 2], [1, 4, 4], [1, 4, 3], [1, 4, 5], [1, 4, -1]):
        assert not may_be_chosen(likely, torch.tensor(chosen)), chosen
    barred = torch.tensor([2.0, -torch.inf, 1.0, -torch.inf])
    assert may_be_chosen(barred, torch.tensor([0, 2, 3]))
    assert not may_be_chosen(barred, torch.tensor([0, 3, 2]))
