"""YAML with reasons: it says what it was given, and no text breaks out of a comment."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from crosskd.spec.proposal.text import Said, Tree, bare, plain, reasons, to_yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
VALUES = st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none())


@given(TEXT, TEXT, st.one_of(VALUES, st.lists(VALUES, max_size=4)))
def test_what_is_written_is_read_again(head: str, why: str, value: object) -> None:
    tree: Tree = {"a": Said({"b": Said(value, why), "c": Said({})}, why), "d": Said(value)}
    text = to_yaml(head, tree)
    assert yaml.safe_load(text) == plain(tree) == {"a": {"b": value, "c": {}}, "d": value}
    assert text == to_yaml(head, tree)


def test_reasons_stand_above_what_they_are_for() -> None:
    tree: Tree = {"a": Said({"b": Said([1, 2.5], "Because.")}), "c": Said("x y", "As asked.\nfor: #1")}
    text = '# Head.\n\na:\n  # Because.\n  b: [1, 2.5]\n\n# As asked.\\nfor: #1\nc: "x y"\n'
    assert to_yaml("Head.", tree) == text
    assert reasons(tree) == [("a.b", [1, 2.5], "Because."), ("c", "x y", "As asked.\nfor: #1")]
    assert reasons(bare(tree)) == []
    assert plain(bare(tree)) == plain(tree)
