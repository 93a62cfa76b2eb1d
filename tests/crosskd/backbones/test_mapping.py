"""Weights of a backbone under other names: what is proposed, and what the proposal is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from crosskd.__main__ import app
from crosskd.backbones.mapping import propose
from crosskd.backbones.resnet import ResNet
from crosskd.convert.backbone import prepare_backbone
from crosskd.convert.formats import from_native
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig
from crosskd.weights.tensors import read_tensors
from tests.support import small

TINY = {"name": "resnet_tiny", "width": 8}
COUNTER = "num_batches_tracked"


def build(**config: Any) -> Any:
    checked = BackboneConfig.model_validate(config)
    return registry.load(registry.BACKBONES[checked.name].target)(checked)


def tiny(seed: int = 1, **more: Any) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(BackboneConfig.model_validate({**TINY, "init": "random", **more}))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a project of its own calls them, in the model's order and without counters."""
    learnt = {name: value for name, value in state.items() if not name.endswith(COUNTER)}
    return {f"body{place}.{name.rpartition('.')[2]}": value for place, (name, value) in enumerate(learnt.items())}


def same(first: Any, second: Any) -> bool:
    return all(torch.equal(value, second[name]) for name, value in first.items() if not name.endswith(COUNTER))


def test_the_message_counts_and_proposes(tmp_path: Path) -> None:
    state = renamed(tiny().state_dict())
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"0 of the file's {len(state)} tensors have a name") as caught:
        tiny(init={"file": str(tmp_path / "x.pth")})
    assert f"and {len(state)} are unknown ['body0.weight'" in caught.value.message
    assert "All of them fit by order and shape: body0.weight as conv1.weight, body1.weight as bn1.weight" in str(
        caught.value
    )
    assert "`crosskd convert x.pth OUT.safetensors --to backbone --model RECIPE`" in caught.value.remedy


def test_a_timm_backbone_counts_what_it_does_not_know(tmp_path: Path) -> None:
    torch.save({"a.weight": torch.ones(3), "b.weight": torch.ones(3)}, tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r"0 of the file's 2 tensors .* and 2 are unknown \['a.weight', 'b.weight'\]"
    ):
        build(name="timm/test_resnet", init={"file": str(tmp_path / "x.pth")})


def test_what_was_loaded_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    state = tiny().state_dict()
    torch.save({"model": {**state, "fc.weight": torch.ones(2), "fc.bias": torch.ones(2)}}, tmp_path / "x.pth")
    tiny(init={"file": str(tmp_path / "x.pth")})
    assert (
        f"x.pth: {len(state)} tensors were loaded into the backbone, 2 were left out (fc.weight, fc.bias)"
        in caplog.text
    )
    assert "the tensors stand under `model`" in caplog.text
    whole = build(name="timm/test_resnet", init="random").state_dict()
    torch.save({**whole, "head.fc.weight": torch.ones(2)}, tmp_path / "y.pth")
    build(name="timm/test_resnet", init={"file": str(tmp_path / "y.pth")})
    assert f"y.pth: {len(whole)} tensors were loaded into the backbone, 1 were left out (head.fc.weight)" in caplog.text


@pytest.mark.parametrize("form", ["as it is", "other names", "prefix", "alphabetical", "classifier"])
def test_the_command_writes_what_a_backbone_reads(tmp_path: Path, form: str) -> None:
    state = tiny().state_dict()
    given = {
        "as it is": state,
        "other names": renamed(state),
        "prefix": {f"encoder_q.{name}": value for name, value in state.items()} | {"queue": torch.ones(3)},
        "alphabetical": {f"net_{name}": value for name, value in state.items()},
        "classifier": {**state, "fc.weight": torch.ones(5, 64), "fc.bias": torch.ones(5)},
    }[form]
    if form == "alphabetical":
        save_file(given, tmp_path / "x.safetensors")
        file = tmp_path / "x.safetensors"
    else:
        torch.save(given, file := tmp_path / "x.pth")
    conversion = prepare_backbone(file, BackboneConfig.model_validate(TINY))
    assert (conversion.report.how == "by name") == (form in ("as it is", "classifier"))
    assert bool(conversion.report.notes) == (form == "other names")
    conversion.write(tmp_path / "out.safetensors")
    assert same(tiny(2, init={"file": str(tmp_path / "out.safetensors")}).state_dict(), state)


