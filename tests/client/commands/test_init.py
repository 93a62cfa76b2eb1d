"""`crosskd init`: what it writes is taken by the real service, says its reasons, and is trained."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.stack.home import Home
from crosskd.runs.train import train
from crosskd.spec.config import TrainConfig
from tests.support.api_server import Service
from tests.support.crosskd_command import run
from tests.support.specs import write_weights

BCCD = Path(__file__).parents[2] / "data" / "bccd"
ODD = ["line\nbreak", 'say "hi": #1', "'", "naïve ☃ 🚦", "no", "1e3", "- a", "\u2028\x85", "{x}", "left"]


def coco(
    images: int = 6,
    size: tuple[int, int] = (640, 480),
    box: tuple[float, float] = (60, 50),
    names: list[str] | None = None,
    boxed: int | None = None,
    **entry: Any,
) -> dict[str, Any]:
    """Images of width and height with a box of each of the first `boxed` classes, whose sides vary a little."""
    names = ["thing"] if names is None else names
    annotations = []
    for image in range(images):
        for label in range(len(names) if boxed is None else boxed):
            grown = 1 + 0.1 * ((image + label) % 4)
            bbox = [1.0, 1.0, box[0] * grown, box[1] * grown]
            number = len(annotations) + 1
            annotations.append(
                {"id": number, "image_id": image, "category_id": label, "bbox": bbox, "iscrowd": 0, **entry}
            )
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": size[0], "height": size[1]} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names)],
    }


def lay(folder: Path, train: dict[str, Any], val: dict[str, Any] | None = None) -> Path:
    """A data folder whose images are there, though nobody opens them."""
    (folder / "images").mkdir(parents=True)
    for image in train["images"]:
        (folder / "images" / image["file_name"]).touch()
    (folder / "train.json").write_text(json.dumps(train))
    if val is not None:
        (folder / "val.json").write_text(json.dumps(val))
    return folder


def student(values: dict[str, Any]) -> dict[str, Any]:
    return dict(values.get("base", values)["student"])


CASES: dict[str, tuple[dict[str, Any], list[str], Callable[[dict[str, Any]], bool]]] = {
    "tiny objects in big images": (
        coco(size=(4000, 3000), box=(12, 10)),
        [],
        lambda values: student(values)["detector"] == "faster_rcnn" and student(values)["anchor_scale"] == 1.0,
    ),
    "one class": (coco(), ["--alone"], lambda values: "teacher" not in values and "arms" not in values),
    "tall and thin": (
        coco(box=(8, 200)),
        ["--detector", "retinanet"],
        lambda values: student(values)["head"]["ratios"] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0],
    ),
    "one image": (coco(images=1), ["--goal", "fast"], lambda values: values["base"]["batch_size"] == 1),
    "many images": (
        coco(images=5000),
        ["--goal", "accurate"],
        lambda values: values["base"]["schedule"]["epochs"] == 24,  # the fewest
    ),
    "small images": (
        coco(size=(32, 32), box=(8, 8)),
        ["--goal", "fast"],
        lambda values: values["base"]["augment"]["short_edges"] == [64],
    ),
    "wide images": (
        coco(size=(6000, 300), box=(40, 30)),
        [],
        lambda values: values["base"]["augment"]["long_edge"] <= 1344,
    ),
    "1,203 classes": (
        coco(images=2, names=[f"class {number}" for number in range(1203)]),
        ["--detector", "atss"],
        lambda values: student(values)["postprocess"]["max_detections"] == 1000,
    ),
    "empty classes": (
        coco(names=["a", "b", "c", "d"], boxed=2),
        ["--detector", "fcos"],
        lambda values: values["base"]["data"]["classes"] == ["a", "b"],
    ),
    "odd names: #\n'\"☃": (
        coco(names=[*ODD, "nothing"], boxed=len(ODD)),
        ["--goal", "fast"],
        lambda values: values["base"]["data"]["classes"] == ODD and values["base"]["augment"]["flip"] == 0.0,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_service_takes_what_is_proposed(service: Service, home: Path, tmp_path: Path, case: str) -> None:
    content, options, holds = CASES[case]
    folder = lay(home / "data" / case, content, content)
    out = tmp_path / "a spec.yaml"
    done = run(service, "init", str(folder), "--out", str(out), *options)
    assert done.returncode == 0, done.stderr
    values = yaml.safe_load(out.read_text())
    assert holds(values), out.read_text()
    assert max(map(len, out.read_text().splitlines())) < 140 or "classes" in case or "names" in case

    verb = "submit" if "--alone" in options else "sweep"
    assert f"crosskd {verb} '{out}' --watch" in done.stdout
    checked = run(service, verb, str(out), "--dry-run")
    assert checked.returncode == 0, checked.stderr

    again = run(service, "init", str(folder), "--out", str(out), *options)
    assert again.returncode == 1
    assert "is there already" in again.stderr
    before = out.read_bytes()
    told = run(service, "init", str(folder), "--out", str(out), "--force", "--json", *options)
    assert told.returncode == 0, told.stderr
    assert out.read_bytes() == before
    answer = json.loads(told.stdout)
    assert answer["spec"] == values
    assert all(choice["why"] for choice in answer["choices"])
    shutil.rmtree(folder)


BROKEN: dict[str, tuple[Any, list[str], str]] = {
    "crowds alone": (coco(iscrowd=1), [], "no image has a box that trains"),
    "without a size": ({**coco(), "images": [{"id": 0, "file_name": "0.png"}]}, [], "images[0].width is missing"),
    "no categories": ({"images": [], "annotations": []}, [], "the key 'categories' is missing"),
    "no JSON": ("{", [], "it is not a readable JSON file"),
    "an unknown option": (coco(), ["--goal", "best"], "'best' is not one of"),
    "divided already": (coco(), ["--split", "0.2"], "there is a validation split"),
    "a share of two": (coco(), ["--split", "2"], "share between 0 and 1"),
    "no such teacher": (coco(), ["--teacher", "nowhere.safetensors"], "there is no file"),
    "no such backbone": (coco(), ["--student-init", "nowhere.pth"], "There is no file"),
    "no such images": (coco(), ["--images", "photos"], "there is no folder 'photos'"),
    "two wishes": (coco(), ["--alone", "--teacher", "t"], "--teacher or --alone"),
    "nowhere to write": (coco(), ["--out", "/nowhere/spec.yaml"], "Cannot write /nowhere/spec.yaml"),
    "a folder to write": (coco(), ["--out", "{data}", "--force"], "data is a folder"),
    "to write over what is read": (coco(), ["--out", "{data}/val.json", "--force"], "is read here"),
    "an option without a teacher": (coco(), ["--alone", "--teacher-init", "t.pth"], "--teacher-init is for a teacher"),
    "an option without a split": (coco(), ["--seed", "7"], "--seed is for --split"),
    "a home of nobody": (coco(), ["--teacher", "~no-such-user/t"], "there is no file"),
    "a device as teacher": (coco(), ["--teacher", "/dev/zero"], "neither a file nor a folder"),
    "no UTF-8": (coco(), ["--student-init", "\udcff.pth"], "is not UTF-8"),
    "a long name": (coco(), ["--student-init", "x" * 300], "File name too long"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_cannot_be_used_is_told(tmp_path: Path, case: str) -> None:
    content, options, said = BROKEN[case]
    text = content if isinstance(content, str) else json.dumps(content)
    folder = lay(tmp_path / "data", coco())
    for split in ("train", "val"):
        (folder / f"{split}.json").write_text(text)
    out = tmp_path / "spec.yaml"
    options = [option.format(data=folder) for option in options]
    done = run("http://127.0.0.1:1", "init", str(folder), "--out", str(out), *options)
    assert done.returncode == (2 if "option" in case or case in ("a share of two", "two wishes") else 1)
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert not out.exists()
    assert (folder / "val.json").read_text() == text


def test_a_missing_validation_split_is_drawn(service: Service, home: Path) -> None:
    folder = lay(home / "data" / "undivided", coco(images=10, names=["a", "b"]))
    refused = run(service, "init", str(folder), "--out", str(home / "data" / "drawn.yaml"))
    assert refused.returncode == 1
    assert "--split 0.2" in refused.stderr

    out = home / "data" / "drawn.yaml"
    done = run(service, "init", str(folder), "--out", str(out), "--split", "0.2", "--alone")
    assert done.returncode == 0, done.stderr
    files = {split: home / "data" / f"drawn-{split}.json" for split in ("train", "val")}
    parts = {split: json.loads(path.read_text()) for split, path in files.items()}
    images = {split: {image["id"] for image in part["images"]} for split, part in parts.items()}
    assert (len(images["train"]), len(images["val"]), images["train"] & images["val"]) == (8, 2, set())
    for split, part in parts.items():
        assert {box["image_id"] for box in part["annotations"]} == images[split]
        assert part["categories"] == coco(names=["a", "b"])["categories"]
    checked = run(service, "submit", str(out), "--dry-run")
    assert checked.returncode == 0, checked.stderr
    before = {path: path.read_bytes() for path in files.values()}
    assert run(service, "init", str(folder), "--out", str(out), "--split", "0.2", "--force").returncode == 0
    assert {path: path.read_bytes() for path in files.values()} == before


def test_few_missing_images_are_told_and_left_out(service: Service, home: Path, tmp_path: Path) -> None:
    content = coco(images=200)
    folder = lay(home / "data" / "gaps", content, content)
    (folder / "images" / "7.png").unlink()
    out = tmp_path / "spec.yaml"
    done = run(service, "init", str(folder), "--out", str(out), "--alone")
    assert done.returncode == 0, done.stderr
    assert "'7.png'" in done.stderr
    assert "200 images are in training and in validation" in done.stderr
    assert yaml.safe_load(out.read_text())["data"]["max_corrupt_images"] == 1
    assert run(service, "submit", str(out), "--dry-run").returncode == 0
    for image in range(8, 12):
        (folder / "images" / f"{image}.png").unlink()
    refused = run(service, "init", str(folder), "--out", str(out), "--force")
    assert refused.returncode == 1
    assert "5 of 200 images" in refused.stderr


def test_a_teacher_gives_its_size_and_a_smaller_student(service: Service, home: Path, tmp_path: Path) -> None:
    content = coco(names=["ring", "square"])
    folder = lay(home / "data" / "taught", content, content)
    narrow = {"neck": {"channels": 64}, "head": {"channels": 64}, "strides": [8, 16, 32]}
    model = {"detector": "gfl", "backbone": {"name": "resnet18", "width": 32}, **narrow}
    augment = json.dumps({"short_edges": [160], "long_edge": 216, "pad_to": 32})
    weights = write_weights(home / "data" / "teacher.safetensors", model, augment=augment)
    out = tmp_path / "spec.yaml"
    done = run(service, "init", str(folder), "--out", str(out), "--goal", "fast", "--teacher", str(weights))
    assert done.returncode == 0, done.stderr
    assert "gfl on resnet18 of width 32, 3.3 million parameters, 2 classes" in done.stdout
    values = yaml.safe_load(out.read_text())
    assert values["student"]["backbone"]["width"] == 8  # 0.19 of the teacher's parameters
    assert {name: values["student"][name]["channels"] for name in ("neck", "head")} == {"neck": 64, "head": 64}
    assert (values["augment"]["short_edges"], values["augment"]["long_edge"]) == ([160], 216)
    checked = run(service, "submit", str(out), "--dry-run")
    assert checked.returncode == 0, checked.stderr

    other = lay(home / "data" / "untaught", *2 * (coco(names=["ring", "star"]),))
    done = run(service, "init", str(other), "--out", str(out), "--force", "--teacher", str(weights))
    assert done.returncode == 1
    assert "the teacher does not know 'star'" in done.stderr
    pickled = home / "data" / "teacher.pth"
    pickled.write_bytes(b"PK\x03\x04" + bytes(100))
    done = run(service, "init", str(other), "--out", str(out), "--force", "--teacher", str(pickled))
    assert done.returncode == 1
    assert "crosskd convert FILE teacher.safetensors --to native" in done.stderr


def few_steps(values: dict[str, Any], workdir: Path) -> Path:
    """Train what is proposed for two steps; the weights that it leaves."""
    schedule = {**values["schedule"], "max_steps": 2, "warmup_steps": 0}
    changed = {**values, "schedule": schedule, "loader": {"workers": 0}, "threads": 1, "device": "cpu", "export": None}
    train(TrainConfig.model_validate(changed), workdir)
    return workdir / "last.safetensors"


@pytest.mark.slow
def test_what_is_proposed_for_real_images_is_trained(service: Service, home: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(BCCD, home / "data" / "bccd")
    out = tmp_path / "spec.yaml"
    done = run(service, "init", str(folder), "--out", str(out), "--goal", "fast")
    assert done.returncode == 0, done.stderr
    checked = run(service, "sweep", str(out), "--dry-run")
    assert checked.returncode == 0, checked.stderr
    sweep = yaml.safe_load(out.read_text())
    trained = few_steps({**sweep["teacher"], "data": sweep["base"]["data"]}, tmp_path / "teacher")

    weights = Path(shutil.copy(trained, home / "data" / "trained.safetensors"))
    done = run(service, "init", str(folder), "--out", str(out), "--force", "--goal", "fast", "--teacher", str(weights))
    assert done.returncode == 0, done.stderr
    checked = run(service, "submit", str(out), "--dry-run")
    assert checked.returncode == 0, checked.stderr
    distilled = yaml.safe_load(out.read_text())
    assert distilled["augment"] == sweep["base"]["augment"]
    assert few_steps(distilled, tmp_path / "student").stat().st_size > 0


def test_data_outside_the_home_is_named_to_the_service(tmp_path: Path) -> None:
    content = coco()
    folder = lay(tmp_path / "my data", content, content)
    held = Home(tmp_path / "home")
    inside = lay(held / "data" / "mine", content, content)
    out = tmp_path / "spec.yaml"
    told = run("http://127.0.0.1:1", "init", str(folder), "--out", str(out), home=held.path)
    assert f"CROSSKD_DATA_ROOTS='{folder}' crosskd up" in told.stdout
    told = run("http://127.0.0.1:1", "init", str(inside), "--out", str(out), "--force", home=held.path)
    assert "  crosskd up\n" in told.stdout
    held.lock()
    held.announce("http://127.0.0.1:1")
    told = run("http://127.0.0.1:1", "init", str(inside), "--out", str(out), "--force", home=held.path)
    held.unlock()
    assert told.stdout.endswith(f"Next:\n  crosskd sweep {out} --watch\n")
