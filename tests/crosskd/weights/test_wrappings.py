"""Files as trainings of other projects leave them: what lies around the tensors, and what is no weights file."""

from __future__ import annotations

import argparse
import pickle
import sys
import types
import zipfile
from collections import OrderedDict, defaultdict, deque
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from crosskd.errors import WeightsError
from crosskd.weights.pytorch import StandIn
from crosskd.weights.tensors import is_safetensors, read_content, read_tensors, tensors_in

STATE = {"backbone.conv1.weight": torch.arange(4.0), "head.cls.bias": torch.ones(2)}
OTHER = {name: value + 9 for name, value in STATE.items()}


def under(prefix: str, state: dict[str, Tensor] = STATE) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def averaged() -> dict[str, Tensor]:
    """As torchvision's ExponentialMovingAverage writes it: a counter, and the prefix of a wrapper."""
    return {"n_averaged": torch.tensor(7), **under("module.")}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (STATE, []),
        (under("module."), ["`module.` was taken off"]),
        (under("_orig_mod."), ["`_orig_mod.` was taken off"]),
        (under("model."), ["`model.` was taken off"]),
        (under("module._orig_mod."), ["`module._orig_mod.` was taken off"]),
        ({**under("model."), "criterion.weight": torch.ones(1)}, ["`model.` was taken off"]),
        ({"model": STATE, "epoch": 3}, ["the tensors stand under `model`"]),
        ({"model_state_dict": STATE, "optimizer_state_dict": {"state": {0: {"exp_avg": torch.ones(2)}}}}, ["under"]),
        ({"state_dict": OrderedDict(under("module.")), "ema_state_dict": OTHER}, ["those under `ema_state_dict`"]),
        ({"model": OTHER, "ema": {"module": STATE, "updates": 5}}, ["under `ema.module`", "those under `model`"]),
        ({"model": OTHER, "model_ema": averaged()}, ["under `model_ema`", "`module.` was taken off"]),
        ({"state_dict": OTHER, "state_dict_ema": STATE}, ["under `state_dict_ema`"]),
        ({"net": STATE, "epoch": 3}, ["under `net`"]),
        ({"weights": {"student": STATE}}, ["under `weights.student`"]),
        ({**STATE, **{"ema_" + name.replace(".", "_"): value for name, value in OTHER.items()}}, ["2 tensors `ema_"]),
        ({**STATE, "_metadata": "x"}, ["1 entries that are no tensors"]),
    ],
    ids=lambda value: "-".join(value)[:40] if isinstance(value, dict) else "",
)
def test_the_tensors_are_found(tmp_path: Path, content: dict[str, Any], said: list[str]) -> None:
    torch.save(content, tmp_path / "x.pth")
    found = tensors_in(read_content(tmp_path / "x.pth"), "x.pth")
    for name, value in STATE.items():
        assert torch.equal(found.tensors[name], value)
    assert found.tensors.keys() - STATE.keys() <= {"criterion.weight"}
    assert all(any(text in note for note in found.notes) for text in said), found.notes
    assert bool(found.notes) == bool(said)


def test_a_prefix_stays_where_names_would_clash() -> None:
    state = {"model.a": torch.ones(1), "a": torch.zeros(1)}
    assert tensors_in(state, "x").tensors.keys() == state.keys()


