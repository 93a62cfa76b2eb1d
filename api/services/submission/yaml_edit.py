"""A text of YAML made to say something else, with its comments, its order and its spelling kept.

What differs is written over the places where the parser found it, and nothing else is touched: what was written by
hand stays as it is, byte for byte. (A round trip through ruamel.yaml would take the comment above the next key away
with a key, indent anew, and move comments to other columns.)
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import yaml

from api.services.submission import yaml_text
from wire.specs import EditedText

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SAFE_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_ENDLESS = 1 << 30  # columns: nothing is folded
_STEP = 2  # columns by which a section is indented
_BYTE_ORDER = "\ufeff"  # some editors write it first of all; the parser does not count it
_MOST_CUTS = 1000  # places that are written over: nobody changes more by hand


def edit(text: str, value: dict[str, Any]) -> EditedText:
    """`text` changed so that it says `value`; or, as `yaml_text.parse`, why it cannot be read."""
    before = yaml_text.parse(text)
    if before.value is None:
        return EditedText(text=None, value=None, problems=before.problems)
    mark = _BYTE_ORDER if text.startswith(_BYTE_ORDER) else ""
    with suppress(_TooMany):
        written = mark + _edited(text.removeprefix(mark), before.value, value)
        after = yaml_text.parse(written)
        if after.value is not None and _same(after.value, value):
            return EditedText(text=written, value=value, lines=after.lines)
    written = _dump(value, flow=False)  # too much is new, or the text is of a form that these rules do not know
    return EditedText(text=written, value=value, lines=yaml_text.parse(written).lines, comments_kept=False)


def _edited(text: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    if not text.endswith("\n"):
        text += "\n"
    editor = _Editor(text)
    root = yaml.compose(text, Loader=_LOADER)
    assert isinstance(root, yaml.MappingNode)  # it has been read as one
    editor.mapping(root, old, new, above=None)
    return editor.result()


class _TooMany(Exception):
    """More places differ than are written over one by one."""


class _Editor:
    """Collects what to write where. Places are indexes into the text; none of them overlap."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._cuts: list[tuple[int, int, str]] = []  # from, to, what to write there

    def result(self) -> str:
        parts, done = [], 0
        for start, end, written in sorted(self._cuts, key=lambda cut: cut[:2]):  # stable: the inner ones come first
            parts += [self._text[done:start], written]
            done = end
        return "".join([*parts, self._text[done:]])

    def value(self, node: yaml.Node, old: Any, new: Any, above: yaml.ScalarNode | None) -> None:
        """`node`, which says `old`, shall say `new`. `above`: its key, where it is the value of a block mapping."""
        if _same(old, new):
            return
        if isinstance(node, yaml.MappingNode) and isinstance(new, dict) and new and node.value:
            self.mapping(node, old, new, above)
        elif isinstance(node, yaml.SequenceNode) and isinstance(new, list) and len(old) == len(new):
            for inner, one, other in zip(node.value, old, new, strict=True):
                self.value(inner, one, other, None)
        else:
            self._replace(node, new, above)

    def mapping(
        self, node: yaml.MappingNode, old: dict[str, Any], new: dict[str, Any], above: yaml.ScalarNode | None
    ) -> None:
        gone = [pair for pair in node.value if pair[0].value not in new]
        added = {name: inner for name, inner in new.items() if name not in old}
        stays = [pair for pair in node.value if pair[0].value in new]
        if (gone or added) and (node.flow_style or not stays or not all(self._begins_a_line(key) for key, _ in gone)):
            self._replace(node, new, above)
            return
        for key, inner in stays:
            name = key.value
            self.value(inner, old[name], new[name], None if node.flow_style else key)
        for key, inner in gone:
            self._cut(self._line_of(key), self._behind(key, inner))
        if added:
            indent = stays[0][0].start_mark.column
            behind = self._behind(*stays[-1])
            self._cut(behind, behind, _block(added, indent))

    def _replace(self, node: yaml.Node, new: Any, above: yaml.ScalarNode | None) -> None:
        start, end = node.start_mark.index, self._end(node)
        flow = isinstance(node, yaml.MappingNode) and bool(node.value) and node.flow_style
        to_lines = above is not None and isinstance(new, dict) and bool(new) and not flow
        literal = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")  # it ends behind a line break
        if above is None or not (to_lines or _is_block(node)):
            gap = " " if self._text[start - 1 : start] in (":", "-", "?") else ""  # nothing was there
            self._cut(start, end, gap + _inline(new) + ("\n" if literal else ""))
            return
        line = self._text.rfind("\n", 0, start) + 1
        if self._text[line:start].strip(" "):  # it begins behind its key
            while self._text[start - 1] == " ":
                start -= 1
            self._cut(start, end, "\n" if literal else "")
        else:
            self._cut(line, self._line_behind(end))
        if to_lines:
            behind = self._line_behind(end)
            self._cut(behind, behind, _block(new, above.start_mark.column + _STEP))
        else:
            colon = self._text.index(":", above.end_mark.index) + 1
            self._cut(colon, colon, f" {_inline(new)}")

    def _cut(self, start: int, end: int, written: str = "") -> None:
        if len(self._cuts) >= _MOST_CUTS:
            raise _TooMany
        self._cuts.append((start, end, written))

    def _begins_a_line(self, key: yaml.Node) -> bool:
        return not self._text[self._line_of(key) : key.start_mark.index].strip(" ")

    def _line_of(self, key: yaml.Node) -> int:
        return self._text.rfind("\n", 0, key.start_mark.index) + 1

    def _behind(self, key: yaml.Node, value: yaml.Node) -> int:
        """Where the line behind a pair of a block mapping begins."""
        return self._line_behind(max(self._end(value), key.end_mark.index))

    def _line_behind(self, end: int) -> int:
        return end if self._text[end - 1] == "\n" else self._text.find("\n", end) + 1

    def _end(self, node: yaml.Node) -> int:
        """Where its text ends; the parser's own mark of a block lies behind the comments that follow it."""
        while _is_block(node) and node.value:
            node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
        end: int = node.end_mark.index
        return end


def _is_block(node: yaml.Node) -> bool:
    return isinstance(node, yaml.CollectionNode) and not node.flow_style


def _same(one: Any, other: Any) -> bool:
    """As JSON: 1 is 1.0, and not true."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(inner, other[name]) for name, inner in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


class _Dumper(_SAFE_DUMPER):  # type: ignore[misc]
    """Every text is on one line, whatever it holds: so it can be put anywhere."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if value.isprintable() else '"')


_Dumper.add_representer(str, _text)


def _dump(value: Any, *, flow: bool) -> str:
    options: dict[str, Any] = {"default_flow_style": flow, "sort_keys": False, "allow_unicode": True, "width": _ENDLESS}
    text: str = yaml.dump(value, Dumper=_Dumper, **options)
    return text


def _inline(value: Any) -> str:
    return _dump([value], flow=True).removesuffix("\n")[1:-1]


def _block(section: Mapping[str, Any], columns: int) -> str:
    """Lines, indented by `columns`; all but sections is on the line of its key."""
    lines = []
    for name, inner in section.items():
        below = isinstance(inner, dict) and inner
        lines.append(f"{' ' * columns}{_inline(name)}:{'' if below else ' ' + _inline(inner)}\n")
        if below:
            lines.append(_block(inner, columns + _STEP))
    return "".join(lines)
