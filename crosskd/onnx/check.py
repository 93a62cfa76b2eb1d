"""An ONNX graph under onnxruntime, held against the detector that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosskd.data.transforms import Sample, collate, padded
from crosskd.detectors.detector import Detector
from crosskd.errors import ExportError
from crosskd.onnx.families import exported
from crosskd.onnx.pipeline import CELLS, INPUTS, OUTPUTS
from crosskd.onnx.rounding import BOX_TOLERANCE, SCORE_TOLERANCE, Side, excuse, same
from crosskd.spec.config import PostprocessConfig
from crosskd.structures import Candidates, Detections


class Graph:
    """A graph that `crosskd.onnx.graph` wrote, on the CPU."""

    cells: Tensor | None = None  # [N, Q] in which the queries of the last batch have begun, where they begin in cells

    def __init__(self, path: Path, *, threads: int) -> None:
        """Raises `ExportError` where onnxruntime does not take the file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(_telling(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            raise ExportError(
                f"onnxruntime {onnxruntime.__version__} does not load the graph: {error}",
                where="/opset",
                remedy="Use the default opset.",
            ) from error

    def run(self, images: NDArray[np.float32], sizes: NDArray[np.int64]) -> list[NDArray[Any]]:
        """Images [N, 3, H, W] RGB 0..255 and sizes [N, 2] -> boxes, scores, labels, counts. Raises `ExportError`."""
        try:
            outputs: list[NDArray[Any]] = self._session.run(None, dict(zip(INPUTS, (images, sizes), strict=True)))
            outputs, cells = outputs[: len(OUTPUTS)], outputs[len(OUTPUTS) :]
        except Exception as error:
            count, _, height, width = images.shape
            raise ExportError(
                f"onnxruntime cannot run the graph on {count} images of {height} x {width} pixels: {error}",
                remedy="This is a fault of the exporter; try another opset.",
            ) from error
        self.cells = torch.from_numpy(cells[0]) if cells else None
        return outputs

    def detect(self, samples: Sequence[Sample], multiple: int) -> list[Detections]:
        """The detections of a batch of images as they are, padded to a multiple of `multiple`."""
        boxes, scores, labels, counts = map(torch.from_numpy, self.run(*raw_batch(samples, multiple)))
        return [
            Detections(boxes[image, :count], scores[image, :count], labels[image, :count])
            for image, count in enumerate(counts.tolist())
        ]


def _telling(path: Path) -> bytes:
    """The graph, which says besides in which cells queries begin, where they do."""
    model = onnx.load(path)
    if any(CELLS in node.output for node in model.graph.node):
        model.graph.output.append(onnx.helper.make_tensor_value_info(CELLS, onnx.TensorProto.INT64, None))
    told: bytes = model.SerializeToString()
    return told


def raw_batch(samples: Sequence[Sample], multiple: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Images as the graph takes them: pixels as they are, zero where padded, and the sizes."""
    sizes = [sample.size for sample in samples]
    height, width = padded((max(h for h, _ in sizes), max(w for _, w in sizes)), multiple)
    images = np.zeros((len(samples), 3, height, width), dtype=np.float32)
    for image, sample, (h, w) in zip(images, samples, sizes, strict=True):
        image[:, :h, :w] = sample.pixels.transpose(2, 0, 1)
    return images, np.array(sizes, dtype=np.int64)


@dataclass
class Check:
    """What a comparison has found; differences are the largest of all."""

    images: int = 0
    batches: int = 0
    detections: int = 0
    box_difference: float = 0.0  # pixels
    score_difference: float = 0.0
    at_the_limit: int = 0  # found by one of the two alone, since rounding decides about it: see `crosskd.onnx.rounding`

    def add(self, theirs: Detections, ours: Detections, candidates: Candidates, config: PostprocessConfig) -> list[str]:
        """Compare one image's detections, PyTorch's and the graph's; what is wrongly found by one alone, in words.

        `candidates`: see `rounding.excuse`.
        """
        pytorch, graph = Side(theirs, set()), Side(ours, set(range(len(ours.scores))))
        for row in range(len(theirs.scores)):
            score = (ours.scores - theirs.scores[row]).abs()
            near = same(theirs, row, ours)
            near[[other for other in range(len(near)) if other not in graph.alone]] = False
            if not near.any():
                pytorch.alone.add(row)
                continue
            match = int(torch.where(near, score, torch.inf).argmin())
            self.detections += 1
            self.box_difference = max(self.box_difference, float((ours.boxes[match] - theirs.boxes[row]).abs().max()))
            self.score_difference = max(self.score_difference, float(score[match]))
            graph.alone.remove(match)
        excuse((pytorch, graph), candidates, config)
        self.at_the_limit += len(pytorch.excused) + len(graph.excused)
        return [
            _describe(who, side.found, row)
            for who, side in (("PyTorch", pytorch), ("the graph", graph))
            for row in sorted(side.alone - side.excused)
        ]

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "box_tolerance": BOX_TOLERANCE, "score_tolerance": SCORE_TOLERANCE}


def compare(
    graph: Graph,
    detector: Detector,
    samples: Sequence[Sample],
    multiple: int,
    *,
    before_batch: Callable[[], None] = lambda: None,
) -> Check:
    """Hold the graph against `detector` (on the CPU) on each image alone, and on two at a time.

    A piece of the first one is among them: images of one size alone would not show a graph that knows only that size.
    `before_batch` may raise, to end it.

    Raises `ExportError` where they differ by more than the tolerances.
    """
    piece = _piece(samples[0])
    pairs = [list(samples[i : i + 2]) for i in range(0, len(samples) - 1, 2)] + [[piece, samples[0]]]
    check, kind, config = Check(images=len(samples)), exported(detector), detector.config.postprocess
    if not kind.suppresses:
        config = config.model_copy(update={"nms_iou": torch.inf})  # nothing overlaps by so much
    differing: list[str] = []
    for batch in [*([sample] for sample in samples), [piece], *pairs]:
        before_batch()
        loaded = collate(batch, detector.config.pixels, multiple)
        ours = graph.detect(batch, multiple)
        with kind.alike(detector, graph.cells) as moved:
            theirs, candidates = kind.look(detector, loaded.images, loaded.targets.sizes)
        check.at_the_limit += len(moved)
        for found, wanted, known in zip(ours, theirs, candidates, strict=True):
            differing += check.add(wanted, found, known, config)
        check.batches += 1
    if differing:
        raise ExportError(
            f"the graph finds other boxes than PyTorch, {len(differing)} in {check.batches} batches: {differing[0]}",
            remedy="Try another opset; otherwise this is a fault of the exporter.",
        )
    return check


def _piece(sample: Sample) -> Sample:
    """The upper left of an image, of another ratio."""
    height, width = sample.size
    return replace(sample, pixels=sample.pixels[: max(1, height * 2 // 3), : max(1, width // 2)])


def _describe(who: str, found: Detections, row: int) -> str:
    box: Tensor = found.boxes[row]
    corners = ", ".join(f"{value:.1f}" for value in box.tolist())
    return f"{who} alone has class {int(found.labels[row])} with score {float(found.scores[row]):.4f} at ({corners})"
