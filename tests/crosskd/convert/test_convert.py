"""Whole files from one form to another: the report, the metadata, checkpoints, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from crosskd.__main__ import app
from crosskd.convert.classes import coco_classes, parse_classes
from crosskd.convert.convert import prepare
from crosskd.convert.formats import Format, from_native
from crosskd.convert.load import load_weights
from crosskd.convert.recognise import recognise
from crosskd.convert.source import Source, read_source
from crosskd.detectors.detector import Detector, build_detector
from crosskd.errors import CheckpointCorrupt, ConfigError, WeightsError
from crosskd.spec.config import ModelConfig, StudentConfig
from crosskd.spec.registry import DENSE
from crosskd.weights.native import read_weights, write_weights
from tests.support import small
from tests.support.mmdet_names import KEYS, RTMDET, YOLOX, shapes

CLASSES = ["ä", "b", "c"]
R18 = {"name": "resnet18", "width": 8, "init": "random"}


def trained(detector: str = "gfl", **options: Any) -> Detector:
    return small.detector(7, detector=detector, backbone=R18, **options)


def ours(model: Detector, folder: Path, **extra: str) -> Path:
    path = folder / "ours.safetensors"
    write_weights(path, model.state_dict(), model=model.config, classes=CLASSES, extra=extra)
    return path


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(second[name], tensor) and second[name].dtype == tensor.dtype for name, tensor in first.items()
    )


@pytest.mark.parametrize("detector", DENSE)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_ours_to_mmdetection_and_back_is_the_same_file(detector: str, suffix: str, tmp_path: Path) -> None:
    """Tensors, model, classes and all that the training wrote beside them."""
    start = ours(trained(detector), tmp_path, step="7", ap="0.25")
    away = prepare(start, "mmdet")
    assert len(away.report.matched) == len(read_weights(start)[0])
    assert (away.report.left_out, away.report.added, away.report.missing, away.report.unexpected) == ([], [], [], [])
    away.write(tmp_path / f"theirs{suffix}")
    prepare(tmp_path / f"theirs{suffix}", "native").write(tmp_path / "back.safetensors")
    assert (tmp_path / "back.safetensors").read_bytes() == start.read_bytes()


@pytest.mark.parametrize("group", [name for name in KEYS if "teacher" not in name])
def test_mmdetections_detectors_are_recognised(group: str) -> None:
    """By names and shapes alone; with all that follows from these."""
    tensors = {name: torch.zeros(shape, device="meta") for name, shape in KEYS[group].items()}
    model, notes = recognise(Source("x.pth", "mmdet", tensors))
    assert f"{model.detector}_r{model.backbone.name.removeprefix('resnet')}" == group
    assert len(shapes(model)) == len(KEYS[group])
    assert any(note.startswith("assumed") for note in notes)
    assert (model.backbone.style, model.pixels.order) == (("caffe", "bgr") if "fcos" in group else ("pytorch", "rgb"))


@pytest.mark.parametrize(
    ("detector", "family", "size", "note"),
    [
        *(("rtmdet", "cspnext", size, "BGR pixels, distances as they are") for size in RTMDET),
        *(("yolox", "cspdarknet", size, "BGR pixels as they are") for size in YOLOX),
    ],
)
def test_mmdetections_newer_detectors_are_recognised(detector: str, family: str, size: str, note: str) -> None:
    theirs = (RTMDET if detector == "rtmdet" else YOLOX)[size]
    tensors = {name: torch.zeros(shape, device="meta") for name, shape in theirs.items()}
    model, notes = recognise(Source("x.pth", "mmdet", tensors))
    known = ModelConfig.model_validate(
        {"detector": detector, "backbone": {"name": f"{family}_{size}", "init": "random"}}
    )
    assert shapes(model) == shapes(known)
    assert model.model_dump() == known.model_dump()
    assert any(note in told for told in notes)


def test_an_rtmdet_whose_levels_share_nothing_is_refused(tmp_path: Path) -> None:
    model = trained("rtmdet")
    state = from_native(model.state_dict(), "mmdet", model.config)
    state["bbox_head.reg_convs.1.2.conv.weight"] += 1
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(WeightsError, match=r"reg_convs.1.2.conv.weight is another tensor .* not shared"):
        prepare(tmp_path / "theirs.pth", "native")


@pytest.mark.parametrize("detector", DENSE)
def test_mmdetection_to_ours_and_back_is_the_identity(detector: str, tmp_path: Path) -> None:
    """Of a file that nobody here wrote: bare, its model recognised from its tensors."""
    state = from_native(trained(detector).state_dict(), "mmdet", trained(detector).config)
    for name in [name for name in state if name.endswith("num_batches_tracked")]:
        state[name] = torch.tensor(1234)
    meta = {"dataset_meta": {"CLASSES": tuple(CLASSES), "PALETTE": [(1, 2, 3)]}, "epoch": 12}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "theirs.pth")
    conversion = prepare(tmp_path / "theirs.pth", "native")
    assert conversion.classes == CLASSES
    assert conversion.model.head.depth == 3
    conversion.write(tmp_path / "ours.safetensors")
    prepare(tmp_path / "ours.safetensors", "mmdet").write(tmp_path / "back.pth")
    content = torch.load(tmp_path / "back.pth", weights_only=True)
    assert same(content["state_dict"], state)
    assert content["meta"]["dataset_meta"] == {"classes": tuple(CLASSES)}


def test_the_type_of_the_tensors_stays(tmp_path: Path) -> None:
    model = trained()
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    write_weights(tmp_path / "half.safetensors", state, model=model.config, classes=CLASSES)
    prepare(tmp_path / "half.safetensors", "mmdet").write(tmp_path / "theirs.pth")
    prepare(tmp_path / "theirs.pth", "native").write(tmp_path / "back.safetensors")
    assert same(read_weights(tmp_path / "back.safetensors")[0], state)
    load_weights(trained(), tmp_path / "back.safetensors")


def test_older_files_without_counters_get_them(tmp_path: Path) -> None:
    model = trained()
    state = from_native(model.state_dict(), "mmdet", model.config)
    bare = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(bare, tmp_path / "theirs.pth")
    report = prepare(tmp_path / "theirs.pth", "native", model=model.config, classes=CLASSES).report
    assert len(report.added) == len(state) - len(bare) > 0
    assert all(name.endswith("num_batches_tracked") for name in report.added)
    assert report.missing == []


def test_missing_and_unexpected_tensors_are_reported_by_the_files_names_and_nothing_is_written(tmp_path: Path) -> None:
    model = trained()
    state = from_native(model.state_dict(), "mmdet", model.config)
    del state["bbox_head.gfl_cls.weight"], state["neck.fpn_convs.1.conv.bias"]
    state |= {"bbox_head.atss_centerness.weight": torch.zeros(1), "bbox_head.scales.5.scale": torch.ones(())}
    torch.save(state, tmp_path / "theirs.pth")
    conversion = prepare(tmp_path / "theirs.pth", "native", model=model.config, classes=CLASSES)
    assert sorted(conversion.report.missing) == ["bbox_head.gfl_cls.weight", "neck.fpn_convs.1.conv.bias"]
    assert conversion.report.unexpected == ["bbox_head.atss_centerness.weight", "bbox_head.scales.5.scale"]
    assert len(conversion.report.matched) == len(state) - 2
    for drop in (False, True):
        with pytest.raises(WeightsError, match=r"2 missing .*; 2 unexpected \(bbox_head.atss_centerness"):
            conversion.write(tmp_path / "ours.safetensors", drop_unexpected=drop)
    assert not (tmp_path / "ours.safetensors").exists()


def test_unexpected_tensors_can_be_dropped(tmp_path: Path) -> None:
    model = trained()
    state = {**from_native(model.state_dict(), "mmdet", model.config), "optimizer_state": torch.zeros(1)}
    torch.save(state, tmp_path / "theirs.pth")
    conversion = prepare(tmp_path / "theirs.pth", "native", model=model.config, classes=CLASSES)
    with pytest.raises(WeightsError, match=r"0 missing; 1 unexpected \(optimizer_state\)"):
        conversion.write(tmp_path / "ours.safetensors")
    conversion.write(tmp_path / "ours.safetensors", drop_unexpected=True)
    assert same(read_weights(tmp_path / "ours.safetensors")[0], model.state_dict())


def test_a_tensor_of_another_shape_is_an_error(tmp_path: Path) -> None:
    model = trained()
    path = ours(model, tmp_path)
    wider = model.config.model_copy(update={"head": model.config.head.model_copy(update={"reg_max": 9})})
    with pytest.raises(WeightsError, match=r"head.box.weight is \[36, 16, 3, 3\], the model has \[40, 16, 3, 3\]"):
        prepare(path, "mmdet", model=wider)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "c", "d"]])
def test_classes_must_be_as_many_as_the_tensors_say(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"names {len(names)} classes, and the tensors are made for 3"):
        prepare(ours(trained("retinanet"), tmp_path), "mmdet", classes=names)


def test_class_names_must_be_known_where_they_are_written(tmp_path: Path) -> None:
    model = trained()
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    nameless = prepare(tmp_path / "bare.pth", "native", model=model.config)
    with pytest.raises(ConfigError, match="nothing says how the 3 classes are called"):
        nameless.write(tmp_path / "ours.safetensors")
    prepare(tmp_path / "bare.pth", "mmdet", model=model.config).write(tmp_path / "theirs.pth")
    assert "dataset_meta" not in torch.load(tmp_path / "theirs.pth", weights_only=True)["meta"]


def test_our_own_files_are_safetensors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out.pth should end in .safetensors"):
        prepare(ours(trained(), tmp_path), "native").write(tmp_path / "out.pth")


@pytest.mark.parametrize(("to", "reason"), [("torchvision", "no gfl"), ("mmdet", "mobilenet_v2")])
def test_what_the_other_project_cannot_be_is_refused(to: Format, reason: str, tmp_path: Path) -> None:
    model = small.detector(7, backbone={"name": "mobilenet_v2", "width": 8, "init": "random"})
    with pytest.raises(WeightsError, match=reason):
        prepare(ours(model, tmp_path), to)


def test_the_remedy_names_projects_that_can_be_written() -> None:
    model = StudentConfig.model_validate({"detector": "gfl", "backbone": {"name": "resnet18"}}).model
    with pytest.raises(WeightsError, match=r"not written as transformers.*: --to mmdet or torchvision"):
        from_native({}, "transformers", model)


def test_a_bare_state_dict_of_ours_is_recognised_where_it_can_be(tmp_path: Path) -> None:
    gfl = trained()
    torch.save(gfl.state_dict(), tmp_path / "gfl.pth")
    found = prepare(tmp_path / "gfl.pth", "native", classes=CLASSES).model
    assert (found.detector, found.head.reg_max, found.backbone.width) == ("gfl", 8, 8)
    torch.save(trained("atss").state_dict(), tmp_path / "atss.pth")
    with pytest.raises(ConfigError, match="ATSS and FCOS have the same names"):
        prepare(tmp_path / "atss.pth", "native", classes=CLASSES)


@pytest.mark.parametrize("lost", ["neck.output.0.weight", "backbone.conv1.weight", "head.box.weight"])
def test_what_is_not_told_is_asked_for(lost: str, tmp_path: Path) -> None:
    state = trained().state_dict()
    del state[lost]
    torch.save(state, tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match=rf"its tensors do not tell: there is no '{lost}'.*--model FILE.yaml"):
        prepare(tmp_path / "bare.pth", "native")


def test_a_tensor_without_dimensions_tells_nothing(tmp_path: Path) -> None:
    torch.save({**trained().state_dict(), "neck.output.0.weight": torch.ones(())}, tmp_path / "bare.pth")
    with pytest.raises(ConfigError, match="too few dimensions"):
        prepare(tmp_path / "bare.pth", "native")


def test_safetensors_of_another_project_may_say_anything_of_themselves(tmp_path: Path) -> None:
    model = trained()
    save_file(
        from_native(model.state_dict(), "mmdet", model.config),
        tmp_path / "x.safetensors",
        {"model": "gfl", "format": "pt"},
    )
    assert read_source(tmp_path / "x.safetensors").model is None


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_of_a_checkpoint_the_student_is_taken_alone(tmp_path: Path, checkpoint: Path) -> None:
    """A distillation's: with what terms learn, and the average of the weights, which is what the run delivers."""
    content = torch.load(checkpoint, weights_only=True)
    assert {name.partition(".")[0] for name in content["trainee"]} == {"student", "terms"}
    conversion = prepare(checkpoint, "native")
    assert (conversion.report.missing, conversion.report.unexpected) == ([], [])
    conversion.write(tmp_path / "student.safetensors")
    state, metadata = read_weights(tmp_path / "student.safetensors")
    assert same(state, content["ema"]["model"])
    assert metadata["step"] == "1"
    assert json.loads(metadata["augment"])["long_edge"] == 64
    assert json.loads(metadata["classes"]) == ["A", "B", "E"]
    model = ModelConfig.model_validate_json(metadata["model"])
    load_weights(build_detector(model, 3, pretrained=False), checkpoint)  # as it is, too


