"""A graph that needs no export: the detector itself, with other knobs."""

from __future__ import annotations

from crosskd.data.transforms import collate
from crosskd.detectors.detector import Detector
from crosskd.onnx.check import Graph
from crosskd.structures import Detections


class Shifted(Graph):
    """Stands for a graph, as far as `compare` needs one."""

    def __init__(self, detector: Detector, **knobs: float) -> None:
        self.detector, self.knobs = detector, knobs

    def detect(self, samples: object, multiple: int) -> list[Detections]:
        batch = collate(samples, self.detector.config.pixels, multiple)  # type: ignore[arg-type]
        config = self.detector.config.postprocess.model_copy(update=self.knobs)
        return self.detector.detect(batch.images, batch.targets.sizes, config)
