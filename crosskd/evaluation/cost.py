"""What a detector costs: parameters, floating-point operations, and the time of one image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from crosskd.data.transforms import Sample, collate, padded, validation_edge
from crosskd.detectors.detector import Detector, build_detector
from crosskd.spec.config import AugmentConfig
from crosskd.structures import Size

WARM_UP = 1  # runs that are not counted: the first allocates, and chooses its kernels
FEWEST, MOST = 3, 20  # timed runs
ENOUGH_SECONDS = 0.25  # after which no further run is begun


def evaluation_size(augment: AugmentConfig) -> Size:
    """(height, width) of a wide image that fills the scale of the evaluation, padded."""
    short = min(validation_edge(augment), augment.long_edge)
    return padded((short, augment.long_edge if augment.keep_ratio else short), augment.pad_to)


def cost_of(detector: Detector, size: Size) -> dict[str, Any]:
    """The manifest's entry: operations and latency of one image of (height, width) `size`, detections included.

    The detector computes on the device and with the threads that it has now; its mode is left as it was.
    """
    return {
        "image": list(size),
        "gflops": round(flops(detector, size) / 1e9, 3),
        "latency": {"pytorch": latency_of(detector, size)},
    }


def latency_of(detector: Detector, size: Size) -> dict[str, Any]:
    """The time from one normalised image of (height, width) `size` to its detections."""
    device = next(detector.parameters()).device
    image = collate([noise(size)], detector.config.pixels, 1).images.to(device)
    training = detector.training
    detector.eval()
    try:
        timed = median_milliseconds(lambda: detector.detect(image, [size]), device)
    finally:
        detector.train(training)
    return {**timed, "device": str(device), "threads": torch.get_num_threads()}


def noise(size: Size) -> Sample:
    """An image of random pixels. From its own generator: a run's must not notice."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Sample(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0, (1.0, 1.0), size)


def flops(detector: Detector, size: Size) -> int:
    """Operations of the convolutions and matrix products on one image, a multiply-add as two; NMS is not counted."""
    with torch.device("meta"):  # shapes alone: nothing is computed
        shadow = build_detector(detector.config, detector.num_classes, pretrained=False).eval().requires_grad_(False)
        image = torch.empty(1, 3, *size)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        shadow.network(image)
    return int(counter.get_total_flops())


def median_milliseconds(run: Callable[[], object], device: torch.device | str = "cpu") -> dict[str, Any]:
    """The median time of `run`, over some runs after the first."""
    device = torch.device(device)
    for _ in range(WARM_UP):
        run()
    spans: list[float] = []
    while len(spans) < FEWEST or (len(spans) < MOST and sum(spans) < ENOUGH_SECONDS):
        _wait(device)
        start = time.perf_counter()
        run()
        _wait(device)
        spans.append(time.perf_counter() - start)
    return {"milliseconds": round(1000 * statistics.median(spans), 3), "runs": len(spans)}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
