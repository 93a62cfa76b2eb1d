"""Where the parts of a data folder lie: usual layouts, exports without a validation split, names that are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosskd.errors import ConfigError
from crosskd.spec.proposal.folder import find, images_folder


def lay(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.mark.parametrize(
    ("files", "train", "val"),
    [
        (["train.json", "val.json", "images/a.png"], "train.json images", "val.json images"),
        (
            ["train/_annotations.coco.json", "valid/_annotations.coco.json"],
            "train/_annotations.coco.json train",
            "valid/_annotations.coco.json valid",
        ),
        (["train/_annotations.coco.json"], "train/_annotations.coco.json train", None),
        (
            ["annotations/instances_train2017.json", "train2017/a.png"],
            "annotations/instances_train2017.json train2017",
            None,
        ),
        (["annotations/instances_default.json", "images/a.png"], "annotations/instances_default.json ?", None),
        (["result.json", "images/a.png"], "result.json ?", None),
        (["train.json", "val.json", "photos/a.png"], "train.json ?", "val.json ?"),
    ],
)
def test_usual_layouts_are_found(tmp_path: Path, files: list[str], train: str, val: str | None) -> None:
    places = find(lay(tmp_path, *files) / ".." / tmp_path.name)

    def told(place: object) -> str | None:
        if place is None:
            return None
        images = place.images  # type: ignore[attr-defined]
        shown = "?" if images is None else images.relative_to(tmp_path)
        return f"{place.annotations.relative_to(tmp_path)} {shown}"  # type: ignore[attr-defined]

    assert (told(places.train), told(places.val)) == (train, val)


@pytest.mark.parametrize(
    ("annotations", "image", "name"),
    [
        ("annotations/instances_default.json", "images/a.png", "a.png"),
        ("result.json", "images/a.png", "images/a.png"),
        ("labels.json", "data/deep/a.png", "deep/a.png"),
        ("_annotations.coco.json", "a.png", "a.png"),
    ],
)
def test_images_are_looked_for_by_the_first_name(tmp_path: Path, annotations: str, image: str, name: str) -> None:
    lay(tmp_path, annotations, image)
    found = images_folder(tmp_path, tmp_path / annotations, [name])
    assert found / name == tmp_path / image
    for strange in ("b.png", "b" * 300):  # no file can have a name of 300 bytes
        with pytest.raises(ConfigError, match="lies in none of the usual folders"):
            images_folder(tmp_path, tmp_path / annotations, [strange])


def test_named_files_come_first(tmp_path: Path) -> None:
    lay(tmp_path, "train.json", "val.json", "images/a.png", "more/other.json", "photos/a.png")
    places = find(tmp_path, train=Path("more/other.json"), val=tmp_path / "val.json", images=Path("photos"))
    assert places.train.annotations == tmp_path / "more/other.json"
    assert places.val is not None
    assert places.val.images == places.train.images == tmp_path / "photos"
    with pytest.raises(ConfigError, match="--val names a validation split without"):
        find(tmp_path, val=Path("val.json"))
    with pytest.raises(ConfigError, match=r"there is no file 'gone\.json'"):
        find(tmp_path, train=Path("gone.json"))
    with pytest.raises(ConfigError, match="is a file"):
        find(tmp_path / "train.json")


@pytest.mark.parametrize(
    ("name", "said"),
    [("~no-such-user", "no data folder"), ("circle", "no data folder"), ("x" * 300, "cannot be looked at: File name")],
)
def test_paths_that_lead_nowhere_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    monkeypatch.chdir(lay(tmp_path, "train.json"))
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ConfigError, match=said):
        find(Path(name))
    with pytest.raises(ConfigError, match=r"there is no file|cannot be looked at"):
        find(tmp_path, train=Path(name))


def test_a_folder_without_annotations_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no data set in a known layout.*--train FILE --val FILE"):
        find(tmp_path)