def test_torchs_own_wrappers_are_taken_off(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    torch.save({"model": AveragedModel(net).state_dict()}, tmp_path / "x.pth")
    assert read_tensors(tmp_path / "x.pth").keys() == net.state_dict().keys()


class HistoryBuffer:
    """MMEngine's, as far as a pickle shows it: arrays, and methods that are looked up by name."""

    def __init__(self) -> None:
        self._log_history = np.array([1.0, 2.0])
        self._methods = {"min": self.min}

    def min(self) -> float:
        return 1.0


@pytest.fixture
def mmengine(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("mmengine.logging.history_buffer")
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging", "mmengine.logging.history_buffer"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(HistoryBuffer, "__module__", module.__name__)


@pytest.mark.usefixtures("mmengine")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
def test_what_stands_beside_the_tensors_does_not_matter(tmp_path: Path, zipped: bool) -> None:
    """torchvision's options, numbers of numpy, paths, MMEngine's message hub."""
    nested = argparse.Namespace(lr=np.float64(0.1), where=PurePosixPath("/x"), inner=argparse.Namespace(a=[1]))
    content = {
        "model": STATE,
        "args": nested,
        "best": {"ap": np.float32(0.25), "all": np.arange(3), "kind": np.dtype("int8")},
        "more": [defaultdict(list, a=[1]), deque([1, 2], 3), types.SimpleNamespace(b=2)],
        "message_hub": {"loss": HistoryBuffer()},
    }
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert read_tensors(tmp_path / "x.pth").keys() == STATE.keys()
    with pytest.raises(pickle.UnpicklingError):  # no name stays admitted
        torch.load(tmp_path / "x.pth", weights_only=True)


def test_a_stand_in_takes_nothing_over() -> None:
    """Not even what a pickle sets on it, here by its pair of states, the second by attribute."""
    made = StandIn(1, 2)
    made.__setstate__(({"a": 1}, {"__class__": int}))
    assert type(made) is StandIn
    assert not hasattr(made, "__dict__")


class Net(nn.Module):
    pass


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before zip"])
@pytest.mark.parametrize(
    ("content", "refused", "found"),
    [
        (
            {"epoch": 3, "model": Net()},
            "tests.crosskd.weights.test_wrappings.Net",
            "its top-level keys are epoch, model",
        ),
        (Net(), "tests.crosskd.weights.test_wrappings.Net", "it is one object, `tests.crosskd"),
        ({"model": STATE, "args": argparse.Namespace(f=Net)}, "test_wrappings.Net", "keys are model, args"),
    ],
)
def test_what_is_refused_is_named_with_what_was_found(
    tmp_path: Path, content: Any, refused: str, found: str, zipped: bool
) -> None:
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match="nothing of it was run") as caught:
        read_tensors(tmp_path / "x.pth")
    assert f"{refused}`, which is no tensor" in str(caught.value)
    assert found in str(caught.value)


def test_a_function_that_is_to_be_called_is_named(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return os.getcwd, ()

    torch.save({"model": STATE, "x": Call()}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"asks for `posix\.getcwd`.*top-level keys are model, x; nothing of it was"):
        read_tensors(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 102541057\n",
         r"x\.\w+ is a Git LFS pointer, not the weights themselves \(102,541,057 bytes, sha256 abab\w+…\).*git lfs"),
        (b"\n<!DOCTYPE html><html>Sign in</html>", r"x\.\w+ is a web page.*Download the file itself"),
        (b"\x1f\x8b\x08\x00 packed", "is a gzip archive"),
        (pickle.dumps({"model": {"w": np.ones(2)}}), "top-level keys are model|it is one of PyTorch"),
    ],
    ids=["lfs", "page", "gzip", "pickle"],
)  # fmt: skip
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_is_no_weights_file_is_called_by_its_name(
    tmp_path: Path, content: bytes, message: str, suffix: str
) -> None:
    (tmp_path / f"x.{suffix}").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_tensors(tmp_path / f"x.{suffix}")


@pytest.mark.parametrize(
    ("entry", "message"),
    [("x/constants.pkl", "it is a TorchScript archive"), ("x.txt", "a zip archive that torch.save did not write")],
)
def test_archives_of_other_kinds_are_called_so(tmp_path: Path, entry: str, message: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr(entry, b"x")
    with pytest.raises(WeightsError, match=message):
        read_tensors(tmp_path / "x.pth")


def test_without_tensors_the_top_level_is_told(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "lr": [1.0]}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="no tensors by name; its top-level keys are epoch, lr"):
        read_tensors(tmp_path / "x.pth")


def test_a_safetensors_file_is_read_whatever_its_ending(tmp_path: Path) -> None:
    save_file(under("module."), tmp_path / "x.pth")
    assert is_safetensors(tmp_path / "x.pth")
    found = read_tensors(tmp_path / "x.pth")
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def test_a_pickle_is_not_read_as_safetensors(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"it is one of PyTorch\. Give it the ending \.pth"):
        read_tensors(tmp_path / "x.safetensors")
