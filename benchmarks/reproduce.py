"""The paper's main table (arXiv 2306.11369) through the service: a sweep for each pair, and what they come to.

    python -m benchmarks.reproduce --data COCO --teachers DIR [--caffe FILE] [--gpus 8] [--rows PAIR ...] [--dry-run]

COCO is a folder as it is published, DIR has MMDetection's checkpoints of the teachers under their own names, and FILE
caffe-style ImageNet weights of ResNet-50, which the FCOS students begin with. The service runs (`crosskd up`), may read
all of these, and has a worker with as many GPUs. Each sweep of `benchmarks/sweeps/coco_*.yaml` is posted once: started
again, the script follows those that it finds by their names. In the end it prints the table, published AP beside ours.
What that takes: docs/reproduce.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from client import sweeps as orders
from client.commands.shared import connect, read_preset
from client.errors import ClientError
from client.sdk import Crosskd
from wire.sweeps import Sweep

SWEEPS = Path(__file__).parent / "sweeps"
BATCHES = 8  # that a step has, whatever number of GPUs does them
ARMS = ("alone", "crosskd", "crosskd+pkd")


@dataclass(frozen=True)
class Row:
    """A pair of the table. AP is in percent, as published; None: it was not."""

    pair: str
    teacher: str  # what MMDetection calls it
    teacher_ap: float | None
    published: tuple[float | None, ...]  # by `ARMS`
    caffe: bool = False  # the student begins with caffe-style weights

    @property
    def path(self) -> Path:
        return SWEEPS / f"coco_{self.pair}.yaml"


ROWS = (
    Row("gfl_r50_r101", "gfl_r101_fpn_ms-2x_coco", 44.9, (40.2, 43.7, 43.9)),
    Row("gfl_r18_r50", "gfl_r50_fpn_1x_coco", 40.2, (35.8, 38.7)),
    Row("retinanet_r50_r101", "retinanet_r101_fpn_2x_coco", 38.9, (37.4, 39.7, 39.8)),
    Row("retinanet_r18_r50", "retinanet_r50_fpn_1x_coco", None, (None, None)),
    Row("retinanet_r50_swint", "retinanet_swin-t-p4-w7_fpn_1x_coco", 37.3, (36.5, 38.0)),
    Row("retinanet_mobilenetv2_r50", "retinanet_r50_fpn_1x_coco", None, (30.9, 34.1)),
    Row("fcos_r50_r101", "fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco", 40.8, (38.5, 41.1, 41.3), caffe=True),
    Row("atss_r50_r101", "atss_r101_fpn_1x_coco", 41.5, (39.4, 41.8, 41.8)),
)


def teacher_file(folder: Path, name: str) -> Path | None:
    """The file of a teacher, whose name goes on behind MMDetection's with a date and a digest."""
    found = [path for path in sorted(folder.glob(f"{name}*")) if path.suffix in (".pth", ".pt", ".safetensors")]
    return found[0] if found else None


def missing(rows: Iterable[Row], teachers: Path, caffe: Path | None) -> list[str]:
    """What is not there and has to be."""
    gone = [f"{row.teacher}*.pth in {teachers}" for row in rows if teacher_file(teachers, row.teacher) is None]
    if caffe is None and any(row.caffe for row in rows):
        gone.append("caffe-style weights of ResNet-50: --caffe FILE, or --rows without fcos_r50_r101")
    return list(dict.fromkeys(gone))


def order(client: Crosskd, row: Row, given: argparse.Namespace) -> dict[str, Any]:
    """The sweep of a row, with its files, and with the eight batches of a step on so many GPUs."""
    weights = teacher_file(given.teachers, row.teacher)
    assert weights is not None
    values = [f"teacher.weights.file={weights.absolute()}"]
    if row.caffe:
        values.append(f"student.backbone.init.file={given.caffe.absolute()}")
    if given.gpus > 1:
        values += [f"gpus={given.gpus}", f"accumulate={BATCHES // given.gpus}"]
    return orders.read_order(row.path, partial(read_preset, client), data=given.data, overrides=[*values, *given.set])


def posted(client: Crosskd, row: Row, given: argparse.Namespace) -> str:
    """The id of the row's sweep: of the newest one of its name that was not cancelled, or of a new one."""
    wanted = order(client, row, given)
    for sweep in client.sweeps.list():
        if sweep.name == wanted["name"] and sweep.status != "cancelled":
            return sweep.id
    return client.sweeps.create(wanted).id


def table(rows: Sequence[Row], sweeps: Sequence[Sweep]) -> list[str]:
    """In Markdown: published AP -> ours, in percent, for each arm of each pair."""
    lines = ["| pair | teacher | " + " | ".join(ARMS) + " |", "|---" * (2 + len(ARMS)) + "|"]
    for row, sweep in zip(rows, sweeps, strict=True):
        ours = {result.arm: result.ap.mean for result in sweep.results if result.ap is not None}
        teacher = None if sweep.teacher is None or sweep.teacher.ap is None else sweep.teacher.ap
        cells = [_cell(row.teacher_ap, teacher)]
        cells += [_cell(value, ours.get(arm)) for arm, value in zip(ARMS, row.published, strict=False)]
        cells += ["" for _ in ARMS[len(row.published) :]]
        lines.append(f"| {row.pair} | " + " | ".join(cells) + " |")
    return lines


def _cell(published: float | None, ours: float | None) -> str:
    told = "not published" if published is None else f"{published:.1f}"
    return f"{told} -> {'none' if ours is None else f'{100 * ours:.1f}'}"


def _tell(sweep: Sweep) -> None:
    counts = ", ".join(f"{count} {status}" for status, count in sorted(sweep.jobs.items()))
    print(f"{sweep.name}: {counts}", file=sys.stderr)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teachers", type=Path, required=True)
    parser.add_argument("--caffe", type=Path)
    parser.add_argument("--gpus", type=int, default=1, choices=[1, 2, 4, 8])
    parser.add_argument("--rows", nargs="+", choices=[row.pair for row in ROWS], default=[row.pair for row in ROWS])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="Of every job; for trials.")
    parser.add_argument("--dry-run", action="store_true", help="Have the service judge all jobs, and post none.")
    parser.add_argument("--interval", type=float, default=60.0, help="Seconds between two looks at the jobs.")
    parser.add_argument("--url", default="")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    given = parse(arguments)
    rows = [row for row in ROWS if row.pair in given.rows]
    if gone := missing(rows, given.teachers, given.caffe):
        print("missing:", *gone, sep="\n  ", file=sys.stderr)
        return 1
    try:
        with connect(given.url) as client:
            if given.dry_run:
                for row in rows:
                    plan = client.sweeps.dry_run(order(client, row, given))
                    print(f"{row.pair}: {len(plan.jobs)} jobs; {plan.estimate}")
                return 0
            ids = [posted(client, row, given) for row in rows]
            sweeps = [client.sweeps.wait(each, on_progress=_tell, interval=given.interval) for each in ids]
            print(*table(rows, sweeps), sep="\n")
            return 0 if all(sweep.status == "finished" for sweep in sweeps) else 1
    except ClientError as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
