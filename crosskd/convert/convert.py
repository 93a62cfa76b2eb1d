"""A file of weights from one form to another, with an account of every tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from crosskd.convert.formats import PROJECTS, Format, from_native, require_readable, their_name, to_native
from crosskd.convert.hints import hints, image_hints
from crosskd.convert.load import COUNTER, listed
from crosskd.convert.recognise import class_count, differences, recognise
from crosskd.convert.source import OWN_ENTRY, Source, read_source
from crosskd.detectors.detector import build_detector
from crosskd.errors import ConfigError, WeightsError
from crosskd.spec.config import ModelConfig
from crosskd.weights.files import file_digest, replacing
from crosskd.weights.folder import require_agreement, require_count, write_folder
from crosskd.weights.native import input_entry, write_weights
from crosskd.weights.tensors import check_shapes

SAFETENSORS = ".safetensors"
LISTED = 10  # names of a kind that a report spells out unless it is asked for all


def named(what: str, names: Sequence[str], verbose: bool) -> list[str]:
    """A line for each name; unless `verbose`, for the first `LISTED`, and one that counts the rest."""
    lines = [f"{what:<12}{name}" for name in (names if verbose else names[:LISTED])]
    more = len(names) - len(lines)
    return [*lines, f"{what:<12}and {more} more: --verbose lists them"] if more else lines


@dataclass(frozen=True)
class Report:
    """What became of every tensor. Names are as the file that is read has them, where not said otherwise."""

    source: Format
    target: Format
    detector: str
    backbone: str
    classes: int
    matched: dict[str, str]  # the name in the file that is read -> in the file that is written
    left_out: list[str]  # read, but always the same in the other form, which has no place for it
    added: list[str]  # written (by its name there), but always the same and not in the file that is read
    missing: list[str]  # the model has it, the file has not
    unexpected: list[str]  # the file has it, the model has not
    notes: list[str]  # what no tensor tells

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def lines(self, *, verbose: bool = False) -> list[str]:
        """The sum, behind what is amiss and what no tensor tells; `verbose`: every name on a line of its own."""
        said = [f"matched     {name} -> {target}" for name, target in self.matched.items()] if verbose else []
        for what in ("left_out", "added") if verbose else ():
            said += named(what.replace("_", " "), getattr(self, what), verbose)
        for what in ("missing", "unexpected"):
            said += named(what, getattr(self, what), verbose)
        said += named("note", self.notes, True)
        return [
            *said,
            f"{PROJECTS[self.source]} to {PROJECTS[self.target]}: {self.detector} with {self.backbone}, "
            f"{self.classes} classes; {len(self.matched)} tensors matched, {len(self.left_out)} left out, "
            f"{len(self.added)} added, {len(self.missing)} missing, {len(self.unexpected)} unexpected",
        ]


@dataclass(frozen=True)
class Conversion:
    """What is to be written, once the report is to one's liking."""

    report: Report
    model: ModelConfig
    classes: list[str] | None
    extra: Mapping[str, str]
    state: Mapping[str, Tensor]  # by the target's names

    def write(self, path: Path, *, drop_unexpected: bool = False) -> None:
        """Write the file, wholly or not at all.

        Raises:
            WeightsError: a tensor is missing, or (without `drop_unexpected`) one is left that the model does not have.
            ConfigError: the form and the file's ending, or the lack of class names, do not go together.
        """
        report = self.report
        if report.missing or (report.unexpected and not drop_unexpected):
            raise WeightsError(
                f"the file does not fit a {report.detector} with {report.backbone}: "
                f"{listed('missing', report.missing)}; {listed('unexpected', report.unexpected)}",
                remedy="Name the model that it holds (--model); --drop-unexpected leaves out what is too much.",
            )
        if report.target == "transformers":
            write_folder(path, self.state, model=self.model, classes=self._names(), extra=self.extra)
            return
        _check_ending(path, report.target)
        if path.suffix == SAFETENSORS:
            self._write_safetensors(path)
        else:
            self._write_pytorch(path)

    def _write_safetensors(self, path: Path) -> None:
        names = {} if self.report.target == "native" else {"names": self.report.target}
        extra = {**self.extra, **names}
        write_weights(path, self.state, model=self.model, classes=self._names(), extra=extra)

    def _names(self) -> list[str]:
        if self.classes is None:
            raise ConfigError(
                f"nothing says how the {self.report.classes} classes are called",
                remedy="Give --classes: their names in label order, or 80 or 91 for COCO's.",
            )
        return self.classes

    def _write_pytorch(self, path: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in self.state.items()}
        content = tensors if self.report.target == "torchvision" else {"meta": self._meta(), "state_dict": tensors}
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(content, file)

    def _meta(self) -> dict[str, object]:
        """What MMDetection reads, and under a name of its own what we read when the file comes back."""
        own = {**self.extra, "model": self.model.model_dump_json(), **input_entry(self.model, self.extra)}
        if self.classes is None:
            return {OWN_ENTRY: own}
        own["classes"] = json.dumps(self.classes, ensure_ascii=False)
        return {OWN_ENTRY: own, "dataset_meta": {"classes": tuple(self.classes)}}


