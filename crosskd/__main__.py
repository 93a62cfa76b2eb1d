"""The core alone, without any service: `python -m crosskd train RECIPE`, `evaluate WEIGHTS` and `export WEIGHTS`.

Exit codes: 0 done, 1 the run failed, 2 the configuration is wrong, 130 interrupted (after a step, with a checkpoint).
Nothing here imports torch before a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from crosskd.commands.errors import clear_errors
from crosskd.commands.settings import read_recipe, require_files, with_changes, with_options
from crosskd.commands.training import run_train
from crosskd.commands.weights import evaluation_settings, run_evaluate, run_export, tell_notes
from crosskd.engine.launch import exit_without_cleanup
from crosskd.errors import ConfigError
from crosskd.spec.config import BackboneConfig, ExportConfig, ModelConfig, TrainConfig
from crosskd.spec.inputs import is_folder, real_path
from crosskd.spec.registry import BACKBONES
from crosskd.spec.results.predictions import MAX_DETECTIONS, PICTURE_SCORE

if TYPE_CHECKING:
    from crosskd.convert.backbone import BackboneReport
    from crosskd.convert.convert import Report

DataRoots = Annotated[
    list[Path] | None,
    typer.Option("--data-root", help="A folder that images may be links into, beside their own; as often as you like."),
]

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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print AP and files as JSON in the end; what is told until then: stderr.")
    ] = False,
    data_root: DataRoots = None,
) -> None:
    """Train a detector, alone or distilled from a teacher."""
    with clear_errors():
        config = TrainConfig.model_validate(with_options(read_recipe(recipe), data, teacher, change or []))
        require_files(config)
        run_train(config, workdir, resume, as_json, _real(data_root))


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
        typer.Option(
            "--set",
            help="KEY.PATH=VALUE of a TrainConfig: batch_size, augment, student.postprocess, …; all of student for "
            "a file that does not say its model.",
        ),
    ] = None,
    matches: Annotated[
        Path | None, typer.Option(help="Where to write which detections were right: what comparisons are made of.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
    data_root: DataRoots = None,
) -> None:
    """Evaluate a weights file: its COCO AP."""
    with clear_errors():
        split = {"annotations": str(annotations), "images": str(images)}
        config = evaluation_settings(weights, split, recipe, change or [])
        run_evaluate(weights, config, matches, as_json, _real(data_root))


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
    with clear_errors():
        values = read_recipe(settings) if settings is not None else {}
        values = {**values, "weights": {"file": str(weights)}, "images": str(images)}
        config = ExportConfig.model_validate(with_changes(values, change or []))
        run_export(config, workdir, as_json, _real(data_root))


@app.command()
def predict(
    model: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .onnx or .safetensors file, or a folder of transformers.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for pictures with boxes and predictions.json.")
    ],
    score: Annotated[float, typer.Option(min=0, max=1, help="The least score of a box.")] = PICTURE_SCORE,
    most: Annotated[int, typer.Option("--max", min=1, max=MAX_DETECTIONS, help="Boxes of an image, the best.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print what predictions.json has.")] = False,
) -> None:
    """Find objects in images; an ONNX graph needs onnxruntime alone, other weights PyTorch."""
    with clear_errors():
        from crosskd import predict_files

        if is_folder(model):
            tell_notes(model)
        predictions, pictures = predict_files.predict(model, images, output, score=score, most=most)
        if as_json:
            print(predictions.model_dump_json(indent=2))
        else:
            predict_files.show(predictions, pictures)
        if any(image.fault for image in predictions.images):
            raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(metavar="IN", help="Weights of ours, MMDetection or torchvision, or a folder of transformers."),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A .safetensors file; for other projects also .pth; a new folder for transformers."
        ),
    ],
    to: Annotated[
        Literal["mmdet", "torchvision", "transformers", "native", "backbone"],
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
    as_json: Annotated[bool, typer.Option("--json", help="Print what became of every tensor as JSON.")] = False,
) -> None:
    """Write a detector's weights as another project names and orders them, and say what became of the tensors.

    Which model IN holds stands in our own files, else it is told from the tensors, where they tell enough. Of a
    training checkpoint the student is taken, alone.
    """
    with clear_errors():
        from crosskd.convert.classes import parse_classes
        from crosskd.convert.convert import prepare
        from crosskd.weights.files import write_text

        if to == "backbone":
            _convert_backbone(source, target, model, report, verbose, as_json)
            return
        known = ModelConfig.model_validate(_student_in(read_recipe(model))) if model is not None else None
        names = parse_classes(classes) if classes is not None else None
        conversion = prepare(source, to, model=known, classes=names)
        _tell(conversion.report, verbose, as_json)
        if report is not None:
            write_text(report, conversion.report.json())
        conversion.write(target, drop_unexpected=drop_unexpected)


def _tell(report: Report | BackboneReport, verbose: bool, as_json: bool) -> None:
    print(report.json() if as_json else "\n".join(report.lines(verbose=verbose)), flush=True)


def _convert_backbone(
    source: Path, target: Path, model: str | None, report: Path | None, verbose: bool, as_json: bool
) -> None:
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
        values = _student_in(read_recipe(model))
        values = values.get("backbone", values) if isinstance(values, dict) else values
    if isinstance(values, dict):
        values = {**values, "init": "random"}
    conversion = prepare_backbone(source, BackboneConfig.model_validate(values))
    _tell(conversion.report, verbose, as_json)
    if report is not None:
        write_text(report, conversion.report.json())
    conversion.write(target)


def _student_in(values: dict[str, Any]) -> Any:
    """The values of a ModelConfig: these, or those of a recipe's student."""
    return values.get("student", values)


def _real(roots: list[Path] | None) -> list[Path]:
    return [real_path(root) for root in roots or []]


if __name__ == "__main__":
    with exit_without_cleanup():
        app(prog_name="python -m crosskd")
