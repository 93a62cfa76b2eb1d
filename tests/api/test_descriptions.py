"""What the published schema says of its fields: every one of them, with its unit and its bounds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI

from tests.support.openapi import described
from wire.jobs import SPECS

BOUNDED = {"enum", "const"}
LOW, HIGH = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
# How a description says what the schema does not: an answer's numbers have no bounds that anybody checks.
SAID_LOW = re.compile(r"\bfrom [01]\b|\d\.\.\d|\bany (finite )?number\b|\d to \d")
WORDS = 3
FIELDS = 500  # of them there are more; fewer would mean that the test looks elsewhere


@pytest.fixture(scope="module")
def backend() -> str:
    return "sqlite"  # the description is of no database


@pytest.fixture
def document(app: FastAPI) -> dict[str, Any]:
    return described(app)


def fields(schemas: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for model, schema in schemas.items():
        for name, field in schema.get("properties", {}).items():
            yield f"{model}.{name}", field


def unbounded(field: dict[str, Any]) -> bool:
    """Whether it is a number of which neither schema nor description say where it begins."""
    forms = [form for form in (field, *field.get("anyOf", ())) if form.get("type") in ("integer", "number")]
    said = SAID_LOW.search(field.get("description", ""))
    return not said and any(not (form.keys() & (BOUNDED | LOW)) for form in forms)


def faults(schemas: dict[str, Any]) -> list[str]:
    found = []
    for name, field in fields(schemas):
        if len(field.get("description", "").split()) < WORDS:
            found.append(f"{name} is not described")
        elif unbounded(field):
            found.append(f"{name} does not say its bounds")
    return found


def test_every_field_is_described_with_its_bounds(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert len(list(fields(schemas))) > FIELDS
    assert faults(schemas) == []


@pytest.mark.parametrize("kind", ["train", "evaluate", "export", "import"])
def test_so_is_every_field_of_a_specification(kind: str) -> None:
    schema = SPECS[kind].model_json_schema()
    assert faults({kind: schema, **schema["$defs"]}) == []


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    parameters = [
        (path, parameter)
        for path, operations in document["paths"].items()
        for operation in operations.values()
        for parameter in operation.get("parameters", ())
    ]
    assert len(parameters) > 50
    assert [(path, each["name"]) for path, each in parameters if len(each.get("description", "").split()) < 2] == []


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ({"type": "string"}, "X.y is not described"),
        ({"type": "string", "description": "Bytes."}, "X.y is not described"),
        ({"type": "string", "description": "The name of it."}, None),
        ({"type": "integer", "description": "How many there are."}, "X.y does not say its bounds"),
        ({"type": "integer", "description": "How many there are.", "minimum": 0}, None),
        ({"type": "integer", "description": "How many there are, from 0."}, None),
        ({"anyOf": [{"type": "number"}, {"type": "null"}], "description": "AP of it."}, "X.y does not say its bounds"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}], "description": "AP of it, 0..1."}, None),
    ],
    ids=str,
)
def test_what_is_not_described_is_found(field: dict[str, Any], found: str | None) -> None:
    assert faults({"X": {"properties": {"y": field}}}) == ([found] if found else [])
