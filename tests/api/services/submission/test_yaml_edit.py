"""A text written by hand, changed from outside: it says what it shall, and all else in it stays."""

from __future__ import annotations

import copy
import random
import time
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.services.submission.yaml_edit import edit
from api.services.submission.yaml_text import parse
from tests.support.api_client import problem
from wire.specs import MAX_DEPTH, MAX_TEXT_CHARACTERS

TEXT = """\
# top
name: by hand 😀   # the name
# about the spec
spec:
    # data first
    data:
        train: {annotations: a.json, images: "b"}   # flow
    seed: 012     # odd
    # about ema
    ema: {decay: 0.99}

    # about augment
    augment:
        short_edges:
          - 320   # small
          - 352
        flip: yes
    empty:
    n: ~
    lr: 1.0e-5
    text: |
      a
      b
    # after text
    list:
    - a: 1
      b: 2
    # in list
    - c: 3
    folded: one
      two   # folded
"""


@pytest.fixture(scope="module")
def backend() -> str:
    return "sqlite"  # nothing is stored


@pytest.mark.parametrize(
    ("old", "value", "new"),
    [
        ("a: 1  # one\n# two\nb: 2\n", {"a": 3, "b": 2}, "a: 3  # one\n# two\nb: 2\n"),
        ("a: 1  # one\n# two\nb: 2\n", {"b": 2}, "# two\nb: 2\n"),
        ("a: 1\n# two\nb: 2 # b\n# end\n", {"a": 1, "c": "yes"}, "a: 1\nc: 'yes'\n# two\n# end\n"),
        ("a:  # none\n  b: 1 # b", {"a": {"b": 1, "c": [1, 2]}}, "a:  # none\n  b: 1 # b\n  c: [1, 2]\n"),
        ("a: {b: 1, c: 2}  # flow\n", {"a": {"b": 5, "c": 2}}, "a: {b: 5, c: 2}  # flow\n"),
        ("a: {b: 1}  # flow\n", {"a": {"d": 1.5e-7}}, "a: {d: 1.5e-07}  # flow\n"),
        ("a:\n# above\n- 1\n- 2 # two\nb: 3\n", {"a": [4], "b": 3}, "a: [4]\n# above\nb: 3\n"),
        ("a:\n- x: 1\n  # c\n- y\n", {"a": [{"x": 1, "z": None}, "y"]}, "a:\n- x: 1\n  z: null\n  # c\n- y\n"),
        ("a: 1 # one\nb: 2\n", {"a": {"c": {"d": "x\ny"}}, "b": 2}, 'a: # one\n  c:\n    d: "x\\ny"\nb: 2\n'),
        ("a: |\n  x\n# c\nb: 2\n", {"a": "z", "b": 2}, "a: z\n# c\nb: 2\n"),
        ("'a': \"1\"  # quoted\nb:\n", {"a": "1", "b": False}, "'a': \"1\"  # quoted\nb: false\n"),
        ("---\na: 012\nb: 1_000\n", {"a": 10, "b": 1000, "c": 1}, "---\na: 012\nb: 1_000\nc: 1\n"),
        ("a: 1\n# all gone\n", {}, "{}\n# all gone\n"),
        ("# new\n{}\n", {"a": 1}, "# new\n{a: 1}\n"),
        ("\ufeff# one\na: 1 # two\n", {"a": 3}, "\ufeff# one\na: 3 # two\n"),
        ("\ufeffa: 1\nb: 2 # b\n", {"b": 2}, "\ufeffb: 2 # b\n"),
    ],
)  # fmt: skip
def test_only_what_differs_is_written(old: str, value: dict[str, Any], new: str) -> None:
    found = edit(old, value)
    assert found.text == new
    assert found.comments_kept
    assert found.value == parse(new).value == value
    assert found.lines == parse(new).lines


