"""Images without labels in a specification: what is told of them, and every way to get them wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.services.submission import unlabelled
from tests.support.coco_files import noise
from tests.support.databases import ONE_DATABASE
from tests.support.specs import TINY, Post, errors, write_weights

pytestmark = ONE_DATABASE
Distil = Callable[..., Any]
HERE = "/spec/data/unlabelled"


@pytest.fixture
def distil(resolve: Post, root: Path) -> Distil:
    """Post a distillation on images without labels, in `more` by default."""
    write_weights(root / "teacher.safetensors")
    (root / "more").mkdir()
    for number in range(3):
        noise(32, 32, seed=10 + number).save(root / "more" / f"{number}.png")

    def post(changes: dict[str, Any] | None = None, **section: Any) -> Any:
        teacher = {"weights": {"file": "teacher.safetensors"}}
        given = {"student": TINY, "teacher": teacher, "data__unlabelled": {"images": "more", **section}}
        return resolve("distill", **{**given, **(changes or {})})

    return post


def warned(answer: Any) -> dict[str, tuple[int, str]]:
    assert answer.status_code == 200, answer.text
    found = [each for each in answer.json()["warnings"] if each["pointer"].startswith(HERE)]
    return {each["kind"]: (each["count"], each["detail"]) for each in found}


def test_they_are_counted_and_their_paths_become_real_ones(distil: Distil, root: Path, client: TestClient) -> None:
    (root / "list.txt").write_text("0.png\n2.png\n")
    answer = distil(names="list.txt", ratio=2)
    assert warned(answer)["unlabelled"] == (
        2,
        "2 images without labels are learnt from besides; a sample of them was looked at",
    )
    spec = answer.json()["spec"]
    assert spec["data"]["unlabelled"] == {
        "images": str(root / "more"), "names": str(root / "list.txt"), "ratio": 2.0, "confidence": 0.3
    }  # fmt: skip
    again = client.post("/jobs?dry_run=true", json={"kind": "distill", "name": "n", "spec": spec})
    assert again.json() == answer.json()
    assert warned(distil())["unlabelled"][0] == 3


def test_what_is_odd_is_told_and_stops_nothing(distil: Distil, root: Path) -> None:
    (root / "more" / "x.jpg").write_bytes(b"no image")
    (root / "list.json").write_text(json.dumps(["0.png", "gone.png"]))
    assert warned(distil())["broken_image"] == (1, "1 of 4 files looked at are no images: 'x.jpg'; such are left out")
    count, detail = warned(distil(names="list.json"))["missing_image"]
    assert (count, "1 of 2 images are missing: 'gone.png'" in detail) == (1, True)
    assert "AP is measured" in warned(distil(images="."))["validation_images"][1]
    remedies = {fault["kind"]: fault["remedy"] for fault in distil(names="list.json").json()["warnings"]}
    assert remedies["missing_image"] == "Check the image folder against the list of names."
    answer = distil({"distill": {"crosskd": {}, "fgd": {}, "fgfi": {}}})
    assert {note for note in answer.json()["notes"] if "ground truth" in note} == {
        "fgd_foreground, fgd_background of `distill.fgd` asks for the ground truth and is of labelled images alone",
        "`distill.fgfi` asks for the ground truth and is of labelled images alone",
    }


@pytest.mark.parametrize(
    ("section", "pointer", "detail"),
    [
        ({"images": "/etc"}, "images", "outside the data roots"),
        ({"images": "nowhere"}, "images", "does not exist"),
        ({"images": "instances.json"}, "images", "is not a folder"),
        ({"images": "empty"}, "images", "there is no image"),
        ({"images": "texts"}, "images", "1 of 1 files looked at are no images: 'x.png'"),
        ({"images": "out"}, "images", "1 of 1 images are links that lead out of the data"),
        ({"names": "/etc/passwd"}, "names", "outside the data roots"),
        ({"names": "more"}, "names", "is not a file"),
        ({"names": "instances.json"}, "names", "instances.json: the list of images is not a JSON list of names"),
        ({"names": "up.txt"}, "names", "must be relative to the images folder"),
        ({"names": "half.json"}, "names", "name 1 of the list, '\\ud800.png', holds half a surrogate pair"),
        ({"names": "none.txt"}, "names", "the list of images names none"),
        ({"names": "none.json"}, "names", "the list of images names none"),
        ({"names": "gone.txt"}, "names", "1 of 1 images are missing: '0.PNG'. '0.PNG' is there as '0.png' (case)"),
        ({"ratio": 0}, "ratio", "greater than 0"),
        ({"ratio": 17}, "ratio", "less than or equal to 16"),
        ({"ratio": 0.01}, "ratio", "a ratio of 0.01 leaves a batch of 16 without any of them"),
        ({"confidence": 1.5}, "confidence", "less than or equal to 1"),
        ({"weight": 2}, "weight", "Extra inputs are not permitted"),
    ],
)
def test_bad_input_is_refused_where_it_stands(
    distil: Distil, root: Path, section: dict[str, Any], pointer: str, detail: str
) -> None:
    for name in ("empty", "texts", "out"):
        (root / name).mkdir()
    (root / "texts" / "x.png").write_text("no image")
    (root / "out" / "x.png").symlink_to("/etc/passwd")
    for name, text in {"up": "../instances.json", "none": "\n", "gone": "0.PNG"}.items():
        (root / f"{name}.txt").write_text(text)
    (root / "none.json").write_text("[]")
    (root / "half.json").write_text('["\\ud800.png"]')
    found = errors(distil(**section))
    assert found.keys() == {f"{HERE}/{pointer}"}
    assert detail in found[f"{HERE}/{pointer}"]


def test_a_folder_that_takes_long_to_list_is_not_refused(
    distil: Distil, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unlabelled, "LOOK_SECONDS", 0.0)
    assert warned(distil())["unlabelled"][1].startswith("at least 3 images without labels")
    (root / "above" / "below").mkdir(parents=True)
    noise(32, 32, seed=1).save(root / "above" / "below" / "x.png")
    assert warned(distil(images="above"))["unlabelled"] == (
        0,
        "no image could be listed in time; the training takes what there is, and fails where that is none",
    )


def test_they_need_a_teacher_and_a_term_that_learns_from_them(distil: Distil, resolve: Post) -> None:
    found = errors(distil({"distill": {"fgfi": {}, "defeat": {}}}))
    assert found[HERE] == "nothing is learnt from images without labels: fgfi, defeat asks for the ground truth"
    found = errors(resolve("train", teacher=None, distill=None, data__unlabelled={"images": "more"}))
    assert "learnt from a teacher alone" in found[HERE]
