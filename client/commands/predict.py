"""`crosskd predict`: what a job, or a file of weights, finds in images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from client.commands.core import become_core
from client.commands.shared import FAILED, AsJson, Url, connect, wide_console
from client.errors import ApiProblem
from client.sdk import Crosskd
from client.terminal import tables
from client.terminal.visible import visible
from crosskd.predict.output import OutputFolder, table_rows
from crosskd.spec.results.predictions import MAX_DETECTIONS, PICTURE_SCORE, Predictions

SUFFIXES = frozenset({".onnx", ".safetensors", ".pth", ".pt"})

app = typer.Typer()


@app.command()
def predict(
    model: Annotated[
        str,
        typer.Argument(metavar="JOB|FILE", help="A job, a .onnx or .safetensors file, or a folder of transformers."),
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Images.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The folder for pictures with boxes and predictions.json.")
    ],
    score: Annotated[float, typer.Option(min=0, max=1, help="The least score of a box.")] = PICTURE_SCORE,
    most: Annotated[int, typer.Option("--max", min=1, max=MAX_DETECTIONS, help="Boxes of an image, the best.")] = 100,
    as_json: AsJson = False,
    url: Url = "",
) -> None:
    """Find objects in images: with a job by the service, with a file on this machine, without the service."""
    if is_file(model):
        options = ["--output", str(output), "--score", str(score), "--max", str(most), *(["--json"] if as_json else [])]
        become_core("predict", [*options, "--", model, *map(str, images)])
    folder = OutputFolder(output, images)
    with connect(url) as client:
        model = client.jobs.resolve(model)  # once, and not for each picture
        predictions = client.jobs.predict(model, images, score=score, most=most)
        pictures = draw(client, model, images, predictions, folder, score, most)
    folder.write_answer(predictions)
    if as_json:
        print(predictions.model_dump_json(indent=2))
    else:
        show(predictions, pictures)
    if any(image.fault for image in predictions.images):
        raise typer.Exit(FAILED)


def is_file(model: str) -> bool:
    """Whether a file is meant, or a folder of transformers: one that is there, or whose name says so."""
    path = Path(model)
    return path.suffix.lower() in SUFFIXES or path.is_file() or (path / "config.json").is_file()


def draw(
    client: Crosskd,
    job: str,
    images: list[Path],
    predictions: Predictions,
    folder: OutputFolder,
    score: float,
    most: int,
) -> list[Path | None]:
    """The pictures of the images that have a result, as the service draws them. None: it has none."""
    pictures: list[Path | None] = []
    for path, image in zip(images, predictions.images, strict=True):
        target = None
        if image.fault is None:
            try:
                content = client.jobs.predict_picture(job, path, score=score, most=most)
            except ApiProblem as error:  # such as the time limit, which drawing has reached
                image.remark = f"no picture: {error.message}"
            else:
                target = folder.picture(path)
                folder.write(target, content)
        pictures.append(target)
    return pictures


def show(predictions: Predictions, pictures: list[Path | None]) -> None:
    """A row for each image, and what is wrong with it."""
    wide_console().print(tables.predictions_table(table_rows(predictions, pictures)))
    for image in predictions.images:
        if image.remark:
            print(visible(f"{image.file_name}: {image.remark}"))
