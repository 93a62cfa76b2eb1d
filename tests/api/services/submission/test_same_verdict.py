"""The service and the training, asked about the same files: they refuse the same, and find the same in the rest."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from crosskd.errors import DataError
from crosskd.runs.parts import build_parts
from crosskd.spec.config import TrainConfig
from tests.support.coco_files import content, noise
from tests.support.specs import TINY

WIDTH, HEIGHT = 64, 48


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    """The database is nothing to it."""
    return str(request.param)


@dataclass(frozen=True)
class Verdict:
    """`refused` is empty if the files are taken; `kinds` are those of the warnings, by split."""

    refused: str
    kinds: dict[str, set[str]]
    text: str


def of_the_training(spec: dict[str, Any], root: Path) -> Verdict:
    try:
        parts = build_parts(TrainConfig.model_validate(spec), roots=[root])
    except DataError as error:
        return Verdict(str(error), {}, str(error))
    remarks = {
        split: loader.dataset.annotations.remarks
        for split, loader in (("train", parts.train_loader), ("val", parts.val_loader))
    }
    text = "\n".join(str(remark) for found in remarks.values() for remark in found)
    return Verdict("", {split: {remark.kind for remark in found} for split, found in remarks.items()}, text)


def of_the_service(spec: dict[str, Any], client: TestClient) -> Verdict:
    answer = client.post("/jobs?dry_run=true", json={"kind": "train", "name": "n", "spec": spec})
    if answer.status_code == 422:
        told = "\n".join(f"{fault['detail']}. {fault['remedy']}" for fault in answer.json()["errors"])
        return Verdict(told, {}, told)
    assert answer.status_code == 200, answer.text
    kinds: dict[str, set[str]] = {"train": set(), "val": set()}
    for warning in answer.json()["warnings"]:
        kinds[warning["pointer"].split("/")[3]].add(warning["kind"])
    told = "\n".join(
        f"{warning['detail']} {warning['ids']} {warning['remedy']}" for warning in answer.json()["warnings"]
    )
    return Verdict("", kinds, told)


Change = Callable[[dict[str, Any]], object]


def boxes(*found: list[float], **more: Any) -> Change:
    """Replace the boxes by `found`, in image 70, of category 2."""
    entries = [
        {"id": 100 + i, "image_id": 70, "category_id": 2, "bbox": list(box), **more} for i, box in enumerate(found)
    ]
    return lambda data: data.update(annotations=[*data["annotations"], *entries])


def all_boxes(*found: list[float]) -> Change:
    def change(data: dict[str, Any]) -> None:
        data["annotations"] = []
        boxes(*found)(data)
        data["annotations"].append({"id": 1, "image_id": 20, "category_id": 9, "bbox": list(found[0])})

    return change


def each(section: str, **values: Any) -> Change:
    return lambda data: [entry.update(values) for entry in data[section]]


def floats(data: dict[str, Any]) -> None:
    for section in ("images", "annotations", "categories"):
        for entry in data[section]:
            entry.update({key: float(value) for key, value in entry.items() if key.endswith("id")})


def rename(old: str, new: str) -> Change:
    return lambda data: [e.update(file_name=new) for e in data["images"] if e["file_name"] == old]


CORNERS = [[10 + i, 5 + i, 40 + i, 30 + i] for i in range(20)]
RELATIVE = [[0.1, 0.2, 0.3 + i / 100, 0.4] for i in range(12)]
CENTRES = [[32 + i / 2, 24, 60 - 2 * i, 40] for i in range(20)]
TURNED = [[i, 40 + i / 2, 20, 10] for i in range(20)]
ROOT = {"id": 0, "name": "animals", "supercategory": "none"}
FEW = [[30, 20, 60, 40]] * 3


@dataclass(frozen=True)
class Case:
    """A change of the training file, or of both; what both refuse, or of which kinds of the training file they tell."""

    change: Change | None = None
    refused: str = ""
    kinds: frozenset[str] | set[str] = frozenset()
    told: tuple[str, ...] = ()
    val: Change | None = None
    spec: dict[str, Any] | None = None


CASES = {
    # Boxes of a wrong form.
    "sound": Case(),
    "corners": Case(all_boxes(*CORNERS), refused="they can only be corners x1, y1, x2, y2"),
    "relative": Case(all_boxes(*RELATIVE), refused="they can only be relative to the image's size"),
    "centres": Case(all_boxes(*CENTRES), refused="they can only be centre x, centre y"),
    "turned": Case(all_boxes(*TURNED), refused="they can only be y, x, height, width"),
    "negative": Case(boxes([40, 30, -9, -9]), refused="negative width or height"),
    "corners, but few": Case(
        all_boxes(*FEW), kinds={"wrong_form", "clipped"}, told=("4 of 4 boxes reach out", "seem to be corners")
    ),
    # What is dropped, clipped or left out.
    "outside": Case(boxes([99, 0, 5, 5]), kinds={"outside"}, told=("1 of 4 boxes lie outside", "100")),
    "no size": Case(boxes([9, 9, 0, 5]), kinds={"no_size"}, told=("1 of 4 boxes have no width", "100")),
    "clipped": Case(boxes([60, 40, 9, 9]), kinds={"clipped"}, told=("1 of 4 boxes reach out", "100")),
    "narrow": Case(boxes([9, 9, 0.5, 9]), kinds={"narrow"}, told=("1 of 4 boxes are narrower than 1 pixels", "100")),
    "crowds": Case(boxes([9, 9, 9, 9], iscrowd=1), kinds={"crowd"}, told=("1 of 4 boxes are crowds",)),
    "all too narrow": Case(spec={"augment": {"min_side": 30}}, refused="no image has a box that trains"),
    "no boxes": Case(each("annotations", iscrowd=1), refused="no image has a box that trains"),
    "an empty image": Case(
        lambda data: data["annotations"].pop(1), kinds={"empty_image"}, told=("1 of 2 images have no box", "70")
    ),
    "an image with a crowd alone": Case(lambda data: data["annotations"][1].update(iscrowd=1), kinds={"crowd"}),
    "evaluated as they stand": Case(
        val=boxes([99, 0, 5, 5]),
        spec={"evaluation": {"as_is": True}},
        told=("1 of 4 boxes lie outside their image and are evaluated as they stand",),
    ),
    "empty images are kept": Case(
        lambda data: data.update(annotations=[]),
        kinds={"empty_class"},
        spec={"loader": {"workers": 0, "drop_empty": False}},
    ),
    "a small image": Case(
        lambda data: data["images"][0].update(height=40),
        spec={"loader": {"workers": 0, "min_image_side": 45}},
        kinds={"small_image"},
    ),
    "no image is large": Case(
        spec={"loader": {"workers": 0, "min_image_side": 49}}, refused="no image has a shorter side of 49 pixels"
    ),
    # Classes.
    "a class without boxes": Case(
        lambda data: data["annotations"].pop(0),
        kinds={"empty_class"},
        told=("1 of 2 classes have no box that trains: 'cat'",),
    ),
    "classes left out": Case(spec={"data": {"classes": ["cat"]}}, kinds={"other_class", "empty_image"}),
    "a class that no file has": Case(spec={"data": {"classes": ["cow"]}}, refused="no category 'cow'"),
    "validation has one more": Case(
        val=lambda data: data["categories"].append({"id": 3, "name": "cow"}),
        refused="training and validation have other categories: 'cow'",
    ),
    "training has one more": Case(
        lambda data: data["categories"].append({"id": 3, "name": "cow"}),
        refused="training and validation have other categories: 'cow'",
    ),
    "Roboflow's root": Case(
        lambda data: (each("categories", supercategory="animals")(data), data["categories"].insert(0, ROOT)),
        val=lambda data: data["categories"].insert(0, ROOT),
        kinds={"empty_class"},
        told=("'animals' only stands above others, as Roboflow's root does",),
    ),
    "Roboflow's root with a class's name": Case(
        lambda data: data["categories"].insert(0, {**ROOT, "name": "dog"}),
        kinds={"same_name"},
        told=("1 categories without boxes have the name of another and are left out: 'dog'",),
    ),
    "a name twice": Case(
        lambda data: data["categories"][0].update(name="dog"), refused="'dog' is the name of categories[0] too"
    ),
    # Forms of the file.
    "ids as floats": Case(floats),
    "an id as text": Case(
        lambda data: data["images"][0].update(id="70"), refused='must be a 64-bit whole number, not "70"'
    ),
    "an id between integers": Case(
        lambda data: data["annotations"][0].update(id=1.5), refused="must be a 64-bit whole number, not 1.5"
    ),
    "an unknown category": Case(
        each("annotations", category_id=5), refused="no category with id 5, which 3 annotations"
    ),
    # Names of images that nearly match.
    "missing": Case(rename("a.png", "c.png"), refused="1 of 2 images are missing: 'c.png'"),
    "backslashes": Case(rename("a.png", "dir\\d.png"), refused="'dir\\\\d.png' is there as 'dir/d.png' (backslashes)"),
    "a doubled folder": Case(rename("a.png", "images/a.png"), refused="'images/a.png' is there as 'a.png'"),
    "a missing folder": Case(rename("a.png", "d.png"), refused="'d.png' is there as 'dir/d.png'"),
    "NFD": Case(
        rename("a.png", unicodedata.normalize("NFD", "é.png")), refused=r"'e\u0301.png' is there as '\xe9.png' (Unicode"
    ),
    "capitals": Case(rename("a.png", "a.PNG"), refused="'a.PNG' is there as 'a.png' (case)"),
    "percent signs": Case(rename("a.png", "e%20f.png"), refused="'e%20f.png' is there as 'e f.png' (percent signs)"),
    "another ending": Case(rename("a.png", "a.jpg"), refused="'a.jpg' is there as 'a.png' (ending)"),
    "missing, but not needed": Case(
        lambda data: (rename("a.png", "c.png")(data), data["annotations"].pop(1)), kinds={"empty_image"}
    ),
    "a link within the data": Case(rename("a.png", "link.png")),
    "a folder that is a link within the data": Case(rename("a.png", "linked/g.png")),
    "a link out of the data": Case(rename("a.png", "out.png"), refused="1 of 2 images are links that lead out"),
}


@pytest.fixture
def files(root: Path, tmp_path: Path) -> Path:
    """The data root, with all images that a case names; and one outside."""
    images = root / "images"
    for name in ("a.png", "b.png", "dir/d.png", "é.png", "e f.png", "../pool/g.png", "../../outside.png"):
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(WIDTH, HEIGHT).save(path)
    (images / "link.png").symlink_to(root / "pool" / "g.png")
    (images / "linked").symlink_to(root / "pool")
    (images / "out.png").symlink_to(root.parent / "outside.png")
    return root


def spec_of(case: Case, root: Path) -> dict[str, Any]:
    more = dict(case.spec or {})
    data: dict[str, Any] = dict(more.pop("data", {}))
    for split, change in (("train", case.change), ("val", case.val)):
        document = content()
        if change is not None:
            change(document)
        path = root / f"{split}.json"
        path.write_text(json.dumps(document))
        data[split] = {"annotations": str(path), "images": str(root / "images")}
    return {"data": data, "student": TINY, "device": "cpu", "loader": {"workers": 0}} | more


@pytest.mark.parametrize("name", CASES)
def test_both_say_the_same(name: str, files: Path, client: TestClient) -> None:
    case = CASES[name]
    spec = spec_of(case, files)
    training, service = of_the_training(spec, files), of_the_service(spec, client)
    assert bool(training.refused) == bool(service.refused) == bool(case.refused), (training, service)
    assert training.kinds == service.kinds
    for verdict in (training, service):
        assert case.refused in verdict.refused
        assert verdict.kinds.get("train", set()) == case.kinds
        for text in case.told:
            assert text in verdict.text