def prepare(
    path: Path | str, to: Format, *, model: ModelConfig | None = None, classes: Sequence[str] | None = None
) -> Conversion:
    """Read the file `path` and translate it; nothing is written, and a tensor that is missing is only reported.

    `model` says which detector it holds where the file does not; it goes before what the file says, and before what
    its tensors let one guess; the JSON of a folder it must not contradict. So do `classes`, in label order. Of a
    training checkpoint of ours the student is taken.

    Raises:
        WeightsError: the file is none, has tensors of other shapes, or the other project has no such detector.
        ConfigError: nothing says which model it is, a folder says another one than `model`, or `classes` are not as
            many as the model's.
    """
    path = Path(path)
    require_agreement(model, path, "model")
    source = read_source(path)
    notes = list(source.notes)
    if model is not None and source.model is None:
        notes += differences(source, model)
    model = model or source.model
    if model is None:
        model, assumed = recognise(source, file_digest(path))
        notes += assumed
    require_readable(source.format, model, source.name)
    found = to_native(source.tensors, source.format, model)
    count = class_count(found.state, model)
    require_count(source.count, count, source.name)
    with torch.device("meta"):  # shapes alone: a hostile file may speak of any number of classes
        wanted = build_detector(model, count, pretrained=False).state_dict()
    check_shapes(found.state, wanted, source.name)
    named = _named(classes, source, count)  # of another detector's tensors the count would mean nothing
    counters = [key for key in wanted if key.endswith(COUNTER) and key not in found.state]
    missing = [key for key in wanted if key not in found.state and key not in counters]
    # Tensors keep the type that the file has; only counters, which start at zero, are new.
    zero = torch.zeros((), dtype=torch.int64)
    state = {key: zero if key in counters else found.state[key] for key in wanted if key not in missing}
    written = from_native(state, to, model)

    names = {ours: theirs for ours in state if (theirs := their_name(ours, to, model)) in written}
    report = Report(
        source=source.format,
        target=to,
        detector=model.detector,
        backbone=model.backbone.name,
        classes=count,
        matched={theirs: names[ours] for theirs, ours in found.names.items() if ours in names},
        left_out=[theirs for theirs, ours in found.names.items() if ours in state and ours not in names],
        added=[names[ours] for ours in (*found.implied, *counters) if ours in names],
        missing=[their_name(key, source.format, model) or key for key in missing],
        unexpected=found.unexpected + [theirs for theirs, ours in found.names.items() if ours not in wanted],
        notes=notes + hints(model, count, to) + image_hints(source.format, source.extra, to),
    )
    return Conversion(report, model, named, source.extra, written)


def _named(classes: Sequence[str] | None, source: Source, count: int) -> list[str] | None:
    named = list(classes) if classes is not None else source.classes
    if named is not None and len(named) != count:
        whose = "--classes" if classes is not None else source.name
        raise ConfigError(
            f"{whose} names {len(named)} classes, and the tensors are made for {count}",
            remedy=f"Give the {count} names in label order.",
        )
    if named is not None and len(set(named)) != count:
        raise ConfigError("class names must be unique", remedy="Give each class a name of its own.")
    return named


def _check_ending(path: Path, target: Format) -> None:
    if target == "native" and path.suffix != SAFETENSORS:
        raise ConfigError(
            f"{path.name} should end in {SAFETENSORS}: model and classes stand in its header",
            remedy=f"Call it {path.stem or 'weights'}{SAFETENSORS}.",
        )
