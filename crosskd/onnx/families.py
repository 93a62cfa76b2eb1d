"""What each family of detectors has for its export: the graph, and what rounding may decide in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from crosskd.detectors.detector import Detector
from crosskd.onnx import dense, region_rounding, regions
from crosskd.onnx.pipeline import Pipeline
from crosskd.spec import registry
from crosskd.spec.registry import DetectorFamily
from crosskd.structures import Candidates, Detections, Size


@dataclass(frozen=True)
class Exported:
    pipeline: type[Pipeline]
    # Images as the detector takes them and their sizes -> PyTorch's detections and candidates (`rounding.excuse`).
    look: Callable[[Detector, Tensor, Sequence[Size]], tuple[list[Detections], list[Candidates]]]


_OF_FAMILY: Mapping[DetectorFamily, Exported] = {
    "dense": Exported(dense.DensePipeline, dense.look),
    "two_stage": Exported(regions.RegionPipeline, region_rounding.look),
}


def exported(detector: Detector) -> Exported:
    """What the family of `detector` has."""
    return _OF_FAMILY[registry.DETECTORS[detector.config.detector].family]


def pipeline_of(detector: Detector) -> Pipeline:
    """`detector` as a pipeline with its own postprocessing."""
    return exported(detector).pipeline(detector, detector.config.postprocess)
