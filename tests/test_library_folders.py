"""Checkpoint folders of transformers: the service and the training refuse the same ones, each with a clear reason."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from api.services.submission.weights_folder import look_at_folder
from crosskd.convert.load import load_weights
from crosskd.convert.source import read_source
from crosskd.detectors.detector import build_detector
from crosskd.errors import CrossKDError, WeightsError
from crosskd.runs.teacher import load_teacher
from crosskd.spec.config import ModelConfig, TrainConfig
from crosskd.weights.description import describe
from crosskd.weights.files import file_digest
from tests.support import library_folders
from tests.support.service import Service
from worker.training.paths import opened_paths

SHARDS = 200_000  # bytes: the smallest model has several
WINDOWED = LIGHT, ROBOFLOW = "lw_detr", "rf_detr"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An RT-DETR in one file, and the same in several; and those with windows."""
    base = tmp_path_factory.mktemp("made")
    library_folders.write(base / "one", "rt_detr", unit=True)
    library_folders.write(base / "many", "rt_detr", unit=True, max_shard_size=SHARDS)
    for kind in WINDOWED:
        library_folders.write(base / kind, kind)
    assert len(list((base / "many").glob("*.safetensors"))) > 2
    return base


@pytest.fixture
def root(tmp_path: Path, made: Path) -> Path:
    shutil.copytree(made, tmp_path / "root")
    (tmp_path / "root" / "annotations.json").touch()
    return tmp_path / "root"


def config(folder: Path, **teacher: Any) -> TrainConfig:
    split = {"annotations": str(folder.parent / "annotations.json"), "images": str(folder)}
    student = {"detector": "rt_detr", "backbone": {"name": "resnet_tiny", "init": "random"}}
    teacher = {"weights": {"file": str(folder)}, **teacher}
    return TrainConfig.model_validate({"data": {"train": split, "val": split}, "student": student, "teacher": teacher})


def of_the_service(folder: Path, root: Path) -> str:
    try:
        found = look_at_folder(str(folder), [root])
    except CrossKDError as error:
        return error.message if error.remedy else ""
    assert found is not None
    return ""


def of_the_training(folder: Path, root: Path) -> str:
    """Through the last look at the paths, as a worker does it."""
    try:
        with opened_paths(config(folder), [root]):
            model = describe(folder).model()
            assert model is not None
            load_weights(build_detector(model, len(library_folders.CLASSES), pretrained=False), folder)
    except CrossKDError as error:
        return error.message if error.remedy else ""
    return ""


def _change(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        told = {**json.loads(file.read_text()), **values}
        file.write_text(json.dumps({name: value for name, value in told.items() if value is not ...}))

    return change


def _backbone(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        told = json.loads((folder / "config.json").read_text())
        _change(backbone_config={**told["backbone_config"], **values})(folder)

    return change


def _write(name: str, content: str | bytes) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode()) and None
    )


def _without(*names: str) -> Callable[[Path], None]:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", 5000)


def _link(name: str) -> Callable[[Path], None]:
    """The file moves out of the data roots, and a link takes its place."""

    def change(folder: Path) -> None:
        outside = folder.parent.parent / f"outside-{name}"
        (folder / name).rename(outside)
        (folder / name).symlink_to(outside)

    return change


def _tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def _index(folder: Path, file: str) -> None:
    path = folder / "model.safetensors.index.json"
    told = json.loads(path.read_text())
    first = next(iter(told["weight_map"]))
    path.write_text(json.dumps({**told, "weight_map": {**told["weight_map"], first: file}}))


def _a_shard_less(folder: Path) -> None:
    sorted(folder.glob("*.safetensors"))[1].unlink()


