"""Trainings that are kept as one line of JSON each, so that a long comparison goes on where it was cut off."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from crosskd.spec.results.files import LAST_WEIGHTS, MANIFEST

OUTPUT_SHOWN = 2000  # characters of a training that failed


class Trial(NamedTuple):
    """One training: what names it in the file of lines, and its specification."""

    key: Mapping[str, Any]
    spec: Mapping[str, Any]
    keep: Path | None = None  # where the last weights go


@dataclass
class Trials:
    """A file of lines: the trial's key, COCO AP (0..1) of its last step, and its wall time in seconds."""

    out: Path

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def lines(self, **key: Any) -> list[dict[str, Any]]:
        """All lines that say what `key` says."""
        if not self.out.exists():
            return []
        found = [json.loads(line) for line in self.out.read_text().splitlines()]
        return [line for line in found if key.items() <= line.items()]

    def run(self, trials: Iterable[Trial], *, at_once: int = 1) -> None:
        """Run what has no line yet, in order, so many at once. Raises `SystemExit` where a training fails."""
        open_ones = [
            one for one in trials if not self.lines(**one.key) or (one.keep is not None and not one.keep.exists())
        ]
        with ThreadPoolExecutor(at_once) as pool:
            for done in [pool.submit(self._run, trial) for trial in open_ones]:
                done.result()

    def _run(self, trial: Trial) -> None:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            recipe, workdir = Path(folder, "spec.yaml"), Path(folder, "run")
            recipe.write_text(yaml.safe_dump(dict(trial.spec)))
            command = [sys.executable, "-m", "crosskd", "train", str(recipe), "--workdir", str(workdir)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{dict(trial.key)} failed:\n{(done.stdout + done.stderr)[-OUTPUT_SHOWN:]}")
            metrics = json.loads((workdir / MANIFEST).read_text())["student"]["metrics"]
            if trial.keep is not None:
                shutil.copyfile(workdir / LAST_WEIGHTS, trial.keep)
        line = {**trial.key, "AP": metrics["AP"], "seconds": round(time.monotonic() - start, 1)}
        with self._lock, self.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
