"""What CrossKD is worth: student alone against student + CrossKD, the same schedule, paired by seed.

    python -m benchmarks.gain                         # the demo set: 10 seeds, the interval must lie above zero
    python -m benchmarks.gain --data PATH --recipes bccd --seeds 3

PATH holds train.json, val.json and images/. The seeds are fixed here (100, 101, ...); whatever was tuned was tuned on
others (0..9). Two runs go on at any time, each on a thread of its own, so that both sides see the same machine.
Measured is the last checkpoint, after the whole schedule: the validation split chooses nothing. Finished runs are
kept in the work folder and not run again, so that a benchmark that was cut off goes on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from scipy import stats

from crosskd.data.demo import write_demo

FIRST_SEED = 100
TEACHER_SEED = 1
DATA_SEED = 2026
RECIPES = Path(__file__).parent.parent / "crosskd" / "recipes"


@dataclass(frozen=True)
class Outcome:
    """One training: COCO AP (0..1) after its last step, its wall time, and a digest of what it was made from."""

    ap: float
    seconds: float
    made_from: str


def digest(recipe: str, data: Path, settings: dict[str, object]) -> str:
    """Of the recipe's text, the annotations, the settings and the teacher's weights."""
    files = [RECIPES / f"{recipe}.yaml", data / "train.json", data / "val.json"]
    files += [value for value in settings.values() if isinstance(value, Path)]
    plain = {key: str(value) for key, value in settings.items() if not isinstance(value, Path)}
    parts = [json.dumps(plain, sort_keys=True).encode(), *(file.read_bytes() for file in files)]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def train(recipe: str, data: Path, folder: Path, settings: dict[str, object]) -> Outcome:
    """Run one training by the command line, or read what it left when it ran before on the very same."""
    kept, made_from = folder / "outcome.json", digest(recipe, data, settings)
    if kept.exists():
        outcome = Outcome(**json.loads(kept.read_text()))
        if outcome.made_from != made_from:
            raise SystemExit(f"{folder} holds a run of another recipe, data set or setting: name another --work folder")
        return outcome
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)  # of a run that was cut off: its time would not count
    command = [sys.executable, "-m", "crosskd", "train", str(RECIPES / f"{recipe}.yaml"), "--workdir", str(folder)]
    command += ["--data", str(data)]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    start = time.monotonic()
    with (folder / "output.txt").open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise SystemExit(
            f"training failed, see {folder / 'output.txt'}:\n{(folder / 'output.txt').read_text()[-2000:]}"
        )
    seconds = time.monotonic() - start
    manifest = json.loads((folder / "manifest.json").read_text())
    outcome = Outcome(manifest["student"]["metrics"]["AP"], seconds, made_from)
    kept.write_text(json.dumps(asdict(outcome)))
    return outcome


def mean_and_error(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f} ± {statistics.stdev(values) / math.sqrt(len(values)):.4f}"


def t_interval(differences: list[float]) -> tuple[float, float]:
    """The 95 % interval of the mean of paired differences (Student's t, n - 1 degrees of freedom)."""
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    middle = statistics.mean(differences)
    return middle - half, middle + half


def report(pairs: list[tuple[Outcome, Outcome]], teacher: Outcome) -> float:
    """Print the table; the lower end of the paired interval."""
    alone, crosskd = ([pair[side].ap for pair in pairs] for side in (0, 1))
    differences = [b - a for a, b in zip(alone, crosskd, strict=True)]
    gained = statistics.mean(differences)
    low, high = t_interval(differences)
    seconds = [statistics.mean(pair[side].seconds for pair in pairs) for side in (0, 1)]
    print(f"\nteacher: AP {teacher.ap:.4f}; {len(pairs)} pairs\n")
    print("| | student alone | student + CrossKD | paired difference | 95 % t-interval |")
    print("|---|---|---|---|---|")
    print(
        f"| AP, mean ± standard error | {mean_and_error(alone)} | {mean_and_error(crosskd)} "
        f"| {gained:+.4f} | {low:+.4f} .. {high:+.4f} |"
    )
    print(f"| wall time of a run | {seconds[0]:.0f} s | {seconds[1]:.0f} s | {seconds[1] / seconds[0]:.2f}x | |")
    gap = teacher.ap - statistics.mean(alone)
    if gap > 0:
        print(f"\nshare of the teacher gap closed: {gained / gap:.0%}")
    return low


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a COCO-format folder; default: the demo set, drawn anew")
    parser.add_argument("--recipes", default="demo", help="demo or bccd: PREFIX_teacher, _student, _crosskd")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--work", type=Path, default=Path(".crosskd") / "gain", help="where runs are kept")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both sides and teacher")
    arguments = parser.parse_args()
    if arguments.seeds < 2:
        parser.error("--seeds must be at least 2: one pair has no interval")
    common: dict[str, object] = {"threads": 1, "loader.workers": 0, "evaluation.every_epochs": 10_000}
    common |= dict(s.split("=", 1) for s in arguments.set)
    work: Path = arguments.work / arguments.recipes
    data = arguments.data or work / "data"
    if arguments.data is None and not (data / "val.json").exists():
        write_demo(data, train=1000, val=300, seed=DATA_SEED)
    name = arguments.recipes
    teacher = train(f"{name}_teacher", data, work / "teacher", common | {"seed": TEACHER_SEED})
    weights = (work / "teacher" / "best.safetensors").resolve()
    pairs = []
    with ThreadPoolExecutor(2) as pool:
        runs = []
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            settings = common | {"seed": seed}
            distil = settings | {"teacher.weights.file": weights, "evaluation.teacher_first": False}
            runs.append(
                (
                    seed,
                    pool.submit(train, f"{name}_student", data, work / f"student-{seed}", settings),
                    pool.submit(train, f"{name}_crosskd", data, work / f"crosskd-{seed}", distil),
                )
            )
        for seed, *sides in runs:
            alone, crosskd = (side.result() for side in sides)
            pairs.append((alone, crosskd))
            print(
                f"seed {seed}: alone {alone.ap:.4f}, CrossKD {crosskd.ap:.4f} ({crosskd.ap - alone.ap:+.4f}); "
                f"{alone.seconds:.0f} s, {crosskd.seconds:.0f} s",
                flush=True,
            )
    low = report(pairs, teacher)
    print(f"\nthe interval lies {'above' if low > 0 else 'NOT above'} zero")
    return 0 if low > 0 or arguments.data is not None else 1


if __name__ == "__main__":
    sys.exit(main())
