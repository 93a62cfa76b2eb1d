from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from crosskd.data.annotations import read_annotations
from crosskd.data.images import ImageFolder
from crosskd.errors import ConfigError, DataError
from crosskd.spec.config import EvaluateConfig, ExportConfig, TrainConfig
from crosskd.weights.files import file_digest
from crosskd.weights.native import read_header
from crosskd.weights.tensors import read_tensors
from tests.support.coco_files import content, write
from worker.training.paths import opened_paths


def check_paths(config: Any, roots: list[Path]) -> None:
    with opened_paths(config, roots):
        pass


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root", "outside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "outside" / "file")
    return tmp_path / "root"


def config(root: Path, **changes: Any) -> TrainConfig:
    here = str(root / "file")
    split = {"annotations": here, "images": str(root)}
    spec: dict[str, Any] = {
        "data": {"train": split, "val": split, "unlabelled": {"images": str(root), "names": here}},
        "student": {"backbone": {"name": "resnet_tiny", "init": {"file": here}}},
        "teacher": {"weights": {"file": here}, "model": {"backbone": {"name": "resnet_tiny", "init": {"file": here}}}},
    }
    for pointer, value in changes.items():
        node = spec
        *parts, last = pointer.split("__")
        for part in parts:
            node = node[part]
        node[last] = value
    return TrainConfig.model_validate(spec)


def test_paths_below_a_root_are_good(root: Path) -> None:
    check_paths(config(root), [Path("/elsewhere"), root])


@pytest.mark.parametrize(
    "pointer",
    [
        "data__train__annotations",
        "data__val__annotations",
        "data__val__images",
        "data__unlabelled__images",
        "data__unlabelled__names",
        "teacher__weights__file",
        "student__backbone__init__file",
        "teacher__model__backbone__init__file",
    ],
)
@pytest.mark.parametrize("path", ["{root}/../outside/file", "{root}/link", "{root}x", "/etc/passwd"])
def test_a_path_that_leads_outside_is_refused(root: Path, pointer: str, path: str) -> None:
    text = path.format(root=root)
    split = {"annotations": str(root / "file"), "images": str(root)}
    changes: dict[str, Any] = {"data__train": dict(split), "data__val": dict(split), pointer: text}
    with pytest.raises(ConfigError, match="outside this worker's data roots") as caught:
        check_paths(config(root, **changes), [root])
    assert caught.value.where == "/" + pointer.replace("__", "/")
    assert str(root) in caught.value.remedy


def test_a_path_that_is_not_there_is_named(root: Path) -> None:
    changes = {"teacher__weights__file": str(root / "none")}
    with pytest.raises(ConfigError, match="none does not exist") as caught:
        check_paths(config(root, **changes), [root])
    assert caught.value.where == "/teacher/weights/file"


def weights_config(root: Path, kind: type[EvaluateConfig | ExportConfig], **changes: Any) -> Any:
    here = str(root / "file")
    spec: dict[str, Any] = {
        "weights": {"file": here},
        "model": {"backbone": {"name": "resnet_tiny", "init": {"file": here}}},
    }
    if kind is EvaluateConfig:
        spec["data"] = {"val": {"annotations": here, "images": str(root)}}
    else:
        spec["images"] = str(root)
    for pointer, value in changes.items():
        *parts, last = pointer.split("__")
        node = spec
        for part in parts:
            node = node[part]
        node[last] = value
    return kind.model_validate(spec)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        (EvaluateConfig, "weights__file"),
        (EvaluateConfig, "data__val__annotations"),
        (EvaluateConfig, "data__val__images"),
        (EvaluateConfig, "model__backbone__init"),
        (ExportConfig, "weights__file"),
        (ExportConfig, "images"),
    ],
)
def test_jobs_on_weights_stay_in_the_roots(root: Path, kind: Any, changed: str) -> None:
    check_paths(weights_config(root, kind), [root])
    outside = str(root / "link")
    value = {"file": outside} if changed.endswith("init") else outside
    with pytest.raises(ConfigError, match="outside") as caught:
        check_paths(weights_config(root, kind, **{changed: value}), [root])
    assert caught.value.where == "/" + changed.replace("__", "/") + ("/file" if changed.endswith("init") else "")


@pytest.mark.parametrize(
    ("pointer", "name", "what"),
    [
        ("data__train__annotations", "pipe", "regular file"),
        ("teacher__weights__file", "pipe", "regular file"),
        ("data__val__annotations", "", "regular file"),
        ("data__val__images", "file", "folder"),
        ("data__unlabelled__images", "file", "folder"),
        ("data__unlabelled__names", "pipe", "regular file"),
    ],
)
def test_what_would_be_read_for_ever_is_refused(root: Path, pointer: str, name: str, what: str) -> None:
    os.mkfifo(root / "pipe")
    split = {"annotations": str(root / "file"), "images": str(root)}
    changes: dict[str, Any] = {"data__train": dict(split), "data__val": dict(split), pointer: str(root / name)}
    with pytest.raises(ConfigError, match=f"is no {what} on this worker") as caught:
        check_paths(config(root, **changes), [root])
    assert caught.value.where == "/" + pointer.replace("__", "/")


def test_what_is_read_is_what_was_judged(root: Path) -> None:
    """Every path becomes a link to outside when it has been judged and before the training reads it."""
    outside = root.parent / "outside"
    for folder, name in ((root, "inside"), (outside, "secret")):
        write(folder, content(categories=[{"id": 9, "name": name}, {"id": 2, "name": "dog"}]), name="a.json")
        save_file({name: torch.zeros(1)}, folder / "a.safetensors")
        torch.save({name: torch.zeros(1)}, folder / "a.pt")
    split = {"annotations": str(root / "a.json"), "images": str(root / "images")}
    weights = {"file": str(root / "a.safetensors")}
    init = {"student__backbone__init__file": str(root / "a.pt")}
    named = config(root, data__train=split, data__val=split, teacher__weights=weights, **init)
    with opened_paths(named, [root]) as roots:
        root.rename(root.with_name("kept"))
        root.symlink_to(outside)
        assert "inside" in read_annotations(split["annotations"]).classes
        assert file_digest(Path(split["annotations"])) == file_digest(root.with_name("kept") / "a.json")
        assert list(read_tensors(weights["file"])) == list(read_tensors(root / "a.pt")) == ["inside"]
        assert list(read_header(weights["file"])[1]) == ["inside"]
        with pytest.raises(DataError, match="leads out of the data"):
            ImageFolder(split["images"], 10**6, roots=roots).read("a.png", (48, 64))
    assert "secret" in read_annotations(split["annotations"]).classes  # nothing is kept beyond the training
