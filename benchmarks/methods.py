"""Every method of distillation on small images, with the same small search for each: mean AP and paired differences.

    python -m benchmarks.tiles DEEPPCB TILES                          # 800 + 300 tiles of 160 pixels
    python -m benchmarks.methods --data TILES --out runs.jsonl        # goes on where it stopped
    python -m benchmarks.methods --data TILES --out runs.jsonl --start imagenet --weights FOLDER
    python -m benchmarks.methods --out runs.jsonl --table             # the tables of what was run

GFL with a narrow head on P3 to P5. From random weights: ResNet-18, of width 8 from one of width 32. From ImageNet:
EfficientNet-Lite0 from EfficientNet-Lite2, whose weights `benchmarks.pretrained` has put into FOLDER.

Search: the student alone with each learning rate, and each method with each of `FACTORS` on its own default weights, at
the learning rate that was best for the student alone; on `SEARCH_SEEDS`, which are not reported. Then the best setting
of each on `--seeds`. A method is paired with the student alone of its seed. Measured is the last checkpoint: the
validation images choose nothing within a run, but a setting by the search's seeds. What the teacher makes of an
image is kept in memory (`distill.cache`): the wall time is that of runs that keep it.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.gain import mean_and_error, t_interval
from benchmarks.trials import Trial, Trials
from crosskd.spec.config import TrainConfig

ALONE = "alone"
METHODS = {  # terms of `distill`, with their own default weights
    "direct": ("direct",),
    "ld": ("ld",),
    "fitnet": ("fitnet",),
    "fgd": ("fgd",),
    "mgd": ("mgd",),
    "cwd": ("cwd",),
    "skd": ("skd",),
    "pkd": ("pkd",),
    "bckd": ("bckd",),
    "crosskd": ("crosskd",),
    "crosskd+pkd": ("crosskd", "pkd"),
}
CACHE: dict[str, Any] = {
    "cache": {"store": "memory"}
}  # each image has two views: the teacher runs for two epochs or so
FACTORS = (0.25, 1.0, 4.0)
RATES = (0.001, 0.002, 0.004)
SEARCH_SEEDS = (0,)
SEEDS = (100, 101, 102, 103, 104)
TEACHER_SEED = 1000
BACKBONES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # by the start: of the student, of the teacher
    "random": ({"name": "resnet18", "width": 8}, {"name": "resnet18", "width": 32}),
    "imagenet": ({"name": "timm/tf_efficientnet_lite0"}, {"name": "timm/tf_efficientnet_lite2"}),
}


@dataclass(frozen=True)
class Comparison:
    """All trainings of one start, at one length."""

    trials: Trials
    start: str
    epochs: int
    teacher_epochs: int
    data: Path | None = None
    weights: Path | None = None  # folder with ImageNet weights

    @property
    def key(self) -> dict[str, Any]:
        return {"start": self.start, "epochs": self.epochs, "teacher_epochs": self.teacher_epochs}

    @property
    def teacher(self) -> Path:
        out = self.trials.out
        return out.with_name(f"{out.stem}-{self.start}-{self.teacher_epochs}-teacher.safetensors")

    def spec(self, seed: int, rate: float, *, teacher: bool = False) -> dict[str, Any]:
        assert self.data is not None
        epochs = self.teacher_epochs if teacher else self.epochs
        backbone = dict(BACKBONES[self.start][teacher])
        if self.weights is not None:
            file = self.weights / f"{backbone['name'].rpartition('/')[2]}.safetensors"
            backbone["init"] = {"file": str(file.resolve())}
        images = str(self.data.resolve() / "images")
        return {
            "data": {
                split: {"annotations": str(self.data.resolve() / f"{split}.json"), "images": images}
                for split in ("train", "val")
            },
            "student": {
                "detector": "gfl",
                "backbone": backbone,
                "neck": {"channels": 64},
                "head": {"channels": 64, "depth": 4},
                "strides": [8, 16, 32],
            },
            "augment": {"short_edges": [160], "long_edge": 160, "flip": 0.5},
            "loader": {"workers": 0, "cache_mib": 256},
            "batch_size": 8,
            "optimizer": {"name": "adamw", "lr": rate, "base_batch": None, "weight_decay": 0.05, "norm_decay": False},
            "schedule": {"epochs": epochs, "warmup_steps": 50, "decay": "cosine"},
            "clip_norm": 10.0,
            "evaluation": {"every_epochs": epochs, "teacher_first": False},
            "seed": seed,
            "threads": 1,
            "export": None,
        }

    def distilled(self, method: str, factor: float, seed: int, rate: float) -> dict[str, Any]:
        """The specification of a method, all of whose own weights are multiplied."""
        spec = self.spec(seed, rate) | {"teacher": {"weights": {"file": str(self.teacher.resolve())}}}
        student = TrainConfig.model_validate(self.spec(seed, rate)).student
        teacher = TrainConfig.model_validate(self.spec(seed, rate, teacher=True)).student
        plain = TrainConfig.model_validate(spec | {"distill": {term: {} for term in METHODS[method]}}).distill
        sections: dict[str, dict[str, Any]] = {}
        for term in METHODS[method]:
            others = set(METHODS[method]) - {term}
            full = getattr(plain, term).resolved(student, teacher, others).model_dump(exclude_none=True)
            sections[term] = {name: factor * full[name] for name in full if is_weight(name) and full[name]}
        return spec | {"distill": sections | CACHE}

    def run(self, seeds: list[int], at_once: int) -> None:
        middle = RATES[len(RATES) // 2]
        teacher = self.spec(TEACHER_SEED, middle, teacher=True)
        self.trials.run([Trial(self.key | {"method": "teacher", "seed": TEACHER_SEED}, teacher, keep=self.teacher)])
        self.trials.run(self.rates(), at_once=at_once)
        rate = self.best_rate()
        self.trials.run(self.factors(rate), at_once=at_once)
        self.trials.run(self.measured(seeds, rate), at_once=at_once)

    def rates(self) -> Iterator[Trial]:
        for seed in SEARCH_SEEDS:
            for rate in RATES:
                yield Trial(self.key | {"method": ALONE, "seed": seed, "lr": rate}, self.spec(seed, rate))

    def factors(self, rate: float) -> Iterator[Trial]:
        for seed in SEARCH_SEEDS:
            for method in METHODS:
                for factor in FACTORS:
                    yield self._trial(method, factor, seed, rate)

    def measured(self, seeds: list[int], rate: float) -> Iterator[Trial]:
        """Seed by seed, so that a run that was cut off has whole pairs."""
        best = {method: self.best_factor(method, rate) for method in METHODS}
        for seed in seeds:
            yield Trial(self.key | {"method": ALONE, "seed": seed, "lr": rate}, self.spec(seed, rate))
            yield from (self._trial(method, factor, seed, rate) for method, factor in best.items())

    def _trial(self, method: str, factor: float, seed: int, rate: float) -> Trial:
        key = self.key | {"method": method, "factor": factor, "seed": seed, "lr": rate}
        return Trial(key, self.distilled(method, factor, seed, rate))

    def best_rate(self) -> float:
        return max(RATES, key=lambda rate: self._searched(method=ALONE, lr=rate))

    def best_factor(self, method: str, rate: float) -> float:
        return max(FACTORS, key=lambda factor: self._searched(method=method, lr=rate, factor=factor))

    def _searched(self, **setting: Any) -> float:
        """Mean AP over the search's seeds."""
        found = [line for seed in SEARCH_SEEDS for line in self.trials.lines(**self.key, **setting, seed=seed)]
        return statistics.mean(float(line["AP"]) for line in found)

    def table(self) -> str:
        """Mean AP of each method, its paired differences to the student alone, and its wall time to that."""
        lines = [line for line in self.trials.lines(**self.key) if line["seed"] in SEEDS]
        alone = {line["seed"]: line for line in lines if line["method"] == ALONE}
        rows = ["| | weights | AP, mean ± standard error | paired difference | 95 % t-interval | wall time |"]
        rows += ["|---|---|---|---|---|---|"]
        for teacher in self.trials.lines(**self.key, method="teacher"):
            rows.append(f"| teacher | | {teacher['AP']:.4f} | | | |")
        if len(alone) > 1:
            rows.append(f"| alone | | {mean_and_error([one['AP'] for one in alone.values()])} | | | 1 |")
        for method in METHODS:
            found = [line for line in lines if line["method"] == method and line["seed"] in alone]
            if len(found) < 2:
                continue
            differences = [line["AP"] - alone[line["seed"]]["AP"] for line in found]
            low, high = t_interval(differences)
            cost = statistics.median(line["seconds"] / alone[line["seed"]]["seconds"] for line in found)
            rows.append(
                f"| {method} | x {found[0]['factor']:g} | {mean_and_error([line['AP'] for line in found])} "
                f"| {statistics.mean(differences):+.4f} | {low:+.4f} .. {high:+.4f} | {cost:.2f} |"
            )
        return "\n".join(rows)


def is_weight(knob: str) -> bool:
    return knob == "weight" or knob.endswith("_weight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="train.json, val.json and images/")
    parser.add_argument("--out", type=Path, required=True, help="file of lines; the teachers' weights lie beside it")
    parser.add_argument("--start", choices=sorted(BACKBONES), default="random")
    parser.add_argument("--weights", type=Path, help="folder with ImageNet weights, of `benchmarks.pretrained`")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), choices=SEEDS)
    parser.add_argument("--epochs", type=int, default=12, help="of students")
    parser.add_argument("--teacher-epochs", type=int, default=24)
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side, each of one thread")
    parser.add_argument("--table", action="store_true", help="print what was run, and run nothing")
    arguments = parser.parse_args()
    if not arguments.table and (arguments.data is None or (arguments.start == "imagenet") != bool(arguments.weights)):
        parser.error("--data is needed, and --weights with --start imagenet and not without")
    comparison = Comparison(
        Trials(arguments.out),
        arguments.start,
        arguments.epochs,
        arguments.teacher_epochs,
        arguments.data,
        arguments.weights,
    )
    if not arguments.table:
        comparison.run(arguments.seeds, arguments.at_once)
    print(comparison.table())


if __name__ == "__main__":
    main()