LEAVES: list[Any] = [
    *(None, 1, -2.5, 1e-5, True, "yes", "a b", "a: b", "# x", "", "~", "a\nb", "é\u2028", "2026-01-01", "x" * 150),
    *([], {}, [1, 2], [[1], {"a": 2}], {"a": 1}, {"a": {"b": [1]}}),
]


def changed(value: Any, dice: random.Random) -> Any:
    """With a few parts replaced, taken away or new, anywhere."""
    made = copy.deepcopy(value)
    nodes = [made]
    for node in nodes:  # which grows
        nodes += [
            inner for inner in (node.values() if isinstance(node, dict) else node) if isinstance(inner, dict | list)
        ]
    for _ in range(dice.randint(1, 4)):
        node, leaf = dice.choice(nodes), copy.deepcopy(dice.choice(LEAVES))
        places = list(node) if isinstance(node, dict) else list(range(len(node)))
        what = dice.choice(["put", "take", "add"])
        if what == "add" and isinstance(node, dict):
            node[dice.choice(["p", "q", "null", "r s"])] = leaf
        elif what == "add":
            node.append(leaf)
        elif places and what == "take":
            del node[dice.choice(places)]
        elif places:
            node[dice.choice(places)] = leaf
    return made


def test_whatever_changes_the_text_says_it_and_keeps_its_comments() -> None:
    dice = random.Random(0)
    for _ in range(150):
        text, value = TEXT, parse(TEXT).value
        for _ in range(3):  # what was written so is edited again
            value = changed(value, dice)
            found = edit(text, value)
            assert found.text is not None
            assert parse(found.text).value == value, (text, value)
            assert found.comments_kept, (text, value)
            text = found.text
        assert "# top\n" in text


def test_what_cannot_be_read_is_told_as_when_it_is_read(client: TestClient) -> None:
    for text in ("a: &x [1]\nb: *x", "a: !!python/name:os.system x", "a: 1\na: 2", "a: [", "[" * 10_000, "- 1"):
        told = client.post("/specs/edit", json={"text": text, "value": {"a": 1}}).json()
        assert told["text"] is None
        assert told["problems"] == client.post("/specs/parse", json={"text": text}).json()["problems"] != []
    for body in (
        {"text": " " * (MAX_TEXT_CHARACTERS + 1), "value": {}},
        {"text": "a: 1", "value": {"a": "x" * MAX_TEXT_CHARACTERS}},
        {"text": "a: 1", "value": {"a": deep(MAX_DEPTH)}},
        {"text": "a: 1", "value": [1]},
    ):
        problem(client.post("/specs/edit", json=body), 422)
    for value in ('{"\\ud800": 1}', '{"a": ["\\ud800"]}', '{"a": NaN}', '{"a": [1e999]}', f'{{"a": 1{"0" * 400}}}'):
        content = f'{{"text": "a: 1", "value": {value}}}'
        found = client.post("/specs/edit", content=content, headers={"content-type": "application/json"})
        problem(found, 422)
        assert [error["pointer"] for error in found.json()["errors"]] == ["/value"]
    told = client.post("/specs/edit", json={"text": "a: 1", "value": {"a": deep(MAX_DEPTH - 1)}}).json()
    assert parse(told["text"]).value == {"a": deep(MAX_DEPTH - 1)}


def deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels - 1):
        value = [value]
    return value


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"k{number}: {number}\n" for number in range(8000)),
        "a: [" + "1," * 30_000 + "1]",
        "a:\n" + "- b: 1\n  c: 2\n" * 6000,
        "a: 1\n" + "#\n" * 45_000,
    ],
)
def test_hostile_texts_cost_little_and_may_lose_their_comments(text: str) -> None:
    def other(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: other(inner) for name, inner in value.items()}
        return [other(inner) for inner in value] if isinstance(value, list) else "b"

    value = other(parse(text).value)
    began = time.thread_time()
    found = edit(text, value)
    assert time.thread_time() - began < 5.0
    assert found.text is not None
    assert parse(found.text).value == value
    assert found.comments_kept == ("#" in text)
