"""What a prediction takes beyond the network's own time: a JPEG of 640 x 480 pixels, posted to the API on loopback.

    python -m benchmarks.service.predict [--requests 50] [--backbone resnet18] [--threads 2]

A detector with random weights is exported as a training exports it, and published as the graph of a job; the benchmark
plays the worker. Each request is measured at the client, from its first byte to the last one of the answer, one after
the other; what the answer says the network has taken is subtracted. The first request, which starts the process, is
told apart.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import statistics
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image

from benchmarks.service.stack import Service
from benchmarks.timing import percentile
from crosskd.detectors.detector import build_detector
from crosskd.onnx.apart import Watch, write_graph_apart
from crosskd.spec.config import StudentConfig

TARGET = 150.0  # ms
CLASSES = [f"class {number}" for number in range(80)]
SCALE = {"val_short_edge": 480, "long_edge": 640, "pad_to": 32}
EXPORT_SECONDS = 900.0


def graph(backbone: str) -> bytes:
    """A GFL with random weights, as ONNX."""
    student = StudentConfig.model_validate({"backbone": {"name": backbone, "init": "random"}})
    torch.manual_seed(0)
    detector = build_detector(student.model, len(CLASSES), pretrained=False).eval().requires_grad_(False)
    told = {"classes": json.dumps(CLASSES), "scale": json.dumps(SCALE)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_graph_apart(detector, path, opset=18, metadata=told, watch=Watch(threading.Event(), EXPORT_SECONDS))
        return path.read_bytes()


def publish(service: Service, http: httpx.Client, content: bytes) -> str:
    """A job that has left the graph."""
    attempt = service.claim(service.post())
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {**attempt.headers, "Content-Digest": f"sha-256=:{digest}:"}
    path = f"{attempt.path}/artifacts/model.onnx"
    http.put(path, content=content, headers=headers, params={"kind": "onnx"}).raise_for_status()
    http.post(f"{attempt.path}/finish", json={"outcome": "succeeded"}, headers=attempt.headers).raise_for_status()
    return attempt.job


def street() -> bytes:
    """Something like a photograph: smooth, with some noise."""
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    noisy = np.asarray(small).astype(np.int16) + rng.integers(-8, 9, (480, 640, 3))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def measure(http: httpx.Client, job: str, image: bytes, accept: str) -> tuple[float, float]:
    """Milliseconds of a request, and of the network alone; of a picture the latter is not told (NaN)."""
    began = time.perf_counter()
    answer = http.post(f"/jobs/{job}/predict", content=image, headers={"accept": accept})
    whole = 1000 * (time.perf_counter() - began)
    answer.raise_for_status()
    told = answer.json()["images"][0]["milliseconds"]["model"] if accept.endswith("json") else float("nan")
    return whole, told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=50)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of a prediction.")
    given = parser.parse_args()
    image, content = street(), graph(given.backbone)
    print(f"GFL {given.backbone}: {len(content) / 1e6:.0f} MB; a JPEG of 640 x 480, {len(image) / 1e3:.0f} kB")
    with (
        Service("sqlite", CROSSKD_PREDICT_THREADS=str(given.threads)) as service,
        httpx.Client(base_url=service.url, trust_env=False, timeout=120) as http,
    ):
        job = publish(service, http, content)
        first, _ = measure(http, job, image, "application/json")
        times = [measure(http, job, image, "application/json") for _ in range(given.requests)]
        pictures = [measure(http, job, image, "image/png")[0] for _ in range(given.requests)]
    beyond = [whole - network for whole, network in times]
    network = statistics.median(network for _, network in times)
    print(f"first request, which starts the process: {first:.0f} ms")
    print(f"network: {network:.1f} ms (median of {given.requests})")
    told = f"median {statistics.median(beyond):.1f} ms, p99 {percentile(beyond, 0.99):.1f} ms"
    print(f"beyond the network: {told} (target {TARGET:.0f} ms)")
    print(f"beyond the network, as a picture: median {statistics.median(pictures) - network:.1f} ms")


if __name__ == "__main__":
    main()
