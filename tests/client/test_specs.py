from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from client import specs
from client.errors import ClientError
from wire.jobs import Job


def make_data(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        if path.suffix:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        else:
            path.mkdir(parents=True)
    return folder


def test_a_spec_alone_becomes_a_job(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("student: {backbone: {name: resnet_tiny}}\n")
    job = specs.complete(specs.read_job(file), name="mine", labels=["team=a", "note=x=y"])
    assert job == {
        "kind": "train",
        "name": "mine",
        "labels": {"team": "a", "note": "x=y"},
        "spec": {"student": {"backbone": {"name": "resnet_tiny"}}},
    }


def test_a_whole_job_keeps_what_it_says(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("kind: distill\nname: theirs\nlabels: {a: b}\nspec: {seed: 1}\n")
    job = specs.complete(specs.read_job(file), name="unused", labels=["a=c"], overrides=["seed=2"])
    assert job == {"kind": "distill", "name": "theirs", "labels": {"a": "c"}, "spec": {"seed": 2}}


def test_a_teacher_makes_it_a_distil_job() -> None:
    preset = {"spec": {"teacher": {"model": {"detector": "gfl"}}}}
    job = specs.complete(preset, name="n", teacher={"job": "abc"})
    assert job["kind"] == "distill"
    assert job["spec"]["teacher"] == {"model": {"detector": "gfl"}, "weights": {"job": "abc"}}
    assert preset == {"spec": {"teacher": {"model": {"detector": "gfl"}}}}  # what came in is left as it was


def test_weights_make_it_a_job_on_them(tmp_path: Path) -> None:
    data = make_data(tmp_path, "train.json", "val.json", "images")
    images = str(tmp_path / "images")
    val = {"annotations": str(tmp_path / "val.json"), "images": images}
    weights = {"job": "abc"}

    job = specs.complete({"spec": {}}, name="n", weights=weights, data=data)
    assert (job["kind"], job["spec"]) == ("evaluate", {"weights": weights, "data": {"val": val}})
    job = specs.complete({"spec": {}}, name="n", weights=weights)
    assert (job["kind"], job["spec"]) == ("export", {"weights": weights})
    job = specs.complete({"kind": "export", "spec": {}}, name="n", weights=weights, data=data, overrides=["opset=20"])
    assert (job["kind"], job["spec"]) == ("export", {"weights": weights, "images": images, "opset": 20})
    job = specs.complete({"spec": {"weights": weights, "data": {"val": val}}}, name="n")
    assert job["kind"] == "evaluate"


def test_values_are_set_by_path_and_read_as_yaml() -> None:
    preset = {"spec": {"schedule": {"epochs": 12, "gamma": 0.1}}}
    overrides = ["schedule.epochs=3", "schedule.milestones=[1, 2]", "ema.decay=0.9", "teacher=null"]
    spec = specs.complete(preset, name="n", overrides=overrides)["spec"]
    assert spec == {
        "schedule": {"epochs": 3, "gamma": 0.1, "milestones": [1, 2]},
        "ema": {"decay": 0.9},
        "teacher": None,
    }
    assert preset["spec"]["schedule"]["epochs"] == 12


@pytest.mark.parametrize("text", ["epochs", "=3", "", "seed.deeper=1", "x=[1", "x=2001-99-99", "x=!!int abc"])
def test_a_value_that_cannot_be_set_is_refused(text: str) -> None:
    with pytest.raises(ClientError):
        specs.put({"seed": 0}, text)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("- 1\n", "no mapping"),
        ("a: [", "no YAML"),
        ("\x00", "no YAML"),
        ("3", "no mapping"),
        ("a: 2001-99-99", "no YAML: month must be in"),
        ("[" * 3000, "no YAML: it is nested too deeply"),
    ],
)
def test_a_file_that_is_no_job_is_refused(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(content)
    with pytest.raises(ClientError, match=complaint):
        specs.read_job(file)


@pytest.mark.parametrize(
    "text", ["seed: .nan", "seed: 2001-01-01", "a: !!binary aGk=", "a: !!set {x}", "a: &a [*a]", 'a: "\\ud800"']
)
def test_what_json_cannot_say_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(text)
    with pytest.raises(ClientError, match="cannot be sent as JSON"):
        specs.complete(specs.read_job(file), name="n")


def test_sections_of_another_form_are_left_to_the_service() -> None:
    job = specs.complete({"labels": [1], "spec": {"teacher": "x"}}, name="n", teacher={"job": "abc"}, labels=["a=b"])
    assert job["labels"] == [1]
    assert job["spec"]["teacher"] == {"weights": {"job": "abc"}}
    assert specs.complete({"labels": None, "spec": {}}, name="n", labels=["a=b"])["labels"] == {"a": "b"}


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match="No such file"):
        specs.read_job(tmp_path / "job.yaml")


def test_a_file_of_bytes_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ClientError, match="no YAML"):
        specs.read_job(file)


