"""Data sets, the report of an import, and a comparison of two, as text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.table import Table

from client.terminal.tables import add_row, plain_table, when
from crosskd.spec.results.dataset_comparison import DatasetComparison
from crosskd.spec.results.dataset_report import Bin, DatasetReport, Duplicates, FaultCount, ImageName
from wire.datasets import DatasetSummary, DatasetVersion

EXAMPLES = 3  # faults of a kind, and pairs of images, that are shown; the report has the first 100
CLASSES = 20


def report_lines(report: DatasetReport) -> Iterator[str]:
    """What a person wants to know first; the rest stands in report.json."""
    yield f"{report.format}: {report.source}, images in {report.images}"
    for split in report.splits:
        without = f"; {split.empty:,} images have none" if split.empty else ""
        yield f"{split.name}: {split.images:,} images, {split.boxes:,} boxes{without}"
    named = ", ".join(f"{entry.name} {sum(entry.boxes.values()):,}" for entry in report.classes[:CLASSES])
    more = f", … {len(report.classes) - CLASSES} more" if len(report.classes) > CLASSES else ""
    yield f"classes: {len(report.classes)}: {named}{more}"
    short, long = report.image_sizes.short, report.image_sizes.long
    yield (
        f"image sides: {long.least:g} x {short.least:g} to {long.most:g} x {short.most:g} pixels, median "
        f"{long.middle:g} x {short.middle:g}"
    )
    yield f"boxes by area: {_shares(report.box_areas, ['small', 'medium', 'large'])}"
    if not report.faults:
        yield "faults: none"
    for fault in report.faults:
        yield from _fault(fault)
    yield from _duplicates(report.duplicates)
    yield f"digest: {report.digest}"


def _shares(bars: list[Bin], names: list[str]) -> str:
    total = sum(bar.count for bar in bars) or 1
    return ", ".join(f"{name} {bar.count / total:.0%}" for name, bar in zip(names, bars, strict=True))


def _fault(fault: FaultCount) -> Iterator[str]:
    yield f"{fault.kind}: {fault.count:,} {fault.done}. {fault.remedy}"
    for example in fault.first[:EXAMPLES]:
        place = " ".join(part for part in (example.file, example.id) if part)
        yield f"  {place}{': ' if example.why else ''}{example.why}"
    if fault.count > EXAMPLES:
        yield "  …"


def _duplicates(found: Duplicates) -> Iterator[str]:
    if found.leaks:
        what = "validation or test images are in training, byte for byte: AP says nothing of new ones"
        yield f"leaks: {found.leaks:,} {what}"
        yield from (f"  {_names(group.images)}" for group in found.leaks_first[:EXAMPLES])
    if found.near_leaks:
        yield f"near leaks: {found.near_leaks:,} validation or test images nearly show what a training image shows"
        yield from (f"  {_names(pair.images)} ({pair.distance} bits)" for pair in found.near_leaks_first[:EXAMPLES])
    if found.exact:
        yield f"duplicates: {found.exact:,} images are copies of another one, byte for byte; all are kept"
        yield from (f"  {_names(group.images)}" for group in found.exact_first[:EXAMPLES])
    if found.near:
        yield f"near duplicates: {found.near:,} images nearly show what another one shows; all are kept"
        yield from (f"  {_names(pair.images)} ({pair.distance} bits)" for pair in found.near_first[:EXAMPLES])


def _names(images: list[ImageName]) -> str:
    return " = ".join(map(_name, images[: EXAMPLES + 1]))


def _name(image: ImageName) -> str:
    return f"{image.split}:{image.file_name}"


def comparison_lines(found: DatasetComparison) -> Iterator[str]:
    """What differs between two versions."""
    if found.same:
        yield f"the same: {found.before}"
        return
    yield f"before: {found.before}"
    yield f"after:  {found.after}"
    if found.classes_added:
        yield f"classes added: {', '.join(found.classes_added[:CLASSES])}"
    if found.classes_removed:
        yield f"classes removed: {', '.join(found.classes_removed[:CLASSES])}"
    for title, changes in (("", found.splits), ("boxes of ", found.classes)):
        yield from (f"{title}{change.name}: {change.before:,} -> {change.after:,}" for change in changes)
    for title, changes in (("faults, ", found.faults), ("duplicates, ", found.duplicates)):
        yield from (f"{title}{change.name}: {change.before:,} -> {change.after:,}" for change in changes)
    for each in found.images or []:
        more = ", …" if each.count > EXAMPLES else ""
        yield f"images, {each.what}: {each.count:,}: {', '.join(_name(image) for image in each.first[:EXAMPLES])}{more}"


def datasets_table(datasets: Iterable[DatasetSummary]) -> Table:
    """Names, and the version that each means."""
    table = plain_table("name", "owner", "versions", "newest", "images", "boxes", "imported")
    for known in datasets:
        newest = known.newest
        told = ("", "", "", "") if newest is None else (newest.digest[:12], *_counts(newest), when(newest.imported_at))
        add_row(table, known.name, known.owner, str(known.version_count), *told)
    return table


def versions_table(versions: Iterable[DatasetVersion]) -> Table:
    table = plain_table("digest", "format", "images", "boxes", "classes", "faults", "imported", "job")
    for version in versions:
        counts = (*_counts(version), str(len(version.classes)), str(version.faults))
        add_row(table, version.digest, version.format, *counts, when(version.imported_at), version.job)
    return table


def _counts(version: DatasetVersion) -> tuple[str, str]:
    """Images and boxes of all splits."""
    splits = version.splits
    return str(sum(split.images for split in splits)), str(sum(split.boxes for split in splits))
