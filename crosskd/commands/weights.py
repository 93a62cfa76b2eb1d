"""`python -m crosskd evaluate` and `export`, once their configurations are read."""

from __future__ import annotations

import json
from pathlib import Path

import typer
from rich.console import Console

from crosskd.commands.errors import stop_on_interrupt
from crosskd.commands.settings import read_recipe, require_heeded, with_changes
from crosskd.engine.imports import quick_imports
from crosskd.errors import ConfigError
from crosskd.spec.config import ExportConfig, FileRef, TrainConfig
from crosskd.spec.evaluate_export import augment_at

# What an evaluation takes of a TrainConfig, beside `student`; the rest the weights say, or only a training needs.
EVALUATED = (
    "augment.antialias", "augment.keep_ratio", "augment.long_edge", "augment.pad_to", "augment.short_edges",
    "augment.sixteen_bit", "augment.val_short_edge", "batch_size", "data.classes", "data.max_corrupt_images",
    "data.max_image_pixels", "device", "evaluation.as_is", "evaluation.batch_size", "loader.workers", "threads",
)  # fmt: skip


def tell_notes(*weights: Path) -> None:
    """On stderr, what is good to know of the folders of transformers among them. Raises `WeightsError`."""
    from crosskd.weights.folder import folder_at, told_by

    for folder in filter(None, map(folder_at, weights)):
        for note in told_by(folder).notes:
            typer.echo(f"note: {folder.name}: {note}", err=True)


def run_export(config: ExportConfig, workdir: Path, as_json: bool, roots: list[Path]) -> None:
    try:
        with quick_imports():
            from crosskd.runs.export import export
    except ModuleNotFoundError as error:
        if error.name not in ("onnx", "onnxruntime", "onnxscript"):
            raise
        raise ConfigError(f"there is no {error.name} here", remedy="pip install 'crosskd[export]'.") from error

    console = Console()
    if isinstance(config.weights, FileRef):
        tell_notes(Path(config.weights.file))
    with stop_on_interrupt(console, "stopping") as stop:
        manifest = export(config, workdir, roots=roots, stop=stop)
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


def run_evaluate(weights: Path, config: TrainConfig, matches: Path | None, as_json: bool, roots: list[Path]) -> None:
    from rich.table import Table

    with quick_imports():
        from crosskd.runs.evaluate import as_evaluation, evaluate_weights
        from crosskd.weights.files import write_bytes

    tell_notes(weights)
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


def evaluation_settings(weights: Path, split: dict[str, str], recipe: str | None, changes: list[str]) -> TrainConfig:
    """How a file is evaluated: by a recipe or as its training did it, under the changes of the command line.

    Raises `ConfigError`, also for a change that the file itself decides or nobody needs.
    """
    from crosskd.weights.description import describe

    description = describe(weights)
    model, scale = description.model(), description.scale()
    if recipe is not None:
        values = read_recipe(recipe)
    else:
        values = {} if scale is None else {"augment": augment_at(scale).model_dump()}
    if "student" not in values:
        if model is None:
            raise ConfigError(
                f"{weights.name} does not say which model it holds",
                remedy="Name a recipe whose student it is (--recipe), or write it anew: crosskd convert IN "
                "OUT.safetensors --to native.",
            )
        values = {**values, "student": model.model_dump()}
    if isinstance(values["student"], dict):  # an evaluation has no loss: of a distillation alone its weights are 0
        values["student"] = {name: value for name, value in values["student"].items() if name != "losses"}
    values = {**values, "data": {"train": split, "val": split}, "teacher": None, "distill": None}
    config = TrainConfig.model_validate(with_changes(values, changes))
    require_heeded(changes, [*EVALUATED, "student" if model is None else "student.postprocess"], "an evaluation")
    return config
