"""The configuration that MMDetection writes into its checkpoints: Python text, parsed and never run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from typing import Any

LONGEST = 1_000_000  # characters; such a text has ten thousand
_WANTED = ("model", "test_cfg", "data_preprocessor", "preprocess_cfg", "img_norm_cfg")
_BEHIND = 3  # lines behind a statement that may be none of it
_ASSIGNMENT = re.compile(r"(\w+)\s*=\s*\S")
UNKNOWN = object()


def parse_config(text: Any) -> dict[str, Any]:
    """The settings of a detector in a config's `text`; empty where it tells none.

    A text may hold several files, each after its path: an entry that comes later changes the one before it.
    """
    found: dict[str, Any] = {}
    if not isinstance(text, str) or len(text) > LONGEST:
        return found
    for name, value in _assignments(text):
        if name in _WANTED and isinstance(value, dict):
            found[name] = _merged(found.get(name), value)
    return found if section(found, "model", "bbox_head") or section(found, "model", "roi_head") else {}


def _assignments(text: str) -> Iterator[tuple[str, Any]]:
    """Name and value of each wanted statement `name = ...` that begins a line; all else is passed over."""
    lines = text.splitlines()
    begins = [(place, match[1]) for place, line in enumerate(lines) if (match := _ASSIGNMENT.match(line))]
    ends = [place for place, _ in begins[1:]] + [len(lines)]
    for (begin, name), end in zip(begins, ends, strict=False):
        if name not in _WANTED:
            continue
        for shorter in range(min(_BEHIND, end - begin - 1) + 1):  # behind the statement may stand the next file's path
            try:
                statement = ast.parse("\n".join(lines[begin : end - shorter])).body[0]
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue
            if isinstance(statement, ast.Assign):
                yield name, _value(statement.value)
            break


def _value(node: ast.expr) -> Any:
    """A plain value; `UNKNOWN` for a name, a sum, a call. Entries of a dictionary that are unknown are left out."""
    match node:
        case ast.Constant():
            return node.value
        case ast.List() | ast.Tuple():
            items = [_value(item) for item in node.elts]
            return UNKNOWN if UNKNOWN in items else items
        case ast.Dict():
            entries = zip(node.keys, node.values, strict=True)
            return _known({key.value: _value(value) for key, value in entries if isinstance(key, ast.Constant)})
        case ast.Call(func=ast.Name(id="dict")):
            return _known({keyword.arg: _value(keyword.value) for keyword in node.keywords if keyword.arg is not None})
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
    return UNKNOWN


def _known(entries: dict[Any, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in entries.items() if value is not UNKNOWN}


def _merged(old: Any, new: Any) -> Any:
    """As MMDetection lays a file over its base: dictionaries entry by entry, unless one says `_delete_`."""
    if not isinstance(old, dict) or not isinstance(new, dict) or new.get("_delete_"):
        return {key: value for key, value in new.items() if key != "_delete_"} if isinstance(new, dict) else new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def section(values: Any, *names: str) -> dict[str, Any]:
    """The dictionary below `names`; empty where there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return dict(values) if isinstance(values, Mapping) else {}
