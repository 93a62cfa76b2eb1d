"""Validation images as a table: what the student found in each, beside its teacher and another job."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from client.terminal.tables import add_row, number, plain_table
from client.terminal.visible import visible
from wire.images import ImageModel, ImagePage, ShownModel


def images_table(page: ImagePage) -> Table:
    """One row an image; above it, what the rows are of, and how all images did below it."""
    others = [name for name in ("teacher", "against") if getattr(page, name) is not None]
    beside = (f"F1 {name}" for name in others)
    table = plain_table("id", "image", "F1", "true", "false", "missed", *beside, "loss", "gain")
    table.title = Text(visible(_title(page)))
    table.title_justify = "left"
    for image in page.items:
        add_row(
            table,
            str(image.id),
            image.file_name,
            *_found(image.student),
            *(number(getattr(image, name).f1) for name in others),
            f"{image.f1_loss:+.3f}",
            "" if image.gain is None else f"{image.gain:+.3f}",
        )
    over_all = [number(getattr(page, name).f1) for name in others]
    add_row(table, "", f"all {page.images} images", *_found(page.student), *over_all, "", "")
    return table


def _title(page: ImagePage) -> str:
    shown = {"student": page.student, "teacher": page.teacher, "against": page.against}
    scores = ", ".join(f"{name} from score {_score(one)}" for name, one in shown.items() if one is not None)
    which = "sample images" if page.samples else "validation images"
    return f"{which} at step {page.student.step}, IoU {page.iou:g}: {scores}"


def _score(model: ShownModel) -> str:
    return "-" if model.score is None else f"{model.score:.3f}"


def _found(model: ImageModel | ShownModel) -> tuple[str, str, str, str]:
    return number(model.f1), str(model.true), str(model.false), str(model.missed)