@pytest.mark.parametrize("target", ["native", "mmdet"])
@pytest.mark.parametrize("name", ["resnet18", "swin_t"])
def test_of_a_detector_the_backbone_is_taken(tmp_path: Path, target: Any, name: str) -> None:
    backbone = {"name": name, "width": 24 if name == "swin_t" else 8, "init": "random"}
    model = small.detector(7, detector="retinanet", backbone=backbone)
    torch.save({"state_dict": from_native(model.state_dict(), target, model.config)}, tmp_path / "x.pth")
    conversion = prepare_backbone(tmp_path / "x.pth", model.config.backbone)
    conversion.write(tmp_path / "out.safetensors")
    filled = build(**(backbone | {"init": {"file": str(tmp_path / "out.safetensors")}}))
    assert same(filled.state_dict(), model.backbone.state_dict())
    assert all(theirs.startswith(("neck", "bbox_head", "head")) for theirs in conversion.report.left_out)


def test_a_timm_model_is_written_too(tmp_path: Path) -> None:
    first = build(name="timm/test_resnet", init="random")
    torch.save({f"trunk.{name}": value for name, value in first.net.state_dict().items()}, tmp_path / "x.pth")
    conversion = prepare_backbone(tmp_path / "x.pth", BackboneConfig(name="timm/test_resnet", init="random"))
    conversion.write(tmp_path / "out.safetensors")
    second = build(name="timm/test_resnet", init={"file": str(tmp_path / "out.safetensors")})
    assert same(second.state_dict(), first.state_dict())


def test_what_has_no_place_is_not_proposed() -> None:
    wanted = {"a.weight": torch.ones(3), "a.bias": torch.ones(3), "b.weight": torch.ones(2, 2)}
    mean = {"x.weight": torch.ones(3), "x.running_mean": torch.ones(3), "y.weight": torch.ones(2, 2)}
    assert propose(mean, wanted) is None
    assert propose({"x.weight": torch.ones(3), "x.bias": torch.ones(3)}, wanted) is None
    found = propose({"x.gamma": torch.ones(3), "x.beta": torch.ones(3), "y.kernel": torch.ones(2, 2)}, wanted)
    assert found is not None
    assert found.names == {"a.weight": "x.gamma", "a.bias": "x.beta", "b.weight": "y.kernel"}
    assert not found.sure


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["convert", *(str(argument) for argument in arguments)])


def test_the_command_prints_every_pair(tmp_path: Path) -> None:
    state = build(name="resnet18", init="random").state_dict()
    torch.save(renamed(state), tmp_path / "x.pth")
    arguments = [tmp_path / "x.pth", tmp_path / "out.safetensors", "--to", "backbone"]
    done = invoke(*arguments, "--model", "resnet18", "--report", tmp_path / "report.json", "--verbose")
    assert done.exit_code == 0, done.output
    assert "matched     body0.weight -> conv1.weight" in done.output.splitlines()
    assert "order and shape prove nothing" in done.output
    assert same(read_tensors(tmp_path / "out.safetensors"), state)
    assert '"body0.weight": "conv1.weight"' in (tmp_path / "report.json").read_text()
    unsaid = invoke(*arguments)
    assert (unsaid.exit_code, "Give --model: the name of a backbone" in unsaid.output) == (2, True)


def test_another_backbones_file_and_another_ending_are_refused(tmp_path: Path) -> None:
    torch.save(tiny().state_dict(), tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="does not fit resnet18"):
        prepare_backbone(tmp_path / "x.pth", BackboneConfig(name="resnet18", width=8))
    with pytest.raises(ConfigError, match=r"out\.pth should end in \.safetensors"):
        prepare_backbone(tmp_path / "x.pth", BackboneConfig.model_validate(TINY)).write(tmp_path / "out.pth")
