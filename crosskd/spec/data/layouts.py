"""The layouts of a data folder that the command lines know, and which of them a folder has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crosskd.errors import ConfigError

Section = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Layout:
    """Where the two splits lie in a data folder: each an annotation file and the folder of its images."""

    train: tuple[str, str]
    val: tuple[str, str]

    def __str__(self) -> str:
        return " and ".join(f"{annotations} with {images}/" for annotations, images in (self.train, self.val))


# In the order in which they are looked for: a folder may have more than one.
LAYOUTS = (
    Layout(("train.json", "images"), ("val.json", "images")),
    Layout(("train.json", "train"), ("val.json", "val")),
    # COCO's archives, unpacked side by side or with the images in a folder of their own; 2014 has the same form.
    *(
        Layout(
            (f"annotations/instances_train{year}.json", f"{parent}train{year}"),
            (f"annotations/instances_val{year}.json", f"{parent}val{year}"),
        )
        for year in ("2017", "2014")
        for parent in ("", "images/")
    ),
    Layout(("annotations/instances_train.json", "train"), ("annotations/instances_val.json", "val")),
    Layout(("annotations/train.json", "train"), ("annotations/val.json", "val")),
    # An export of Roboflow ("COCO"): each split's file lies among its images.
    Layout(("train/_annotations.coco.json", "train"), ("valid/_annotations.coco.json", "valid")),
)


def data_section(folder: Path) -> Section:
    """`train` and `val` of a spec's `data`, from a folder in one of the known layouts.

    Raises: `ConfigError` that says what is missing for the layout that fits best, or lists all of them; or why the
        folder cannot be looked into.
    """
    try:
        return _section(folder)
    except OSError as error:  # a folder without rights, or a name that none can have
        raise ConfigError(
            f"{error.filename!s:.300} cannot be looked at: {error.strerror}",
            remedy="Check the path, and the rights of its folders.",
        ) from None


def _section(folder: Path) -> Section:
    best, missing = LAYOUTS[0], list(_parts(LAYOUTS[0]))
    for layout in LAYOUTS:
        lacking = [part for part in _parts(layout) if not _is_there(folder, part)]
        if not lacking:
            return {
                split: {"annotations": str(folder / annotations), "images": str(folder / images)}
                for split, (annotations, images) in (("train", layout.train), ("val", layout.val))
            }
        if len(lacking) / len(_parts(layout)) < len(missing) / len(_parts(best)):
            best, missing = layout, lacking
    if not folder.is_dir():
        raise ConfigError(f"there is no data folder {folder}", remedy="Name a folder with a data set.")
    known = f"Known are: {'; '.join(map(str, LAYOUTS))}. Or name the files in the spec, under `data`."
    if not any(_is_there(folder, annotations) for layout in LAYOUTS for annotations, _ in (layout.train, layout.val)):
        raise ConfigError(f"{folder} holds no data set in a known layout", remedy=known)
    message = f"{folder} lacks {_listed(missing)}: nearest is the layout {best}"
    raise ConfigError(message, remedy=f"Add what is missing. {known}")


def _parts(layout: Layout) -> dict[str, None]:
    """Each file and folder of a layout once; folders end with a slash."""
    return dict.fromkeys(
        part for annotations, images in (layout.train, layout.val) for part in (annotations, f"{images}/")
    )


def _is_there(folder: Path, part: str) -> bool:
    return (folder / part).is_dir() if part.endswith("/") else (folder / part).is_file()


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
