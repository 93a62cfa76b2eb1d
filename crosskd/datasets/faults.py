"""What can be wrong with a data set, what is done about it, and the count of all of it."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from crosskd.errors import DataError
from crosskd.spec.results.dataset_report import FIRST, Done, FaultCount, FaultExample

LONGEST = 300  # characters of a text from outside
TOLD = 5  # kinds that a message spells out


class Kind(NamedTuple):
    """What is done about faults of one kind, and what a person can do."""

    done: Done
    remedy: str


_BOX = "Correct the box, or draw it anew."
_FILE = "Export the annotations anew, or take the file out."
KINDS = {
    # images
    "missing_image": Kind("dropped", "Put the image there, or take its entry out of the annotations."),
    "outside_source": Kind(
        "dropped",
        "Copy the files into the data set's folder, or name the folder that they lie in as a data root too.",
    ),
    "name_not_utf8": Kind("dropped", "Rename the file."),
    "unreadable_image": Kind("dropped", "Replace the file."),
    "too_many_pixels": Kind("dropped", "Make the image smaller, and scale its boxes alike."),
    "wrong_size": Kind(
        "dropped", "Put the image there that was annotated, or write its true size and scale its boxes alike."
    ),
    "no_size": Kind("kept", "Nothing need be done: the size of the file is taken."),
    "exif_rotation": Kind(
        "kept",
        "Nothing need be done: the image is read as it was annotated. Remove the EXIF orientation if boxes lie wrong.",
    ),
    "name_twice": Kind("dropped", "Give each image of a split one entry; the first is taken."),
    # images and labels that lack each other
    "image_without_label": Kind("kept", "Nothing need be done if it shows no object; else label it, or take it out."),
    "unlisted_image": Kind("dropped", "Label the image, or take it out of the folder."),
    "label_without_image": Kind("dropped", "Put the image there, or take the label out."),
    # files and entries
    "not_utf8": Kind("dropped", "Save the file as UTF-8."),
    "unreadable_label": Kind("dropped", _FILE),
    "bad_entry": Kind("dropped", "Correct that place in the file, or export the annotations anew."),
    "unknown_line": Kind("dropped", "Write a line as: class x y width height, or as class and a polygon's points."),
    "duplicate_id": Kind("dropped", "Give each entry an id of its own; the first is taken."),
    "empty_split": Kind("kept", "Add images to it, or leave it out."),
    "in_no_split": Kind("dropped", "Add it to the list of a split, or divide anew (split)."),
    "no_group": Kind("kept", "Nothing need be done if they are to be drawn one by one; else change `group_by`."),
    # boxes
    "unknown_class": Kind("dropped", "Add the class to the list of classes, or correct the box."),
    "same_name": Kind("dropped", "Give both categories one id if they are one class, or else names of their own."),
    "not_a_number": Kind("dropped", _BOX),
    "not_relative": Kind("dropped", "Divide x and width by the image's width, y and height by its height."),
    "box_outside": Kind("dropped", _BOX),
    "box_clipped": Kind("clipped", "Nothing need be done if it reaches out by little; else correct the box."),
    "box_without_area": Kind("dropped", _BOX),
    "duplicate_box": Kind("dropped", "Nothing need be done: one of the same boxes is kept."),
    "wrong_form": Kind("kept", "Look at the boxes; export them anew if they lie wrong."),
    # what is worth knowing
    "polygon": Kind("kept", "Nothing need be done: the box around the polygon is taken."),
    "difficult": Kind("kept", "Nothing need be done: the box trains nothing, and is ignored where AP is measured."),
    "truncated": Kind("kept", "Nothing need be done: the box trains like others."),
}


class DatasetFaults:
    """Counts all faults, and keeps the first `FIRST` of each kind."""

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._first: defaultdict[str, list[FaultExample]] = defaultdict(list)

    def add(self, kind: str, file: str, id_: str = "", why: str = "", *, count: int = 1) -> None:
        """One fault, or `count` of which one is shown. `kind` is one of `KINDS`."""
        assert kind in KINDS, kind
        self._counts[kind] += count
        first = self._first[kind]
        if len(first) < FIRST:
            first.append(FaultExample(file=_shown(file), id=_shown(id_), why=_shown(why)))

    def counts(self) -> list[FaultCount]:
        """In the order of `KINDS`."""
        return [
            FaultCount(kind=kind, count=self._counts[kind], done=done, remedy=remedy, first=self._first[kind])
            for kind, (done, remedy) in KINDS.items()
            if kind in self._counts
        ]

    def refuse(self) -> None:
        """Raises `DataError` if anything was dropped or clipped."""
        if told := self.told():
            remedy = next(fault.remedy for fault in self.counts() if fault.done != "kept")
            raise DataError(
                f"the data set has faults: {told}", remedy=f"{remedy} Or let them be left out (on_fault: drop)."
            )

    def because(self) -> str:
        """For the end of a message: what was dropped, behind a colon; empty if nothing was."""
        return f": {told}" if (told := self.told()) else ""

    def told(self) -> str:
        """The first kinds of what was dropped or clipped, each with an example; empty if nothing was."""
        found = [fault for fault in self.counts() if fault.done != "kept"]
        more = f"; and {len(found) - TOLD} more kinds" if len(found) > TOLD else ""
        return "; ".join(f"{fault.count} x {fault.kind}: {_told(fault.first[0])}" for fault in found[:TOLD]) + more


def _told(example: FaultExample) -> str:
    return " ".join(part for part in (example.file, example.id, example.why) if part)


def _shown(text: str) -> str:
    """Text from outside, short, and such that UTF-8 can spell it."""
    return text.encode(errors="backslashreplace").decode()[:LONGEST]
