"""What each family of detectors has for its export: the graph, and what rounding may decide in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.onnx import dense, queries, query_rounding, region_rounding, regions
from crosskd.onnx.pipeline import Pipeline
from crosskd.spec import registry
from crosskd.spec.registry import DetectorFamily
from crosskd.structures import Candidates, Detections, Size


def _as_it_is(detector: Detector, cells: Tensor | None) -> AbstractContextManager[list[int]]:  # noqa: ARG001
    return nullcontext([])


@dataclass(frozen=True)
class Exported:
    pipeline: type[Pipeline]
    # Images as the detector takes them and their sizes -> PyTorch's detections and candidates (`rounding.excuse`).
    look: Callable[[Detector, Tensor, Sequence[Size]], tuple[list[Detections], list[Candidates]]]
    # In this block PyTorch begins in the cells in which the graph has begun; see `query_rounding`.
    alike: Callable[[Detector, Tensor | None], AbstractContextManager[list[int]]] = _as_it_is
    suppresses: bool = True  # whether one candidate can take another one's place by overlapping it


_OF_FAMILY: Mapping[DetectorFamily, Exported] = {
    "dense": Exported(dense.DensePipeline, dense.look),
    "two_stage": Exported(regions.RegionPipeline, region_rounding.look),
    "detr": Exported(queries.QueryPipeline, query_rounding.look, query_rounding.begun_alike, suppresses=False),
}


def exported(detector: Detector) -> Exported:
    """What the family of `detector` has."""
    return _OF_FAMILY[registry.DETECTORS[detector.config.detector].family]


def pipeline_of(detector: Detector) -> Pipeline:
    """`detector` as a pipeline with its own postprocessing."""
    return exported(detector).pipeline(detector, detector.config.postprocess)
