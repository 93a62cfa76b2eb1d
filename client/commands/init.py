"""`crosskd init`: a commented spec for a data set, from what stands in it. Asks no service, and imports no torch."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from client.commands.shared import console, tell_notes
from client.errors import ClientError
from client.stack.home import default_home, read_owner
from client.terminal.visible import visible
from crosskd.errors import ConfigError
from crosskd.spec.data.recognise import recognise
from crosskd.spec.proposal import data as splits
from crosskd.spec.proposal import folder as folders
from crosskd.spec.proposal.compose import Proposal, Wish, propose
from crosskd.spec.proposal.data import Data
from crosskd.spec.proposal.folder import Place, Places
from crosskd.spec.proposal.goals import GoalName
from crosskd.spec.proposal.models import DetectorChoice
from crosskd.spec.proposal.teacher import Teacher, look_at

app = typer.Typer()
Texts = dict[Path, str]
NAMES = {"coco": "COCO", "yolo": "YOLO", "voc": "Pascal VOC"}


@app.command()
def init(
    data: Annotated[Path, typer.Argument(help="A folder with annotations in COCO's format, and images.")],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("spec.yaml"),
    goal: Annotated[
        GoalName, typer.Option(help="fast: small, from random weights, for a CPU; the others are for a GPU.")
    ] = "balanced",
    teacher: Annotated[
        Path | None, typer.Option(help="Its weights; default: one is trained first, and a sweep is written.")
    ] = None,
    alone: Annotated[bool, typer.Option("--alone", help="A training of the student alone, without a teacher.")] = False,
    detector: Annotated[DetectorChoice | None, typer.Option(help="Default: by the smallest objects.")] = None,
    train: Annotated[Path | None, typer.Option(help="The training annotations, where they are not found.")] = None,
    val: Annotated[Path | None, typer.Option(help="The validation annotations, where they are not found.")] = None,
    images: Annotated[Path | None, typer.Option(help="The folder of the images, where it is not found.")] = None,
    split: Annotated[
        float | None, typer.Option(help="Divide the annotations: this share of the images is for validation.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="By which --split draws the images; default: 0.")] = None,
    student_init: Annotated[Path | None, typer.Option(help="A file that the student's backbone begins with.")] = None,
    teacher_init: Annotated[Path | None, typer.Option(help="A file that the teacher's backbone begins with.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found, chosen and written as JSON.")] = False,
) -> None:
    """Write a commented spec for a data set: detector, sizes and schedule, each with the numbers that led to it."""
    _require_heeded(alone, teacher, teacher_init, split, seed)
    out = folders.expanded(out)
    known = None if teacher is None else look_at(teacher)
    wish = Wish(goal, detector, alone, _file(student_init), _file(teacher_init))
    places = _find(data, train, val, images)
    texts, read = _read(data, places, out, split, seed or 0)
    given = [wish.student_init, wish.teacher_init, None if known is None else known.path]
    given += [None if place is None else place.annotations for place in (places.train, places.val)]
    _refuse_to_overwrite([*texts, out], given, force)
    proposal = propose(folders.real(data).name or "data", read, wish, known)
    _write({**texts, out: proposal.text})
    next_ = _next_commands(proposal, out, read, known, wish)
    if as_json:
        print(json.dumps(_as_json(proposal, read, [*texts, out], next_), indent=2))
        return
    _tell(read, [*texts, out], next_, known)


def _find(data: Path, train: Path | None, val: Path | None, images: Path | None) -> Places:
    """As `folders.find`; of a folder in another form it is told what makes it COCO's."""
    try:
        return folders.find(data, train=train, val=val, images=images)
    except ConfigError:
        other = recognise(folders.real(data)) if train is None else []
        if not other or "coco" in other:
            raise
        names = " or ".join(NAMES[name] for name in other)
        raise ConfigError(
            f"{str(data)!r} is a data set of {names}, and a spec is written for COCO's form",
            remedy=f"Bring it to that form first: crosskd import {shlex.quote(str(data))} --to FOLDER.",
        ) from None


def _require_heeded(
    alone: bool, teacher: Path | None, teacher_init: Path | None, split: float | None, seed: int | None
) -> None:
    """Raise `BadParameter` for an option that another makes meaningless: nothing is ignored in silence."""
    if alone and teacher is not None:
        raise typer.BadParameter("give --teacher or --alone, not both")
    if teacher_init is not None and (alone or teacher is not None):
        raise typer.BadParameter("--teacher-init is for a teacher that is trained first; leave it or the other out")
    if split is not None and not 0 < split < 1:
        raise typer.BadParameter(f"--split is a share between 0 and 1, not {split:g}")
    if seed is not None and split is None:
        raise typer.BadParameter("--seed is for --split, which is not given")


