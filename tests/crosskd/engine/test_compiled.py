"""What is compiled, and when. Most tests only count calls; a whole training is compiled in runs/test_precision.py."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor import config as inductor

from crosskd.engine import compiled
from crosskd.engine.compiled import compile_within
from crosskd.errors import ConfigError
from tests.support import small


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the compiled methods as they run."""
    names: list[str] = []

    def build(plain: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            names.append(plain.__name__)
            return plain(*args, **kwargs)

        return run

    monkeypatch.setattr(compiled.torch, "compile", build)
    return names


def test_only_the_trainee_s_own_pass_runs_compiled(runs: list[str]) -> None:
    model = small.detector()
    before = list(model.state_dict())
    compile_within(model, [(model, "features"), (model.head, "front"), (model.head, "back")])
    images, targets = small.batch()
    model(images, targets)
    assert runs == ["features", "front", "back"]
    model.detect(images, targets.sizes)
    model.features(images)
    assert len(runs) == 3
    assert list(model.state_dict()) == before


def test_a_copy_is_plain_and_its_own(runs: list[str]) -> None:
    model = small.detector().eval()
    compile_within(model, [(model, "features")])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    images, targets = small.batch()
    assert all(float(level.detach().abs().max()) == 0 for level in other.features(images))
    assert float(model.features(images)[0].detach().abs().max()) > 0
    other(images, targets)
    assert runs == []


def test_a_pass_that_fails_leaves_the_plain_methods_on(runs: list[str]) -> None:
    model = small.detector()
    compile_within(model, [(model, "features")])
    images, targets = small.batch()
    with pytest.raises(RuntimeError):
        model(images[:, :1], targets)
    runs.clear()
    model.features(images)
    assert runs == []


def test_a_compiler_that_fails_is_told_as_a_setting_to_change() -> None:
    class Net(nn.Module):
        def features(self, x: torch.Tensor) -> torch.Tensor:
            return (x.sin() + 1).relu()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.features(x)

    net = Net()
    compile_within(net, [(net, "features")])
    with (
        inductor.patch({"cpp.cxx": (None, "/bin/false")}),
        pytest.raises(ConfigError, match=r"torch\.compile failed: No working C\+\+ compiler") as caught,
    ):
        net(torch.randn(1000))
    assert caught.value.where == "/compile"
    assert "Install a C++ compiler" in caught.value.remedy
