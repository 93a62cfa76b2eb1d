"""A small search for CrossKD's weights where none are published: RTMDet from RTMDet, YOLOX from YOLOX.

    python -m benchmarks.kd_weights --detector rtmdet --data PATH --out runs.jsonl [--seeds 0 1]

PATH holds train.json, val.json and images/. The teacher is trained first; then, for each seed, the student alone and
with each of the settings below, one after the other. Each run is one line of JSON in `--out`; what stands there already
is not run again, so that a search that was cut off goes on. The table of all lines is printed at the end. The seeds are
not those of `benchmarks.gain`: what is chosen here must be measured on others. Measured is the last checkpoint.

The detectors are narrow and the images of 160 pixels in their shorter side, so that a run takes a minute or two: a
search at this size says which weights are far off, not which are best at full size.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.trials import Trial, Trials

ALONE = "alone"
TEACHER_SEED = 1000
BACKBONES = {  # of the student, of the teacher: name, width of the stem
    "rtmdet": (("cspnext_tiny", 8), ("cspnext_s", 16)),
    "yolox": (("cspdarknet_tiny", 8), ("cspdarknet_s", 16)),
}
# What is tried, as knobs of `distill.crosskd`; {} is the default.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "rtmdet": {
        "default (cut 1, classes 1, boxes 1)": {},
        "classes and boxes 0.25": {"cls_weight": 0.25, "box_weight": 0.25},
        "classes and boxes 4": {"cls_weight": 4.0, "box_weight": 4.0},
        "cut 0": {"cut": 0},
        "cut 2": {"cut": 2},
    },
    "yolox": {
        "default (cut 1, classes, boxes and objectness 1)": {},
        "all 0.25": {"cls_weight": 0.25, "box_weight": 0.25, "objectness_weight": 0.25},
        "all 4": {"cls_weight": 4.0, "box_weight": 4.0, "objectness_weight": 4.0},
        "cut 0": {"cut": 0},
        "cut 2": {"cut": 2},
    },
}


@dataclass(frozen=True)
class Search:
    """One detector, on one data set, for so many epochs."""

    detector: str
    data: Path
    epochs: int
    teacher_epochs: int
    out: Path

    def model(self, teacher: bool) -> dict[str, Any]:
        name, width = BACKBONES[self.detector][teacher]
        backbone = {"name": name, "width": width, "init": "random"}
        return {"detector": self.detector, "backbone": backbone, "postprocess": {"max_detections": 100}}

    def spec(self, seed: int, *, teacher: bool = False, crosskd: dict[str, Any] | None = None) -> dict[str, Any]:
        epochs = self.teacher_epochs if teacher else self.epochs
        splits = {
            split: {
                "annotations": str(self.data.resolve() / f"{split}.json"),
                "images": str(self.data.resolve() / "images"),
            }
            for split in ("train", "val")
        }
        values: dict[str, Any] = {
            "data": splits,
            "student": self.model(teacher),
            "augment": {"short_edges": [160], "long_edge": 224},
            "loader": {"workers": 0, "cache_mib": 128},
            "batch_size": 8,
            "optimizer": {"name": "adamw", "lr": 0.002, "base_batch": None, "weight_decay": 0.05, "norm_decay": False},
            "schedule": {"epochs": epochs, "warmup_steps": 50, "decay": "cosine"},
            "clip_norm": 10.0,
            "evaluation": {"every_epochs": epochs, "teacher_first": False},
            "seed": seed,
            "device": "cpu",
            "threads": 1,
            "export": None,
        }
        if crosskd is not None:
            values |= {
                "teacher": {"weights": {"file": str(self.teacher_file.resolve())}},
                "distill": {"crosskd": crosskd},
            }
        return values

    @property
    def teacher_file(self) -> Path:
        return self.out.with_name(f"{self.out.stem}-{self.detector}-{self.teacher_epochs}-teacher.safetensors")

    @property
    def key(self) -> dict[str, Any]:
        return {"detector": self.detector, "epochs": self.epochs, "teacher_epochs": self.teacher_epochs}

    def lines(self) -> list[dict[str, Any]]:
        """What has been run of this search."""
        return Trials(self.out).lines(**self.key)

    def run(self, seeds: list[int]) -> None:
        key = self.key | {"setting": "teacher", "seed": TEACHER_SEED}
        trials = Trials(self.out)
        trials.run([Trial(key, self.spec(TEACHER_SEED, teacher=True), keep=self.teacher_file)])
        trials.run(self._wanted(seeds))

    def _wanted(self, seeds: list[int]) -> Iterator[Trial]:
        for seed in seeds:
            for setting, knobs in {ALONE: None, **SETTINGS[self.detector]}.items():
                yield Trial(self.key | {"setting": setting, "seed": seed}, self.spec(seed, crosskd=knobs))


def table(lines: list[dict[str, Any]]) -> str:
    """AP of each setting: the mean over its seeds, and each."""
    settings = dict.fromkeys(line["setting"] for line in lines)
    rows = ["| setting | AP | by seed |", "|---|---|---|"]
    for setting in settings:
        found = sorted((line["seed"], line["AP"]) for line in lines if line["setting"] == setting)
        mean = statistics.mean(ap for _, ap in found)
        rows.append(f"| {setting} | {mean:.4f} | {', '.join(f'{ap:.4f}' for _, ap in found)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", choices=sorted(BACKBONES), required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="file of lines; the teacher's weights lie beside it")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--epochs", type=int, default=12, help="of students")
    parser.add_argument("--teacher-epochs", type=int, default=12)
    arguments = parser.parse_args()
    search = Search(arguments.detector, arguments.data, arguments.epochs, arguments.teacher_epochs, arguments.out)
    search.run(arguments.seeds)
    print(f"\n{search.detector}, {search.epochs} epochs:\n\n{table(search.lines())}")


if __name__ == "__main__":
    main()
