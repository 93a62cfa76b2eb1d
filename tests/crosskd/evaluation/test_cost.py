from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from crosskd.evaluation.cost import cost_of, evaluation_size, flops, median_milliseconds
from crosskd.spec.config import AugmentConfig
from tests.support import small


def test_operations_are_those_of_the_convolutions() -> None:
    """Counted by hand for the prediction layers, which are what a head without towers is."""
    size = (64, 96)
    deep, shallow = (small.detector(depth=depth, strides=[8, 16, 32]) for depth in (1, 0))
    cells = 8 * 12 + 4 * 6 + 2 * 3
    towers = 2 * 2 * 9 * 16 * 16 * cells  # two towers, a multiply-add is two, 3 x 3, channels in and out
    assert flops(deep, size) - flops(shallow, size) == towers


def test_operations_grow_with_the_image() -> None:
    model = small.detector(depth=1, strides=[8, 16, 32])
    assert flops(model, (128, 128)) == 4 * flops(model, (64, 64))


def test_measuring_leaves_the_model_and_the_random_numbers_alone() -> None:
    model = small.detector(depth=1).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    cost = cost_of(model, (64, 64))
    assert model.training
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert cost["image"] == [64, 64]
    assert cost["gflops"] == pytest.approx(flops(model, (64, 64)) / 1e9, abs=5e-4)
    latency = cost["latency"]["pytorch"]
    assert latency["milliseconds"] > 0
    assert latency["threads"] == torch.get_num_threads()
    assert latency["device"] == "cpu"


def test_the_time_is_the_median_after_a_first_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0
    monkeypatch.setattr("crosskd.evaluation.cost.time", SimpleNamespace(perf_counter=lambda: clock))
    naps = iter([0.2, 0.001, 0.09, 0.001, *[0.05] * 20])
    calls = 0

    def run() -> None:
        nonlocal calls, clock
        calls += 1
        clock += next(naps)

    timed = median_milliseconds(run)
    assert timed["runs"] == calls - 1
    assert timed["milliseconds"] == 50


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({}, (800, 1344)),
        ({"short_edges": [64], "long_edge": 64}, (64, 64)),
        ({"short_edges": [64, 96], "long_edge": 100}, (96, 128)),
        ({"short_edges": [64], "long_edge": 100, "val_short_edge": 128, "pad_to": 1}, (100, 100)),
    ],
)
def test_the_size_is_that_of_a_full_wide_image(settings: dict[str, object], size: tuple[int, int]) -> None:
    assert evaluation_size(AugmentConfig.model_validate(settings)) == size
