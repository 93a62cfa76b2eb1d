"""YAML from outside: read as the command line reads it, refused with line and column, never a reason to fall."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient

from api.services.submission.yaml_text import MAX_LINES, parse
from crosskd.spec.presets import parse_yaml, recipe_names, recipe_text
from tests.support.api_client import problem
from wire.specs import MAX_DEPTH, MAX_PROBLEMS, MAX_TEXT_CHARACTERS


@pytest.fixture(scope="module")
def backend() -> str:
    return "sqlite"  # nothing is stored


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_read_as_the_command_line_reads_them(name: str) -> None:
    found = parse(recipe_text(name))
    assert found.value == parse_yaml(recipe_text(name))
    lines = recipe_text(name).splitlines()
    for at, line in found.lines.items():
        last = at.rpartition("/")[2]
        assert last.isdecimal() or f"{last}:" in lines[line - 1]


@pytest.mark.parametrize(
    ("text", "line", "column", "detail"),
    [
        ("a: 1\nb: [1, 2\nc: 3", 3, 2, "expected ',' or ']'"),
        ("a: 1\nb: 2\na: 3", 3, 1, "the key a is there twice: first in line 1"),
        ("a: &x [1]\nb: *x", 2, 4, "*x is an alias"),
        ("a: 2026-01-01", 1, 4, "is a date"),
        ("a: .nan", 1, 4, "is no number that JSON has"),
        ("a: 1" + "0" * 400, 1, 4, "is no number that JSON has"),
        ("a: 9" + "9" * 5000, 1, 4, "is no int"),
        ("a: !!int abc", 1, 4, "abc is no int"),
        ("a: !!python/object/apply:os.system [x]", 1, 4, "the tag tag:yaml.org,2002:python/object/apply:os.system"),
        ("a: !!binary aGk=", 1, 4, "is of the kind binary"),
        ("<<: {a: 1}", 1, 1, "`<<` is not taken"),
        ("1: a", 1, 1, "the key 1 is no text"),
        ("? [a]\n: b", 1, 3, "a section cannot be a key"),
        ("a: 1\n---\nb: 2", 2, 1, "a second document"),
        ("a: '\x07'", 1, 1, "control characters are not allowed"),
        ("- 1", 1, 1, "the text holds no mapping"),
        ("", 1, 1, "the text holds no mapping"),
        ("a: \ud800", 1, 1, "surrogates not allowed"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, line: int, column: int, detail: str) -> None:
    found = parse(text)
    assert found.value is None
    assert (found.problems[0].line, found.problems[0].column) == (line, column)
    assert detail in found.problems[0].detail
    assert found.problems[0].remedy


def test_all_that_is_wrong_is_told_at_once() -> None:
    assert [found.line for found in parse("a: 2026-01-01\nb: {c: 1, c: 2}\nd: *x").problems] == [1, 2, 3]
    assert len(parse("\n".join(f"{n}: 1" for n in range(300))).problems) == MAX_PROBLEMS


HOSTILE = {
    "laughs": "a: &a [x]\n" + "\n".join(f"k{n}: &k{n} [*a, *a, *a, *a]" for n in range(2000)),
    "brackets": "[" * MAX_TEXT_CHARACTERS,
    "deep": "\n".join(" " * n + "a:" for n in range(MAX_DEPTH + 1)),
    "dashes": "- " * (MAX_TEXT_CHARACTERS // 2),
    "a long key above many": f"{'k' * 120}:\n  {'l' * 120}:\n    {'m' * 60000}: [{'1,' * 19000}1]",
    "many": "a: [" + "1," * 49000 + "1]",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_texts_cost_little(name: str) -> None:
    text = HOSTILE[name]
    assert len(text) <= MAX_TEXT_CHARACTERS
    began = time.thread_time()
    found = parse(text)
    assert time.thread_time() - began < 5.0
    assert len(found.lines) <= MAX_LINES
    assert len(found.model_dump_json()) < 5 * MAX_TEXT_CHARACTERS


def test_over_http(client: TestClient) -> None:
    answer = client.post("/specs/parse", json={"text": "spec: {seed: 3}"})
    assert answer.json() == {"value": {"spec": {"seed": 3}}, "lines": {"/spec": 1, "/spec/seed": 1}, "problems": []}
    assert client.post("/specs/parse", json={"text": "a: ["}).json()["value"] is None
    problem(client.post("/specs/parse", json={"text": " " * (MAX_TEXT_CHARACTERS + 1)}), 422)


def test_the_schema_has_what_a_form_needs(client: TestClient) -> None:
    found = client.get("/specs/schema").json()
    epochs = found["job"]["$defs"]["ScheduleConfig"]["properties"]["epochs"]
    assert (epochs["minimum"], epochs["maximum"], epochs["default"]) == (1, 10_000, 12)
    assert epochs["description"]
    assert {"arms", "seeds", "base"} <= found["sweep"]["properties"].keys()
    assert "resnet18" in found["backbones"]
    assert "gfl" in found["detectors"]
    sections = found["job"]["$defs"]["DistillConfig"]["properties"].keys()
    assert set(found["methods"]) == sections - {"cache"}  # which is no method
    assert found["data_roots"] == [str(root) for root in client.app.state.settings.data_roots]  # type: ignore[attr-defined]
