"""The core alone, without any service: `python -m crosskd train RECIPE`, `evaluate WEIGHTS` and `export WEIGHTS`.

Exit codes: 0 done, 1 the run failed, 2 the configuration is wrong, 130 interrupted (after a step, with a checkpoint).
Nothing here imports torch before a command runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from rich.console import Console

from crosskd.engine.imports import quick_imports
from crosskd.engine.launch import exit_without_cleanup
from crosskd.errors import ConfigError, CrossKDError, Interrupted
from crosskd.spec.config import BackboneConfig, ExportConfig, ModelConfig, TrainConfig
from crosskd.spec.evaluate_export import augment_at
from crosskd.spec.files import ONNX
from crosskd.spec.inputs import real_path
from crosskd.spec.layouts import data_section
from crosskd.spec.nearest import did_you_mean, model_at, propose
from crosskd.spec.predictions import MAX_DETECTIONS, PICTURE_SCORE
from crosskd.spec.presets import load_recipe, parse_yaml, recipe_names
from crosskd.spec.registry import BACKBONES

DataRoots = Annotated[
    list[Path] | None,
    typer.Option("--data-root", help="A folder that images may be links into, beside their own; as often as you like."),
]
CONFIGS = {model.__name__: model for model in (BackboneConfig, ExportConfig, ModelConfig, TrainConfig)}
AFTER_THIS_STEP = "stopping after this step; once more to stop at once"

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help="Train, evaluate and export detectors.")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file with a TrainConfig, or the name of a packaged recipe.")],
    workdir: Annotated[Path, typer.Option(help="Where weights, checkpoints, manifest.json and log.txt go.")],
    data: Annotated[
        Path | None,
        typer.Option(help="A folder with train.json, val.json, images/; or as COCO or Roboflow lay it out."),
    ] = None,
    teacher: Annotated[Path | None, typer.Option(help="The teacher's weights.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="KEY.PATH=VALUE, in YAML; any knob, as often as you like.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint in WORKDIR.")] = False,
    data_root: DataRoots = None,
) -> None:
    """Train a detector, alone or distilled from a teacher."""
    with _clear_errors():
        config = TrainConfig.model_validate(_with_options(_read(recipe), data, teacher, change or []))
        _train(config, workdir, resume, _real(data_root))


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
    matches: Annotated[
        Path | None, typer.Option(help="Where to write which detections were right: what comparisons are made of.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    data_root: DataRoots = None,
) -> None:
    """Evaluate a weights file: its COCO AP."""
    with _clear_errors():
        split = {"annotations": str(annotations), "images": str(images)}
        values = _read(recipe) if recipe is not None else _settings_of(weights)
        if "student" not in values:
            values = {**values, "student": _student_of(weights)}
        values = {**values, "data": {"train": split, "val": split}, "teacher": None, "distill": None}
        config = TrainConfig.model_validate(_with_changes(values, change or []))
        _evaluate(weights, config, matches, as_json, _real(data_root))


@app.command()
def export(
    weights: Annotated[Path, typer.Argument(help="A weights file; one that a training wrote says its model itself.")],
    images: Annotated[Path, typer.Option(help="A folder of images to check the graph on.")],
    workdir: Annotated[Path, typer.Option(help="Where model.onnx, manifest.json and log.txt go.")],
    settings: Annotated[str | None, typer.Option(help="A YAML file with an ExportConfig.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY.PATH=VALUE of an ExportConfig: postprocess, opset, check_images, threads, …"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest.")] = False,
    data_root: DataRoots = None,
) -> None:
    """Write a detector as an ONNX graph from pixels to detections, checked against PyTorch on real images."""
    with _clear_errors():
        values = _read(settings) if settings is not None else {}
        values = {**values, "weights": {"file": str(weights)}, "images": str(images)}
        config = ExportConfig.model_validate(_with_changes(values, change or []))
        _export(config, workdir, as_json, _real(data_root))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="FILE", help="A .onnx or .safetensors file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for pictures with boxes and predictions.json.")
    ],
    score: Annotated[float, typer.Option(min=0, max=1, help="The least score of a box.")] = PICTURE_SCORE,
    most: Annotated[int, typer.Option("--max", min=1, max=MAX_DETECTIONS, help="Boxes of an image, the best.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print what predictions.json has.")] = False,
) -> None:
    """Find objects in images; an ONNX graph needs onnxruntime alone, other weights PyTorch."""
    with _clear_errors():
        from crosskd import predict_files

        predictions, pictures = predict_files.predict(model, images, output, score=score, most=most)
        if as_json:
            print(predictions.model_dump_json(indent=2))
        else:
            predict_files.show(predictions, pictures)
        if any(image.fault for image in predictions.images):
            raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Weights of ours, MMDetection or torchvision.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A .safetensors file; for other projects also .pth.")],
    to: Annotated[
        Literal["mmdet", "torchvision", "native", "backbone"],
        typer.Option("--to", help="Whose form OUT has. backbone: what `backbone.init` reads, of a --model."),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            help="A YAML file with the ModelConfig of IN, or a recipe, whose student it is; to backbone: also its name."
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Names, as a,b,c; 80 or 91 for COCO's or torchvision's; or a COCO .json file.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write what became of every tensor here, as JSON.")] = None,
    drop_unexpected: Annotated[
        bool, typer.Option("--drop-unexpected", help="Leave out tensors that the model does not have.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="List every tensor, not only the sum.")] = False,
) -> None:
    """Write a detector's weights as another project names and orders them, and say what became of the tensors.

    Which model IN holds stands in our own files, else it is told from the tensors, where they tell enough. Of a
    training checkpoint the student is taken, alone.
    """
    with _clear_errors():
        from crosskd.convert.classes import parse_classes
        from crosskd.convert.convert import prepare
        from crosskd.weights.files import write_text

        if to == "backbone":
            _convert_backbone(source, target, model, report, verbose)
            return
        known = ModelConfig.model_validate(_student_in(_read(model))) if model is not None else None
        names = parse_classes(classes) if classes is not None else None
        conversion = prepare(source, to, model=known, classes=names)
        print("\n".join(conversion.report.lines(verbose=verbose)), flush=True)
        if report is not None:
            write_text(report, conversion.report.json())
        conversion.write(target, drop_unexpected=drop_unexpected)


def _convert_backbone(source: Path, target: Path, model: str | None, report: Path | None, verbose: bool) -> None:
    from crosskd.convert.backbone import prepare_backbone
    from crosskd.weights.files import write_text

    if model is None:
        raise ConfigError(
            "nothing says which backbone it is to be",
            remedy="Give --model: the name of a backbone, such as resnet50, or a recipe, whose student's it is.",
        )
    if model in BACKBONES:
        values: Any = {"name": model}
    else:
        values = _student_in(_read(model))
        values = values.get("backbone", values) if isinstance(values, dict) else values
    if isinstance(values, dict):
        values = {**values, "init": "random"}
    conversion = prepare_backbone(source, BackboneConfig.model_validate(values))
    print("\n".join(conversion.report.lines(verbose=verbose)), flush=True)
    if report is not None:
        write_text(report, conversion.report.json())
    conversion.write(target)


def _student_in(values: dict[str, Any]) -> Any:
    """The values of a ModelConfig: these, or those of a recipe's student."""
    return values.get("student", values)


