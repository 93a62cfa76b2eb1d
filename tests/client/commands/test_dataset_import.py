"""`crosskd import`: what it prints and writes, and that `crosskd init` goes on from there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.support.crosskd_command import run
from tests.support.dataset_folders import lay, to_yolo
from tests.support.imports import BCCD
from tests.support.job_records import SCRIPT

SERVICE = "http://127.0.0.1:1"  # nobody answers there, and nobody is asked


def test_a_yolo_folder_becomes_a_spec_in_two_commands(tmp_path: Path) -> None:
    source = to_yolo(BCCD, tmp_path / "yolo")
    label = min((source / "train" / "labels").iterdir())
    with label.open("a") as file:
        file.write("9 0.5 0.5 0.1 0.1\n")
    told = run(SERVICE, "init", str(source), "--out", str(tmp_path / "spec.yaml"))
    assert told.returncode == 1
    assert "crosskd import" in told.stderr
    done = run(SERVICE, "import", str(source), "--to", str(tmp_path / "to"))
    assert done.returncode == 0, done.stderr
    assert "train: 21 images, 282 boxes" in done.stdout
    assert "unknown_class: 1 dropped. Add the class" in done.stdout
    assert f"train/labels/{label.name} line" in done.stdout
    next_ = done.stdout.strip().splitlines()[-1].removeprefix("Next: crosskd ").split()
    written = run(SERVICE, *next_, "--goal", "fast", "--alone", "--out", str(tmp_path / "spec.yaml"))
    assert written.returncode == 0, written.stderr
    spec = yaml.safe_load((tmp_path / "spec.yaml").read_text())
    assert spec["data"]["train"]["annotations"] == str(tmp_path / "to" / "train.json")


def test_the_report_as_json_and_a_new_split(tmp_path: Path) -> None:
    options = ["--validation", "0.5", "--seed", "4", "--group-by", r"_000\d", "--json", "--no-near"]
    done = run(SERVICE, "import", str(BCCD), "--to", str(tmp_path / "to"), *options)
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "to" / "report.json").read_text())
    assert report["split"] == {"validation": 0.5, "seed": 4, "group_by": r"_000\d"}
    assert report["duplicates"]["near"] is None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--seed", "1"], 2, "--seed and --group-by are for --validation"),
        (["--validation", "1.5"], 2, "--validation: Input should be less than 1"),
        (["--validation", "0.5", "--group-by", "("], 2, "no regular expression"),
        (["--format", "voc"], 1, "there is no XML file"),
        (["--refuse"], 0, ""),
    ],
)
def test_what_cannot_be_done_is_told(tmp_path: Path, options: list[str], code: int, message: str) -> None:
    done = run(SERVICE, "import", str(BCCD), "--to", str(tmp_path / "to"), "--no-near", *options)
    assert done.returncode == code, done.stderr
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert (tmp_path / "to").exists() is (code == 0)


def test_names_from_outside_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    label = "0 0.5 0.5 0.2 0.2"
    files: dict[str, str | bytes | None] = {"data.yaml": 'train: images\nval: images\nnames: ["\\e[2J"]'}
    files |= {"images/a.png": None, "labels/a.txt": label, "labels/\x1b]0;x\a.txt": label}
    done = run(SERVICE, "import", str(lay(tmp_path / "source", files)), "--to", str(tmp_path / "to"))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert "leaks: 1" in done.stdout


def test_a_page_shows_the_report_and_pictures_and_obeys_no_text(tmp_path: Path) -> None:
    source = shutil.copytree(BCCD, tmp_path / "source")
    for split in ("train", "val"):
        path = source / f"{split}.json"
        path.write_text(path.read_text().replace("Platelets", SCRIPT))
    assert run(SERVICE, "import", str(source), "--to", str(tmp_path / "to")).returncode == 0
    output = tmp_path / "page.html"
    done = run(SERVICE, "datasets", "page", str(tmp_path / "to"), "-o", str(output), "--images", "3")
    assert done.returncode == 0, done.stderr
    html = output.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("<svg") == html.count("data:image/jpeg;base64,") == 6
    content = json.loads((tmp_path / "to" / "train.json").read_text())
    first = content["images"][0]
    boxes = [box["bbox"] for box in content["annotations"] if box["image_id"] == first["id"]]
    figure = html[html.index(f'aria-label="{first["file_name"]}"') :].partition("</figure>")[0]
    drawn = re.findall(r'<rect x="(.+?)" y="(.+?)" width="(.+?)" height="(.+?)"', figure)
    assert [[float(number) for number in box] for box in drawn] == boxes
    assert run(SERVICE, "datasets", "page", str(source), "-o", str(output)).returncode == 1
