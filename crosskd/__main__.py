"""The core alone, without any service: `python -m crosskd train RECIPE` and `python -m crosskd evaluate WEIGHTS`.

Exit codes: 0 done, 1 the run failed, 2 the configuration is wrong, 130 interrupted (after a step, with a checkpoint).
Nothing here imports torch before a command runs.
"""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError
from rich.console import Console

from crosskd.config import TrainConfig
from crosskd.errors import ConfigError, CrossKDError, Interrupted
from crosskd.presets import load_recipe, recipe_names

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Train and evaluate detectors.")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file with a TrainConfig, or the name of a packaged recipe.")],
    workdir: Annotated[Path, typer.Option(help="Where weights, checkpoints, manifest.json and log.txt go.")],
    data: Annotated[Path | None, typer.Option(help="A folder with train.json, val.json and their images.")] = None,
    teacher: Annotated[Path | None, typer.Option(help="The teacher's weights.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="KEY.PATH=VALUE, in YAML; any knob, as often as you like.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in WORKDIR.")] = False,
) -> None:
    """Train a detector, alone or distilled from a teacher."""
    with _clear_errors():
        config = TrainConfig.model_validate(_with_options(_read(recipe), data, teacher, change or []))
        _train(config, workdir, resume)


@app.command()
def evaluate(
    weights: Annotated[Path, typer.Argument(help="A .safetensors file that a training wrote.")],
    annotations: Annotated[Path, typer.Option(help="A COCO instances file.")],
    images: Annotated[Path, typer.Option(help="The folder of its images.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="Settings for images and batches; default: images are resized as in its training."),
    ] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY.PATH=VALUE of a TrainConfig: batch_size, augment, student.postprocess, …"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Measure COCO AP of a weights file."""
    with _clear_errors():
        split = {"annotations": str(annotations), "images": str(images)}
        values = _read(recipe) if recipe is not None else _settings_of(weights)
        values = {**values, "data": {"train": split, "val": split}, "teacher": None, "distill": None}
        _evaluate(weights, TrainConfig.model_validate(_with_changes(values, change or [])), as_json)


def _train(config: TrainConfig, workdir: Path, resume: bool) -> None:
    from crosskd.engine.progress import ProgressLine
    from crosskd.train import train as run_training

    console = Console()
    with _stop_on_interrupt(console) as stop, ProgressLine.on(console) as line:
        result = run_training(
            config, workdir, callbacks=[line], resume=workdir / "checkpoints" if resume else None, stop=stop
        )
    console.print(f"AP {result.best_ap:.4f} after step {result.best_step}: {result.best_weights}", highlight=False)


def _evaluate(weights: Path, config: TrainConfig, as_json: bool) -> None:
    from rich.table import Table

    from crosskd.engine.device import set_threads
    from crosskd.evaluate import evaluate_weights

    set_threads(config.threads)
    evaluation = evaluate_weights(config, weights)
    if as_json:
        print(json.dumps(asdict(evaluation)))
        return
    table = Table(title=weights.name)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_row("images", str(evaluation.images))
    for name, value in evaluation.metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in evaluation.per_class.items():
        table.add_row(f"AP of {name}", f"{value:.4f}")
    if evaluation.milliseconds_per_image is not None:
        table.add_row("ms per image", f"{evaluation.milliseconds_per_image:.1f}")
    Console().print(table)


def _settings_of(weights: Path) -> dict[str, Any]:
    from crosskd.evaluate import recorded_settings

    # The file itself says which model it is; a TrainConfig must name one.
    return {"student": {"backbone": {"name": "resnet_tiny"}}, **recorded_settings(weights)}


def _read(recipe: str) -> dict[str, Any]:
    """The values of a YAML file, or of the packaged recipe of that name."""
    path = Path(recipe)
    if not path.exists() and recipe in recipe_names():
        return load_recipe(recipe)
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = f"Name a YAML file, or one of the packaged recipes: {', '.join(recipe_names())}."
        raise ConfigError(f"there is no recipe {recipe!r}", remedy=remedy) from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the recipe cannot be read: {error}", where=recipe, remedy="Mend the file.") from error
    if not isinstance(values, dict):
        raise ConfigError("the recipe is no mapping of settings", where=recipe, remedy="Start from a packaged one.")
    return values


def _parsed(text: str) -> Any:
    """What a YAML text says. Raises `ValueError`, with a reason on one line, where it says nothing.

    PyYAML's own errors are about the syntax alone: a value that its tag or form promises and that is none (the date
    2001-99-99, `!!int abc`) ends in whatever Python makes of it, and deep nesting in a full stack.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def _with_options(
    values: dict[str, Any], data: Path | None, teacher: Path | None, changes: list[str]
) -> dict[str, Any]:
    """The recipe's values under the options of the command line; `--set` has the last word."""
    values = dict(values)
    if data is not None:
        known = values.get("data") if isinstance(values.get("data"), dict) else {}
        values["data"] = {**(known or {}), **{split: _split(data, split) for split in ("train", "val")}}
    if teacher is not None:
        known = values.get("teacher") if isinstance(values.get("teacher"), dict) else {}
        values["teacher"] = {**(known or {}), "weights": {"file": str(teacher)}}
    return _with_changes(values, changes)


def _split(folder: Path, split: str) -> dict[str, str]:
    """Images lie in `images/`, or in a folder of the split's own name."""
    shared = folder / "images"
    return {
        "annotations": str(folder / f"{split}.json"),
        "images": str(shared if shared.is_dir() else folder / split),
    }


def _with_changes(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(
                f"--set {_short(change)} is not KEY.PATH=VALUE", remedy="Write e.g. --set schedule.epochs=24."
            )
        try:
            value = _parsed(text)
        except ValueError as error:
            message = f"the value of --set {_short(change)} is not YAML: {error}"
            raise ConfigError(message, remedy="Quote it.") from error
        values = _changed(values, key.split("."), value)
    return values


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:200]}…")


def _changed(values: Any, path: list[str], value: Any) -> dict[str, Any]:
    """A copy of `values` with the entry at `path` replaced; sections on the way that are missing are made."""
    inner = dict(values) if isinstance(values, dict) else {}
    inner[path[0]] = _changed(inner.get(path[0]), path[1:], value) if path[1:] else value
    return inner


@contextlib.contextmanager
def _stop_on_interrupt(console: Console) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) asks for a stop with a checkpoint; the second ends the program at once."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        console.print("stopping after this step; once more to stop at once")
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Errors of the user's making as lines on stderr with an exit code, never as a traceback."""
    try:
        yield
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            pointer = "/" + "/".join(str(part) for part in fault["loc"])
            typer.echo(f"{pointer}: {fault['msg'].removeprefix('Value error, ')}", err=True)
        raise typer.Exit(2) from error
    except Interrupted as error:
        way = "--resume goes on from there" if error.step else "there is no checkpoint yet: start it again"
        typer.echo(f"{error.message}; {way}", err=True)
        raise typer.Exit(130) from error
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (CrossKDError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    app(prog_name="python -m crosskd")