def _read(data: Path, places: Places, out: Path, share: float | None, seed: int) -> tuple[Texts, Data]:
    """The texts of those annotation files that are still to be written, and what both splits hold."""
    if places.val is not None:
        if share is not None:
            raise ConfigError(f"there is a validation split: {places.val.annotations}", remedy="Leave --split out.")
        return {}, splits.read(data, places)
    if share is None:
        raise ConfigError(
            f"{places.train.annotations} has no validation split beside it, and AP must be measured on other images",
            remedy="Name one with --val FILE, or let a fifth of the images be drawn: --split 0.2.",
        )
    whole = splits.with_images(data, places.train, splits.read_file(places.train.annotations))
    beside = out.absolute()
    folders.require_text(beside)  # it stands in the spec
    names = [f"{beside.stem}-{split}.json" for split in ("train", "val")]
    contents = folders.divide(whole, share, seed)
    with TemporaryDirectory() as folder:  # nothing is written beside `out` before all is known to be well
        for name, text in zip(names, contents, strict=True):
            (Path(folder) / name).write_text(text, encoding="utf-8")
        first, second = (Place(Path(folder) / name, whole.images) for name in names)
        read = splits.read(data, Places(first, second))
    first, second = (Place(beside.with_name(name), whole.images) for name in names)
    texts = {place.annotations: text for place, text in zip((first, second), contents, strict=True)}
    return texts, replace(read, train=first, val=second)


def _file(path: Path | None) -> Path | None:
    """A file that is there, by its whole path."""
    if path is None:
        return None
    absolute = folders.expanded(path).absolute()
    folders.require_text(absolute)
    try:
        there = absolute.is_file()
    except OSError as error:
        raise ClientError(f"{absolute} cannot be looked at: {error.strerror}.", remedy="Check the path.") from None
    if not there:
        raise ClientError(f"There is no file {str(absolute)!r}.", remedy="Name a file of weights.")
    return absolute


def _refuse_to_overwrite(paths: Sequence[Path], given: Sequence[Path | None], force: bool) -> None:
    """What is read is never written over, whatever is said."""
    inputs = {folders.real(path) for path in given if path is not None}
    for path in paths:
        if any(folders.real(path).is_relative_to(read) for read in inputs):  # the teacher's may be a folder
            raise ClientError(f"{path} is read here, and would be written over.", remedy="Name another with --out.")
        if os.path.isdir(path):  # noqa: PTH112 - a name that no file could have is told when it is written
            raise ClientError(f"{path} is a folder.", remedy="Name a file with --out.")
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there and not force:
        raise ClientError(
            f"{', '.join(there)} is there already.", remedy="Name another with --out, or write over it with --force."
        )


def _write(texts: Texts) -> None:
    for path, text in texts.items():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise ClientError(f"Cannot write {path}: {error.strerror or error}.") from error


def _next_commands(proposal: Proposal, out: Path, data: Data, teacher: Teacher | None, wish: Wish) -> list[str]:
    """What to type now; data outside the home's own folder must be named to the service."""
    named = [data.train.annotations, data.val.annotations, data.train.images, data.val.images]
    named += [] if teacher is None else [teacher.path]
    named += [wish.student_init, wish.teacher_init]
    parents = {path if path == data.train.images or path == data.val.images else path.parent for path in named if path}
    home = (default_home().expanduser().absolute() / "data").resolve()
    outside = sorted(str(path) for path in parents if not path.resolve().is_relative_to(home))
    roots = [
        path for path in outside if not any(path != other and Path(path).is_relative_to(other) for other in outside)
    ]
    up = f"CROSSKD_DATA_ROOTS={shlex.quote(os.pathsep.join(roots))} crosskd up" if roots else "crosskd up"
    verb = "sweep" if proposal.kind == "sweep" else "submit"
    post = f"crosskd {verb} {shlex.quote(str(out))} --watch"
    runs = read_owner(default_home()) is not None
    return [post] if runs and not roots else [up, post]


def _as_json(proposal: Proposal, data: Data, files: list[Path], next_: list[str]) -> dict[str, Any]:
    return {
        "kind": proposal.kind,
        "files": [str(path) for path in files],
        "statistics": data.statistics.model_dump(mode="json"),
        "remarks": data.remarks,
        "choices": [{"name": name, "value": value, "why": why} for name, value, why in proposal.choices],
        "spec": proposal.values,
        "next": next_,
    }


def _tell(data: Data, files: list[Path], next_: list[str], teacher: Teacher | None) -> None:
    screen = console()
    for line in data.statistics.lines():
        screen.print(visible(line), soft_wrap=True)
    if teacher is not None:
        screen.print(visible(f"teacher: {teacher.text()}"), soft_wrap=True)
    tell_notes(f"warning: {remark}" for remark in data.remarks)
    screen.print(
        visible(f"Written: {', '.join(map(str, files))}. Each choice has its reason above it."), soft_wrap=True
    )
    screen.print("Next:" if len(next_) == 1 else "Next, in two terminals:", soft_wrap=True)
    for command in next_:
        screen.print(f"  {visible(command)}", soft_wrap=True)
