"""`python -m crosskd train`, once its configuration is read: in this process, or in several."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import typer
from rich.console import Console

from crosskd.commands.errors import stop_on_interrupt
from crosskd.commands.weights import tell_notes
from crosskd.engine.imports import quick_imports
from crosskd.spec.config import FileRef, TrainConfig
from crosskd.spec.results.files import CHECKPOINTS, ONNX


def run_train(config: TrainConfig, workdir: Path, resume: bool, as_json: bool, roots: list[Path]) -> None:
    if config.gpus > 1 and not _join_launcher(workdir):
        _launch(config, workdir, resume, as_json, roots)
        return
    with quick_imports():
        from crosskd.engine.progress import ProgressLine
        from crosskd.runs.train import train as run_training

    console = Console(stderr=as_json)
    if config.track:
        console.print("`track` is heeded by workers of the service alone: this run is shown in no tracker")
    named = [config.student.init, config.teacher.weights if config.teacher is not None else None]
    tell_notes(*(Path(weights.file) for weights in named if isinstance(weights, FileRef)))
    with stop_on_interrupt(console) as stop, ProgressLine.on(console) as line:
        result = run_training(
            config,
            workdir,
            callbacks=[line],
            resume=workdir / CHECKPOINTS if resume else None,
            roots=roots,
            stop=stop,
        )
    if as_json:
        best = {"best_ap": result.best_ap, "best_step": result.best_step, "best_weights": str(result.best_weights)}
        print(json.dumps({**best, "manifest": result.manifest}))
        return
    console.print(f"AP {result.best_ap:.4f} after step {result.best_step}: {result.best_weights}", highlight=False)
    told = result.manifest.get("onnx") or {}
    if told.get("missing"):
        console.print(f"no ONNX is written: {told['missing']}", highlight=False, markup=False)
    elif told:
        console.print(f"as ONNX: {workdir / ONNX}", highlight=False, markup=False)


def _join_launcher(workdir: Path) -> bool:
    """Whether this is one of the processes of a training. The first speaks here, the others into their log."""
    from crosskd.engine.launch import divert_output, exit_with_launcher, launcher

    if (parent := launcher()) is not None:
        exit_with_launcher(parent)
    rank = os.environ.get("RANK")
    if rank not in (None, "0"):
        workdir.mkdir(parents=True, exist_ok=True)
        divert_output(workdir / f"log-rank-{rank}.txt")
    return rank is not None


def _launch(config: TrainConfig, workdir: Path, resume: bool, as_json: bool, roots: list[Path]) -> None:
    """Train in `config.gpus` processes: this very command once more in each."""
    from crosskd.engine.launch import RanksFailed, RanksStopped, launch

    with tempfile.TemporaryDirectory(prefix="crosskd-train-") as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(config.model_dump_json(), encoding="utf-8")  # JSON is YAML
        options = ["--workdir", str(workdir), *(["--resume"] if resume else []), *(["--json"] if as_json else [])]
        options += [f"--data-root={root}" for root in roots]
        try:
            launch("crosskd", ["train", str(recipe), *options], config.gpus)
        except RanksStopped as error:
            raise typer.Exit(130) from error
        except RanksFailed as error:
            first = error.ends[0]
            if first.rank or first.status < 0:
                typer.echo(f"error: of {config.gpus} processes, {first}; see {workdir}/log-rank-*.txt", err=True)
            raise typer.Exit(first.status if first.status > 0 else 1) from error