JOINT = "transformer.decoder.layers.0.self_attn.in_proj_bias"
LAYER = "model.decoder.class_embed.0.bias"
BAD: list[tuple[str, str, Callable[[Path], None], str]] = [
    ("remote code", "one", _change(auto_map={"AutoModel": "x.Y"}), "brings code of its own (auto_map)"),
    ("type", "one", _change(model_type="yolos"), "of model type 'yolos'"),
    ("no type", "one", _change(model_type=...), "of model type none"),
    ("a type that is no text", "one", _change(model_type=[1]), "of model type [1]"),
    ("no queries", "one", _change(num_queries=0), "num_queries: Input should be greater than or equal to 1"),
    ("queries", "one", _change(num_queries=10**4), "num_queries: Input should be less than or equal to 1000"),
    ("a text", "one", _change(decoder_layers="two"), "decoder_layers: Input should be a valid integer"),
    ("digits", "one", _change(num_queries="6"), 'num_queries: Input should be a valid integer (it is "6")'),
    ("true for one", "one", _change(encoder_layers=True), "encoder_layers: true and false are no values"),
    ("half a number", "one", _change(num_queries=6.0), "num_queries: Input should be a valid integer (it is 6.0)"),
    (
        "infinite",
        "one",
        _write("config.json", '{"model_type": "rt_detr", "hidden_expansion": 1e999}'),
        "hidden_expansion",
    ),
    ("another width", "one", _change(d_model=64), "of other shapes"),
    ("more layers", "one", _change(decoder_layers=3), "misses tensors|missing"),
    ("fewer layers", "one", _change(decoder_layers=1), "no place for|unknown"),
    ("two widths", "one", _change(decoder_attention_heads=8), "they are one knob here"),
    ("levels", "one", _change(num_feature_levels=4), "num_feature_levels: 4, and this project builds it with 3"),
    ("norm", "one", _change(normalize_before=True), "normalize_before: true"),
    ("new field", "one", _change(flux=1), "flux: 1, which this version does not know"),
    ("channels", "one", _change(encoder_in_channels=[1, 2, 3]), "encoder_in_channels: [1, 2, 3]"),
    ("classes", "one", _change(id2label={"0": "a", "1": "b"}), "names 2 classes, and its tensors are made for 3"),
    ("a class twice", "one", _change(id2label={"0": "a", "1": "a", "2": "b"}), "has 'a' twice"),
    ("a class missing", "one", _change(id2label={"0": "a", "2": "b"}), "does not name classes in label order"),
    ("backbone", "one", _backbone(model_type="swin"), "a backbone of model type 'swin'"),
    ("backbone's depth", "one", _backbone(depths=[1, 2, 1, 1]), "sizes that no backbone of this project has"),
    ("backbone's width", "one", _backbone(embedding_size=10**30), "of sizes|embedding|width"),
    ("backbone's maps", "one", _backbone(out_indices=[1, 2, 3]), "other maps than those at strides 8, 16 and 32"),
    (
        "backbone fetched",
        "one",
        _change(backbone_config=..., backbone="microsoft/resnet-50"),
        "would have to be fetched",
    ),
    (
        "pixels",
        "one",
        _write("preprocessor_config.json", '{"rescale_factor": 0}'),
        "does not say how images are normalised",
    ),
    ("no config", "one", _without("config.json"), "is a folder without config.json"),
    ("no JSON", "one", _write("config.json", "{"), "config.json of one is no JSON"),
    ("deep JSON", "one", _write("config.json", '{"a":' * 50_000 + "1" + "}" * 50_000), "config.json of one is no JSON"),
    ("huge JSON", "one", _write("config.json", b" " * 4_000_001), "larger than 4000000 bytes"),
    ("half a surrogate", "one", _write("config.json", '{"\\ud800": 1}'), "config.json of one is no JSON"),
    ("a list", "one", _write("config.json", "[]"), "is no JSON object"),
    ("no tensors", "one", _without("model.safetensors"), "it has no tensors"),
    ("a pickle", "one", _pickled, "pytorch_model.bin, a pickle, which is never opened"),
    ("cut off", "one", _cut, "cannot be read"),
    ("link to tensors", "one", _link("model.safetensors"), "data roots"),
    ("link to JSON", "one", _link("config.json"), "data roots"),
    (
        "two values of one",
        "one",
        _tensors(lambda x: x.update({"class_embed.0.bias": torch.ones(4)})),
        "made for 4|second name",
    ),
    ("another tensor", "one", _tensors(lambda x: x.update({"model.more": torch.ones(1)})), "no place for|unknown"),
    ("a tensor less", "one", _tensors(lambda x: x.pop("model.enc_output.0.bias")), "misses tensors|missing"),
    ("a shard less", "many", _a_shard_less, "lacks 1 of the"),
    (
        "index that leads out",
        "many",
        lambda folder: _index(folder, "../x.safetensors"),
        "must be safetensors that lie in",
    ),
    (
        "index of an absolute path",
        "many",
        lambda folder: _index(folder, "/etc/passwd"),
        "must be safetensors that lie in",
    ),
    (
        "index of another file",
        "many",
        lambda folder: _index(folder, "pytorch_model.bin"),
        "must be safetensors that lie in",
    ),
    ("index of a missing file", "many", lambda folder: _index(folder, "no.safetensors"), "lacks 1 of the"),
    ("windows in a row", LIGHT, _backbone(num_windows=8), "num_windows: 8, which is no square"),
    ("windows without number", LIGHT, _backbone(num_windows=[4]), "num_windows: [4], which is no square"),
    ("windows of a side", LIGHT, _backbone(num_windows_side=4), "num_windows_side: 4, and its other sizes make it 2"),
    ("windows that do not divide", LIGHT, _backbone(image_size=100), "asks for a multiple of num_windows 4 times 2"),
    ("too many windows", ROBOFLOW, _backbone(num_windows=9), "backbone_config.num_windows: Input should be less"),
    ("windowed blocks", ROBOFLOW, _backbone(window_block_indexes=[0]), "and its other sizes make it [0, 1]"),
    ("windowed blocks", LIGHT, _backbone(window_block_indices=["0"]), "no list of numbers of blocks"),
    ("heads", ROBOFLOW, _backbone(num_attention_heads=3), "num_attention_heads: width 16 is no multiple of heads 3"),
    ("positions of another image", LIGHT, _backbone(pretrain_image_size=48), "of other shapes|does not fit|shape"),
    ("positions of another image", ROBOFLOW, _backbone(image_size=64), "of other shapes|does not fit|shape"),
    ("positions of no square", ROBOFLOW, _backbone(image_size=[32, 48]), "positions of a square alone"),
    ("a map behind no block", ROBOFLOW, _backbone(num_hidden_layers=2), "its last map lies behind block 3"),
    ("maps of two names", ROBOFLOW, _backbone(out_indices=[1, 3]), "not the blocks of out_indices by their names"),
    ("another block", ROBOFLOW, _backbone(out_features=["stage2", "stage4"], out_indices=[2, 4]), "make it [0, 1, 3]"),
    ("registers", ROBOFLOW, _backbone(num_register_tokens=4), "num_register_tokens: 4, and its other sizes make it 0"),
    ("another net", ROBOFLOW, _backbone(use_swiglu_ffn=True), "use_swiglu_ffn: true, and this project builds it"),
    ("another backbone", LIGHT, _backbone(model_type="rf_detr_dinov2"), "its backbone here is lw_detr_vit alone"),
    ("a backbone fetched", ROBOFLOW, _change(backbone="facebook/dinov2-small"), "would have to be fetched"),
    ("no object", ROBOFLOW, _change(backbone_config="dinov2"), "its backbone here is rf_detr_dinov2 alone"),
    ("masks", ROBOFLOW, _change(architectures=["RfDetrForInstanceSegmentation"]), "which finds masks"),
    ("two maps", ROBOFLOW, _change(projector_scale_factors=[2.0, 0.5]), "and its other sizes make it [1.0]"),
    ("scales", LIGHT, _change(projector_scale_factors=[4.0]), "projector_scale_factors: Input should be less"),
    ("channels of maps", LIGHT, _change(projector_in_channels=[1, 1]), "and its other sizes make it [32, 32]"),
    ("groups", ROBOFLOW, _change(group_detr=2), "no place for|of other shapes"),
    (
        "a third of a tensor",
        ROBOFLOW,
        _tensors(lambda x: x.update({JOINT: x[JOINT][:-1].clone()})),
        "misses tensors|missing",
    ),
    (
        "index without a map",
        "many",
        _write("model.safetensors.index.json", '{"weight_map": []}'),
        "has no map of tensors",
    ),
]