def test_without_an_average_the_student_itself_is_taken(tmp_path: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "ema": None}, tmp_path / "checkpoint.pt")
    state = prepare(tmp_path / "checkpoint.pt", "native").state
    student = {name: value for name, value in content["trainee"].items() if name.startswith("student.")}
    assert same({f"student.{name}": value for name, value in state.items()}, student)


def test_a_checkpoint_with_other_bytes_than_its_digest_is_refused(checkpoint: Path) -> None:
    beside = checkpoint.with_name(checkpoint.name + ".sha256")
    beside.write_text(f"{'0' * 64}  {checkpoint.name}\n")
    with pytest.raises(CheckpointCorrupt, match="sha256"):
        prepare(checkpoint, "native")


def test_a_checkpoint_of_another_form_is_named(tmp_path: Path, checkpoint: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    del content["settings"]["student"]["detector"], content["settings"]["augment"]
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(WeightsError, match="checkpoint in a form that this version does not know"):
        prepare(tmp_path / "checkpoint.pt", "native")


# --- class names -----------------------------------------------------------------------------------------------------


def test_cocos_names_are_known_by_their_count() -> None:
    few, many = coco_classes(80), coco_classes(91)
    assert (len(few), few[0], few[-1]) == (80, "person", "toothbrush")
    assert (many[0], many[1], many[12], many[90]) == ("__background__", "person", "N/A 12", "toothbrush")
    assert len(set(many)) == 91
    assert set(few) < set(many)
    with pytest.raises(ConfigError, match="5 is neither"):
        coco_classes(5)


def test_class_names_from_the_command_line(tmp_path: Path) -> None:
    assert parse_classes("cat, traffic light") == ["cat", "traffic light"]
    assert parse_classes("80") == coco_classes(80)
    categories = [{"id": 7, "name": "b"}, {"id": 3, "name": "a"}]
    (tmp_path / "x.json").write_text(json.dumps({"images": [], "annotations": [], "categories": categories}))
    assert parse_classes(str(tmp_path / "x.json")) == ["a", "b"]
    with pytest.raises(ConfigError, match="empty name"):
        parse_classes("a,,b")
    assert parse_classes("9" * 5000) == ["9" * 5000]  # which Python would not read as a number


@pytest.mark.parametrize("target", [".", "/"])
def test_a_folder_is_no_target(tmp_path: Path, target: str) -> None:
    model = trained()
    write_weights(tmp_path / "in.safetensors", model.state_dict(), model=model.config, classes=CLASSES)
    result = invoke(tmp_path / "in.safetensors", target, "--to", "native")
    assert result.exit_code == 2
    assert "Call it weights.safetensors." in result.output


def test_a_tensor_of_boundless_shape_allocates_nothing(tmp_path: Path) -> None:
    """A file of one number can call it a million million classes."""
    model = trained()
    bias = torch.zeros(1).expand(10**12)
    torch.save(model.state_dict() | {"head.cls.bias": bias}, tmp_path / "in.pth")
    with pytest.raises(WeightsError, match="tensors of other shapes"):
        prepare(tmp_path / "in.pth", "native", model=model.config)


# --- the command -----------------------------------------------------------------------------------------------------


def invoke(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["convert", *(str(argument) for argument in arguments)])


def test_the_command_prints_and_writes_the_report(tmp_path: Path) -> None:
    model = trained()
    state = from_native(model.state_dict(), "mmdet", model.config)
    torch.save({**state, "strange": torch.zeros(1)}, tmp_path / "theirs.pth")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model.config.model_dump(mode="json")))
    arguments = [
        tmp_path / "theirs.pth", tmp_path / "ours.safetensors", "--to", "native", "--model", tmp_path / "model.yaml",
        "--classes", ",".join(CLASSES), "--report", tmp_path / "report.json",
    ]  # fmt: skip
    refused = invoke(*arguments)
    assert refused.exit_code == 1
    assert "1 unexpected (strange)" in refused.output
    told = json.loads(invoke(*arguments, "--drop-unexpected", "--json").stdout)
    assert told == json.loads((tmp_path / "report.json").read_text())
    brief = invoke(*arguments, "--drop-unexpected").output.splitlines()
    assert not any(line.startswith("matched ") for line in brief)
    assert "unexpected  strange" in brief
    assert f"{len(state)} tensors matched" in brief[-1]
    done = invoke(*arguments, "--drop-unexpected", "--verbose")
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert "matched     bbox_head.gfl_cls.weight -> head.cls.weight" in lines
    assert "unexpected  strange" in lines
    assert sum(line.startswith("matched ") for line in lines) == len(state)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["matched"]["neck.fpn_convs.0.conv.bias"] == "neck.output.0.bias"
    assert (report["source"], report["target"], report["unexpected"]) == ("mmdet", "native", ["strange"])
    assert same(read_weights(tmp_path / "ours.safetensors")[0], model.state_dict())


def test_a_recipes_student_says_the_model_too(tmp_path: Path) -> None:
    model = trained()
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    recipe = {"student": model.config.model_dump(mode="json"), "batch_size": 4}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = invoke(tmp_path / "bare.pth", tmp_path / "x.pth", "--to", "mmdet", "--model", tmp_path / "recipe.yaml")
    assert done.exit_code == 0, done.output
    assert prepare(tmp_path / "x.pth", "native").model == model.config


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["gone.pth", "x.safetensors", "--to", "native"], 1, "there is no file gone.pth"),
        (["gone.pth", "x.safetensors", "--to", "caffe"], 2, "caffe"),
        (["gone.pth", "x.safetensors"], 2, "--to"),
        (["gone.pth", "x.safetensors", "--to", "native", "--classes", "7"], 2, "7 is neither"),
        (["gone.pth", "x.safetensors", "--to", "native", "--model", "gone.yaml"], 2, "gone.yaml"),
    ],
)
def test_errors_are_lines(arguments: list[str], status: int, said: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == status
    assert said in result.output
    assert "Traceback" not in result.output
