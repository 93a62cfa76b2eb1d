from __future__ import annotations

import pytest
import torch

from crosskd.engine.ema import EMA
from crosskd.spec.config import EMAConfig
from tests.support.toys import Toy


def test_the_average_follows_the_formula_and_copies_counters() -> None:
    model = Toy()
    ema = EMA(model, EMAConfig(decay=0.9, warmup=False))
    expected = model.conv.weight.detach().clone()
    for value in (1.0, 2.0):
        with torch.no_grad():
            model.conv.weight.fill_(value)
            model.norm.running_var.fill_(value)
            model.norm.num_batches_tracked.fill_(7)
        ema.update(model)
        expected = 0.9 * expected + 0.1 * value
    torch.testing.assert_close(ema.model.conv.weight, expected)
    torch.testing.assert_close(ema.model.norm.running_var, torch.full((4,), 0.9 * (0.9 + 0.1) + 0.2))
    assert ema.model.norm.num_batches_tracked == 7


def test_the_decay_warms_up() -> None:
    ema = EMA(Toy(), EMAConfig(decay=0.5))
    decays = []
    for _ in range(12):
        decays.append(ema.decay)
        ema.update(Toy())
    assert decays[0] == pytest.approx(0.1)
    assert decays[3] == pytest.approx(4 / 13)
    assert decays[-1] == 0.5


def test_the_average_stays_out_of_training() -> None:
    ema = EMA(Toy().train(), EMAConfig())
    assert not any(module.training for module in ema.model.modules())
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_its_state_goes_round() -> None:
    ema = EMA(Toy(), EMAConfig())
    ema.update(Toy())
    other = EMA(Toy(), EMAConfig())
    other.load_state_dict(ema.state_dict())
    assert other.updates == 1
    torch.testing.assert_close(dict(other.model.state_dict()), dict(ema.model.state_dict()))