def _real(roots: list[Path] | None) -> list[Path]:
    return [real_path(root) for root in roots or []]


def _export(config: ExportConfig, workdir: Path, as_json: bool, roots: list[Path]) -> None:
    try:
        with quick_imports():
            from crosskd.runs.export import export as run_export
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime", "onnxscript"):
            raise
        raise ConfigError(f"there is no {error.name} here", remedy="pip install 'crosskd[export]'.") from error

    console = Console()
    with _stop_on_interrupt(console, "stopping") as stop:
        manifest = run_export(config, workdir, roots=roots, stop=stop)
    if as_json:
        print(json.dumps(manifest))
        return
    check, latency = manifest["check"], manifest["model"]["latency"]
    console.print(f"{workdir / manifest['file']['name']}: {manifest['file']['bytes'] / 1e6:.1f} MB", highlight=False)
    console.print(
        f"{check['detections']} detections in {check['images']} images agree with PyTorch's: boxes within "
        f"{check['box_difference']:.4f} px, scores within {check['score_difference']:.1e}",
        highlight=False,
    )
    times = ", ".join(f"{name} {entry['milliseconds']:.1f} ms" for name, entry in latency.items())
    console.print(f"one image of {manifest['model']['image']}: {times}", highlight=False)


def _train(config: TrainConfig, workdir: Path, resume: bool, roots: list[Path]) -> None:
    if config.gpus > 1 and not _join_launcher(workdir):
        _launch(config, workdir, resume, roots)
        return
    with quick_imports():
        from crosskd.engine.progress import ProgressLine
        from crosskd.runs.train import train as run_training

    console = Console()
    with _stop_on_interrupt(console) as stop, ProgressLine.on(console) as line:
        result = run_training(
            config,
            workdir,
            callbacks=[line],
            resume=workdir / "checkpoints" if resume else None,
            roots=roots,
            stop=stop,
        )
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


def _launch(config: TrainConfig, workdir: Path, resume: bool, roots: list[Path]) -> None:
    """Train in `config.gpus` processes: this very command once more in each."""
    from crosskd.engine.launch import RanksFailed, RanksStopped, launch

    with tempfile.TemporaryDirectory(prefix="crosskd-train-") as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(config.model_dump_json(), encoding="utf-8")  # JSON is YAML
        options = ["--workdir", str(workdir), *(["--resume"] if resume else [])]
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


