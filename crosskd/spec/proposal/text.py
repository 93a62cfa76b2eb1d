"""YAML with a comment above each choice that says why. Imports no torch."""

from __future__ import annotations

import re
import textwrap
from typing import Any, NamedTuple

import yaml

WIDTH = 100  # characters of a line of comment
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_/.+-]*")


class Said(NamedTuple):
    """A value, or a section of such, and why it is so; empty: it speaks for itself."""

    value: Any
    why: str = ""


Tree = dict[str, Said]


def plain(tree: Tree) -> dict[str, Any]:
    """The values alone, as they are posted."""
    return {name: plain(said.value) if isinstance(said.value, dict) else said.value for name, said in tree.items()}


def bare(tree: Tree) -> Tree:
    """The same without any reason."""
    return {name: Said(bare(said.value) if isinstance(said.value, dict) else said.value) for name, said in tree.items()}


def reasons(tree: Tree, above: str = "") -> list[tuple[str, Any, str]]:
    """Each choice that has a reason: its dotted name, its value, why."""
    found = []
    for name, said in tree.items():
        values = plain(said.value) if isinstance(said.value, dict) else said.value
        if said.why:
            found.append((above + name, values, said.why))
        if isinstance(said.value, dict):
            found += reasons(said.value, f"{above}{name}.")
    return found


def to_yaml(head: str, tree: Tree) -> str:
    """The whole file: `head` as a comment, whose paragraphs are lines of the text; then the sections."""
    lines = [line for paragraph in head.split("\n") for line in _comment(paragraph, "")]
    for name, said in tree.items():
        lines += ["", *_entry(name, said, "")]
    return "\n".join(lines) + "\n"


def _entry(name: str, said: Said, indent: str) -> list[str]:
    lines = _comment(said.why, indent)
    if not isinstance(said.value, dict):
        return [*lines, f"{indent}{name}: {_inline(said.value)}"]
    if not said.value:
        return [*lines, f"{indent}{name}: {{}}"]
    inner = [line for key, value in said.value.items() for line in _entry(key, value, indent + "  ")]
    return [*lines, f"{indent}{name}:", *inner]


def _comment(text: str, indent: str) -> list[str]:
    """Lines that nothing in `text` can break out of: what is no shape becomes its escape."""
    shown = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
    wrapped = textwrap.wrap(shown, WIDTH - len(indent) - 2, break_long_words=False, break_on_hyphens=False)
    return [f"{indent}# {line}" for line in wrapped]


def _inline(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline, value))}]"
    if isinstance(value, str):
        if _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
            return value
        text = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=float("inf"))
        return str(text).rstrip("\n")
    return str(yaml.safe_dump(value)).partition("\n")[0]
