"""An exported ONNX graph in use: an image in, its detections out, by onnxruntime on the CPU. Imports no torch."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

from crosskd.errors import WeightsError
from crosskd.predict.found import Found
from crosskd.predict.picture import network_input
from crosskd.spec.evaluate_export import ScaleConfig
from crosskd.spec.results.input_contract import evaluation_scale
from crosskd.spec.results.predictions import Category

_REMEDY = "Write it anew: crosskd export WEIGHTS --images FOLDER --workdir OUT."


class OnnxDetector:
    """A graph that `crosskd export`, or a training, has written; what it says of itself is all that it needs."""

    def __init__(self, path: Path, *, threads: int | None = None, keep_memory: bool = True) -> None:
        """`threads` of one image; None: as onnxruntime likes. Without `keep_memory` each image gives its memory back.

        Raises `WeightsError` where the file is no such graph.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.enable_cpu_mem_arena = keep_memory
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            told = self._session.get_modelmeta().custom_metadata_map
        except Exception as error:  # its errors have no common class
            raise WeightsError(f"onnxruntime does not load {path.name}: {str(error)[:300]}", remedy=_REMEDY) from error
        try:
            self.categories = _categories(told)
            self.scale: ScaleConfig = evaluation_scale(json.loads(told["scale"]))
        except (KeyError, ValueError, TypeError) as error:
            message = f"{path.name} does not say its classes and its scale: it is no graph of ours"
            raise WeightsError(message, remedy=_REMEDY) from error
        self.weights_sha256 = str(told.get("weights_sha256", ""))

    def detect(self, image: Image.Image) -> Found:
        """Find objects in an upright RGB image. Raises what onnxruntime does where memory does not suffice."""
        images, sizes = network_input(image, self.scale)
        begin = time.perf_counter()
        outputs: list[Any] = self._session.run(None, {"images": images, "sizes": sizes})
        milliseconds = 1000 * (time.perf_counter() - begin)
        boxes, scores, labels, counts = outputs
        count, (height, width) = int(counts[0]), sizes[0].tolist()
        ratio = np.array([image.width / width, image.height / height] * 2)
        original = (boxes[0, :count].astype(np.float64) * ratio).clip(0, [image.width, image.height] * 2)
        return Found(original, scores[0, :count].astype(np.float64), labels[0, :count], 0, milliseconds)


def _categories(told: dict[str, str]) -> list[Category]:
    names = json.loads(told["classes"])
    ids = json.loads(told["category_ids"]) if "category_ids" in told else range(1, len(names) + 1)
    return [Category(id=id_, name=name) for id_, name in zip(ids, names, strict=True)]
