"""Comparing two jobs as the API does it: files of matches, made up at COCO's size, and the process that reads them.

    python -m benchmarks.service.compare [--images 5000] [--classes 80] [--detections 100] [--jobs 2] [--rounds 3]

Seven boxes an image, in classes of uneven sizes. A detector finds three quarters of them at IoU 0.50 and fewer at each
higher one; the rest of its detections are wrong, and mostly have low scores. Each round is a fresh process; a figure is
the least of the rounds, and the most memory of any. It is met below 5 s and 1 GB.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import safetensors.numpy

from crosskd.spec.results.matches import AREAS, FORMAT, IOUS, KEY
from wire.compare import RESAMPLES, SEED

SECONDS, GIGABYTES = 5.0, 1.0
BOXES_PER_IMAGE = 7


def matches(images: int, classes: int, detections: int, seed: int) -> bytes:
    """A file of matches; the boxes are the same for every seed, the detections are not."""
    truth, draw = np.random.default_rng(0), np.random.default_rng(seed + 1)
    share = np.arange(1, classes + 1) ** -0.8
    share /= share.sum()
    boxes = images * BOXES_PER_IMAGE
    places, labels = truth.integers(0, images, boxes), truth.choice(classes, boxes, p=share)
    sizes = truth.integers(1, len(AREAS), boxes)
    pairs, which = np.unique(labels * images + places, return_inverse=True)
    counts = np.zeros((len(pairs), len(AREAS)), np.uint32)
    np.add.at(counts, (which, 0), 1)
    np.add.at(counts, (which, sizes), 1)

    found = np.flatnonzero(draw.random(boxes) < 0.75)
    levels = np.minimum(len(IOUS), 1 + (len(IOUS) * draw.beta(2, 1.2, len(found))).astype(int))
    others = images * detections - len(found)
    numbers: dict[bytes, int] = {}
    own_sizes = np.where(draw.random(len(found)) < 0.9, sizes[found], draw.integers(1, len(AREAS), len(found)))
    states = [_state(numbers, *key) for key in zip(sizes[found], levels, own_sizes, strict=True)]
    states += [_state(numbers, 0, 0, size) for size in draw.integers(1, len(AREAS), others)]
    scores = np.concatenate([draw.beta(3, 2, len(found)) / 2 + levels / 20, draw.beta(1, 6, others)]).astype(np.float32)
    at = np.concatenate([places[found], draw.integers(0, images, others)])
    of = np.concatenate([labels[found], draw.choice(classes, others, p=share)])
    order = np.lexsort((at, -scores, of))
    described = {
        "format": FORMAT,
        "classes": [str(label) for label in range(classes)],
        "ious": list(IOUS),
        "max_detections": [1, 10, 100],
        "as_is": False,
        "truth_sha256": "made up",
    }
    arrays = {
        "image_ids": np.arange(images),
        "starts": np.searchsorted(of[order], np.arange(classes + 1)),
        "images": at[order].astype(np.uint16),
        "scores": scores[order],
        "states": np.array(states, np.uint16)[order],
        "state_bits": np.frombuffer(b"".join(numbers), np.uint8).reshape(-1, 10),
        "truth_classes": (pairs // images).astype(np.uint16),
        "truth_images": (pairs % images).astype(np.uint16),
        "truth_counts": counts,
    }
    content: bytes = safetensors.numpy.save(arrays, metadata={KEY: json.dumps(described)})
    return content


def _state(numbers: dict[bytes, int], size: int, level: int, own: int) -> int:
    """Of a detection of size `own` that is right at the first `level` IoUs for a box of `size`."""
    right = np.zeros((len(AREAS), len(IOUS)), bool)
    counted = np.zeros_like(right)
    right[0, :level] = True
    counted[[0, own]] = True
    for area in range(1, len(AREAS)):
        if level:
            right[area, :level] = counted[area, :level] = area == size
    return numbers.setdefault(np.packbits(np.stack([right, counted])).tobytes(), len(numbers))


def run(contents: list[bytes]) -> tuple[float, dict[str, float]]:
    """Seconds of one process, and the difference of AP that it tells."""
    files = []
    for content in contents:
        file = tempfile.TemporaryFile()  # noqa: SIM115 - all are open at once
        file.write(content)
        file.flush()
        files.append(file)
    descriptors = [file.fileno() for file in files]
    request = json.dumps({"files": descriptors, "resamples": RESAMPLES, "seed": SEED})
    command = [sys.executable, "-m", "report.compare", "600"]
    began = time.perf_counter()
    done = subprocess.run(command, input=request.encode(), stdout=subprocess.PIPE, pass_fds=descriptors, check=True)
    seconds = time.perf_counter() - began
    for file in files:
        file.close()
    difference: dict[str, float] = json.loads(done.stdout)["compared"][1]["numbers"]["AP"]
    return seconds, difference


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("images", 5000), ("classes", 80), ("detections", 100), ("jobs", 2), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()
    contents = [matches(asked.images, asked.classes, asked.detections, seed) for seed in range(asked.jobs)]
    size = asked.images * asked.detections
    print(f"{len(contents)} files of {size:,} detections: {len(contents[0]) / size:.1f} bytes each")
    rounds = [run(contents) for _ in range(asked.rounds)]
    seconds, difference = min(rounds, key=lambda entry: entry[0])
    gigabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"{RESAMPLES} resamples: {seconds:.2f} s, {gigabytes:.2f} GB")
    print(f"AP differs by {difference['value']:+.4f}, {difference['low']:+.4f} to {difference['high']:+.4f}")
    sys.exit(0 if seconds < SECONDS and gigabytes < GIGABYTES else 1)


if __name__ == "__main__":
    main()
