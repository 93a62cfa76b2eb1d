"""What images without labels bring: few labels alone, with a teacher, and with a teacher and the rest without labels.

    python -m benchmarks.tiles DEEPPCB TILES                              # 800 + 300 tiles of 160 pixels
    python -m benchmarks.unlabelled --data TILES --out unlabelled.jsonl   # goes on where it stopped
    python -m benchmarks.unlabelled --out unlabelled.jsonl --table        # the tables of what was run

GFL with a narrow head on P3 to P5 from random weights: ResNet-18, of width 8 from one of width 32, as
`benchmarks.methods` has it; its learning rate is not searched for. Of the training images a share keeps its labels:
the same images for all seeds. Every training takes as many steps as `--epochs` of all images are, whatever its share,
so that one with few labels does not also train less; a step with images without labels is larger.

With `--teacher own` a teacher has seen the labels of its share alone, as whoever has no others would train it; with
`--teacher all` it is a better one from elsewhere, which has seen them all. Arms are paired by seed. What the teacher
makes of an image is kept in memory (`distill.cache`). Measured is the last checkpoint: the validation images choose
nothing.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmarks.gain import mean_and_error, t_interval
from benchmarks.methods import ALONE, CACHE, SEEDS, TEACHER_SEED, Comparison
from benchmarks.trials import Trial, Trials

METHODS = ("crosskd", "pkd")
SHARES = (0.1, 1 / 3)
LABELS_SEED = 0
BATCH = 8  # of `benchmarks.methods`
RATE = 0.002  # its middle one
REST = "+unlabelled"


class Part(NamedTuple):
    """Some of the training images with their labels, and the names of all others."""

    annotations: Path
    others: Path
    images: int  # that have a box


def split(data: Path, share: float, folder: Path) -> Part:
    """Write both beside the lines of results; again the same."""
    whole = json.loads((data / "train.json").read_text())
    count = round(share * len(whole["images"]))
    kept = {image["id"] for image in random.Random(LABELS_SEED).sample(whole["images"], count)}
    own = whole | {
        "images": [image for image in whole["images"] if image["id"] in kept],
        "annotations": [box for box in whole["annotations"] if box["image_id"] in kept],
    }
    stem = f"{data.name}-{share:.3f}"
    boxed = {box["image_id"] for box in own["annotations"]}
    part = Part(folder / f"{stem}.json", folder / f"{stem}-others.txt", len(boxed))
    others = [image["file_name"] for image in whole["images"] if image["id"] not in kept]
    for path, text in ((part.annotations, json.dumps(own)), (part.others, "\n".join(others) + "\n")):
        if not path.exists() or path.read_text() != text:  # trainings side by side read them
            path.write_text(text)
    return part


@dataclass(frozen=True)
class Experiment:
    """All trainings of one length and one kind of teacher."""

    trials: Trials
    epochs: int
    teacher_epochs: int
    teacher: Literal["own", "all"]
    ratio: float
    data: Path | None = None

    @property
    def folder(self) -> Path:
        return self.trials.out.resolve().parent

    def key(self, share: float, method: str) -> dict[str, Any]:
        """What makes an arm what it is."""
        key: dict[str, Any] = {"share": round(share, 3), "method": method}
        if method != ALONE:
            key |= {"teacher": self.teacher, "teacher_epochs": self.teacher_epochs}
        if method != "teacher":
            key["epochs"] = self.epochs
        return key | ({"ratio": self.ratio} if method.endswith(REST) else {})

    def weights(self, share: float) -> Path:
        of = "all" if self.teacher == "all" else f"{share:.3f}"
        return self.folder / f"{self.trials.out.stem}-{of}-{self.teacher_epochs}-teacher.safetensors"

    def spec(self, share: float, seed: int, *, teacher: bool = False) -> dict[str, Any]:
        """Of a share's labels, for as many steps as all labels take."""
        assert self.data is not None
        length = Comparison(self.trials, "random", self.epochs, self.teacher_epochs, self.data)
        spec = length.spec(seed, RATE, teacher=teacher)
        part, whole = split(self.data, share, self.folder), split(self.data, 1.0, self.folder)
        spec["data"]["train"]["annotations"] = str(part.annotations)
        steps = [-(-images // BATCH) for images in (whole.images, part.images)]
        epochs = max(1, round(spec["schedule"]["epochs"] * steps[0] / steps[1]))
        spec["schedule"]["epochs"] = spec["evaluation"]["every_epochs"] = epochs
        return spec

    def arm(self, share: float, method: str, seed: int) -> Trial:
        spec = self.spec(share, seed)
        name = method.removesuffix(REST)
        if name != ALONE:
            spec |= {"teacher": {"weights": {"file": str(self.weights(share))}}, "distill": {name: {}, **CACHE}}
        if method.endswith(REST):
            assert self.data is not None
            names = str(split(self.data, share, self.folder).others)
            images = spec["data"]["train"]["images"]
            spec["data"]["unlabelled"] = {"images": images, "names": names, "ratio": self.ratio}
        return Trial(self.key(share, method) | {"seed": seed}, spec)

    def teachers(self, shares: list[float]) -> Iterator[Trial]:
        for share in [1.0] if self.teacher == "all" else shares:
            key = self.key(share, "teacher") | {"seed": TEACHER_SEED}
            yield Trial(key, self.spec(share, TEACHER_SEED, teacher=True), keep=self.weights(share))

    def arms(self, shares: list[float], seeds: list[int]) -> Iterator[Trial]:
        """Seed by seed, so that what was cut off has whole pairs."""
        for seed in seeds:
            yield self.arm(1.0, ALONE, seed)
            for share in shares:
                yield from (self.arm(share, method, seed) for method in (ALONE, *all_methods()))

    def run(self, shares: list[float], seeds: list[int], at_once: int) -> None:
        self.trials.run(self.teachers(shares), at_once=at_once)
        self.trials.run(self.arms(shares, seeds), at_once=at_once)

    def table(self, share: float) -> str:
        """Mean AP of each arm of a share, and what it is above the student alone and above the same labels."""
        rows = [f"Labels of {share:.3f} of the images; teacher: {self.teacher}.\n"]
        rows += ["| | AP, mean ± standard error | above alone | 95 % t-interval | above without the rest | interval |"]
        rows += ["|---|---|---|---|---|---|"]
        found = {method: self._by_seed(share, method) for method in (ALONE, *all_methods())}
        for name, own in [("teacher", share), ("alone, all labels", 1.0)]:
            told = list(self._by_seed(own, "teacher" if name == "teacher" else ALONE).values())
            if told:
                rows.append(f"| {name} | {mean_and_error(told) if len(told) > 1 else f'{told[0]:.4f}'} | | | | |")
        for method, aps in found.items():
            if len(aps) > 1:
                cells = [*gain(aps, found[ALONE], method != ALONE)]
                cells += gain(aps, found.get(method.removesuffix(REST), {}), method.endswith(REST))
                rows.append(f"| {method} | {mean_and_error(list(aps.values()))} | {' | '.join(cells)} |")
        return "\n".join(rows)

    def _by_seed(self, share: float, method: str) -> dict[int, float]:
        seen = 1.0 if method == "teacher" and self.teacher == "all" else share
        lines = self.trials.lines(**self.key(seen, method))
        return {line["seed"]: float(line["AP"]) for line in lines}


def all_methods() -> list[str]:
    return [arm for method in METHODS for arm in (method, method + REST)]


def gain(aps: dict[int, float], base: dict[int, float], asked: bool) -> tuple[str, str]:
    """The mean of the paired differences and its interval, in words; empty where there are too few."""
    differences = [aps[seed] - base[seed] for seed in aps if seed in base]
    if not asked or len(differences) < 2:
        return "", ""
    low, high = t_interval(differences)
    return f"{statistics.mean(differences):+.4f}", f"{low:+.4f} .. {high:+.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="train.json, val.json and images/")
    parser.add_argument("--out", type=Path, required=True, help="file of lines; what else is made lies beside it")
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of images that keep labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=12, help="of students, counted on all images")
    parser.add_argument("--teacher-epochs", type=int, default=24)
    parser.add_argument("--teacher", choices=("own", "all"), default="own", help="the labels that it has seen")
    parser.add_argument("--ratio", type=float, default=1.0, help="images without labels for each labelled one")
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side, each of one thread")
    parser.add_argument("--table", action="store_true", help="print what was run, and run nothing")
    arguments = parser.parse_args()
    if not arguments.table and arguments.data is None:
        parser.error("--data is needed")
    experiment = Experiment(
        Trials(arguments.out),
        arguments.epochs,
        arguments.teacher_epochs,
        arguments.teacher,
        arguments.ratio,
        arguments.data,
    )
    if not arguments.table:
        experiment.run(arguments.shares, arguments.seeds, arguments.at_once)
    for share in arguments.shares:
        print(experiment.table(share) + "\n")


if __name__ == "__main__":
    main()
