"""Writing a specification: its schema, and YAML read as `crosskd submit` reads it."""

from __future__ import annotations

import json
import re
import sys
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from pydantic_core import PydanticCustomError

from wire.errors import Text
from wire.request import RequestModel
from wire.scalars import LARGEST

MAX_TEXT_CHARACTERS = 100_000
MAX_DEPTH = 40  # sections in sections
MAX_PROBLEMS = 100  # of a text, told one by one
_SURROGATE = re.compile("[\ud800-\udfff]")


class SpecSchema(BaseModel):
    """`GET /specs/schema`: what a form for jobs and sweeps is made of."""

    job: dict[str, Any] = Field(description="JSON schema (2020-12) of the body of `POST /jobs`.")
    sweep: dict[str, Any] = Field(description="JSON schema (2020-12) of the body of `POST /sweeps`.")
    detectors: list[str] = Field(description="The names that `detector` takes.")
    backbones: list[str] = Field(description="The names that `backbone.name` takes.")
    methods: list[str] = Field(description="The fields of `distill`: one for each method of distillation.")
    data_roots: list[str] = Field(
        description="Folders of the service that hold data. Paths lie in one of them, or are relative to one."
    )


class SpecText(RequestModel):
    """`POST /specs/parse`."""

    text: Annotated[str, StringConstraints(max_length=MAX_TEXT_CHARACTERS)] = Field(
        description="YAML, of which JSON is a part: a job, a specification or a sweep."
    )


def _bounded(value: dict[str, Any]) -> dict[str, Any]:
    """Level by level: what is as deep as a body may be would end Python's own recursion."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        _refuse_unwritable([name for one in level if isinstance(one, dict) for name in one])
        inner = (one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list))
        level = [each for one in inner for each in one]
        _refuse_unwritable(level)
    if any(isinstance(one, dict | list) for one in level):
        raise PydanticCustomError("too_deep", "it is nested more than {most} deep", {"most": MAX_DEPTH})
    if len(json.dumps(value)) > MAX_TEXT_CHARACTERS:
        message = "it is longer than {most} characters as JSON; give less"
        raise PydanticCustomError("too_long", message, {"most": MAX_TEXT_CHARACTERS})
    return value


def _refuse_unwritable(values: list[Any]) -> None:
    """What Python's reader of JSON takes, and `POST /specs/parse` would refuse in the text that says it."""
    for each in values:
        if isinstance(each, str) and not each.isprintable() and _SURROGATE.search(each):
            raise PydanticCustomError("no_text", "half a surrogate pair is no text; write the whole character")
        most = LARGEST if isinstance(each, int) else sys.float_info.max
        if isinstance(each, int | float) and not abs(each) <= most:  # a NaN's is not, either
            raise PydanticCustomError("no_number", "it holds a number that JSON has not; give a smaller, finite one")


class SpecEdit(SpecText):
    """`POST /specs/edit`."""

    value: Annotated[dict[str, Any], AfterValidator(_bounded)] = Field(
        description="What the text shall say: as `POST /specs/parse` has it, with changes."
    )


class TextProblem(BaseModel):
    """Something in a text that cannot be read."""

    line: int = Field(description="Line of the text, from 1.")
    column: int = Field(description="Character of that line, from 1.")
    detail: Text = Field(description="What is wrong there.")
    remedy: Text = Field(default="", description="What to do about it; empty: nothing is known.")


class ParsedText(BaseModel):
    """What a text says, or why that cannot be told."""

    value: dict[str, Any] | None = Field(description="The text as JSON; null: it has problems.")
    lines: dict[str, int] = Field(
        default={}, description="JSON pointers (RFC 6901) into `value`, each with its line in the text, from 1."
    )
    problems: list[TextProblem] = Field(default=[], description="What is wrong with the text; the first 100.")


class EditedText(ParsedText):
    """A text that says what it shall, or why it cannot be read."""

    text: str | None = Field(description="The new text, with the comments of the former one; null: it has problems.")
    comments_kept: bool = Field(
        default=True,
        description="Whether the comments stayed. False: the text is written anew, since it is of a rare form, or "
        "since more than a thousand places change.",
    )