@pytest.mark.parametrize(("which", "change", "told"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_both_refuse_the_same_folders(root: Path, which: str, change: Callable[[Path], None], told: str) -> None:
    change(root / which)
    for said in (of_the_service(root / which, root), of_the_training(root / which, root)):
        assert any(part in said for part in told.split("|")), said


def test_both_take_what_the_library_wrote_in_one_file_or_in_several(root: Path) -> None:
    for which in ("one", "many", *WINDOWED):
        assert of_the_service(root / which, root) == of_the_training(root / which, root) == ""
        found = look_at_folder(which, [root])
        assert found is not None
        assert found.told.notes[1:] == read_source(root / which).notes[1:]  # behind what both say of the pixels
    for which in ("one", *WINDOWED):
        with pytest.raises(WeightsError, match=r"stand in the config\.json beside it"):
            read_source(root / which / "model.safetensors")
    found = look_at_folder("many", [root])
    assert found is not None
    assert (found.told.classes, found.path) == (library_folders.CLASSES, root / "many")
    assert found.told.model == describe(root / "many").model()
    assert found.told.model.pixels.std == (255.0, 255.0, 255.0)
    assert file_digest(root / "one") != file_digest(root / "many")
    assert look_at_folder("nowhere", [root]) is None
    assert look_at_folder("one/config.json", [root]) is None
    # Links inside the data roots are welcome: so a download's cache looks.
    (root / "one" / "model.safetensors").rename(root / "blob")
    (root / "one" / "model.safetensors").symlink_to(root / "blob")
    assert of_the_service(root / "one", root) == of_the_training(root / "one", root) == ""


def test_a_worker_reads_what_it_opened_and_a_teacher_is_narrowed_by_name(root: Path) -> None:
    folder = root / "one"
    with opened_paths(config(folder), [root]):
        digest = file_digest(folder)
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors").symlink_to("/etc/passwd")
        (folder / "model.safetensors.index.json").write_text("{}")
        teacher = load_teacher(config(folder), ["white", "platelet"])
        assert file_digest(folder) == digest
    assert teacher.num_classes == 2
    assert teacher.head.model.decoder.class_embed[0].out_features == 2


def test_a_second_name_of_a_tensor_is_taken_for_the_first(root: Path) -> None:
    """As older versions of the library saved heads, under both names or under the other one."""
    _tensors(lambda x: x.update({"class_embed.0.bias": x[LAYER].clone()}))(root / "one")
    assert of_the_service(root / "one", root) == of_the_training(root / "one", root) == ""
    _tensors(lambda x: x.pop(LAYER))(root / "one")
    assert of_the_service(root / "one", root) == of_the_training(root / "one", root) == ""


def test_two_tensors_that_should_be_one_are_refused_by_the_training_which_alone_sees_values(root: Path) -> None:
    _tensors(lambda x: x.update({"class_embed.0.bias": x[LAYER] + 1}))(root / "one")
    assert of_the_service(root / "one", root) == ""
    assert "another tensor than the one that it should be a second name of" in of_the_training(root / "one", root)


@pytest.mark.parametrize("name", ["encoder.stages.{}.layers.0.layer.0.convolution.weight", "layer1.{}.conv1.weight"])
def test_a_number_in_a_name_may_have_more_digits_than_python_reads(root: Path, name: str) -> None:
    backbone = {"name": "resnet_tiny", "init": "random"}
    sizes = {"width": 64, "heads": 4, "feedforward": 24, "queries": 6, "encoder_layers": 1, "decoder_layers": 1}
    model = ModelConfig.model_validate({"detector": "deformable_detr", "backbone": backbone, "detr": sizes})
    library_folders.craft(root / "long", model, library_folders.CLASSES)
    assert of_the_service(root / "long", root) == of_the_training(root / "long", root) == ""
    longer = f"model.backbone.conv_encoder.model.{name.format('9' * 5000)}"
    _tensors(lambda x: x.update({longer: torch.zeros(1)}))(root / "long")
    assert "no place for" in of_the_service(root / "long", root)
    assert "1 unknown" in of_the_training(root / "long", root)


_SIZES = {"width": 32, "heads": 4, "feedforward": 24, "decoder_layers": 2, "queries": 6}
_VIT = {"width": 16, "heads": 2, "maps": [1, 2], "windows": 2, "patch": 4, "image_side": 32}
STUDENTS: dict[str, dict[str, Any]] = {
    "rt_detr": {"detector": "d_fine", "backbone": {"name": "hgnet_v2_b0", "width": 8}, "detr": _SIZES},
    ROBOFLOW: {
        "detector": LIGHT,
        "backbone": {"name": "lw_detr_vit", "vit": _VIT},
        "detr": {**_SIZES, "cross_heads": 4, "groups": 2},
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STUDENTS)
def test_through_the_service_a_folder_teaches_and_is_begun_with(kind: str, tmp_path: Path) -> None:
    service = Service.start(tmp_path / "home")
    try:
        names = _classes(service)
        changes = {"id2label": dict(enumerate(["dog", *reversed(names)]))}
        folder = service.home / "data" / "hub"
        library_folders.write(folder, kind, unit=True, **changes)
        taught = service.post("taught", epochs=1, student=STUDENTS[kind], teacher={"file": str(folder)})
        model = {**describe(folder).model().model_dump(mode="json"), "init": {"file": str(folder)}}  # type: ignore[union-attr]
        begun = service.post("begun", epochs=1, student=model)
        taught, begun = service.succeed(taught), service.succeed(begun)
        assert {point.key for point in service.client.jobs.metrics(taught.id)} >= {"crosskd_cls", "crosskd_box"}
        assert taught.spec["teacher"]["classes"] == ["dog", *reversed(names)]
        assert begun.best_ap is not None
    finally:
        service.close()


def _classes(service: Service) -> list[str]:
    told = json.loads(Path(service.data["train"]["annotations"]).read_text())
    return [category["name"] for category in told["categories"]]
