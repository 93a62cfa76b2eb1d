"""What the benchmark of memory counts, on small models."""

from __future__ import annotations

import pytest
import torch

from benchmarks import memory
from benchmarks.step import Bench
from crosskd.distill.distiller import build_distiller
from crosskd.spec.config import CrossKDConfig, DistillConfig
from crosskd.spec.names import DetectorName
from tests.support import small


@pytest.mark.parametrize("detector", ["gfl", "retinanet"])
def test_four_tensors_of_anchors_times_classes_are_alive_at_1203_classes(detector: DetectorName) -> None:
    """The logits of student, teacher and cross-head, and one gradient; besides them a window's."""
    student, teacher = (small.detector(seed, classes=1203, detector=detector, depth=1) for seed in (0, 1))
    distiller = build_distiller(student.train(), teacher, DistillConfig(crosskd=CrossKDConfig(cut=1)))
    bench = Bench(student, teacher, distiller.train(), *small.batch(images=1))
    assert 3 < memory.alive_tensors(bench) < 4.5


def test_bytes_are_counted_without_what_is_there_in_any_case() -> None:
    weight = torch.nn.Linear(256, 256, bias=False)
    x = torch.rand(1024, 256)
    size = x.nbytes

    def forward() -> dict[str, torch.Tensor]:
        return {"loss": weight(x).exp().exp().sum()}

    assert memory.kept_bytes(weight, forward, [x]) == 2 * size  # what each exponential makes; neither x nor the weight
    most = memory.peak_bytes(lambda: forward()["loss"].backward())  # type: ignore[no-untyped-call]
    assert 2 * size < most <= 4 * size
    assert weight.weight.grad is not None  # which stays, and is not counted