def test_a_data_folder_in_a_layout_that_training_knows_is_known(tmp_path: Path) -> None:
    section = specs.data_section(make_data(tmp_path, "train/_annotations.coco.json", "valid/_annotations.coco.json"))
    assert section["val"] == {
        "annotations": str(tmp_path / "valid/_annotations.coco.json"),
        "images": str(tmp_path / "valid"),
    }


def test_a_folder_without_data_names_the_layouts(tmp_path: Path) -> None:
    make_data(tmp_path, "train.json", "images")
    with pytest.raises(ClientError, match=r"lacks val\.json: .* Known are: train\.json with images/") as caught:
        specs.data_section(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(ClientError, match="There is no data folder '~no-such-user'"):
        specs.data_section(Path("~no-such-user"))


def test_a_name_with_a_suffix_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("")
    assert [specs.is_file(name) for name in ("gone.yaml", "here")] == [True, True]
    assert [specs.is_file(name) for name in ("gfl_r18_r50", "n" * 300)] == [False, False]


FORMER: dict[str, Any] = {
    "id": "0" * 32,
    "name": "former",
    "owner": "ann",
    "labels": {"team": "a"},
    "priority": 7,
    "status": "failed",
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:00Z",
    "spec_version": 1,
    "retried_from": "1" * 32,
    "transitions": [],
    "attempts": [],
}
STUDENT = {"detector": "gfl", "strides": [8, 16, 32]}
TEACHER = {"weights": {"job": "a"}, "model": {"detector": "fcos"}, "classes": ["x"]}


@pytest.mark.parametrize(
    ("kind", "spec", "more", "wanted"),
    [
        ("train", {"student": STUDENT, "teacher": None}, {"overrides": ["student.detector=fcos"]}, "train"),
        ("distill", {"student": STUDENT, "teacher": TEACHER}, {}, "distill"),
        ("distill", {"student": STUDENT, "teacher": TEACHER}, {"overrides": ["teacher=null"]}, "train"),
        ("train", {"student": STUDENT, "teacher": None}, {"teacher": {"job": "b"}}, "distill"),
        # An export has images, and an evaluation data: neither can be told once a folder is named.
        ("export", {"weights": {"job": "a"}, "images": "i", "classes": ["x"]}, {}, "export"),
        ("evaluate", {"weights": {"job": "a"}, "data": {}}, {"kind": "export"}, "export"),
    ],
)
def test_a_former_job_is_begun_with(kind: str, spec: dict[str, Any], more: dict[str, Any], wanted: str) -> None:
    former = Job.model_validate(FORMER | {"kind": kind, "spec": spec})
    job = specs.complete(specs.like(former), name="next", labels=["a=b"], **more)
    assert (job["kind"], job["name"], job["priority"]) == (wanted, "next", 7)
    assert job["labels"] == {"team": "a", "a": "b"}
    assert job.keys() == {"kind", "name", "priority", "labels", "spec"}
    assert former.spec == spec  # what came in is left as it was


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ({"sweep": "a" * 32, "role": "arm", "arm": "kd", "seed": "1", "point": "x=1", "team": "a"}, {"team": "a"}),
        ({"sweep": "autumn", "seed": "1"}, {"sweep": "autumn", "seed": "1"}),  # somebody's own
    ],
)
def test_the_labels_of_a_sweep_stay_with_it(labels: dict[str, str], kept: dict[str, str]) -> None:
    former = Job.model_validate(FORMER | {"kind": "train", "spec": {}, "labels": labels})
    assert specs.like(former)["labels"] == kept


def test_what_was_known_of_other_weights_is_left_out() -> None:
    distilled = Job.model_validate(FORMER | {"kind": "distill", "spec": {"student": STUDENT, "teacher": TEACHER}})
    job = specs.complete(specs.like(distilled, new_teacher=True), name="n", teacher={"job": "b"})
    assert job["spec"]["teacher"] == {"weights": {"job": "b"}}
    spec = {"weights": {"job": "a"}, "model": {}, "classes": ["x"], "opset": 18}
    exported = Job.model_validate(FORMER | {"kind": "export", "spec": spec})
    job = specs.complete(specs.like(exported, new_weights=True), name="n", weights={"job": "b"})
    assert job["spec"] == {"weights": {"job": "b"}, "opset": 18}


def test_a_kind_that_cannot_be_told_is_left_to_the_service() -> None:
    assert "kind" not in specs.complete({"spec": {"device": "cpu"}}, name="n")
