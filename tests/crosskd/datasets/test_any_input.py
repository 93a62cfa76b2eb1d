"""Whatever a source holds: an import says what is wrong, or writes what a training reads. It never ends otherwise."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crosskd.data.annotations import read_annotations
from crosskd.datasets.faults import KINDS
from crosskd.errors import ConfigError, DataError
from tests.support.dataset_folders import lay, voc, voc_object
from tests.support.imports import counts, faults, imported

NUMBERS = st.one_of(
    st.floats(), st.integers(-3, 3), st.floats(-0.5, 1.5), st.sampled_from(["", "x", "1e999", "٣", "0x1"])
)
LINES = st.one_of(
    st.lists(NUMBERS, max_size=11).map(lambda values: " ".join(map(str, values))),
    st.tuples(st.integers(0, 3), *[st.floats(0, 1)] * 4).map(lambda values: " ".join(map(str, values))),
    st.text(max_size=20),
)
LABELS = st.one_of(
    st.lists(LINES, max_size=6).map(lambda lines: "\n".join(lines).encode(errors="replace")), st.binary(max_size=40)
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 5),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["images", "../..", "/", "a" * 5000, "train.txt", "~", "."]),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(SCALARS, SCALARS, max_size=3))
YAML = st.one_of(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("path", "train", "val", "test", "names", "nc", "kpt_shape"), VALUES)
    ),
    st.just({"train": "images", "val": "images", "names": ["a", "b"]}),
)
XML_VALUE = st.one_of(st.integers(-5, 80), st.floats(), st.text('<&a"é\0', max_size=4))
COUNTER = itertools.count()
MANY = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any")


def check(source: Path, room: Path, **options: Any) -> None:
    """Import it; what is written must be readable, and hold together with the report."""
    to = room / f"to{next(COUNTER)}"
    try:
        result = imported(source, to, near_duplicates=False, **options)
    except (ConfigError, DataError) as error:
        told = (bool(error.message), bool(error.remedy), to.exists())
        assert told == (True, True, False)
        return
    for split in result.report.splits:
        read = read_annotations(to / f"{split.name}.json")
        assert (len(read), len(read.boxes), read.left_out) == (split.images, split.boxes, 0)
        assert not [remark for remark in read.remarks if remark.kind in ("clipped", "outside", "no_size")]
    assert {fault.kind for fault in result.report.faults} <= KINDS.keys()


@MANY
@given(labels=LABELS, description=YAML)
def test_yolo(room: Path, labels: bytes, description: dict[str, Any]) -> None:
    source = room / f"yolo{next(COUNTER)}"
    text = yaml.safe_dump(description).encode(errors="replace")
    files: dict[str, str | bytes | None] = {"data.yaml": text, "train.txt": labels, "labels/a.txt": labels}
    check(lay(source, files | {"images/a.png": None, "images/b.png": None}), room)


@MANY
@given(data=st.binary(max_size=60))
def test_a_data_yaml_of_bytes(room: Path, data: bytes) -> None:
    source = room / f"bytes{next(COUNTER)}"
    check(lay(source, {"data.yaml": data, "images/a.png": None, "labels/a.txt": "0 .5 .5 .1 .1"}), room)


@MANY
@given(
    edges=st.lists(XML_VALUE, min_size=3, max_size=4),
    name=XML_VALUE,
    size=st.tuples(XML_VALUE, XML_VALUE),
    raw=st.binary(max_size=30),
)
def test_voc(room: Path, edges: list[Any], name: Any, size: Any, raw: bytes) -> None:
    source = room / f"voc{next(COUNTER)}"
    entries = [voc_object(str(name), *edges), voc_object("cat", 1, 1, 9, 9)]
    told = voc("a.png", *entries, size=size).encode(errors="replace")
    files: dict[str, str | bytes | None] = {
        "a.xml": told,
        "b.xml": voc("b.png", voc_object("cat", 1, 1, 9, 9)),
        "c.xml": raw,
    }
    check(lay(source, files | {"a.png": None, "b.png": None}), room, split={"validation": 0.5})


VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 70), st.floats(), st.text(max_size=3), st.just([1, 2, 3, 4])
)
IMAGE = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(st.integers(0, 3), VALUE),
        "file_name": st.one_of(st.sampled_from(["a.png", "b.png", "c/../a.png"]), VALUE),
        "width": st.sampled_from([64, 65, 0]),
        "height": st.just(48),
    },
)
BOX = st.fixed_dictionaries(
    {"image_id": st.integers(0, 4), "category_id": st.integers(0, 2)},
    optional={
        "id": st.one_of(st.integers(0, 9), VALUE),
        "bbox": st.one_of(VALUE, st.lists(st.one_of(st.floats(-9, 80), VALUE), min_size=4, max_size=4)),
        "area": VALUE,
        "iscrowd": VALUE,
    },
)


@MANY
@given(
    images=st.lists(IMAGE, min_size=1, max_size=4),
    boxes=st.lists(BOX, max_size=6),
    names=st.lists(st.sampled_from(["cat", "dog", ""]), min_size=1, max_size=3),
)
def test_coco(room: Path, images: list[Any], boxes: list[Any], names: list[str]) -> None:
    source = room / f"coco{next(COUNTER)}"
    sound = {"id": 50, "file_name": "a.png", "width": 64, "height": 48}
    data = {
        "images": [sound, *images],
        "annotations": [{"id": 50, "image_id": 50, "category_id": 0, "bbox": [1, 1, 9, 9]}, *boxes],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
    }
    files: dict[str, str | bytes | None] = {"train.json": json.dumps(data), "images/a.png": None, "images/b.png": None}
    check(lay(source, files), room, split={"validation": 0.5})


def test_a_name_that_is_not_utf8_is_left_out(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {f"images/{name}.png": None for name in "abc"}
    source = lay(tmp_path / "source", files | {f"labels/{name}.txt": "0 .5 .5 .1 .1" for name in "ab"})
    os.rename(source / "images" / "c.png", os.fsencode(source / "images") + b"/\xff.png")  # noqa: PTH104
    report = imported(source, tmp_path / "to", split={"validation": 0.5}).report
    assert counts(report) == {"name_not_utf8": 1, "image_without_label": 1}
    assert faults(report)["name_not_utf8"].first[0].file == "images/\\udcff.png"