def _evaluate(weights: Path, config: TrainConfig, matches: Path | None, as_json: bool, roots: list[Path]) -> None:
    from rich.table import Table

    with quick_imports():
        from crosskd.runs.evaluate import as_evaluation, evaluate_weights
        from crosskd.weights.files import write_bytes

    evaluation = evaluate_weights(as_evaluation(config, weights), roots=roots).evaluation
    if matches is not None and evaluation.matches is not None:
        write_bytes(matches, evaluation.matches)
    if as_json:
        print(json.dumps(evaluation.numbers()))
        return
    table = Table(title=weights.name)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_row("images", str(evaluation.images))
    table.add_row("detections an image", f"{evaluation.max_detections} at most")
    left_out = f", {evaluation.boxes_left_out} left out" if evaluation.boxes_left_out else ""
    as_is = " as they stand in the file" if evaluation.as_is else ""
    table.add_row("boxes of the ground truth", f"{evaluation.boxes}{left_out}{as_is}")
    for name, value in evaluation.metrics.items():
        table.add_row(name, f"{value:.4f}")
    for name, value in evaluation.per_class.items():
        table.add_row(f"AP of {name}", f"{value:.4f}")
    if evaluation.milliseconds_per_image is not None:
        table.add_row("ms per image", f"{evaluation.milliseconds_per_image:.1f}")
    Console().print(table)


def _settings_of(weights: Path) -> dict[str, Any]:
    """The sections of a TrainConfig that a weights file records: the scale at which it was evaluated, if any."""
    from crosskd.weights.description import describe

    scale = describe(weights).scale()
    return {} if scale is None else {"augment": augment_at(scale).model_dump()}


def _student_of(weights: Path) -> dict[str, Any]:
    """The model that a weights file names, as the values of `TrainConfig.student`."""
    from crosskd.weights.description import describe

    if (model := describe(weights).model()) is None:
        raise ConfigError(
            f"{weights.name} does not say which model it holds",
            remedy="Name a recipe whose student it is (--recipe), or write it anew: crosskd convert IN OUT.safetensors "
            "--to native.",
        )
    return model.model_dump()


def _read(recipe: str) -> dict[str, Any]:
    """The values of a YAML file, or of the packaged recipe of that name."""
    path = Path(recipe)
    if not path.exists() and recipe in recipe_names():
        return load_recipe(recipe)
    try:
        values = parse_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        remedy = f"Name a YAML file, or one of the packaged recipes: {', '.join(recipe_names())}."
        remedy = f"{did_you_mean(recipe, recipe_names())} {remedy}".lstrip()
        raise ConfigError(f"there is no recipe {recipe!r}", remedy=remedy) from error
    except OSError as error:
        remedy = "Name a YAML file that you may read."
        message = f"the recipe cannot be read: {error.strerror or error}"
        raise ConfigError(message, where=recipe, remedy=remedy) from error
    except ValueError as error:
        remedy = "Correct the text at that place: indentation, brackets, quotes. A packaged recipe shows the form."
        raise ConfigError(f"the recipe cannot be read: {error}", where=recipe, remedy=remedy) from error
    if not isinstance(values, dict):
        raise ConfigError("the recipe is no mapping of settings", where=recipe, remedy="Start from a packaged one.")
    return values


def _with_options(
    values: dict[str, Any], data: Path | None, teacher: Path | None, changes: list[str]
) -> dict[str, Any]:
    """The recipe's values under the options of the command line; `--set` has the last word."""
    values = dict(values)
    if data is not None:
        known = values.get("data") if isinstance(values.get("data"), dict) else {}
        values["data"] = {**(known or {}), **data_section(data)}
    if teacher is not None:
        known = values.get("teacher") if isinstance(values.get("teacher"), dict) else {}
        values["teacher"] = {**(known or {}), "weights": {"file": str(teacher)}}
    return _with_changes(values, changes)


def _with_changes(values: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not all(key.split(".")):
            raise ConfigError(
                f"--set {_short(change)} is not KEY.PATH=VALUE", remedy="Write e.g. --set schedule.epochs=24."
            )
        try:
            value = parse_yaml(text)
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
def _stop_on_interrupt(console: Console, answer: str = AFTER_THIS_STEP) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) asks for a stop, as `answer` says; the second ends the program at once."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        console.print(answer)
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fault_line(fault: Any, model: str) -> str:
    """One of the faults of the configuration `model`, with what to do where a field is not known."""
    place = fault["loc"]
    line = f"/{'/'.join(map(str, place))}: {fault['msg'].removeprefix('Value error, ')}"
    holder = model_at(CONFIGS.get(model), place[:-1]) if fault["type"] == "extra_forbidden" else None
    return line if holder is None else f"{line}. {propose(place[-1], holder.model_fields)}"


@contextlib.contextmanager
def _clear_errors() -> Iterator[None]:
    """Errors of the user's making as lines on stderr with an exit code, never as a traceback."""
    try:
        yield
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            typer.echo(_fault_line(fault, error.title), err=True)
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
    with exit_without_cleanup():
        app(prog_name="python -m crosskd")
