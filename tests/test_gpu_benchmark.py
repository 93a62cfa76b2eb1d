"""The benchmark of GPUs where there is none: it says so; and its parts on a CPU, with models of a second."""

from __future__ import annotations

import sys

import pytest
import torch

from benchmarks import gpu
from tests.support import small

CPU = torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_that_nothing_was_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu"])
    assert gpu.main() == 1
    assert capsys.readouterr().out.strip() == "torch sees no GPU here: nothing was measured"


@pytest.mark.parametrize("way", [gpu.Way(), gpu.Way("bf16", channels_last=True)], ids=str)
def test_a_row_is_of_whole_steps(way: gpu.Way) -> None:
    student, teacher = small.config(detector="retinanet", depth=1), small.config(detector="retinanet", depth=1)
    bench = gpu.Bench(student, teacher, way, CPU, batch=2, size=(64, 96))
    before = [parameter.detach().clone() for parameter in bench.distiller.parameters()]
    row = bench.measure(rounds=2)
    assert row.milliseconds > 0
    assert 0 < row.host <= 1
    assert any(not torch.equal(a, b) for a, b in zip(before, bench.distiller.parameters(), strict=True))


def test_the_pairs_of_the_table_fit() -> None:
    models = [(gpu.model(name, "resnet18"), gpu.model(name, "resnet50")) for name in gpu.PAIRS]
    assert [student.detector for student, _ in models] == list(gpu.PAIRS)
    assert all(
        student.backbone.name == "resnet18" and teacher.backbone.name == "resnet50" for student, teacher in models
    )
