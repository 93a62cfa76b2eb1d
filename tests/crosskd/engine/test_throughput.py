"""What the meter reads: speeds, waiting, memory, utilisation, and the time left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pynvml import NVMLError_NotSupported

from crosskd.engine.callbacks import Run
from crosskd.engine.device import peak_memory, utilisation
from crosskd.engine.throughput import ThroughputMeter
from tests.support.toys import CPU, toy_config

GPU = torch.device("cuda", 0)


class Clock:
    """The time that passes and the processor time, as a test has them go on."""

    def __init__(self) -> None:
        self.passed = self.computed = 0.0

    def sleep(self, seconds: float) -> None:
        self.passed += seconds

    def compute(self, seconds: float) -> None:
        self.passed += seconds
        self.computed += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    told = SimpleNamespace(perf_counter=lambda: clock.passed, process_time=lambda: clock.computed)
    monkeypatch.setattr("crosskd.engine.throughput.time", told)
    return clock


@pytest.fixture
def meter(clock: Clock, tmp_path: Path) -> ThroughputMeter:
    return ThroughputMeter(Run(toy_config(), tmp_path, total_steps=10, steps_per_epoch=5), CPU)


def read(meter: ThroughputMeter) -> dict[str, float]:
    meter.count(images=1)
    return meter.read()


def test_a_sleeping_process_uses_nothing_and_a_computing_one_its_core(clock: Clock, meter: ThroughputMeter) -> None:
    clock.sleep(0.5)
    assert read(meter)["utilisation"] == 0
    clock.compute(0.2)
    clock.sleep(0.2)
    assert read(meter)["utilisation"] == pytest.approx(0.5)


def test_what_a_pause_computes_is_not_the_training_s(clock: Clock, meter: ThroughputMeter) -> None:
    with meter.pause():
        clock.compute(0.3)
    clock.sleep(0.5)
    values = read(meter)
    assert values["utilisation"] == pytest.approx(0)
    assert values["steps_per_second"] == pytest.approx(2)


def test_the_share_of_waiting(clock: Clock, meter: ThroughputMeter) -> None:
    def slow() -> Iterator[int]:
        for item in range(2):
            clock.sleep(0.4)
            yield item

    for _ in meter.waiting(slow()):
        clock.compute(0.1)
        meter.count(images=3)
    values = meter.read()
    assert values["data_wait"] == pytest.approx(0.8)
    assert values["images_per_second"] == pytest.approx(3 * values["steps_per_second"])


def test_memory_is_the_peak_in_mib(meter: ThroughputMeter) -> None:
    before = read(meter)["memory_mib"]
    assert before == pytest.approx(peak_memory(CPU) / 2**20)
    held = b"x" * (int(before * 2**20) + 64 * 2**20)  # more than the peak so far, whatever is resident now
    assert read(meter)["memory_mib"] >= before + 32
    peak = read(meter)["memory_mib"]
    del held
    assert read(meter)["memory_mib"] == peak


@pytest.mark.parametrize("fault", [NVMLError_NotSupported(), RuntimeError("no driver")])
def test_a_gpu_that_does_not_tell_has_no_figure(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(device: torch.device) -> int:
        raise fault

    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert utilisation(GPU, 1.0) is None
