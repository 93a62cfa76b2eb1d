"""YAML from outside, read event by event: nothing recurses, no alias multiplies, and what JSON cannot say is told.

Values are resolved as `yaml.safe_load` does, and so as the command line reads a file (`crosskd.spec.presets`).
"""

from __future__ import annotations

import re
import sys
from typing import Any

import yaml

from wire.faults import pointer
from wire.scalars import LARGEST
from wire.specs import MAX_DEPTH, MAX_PROBLEMS, ParsedText, TextProblem

MAX_LINES = 5000  # parts whose lines are told
MAX_POINTER = 500  # characters of a pointer that is told: else a long key would be repeated with each part below it
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # by libyaml where PyYAML has it
_RESOLVE = yaml.resolver.Resolver()
_TAG = "tag:yaml.org,2002:"
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse(text: str) -> ParsedText:
    """What the YAML `text` says: one mapping, as JSON."""
    reader = _Reader()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            reader.take(event)
    except _Stop:
        pass
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reader.tell(mark, _sentence(error), "Look at its indentation, brackets and quotes.")
    except (yaml.YAMLError, UnicodeEncodeError) as error:  # characters that YAML does not have
        reader.tell(None, " ".join(str(error).split()), "Remove such characters, or write them as \\u escapes.")
    if not reader.problems and not isinstance(reader.value, dict):
        reader.tell(None, "the text holds no mapping", "Write the keys of a job, of a specification or of a sweep.")
    if reader.problems:
        return ParsedText(value=None, problems=reader.problems)
    return ParsedText(value=reader.value, lines=reader.lines)


class _Stop(Exception):
    """What follows can only be misread."""


class _Place:
    """A mapping or a list that is being read."""

    def __init__(self, value: dict[str, Any] | list[Any], at: str) -> None:
        self.value = value
        self.pointer = at
        self.key: str | None = None  # of the entry whose value comes next


class _Reader:
    """Takes the events of a text one after the other; afterwards `value` is what it says."""

    def __init__(self) -> None:
        self.value: Any = None
        self.lines: dict[str, int] = {}
        self.problems: list[TextProblem] = []
        self._open: list[_Place] = []
        self._documents = 0
        self._constructor = yaml.constructor.SafeConstructor()  # keeps what it has made: one for each text

    def tell(self, mark: Any, detail: str, remedy: str = "") -> None:
        if len(self.problems) < MAX_PROBLEMS:
            line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
            self.problems.append(TextProblem(line=line, column=column, detail=detail, remedy=remedy))

    def take(self, event: yaml.Event) -> None:
        match event:
            case yaml.DocumentStartEvent():
                self._documents += 1
                if self._documents > 1:
                    self.tell(event.start_mark, "a second document begins here", "Keep one; remove the line `---`.")
                    raise _Stop
            case yaml.AliasEvent():
                self.tell(event.start_mark, f"*{event.anchor} is an alias", "Write out what it stands for.")
                self._put(None, event.start_mark)
            case yaml.ScalarEvent():
                self._scalar(event)
            case yaml.MappingStartEvent() | yaml.SequenceStartEvent():
                self._begin(event)
            case yaml.MappingEndEvent() | yaml.SequenceEndEvent():
                self._open.pop()

    def _begin(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if self._expects_key():
            self.tell(event.start_mark, "a section cannot be a key", "Write a word before the colon.")
            raise _Stop
        if len(self._open) >= MAX_DEPTH:
            self.tell(event.start_mark, f"it is nested more than {MAX_DEPTH} deep", "No specification is so deep.")
            raise _Stop
        if event.tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
            self.tell(event.start_mark, f"the tag {event.tag} is not taken", "Remove it.")
        value: dict[str, Any] | list[Any] = {} if mapping else []
        self._open.append(_Place(value, self._put(value, event.start_mark)))

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        if self._expects_key():
            self._key(event)
        else:
            self._put(self._value(event), event.start_mark)

    def _expects_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._open[-1].key is None

    def _key(self, event: yaml.ScalarEvent) -> None:
        place = self._open[-1]
        assert isinstance(place.value, dict)
        name = event.value
        if _tag_of(event) == "merge":
            self.tell(event.start_mark, "`<<` is not taken", "Write out what it would bring.")
        elif _tag_of(event) != "str":
            self.tell(event.start_mark, f"the key {name[:100]} is no text", "Quote it.")
        elif name in place.value:
            line = self.lines.get(_below(place.pointer, name))
            first = f": first in line {line}" if line else ""
            self.tell(event.start_mark, f"the key {name[:100]} is there twice{first}", "Keep one.")
        elif _SURROGATE.search(name):
            self.tell(event.start_mark, "half a surrogate pair is no text", "Write the whole character.")
        place.key = name
        self._note(_below(place.pointer, name), event.start_mark)

    def _note(self, at: str, mark: Any) -> None:
        if len(self.lines) < MAX_LINES and len(at) <= MAX_POINTER:
            self.lines.setdefault(at, mark.line + 1)

    def _put(self, value: Any, mark: Any) -> str:
        """Put `value` where the text has come to; the pointer to it."""
        if not self._open:
            self.value = value
            return ""
        place = self._open[-1]
        if isinstance(place.value, list):
            at = _below(place.pointer, len(place.value))
            place.value.append(value)
            self._note(at, mark)
            return at
        assert place.key is not None
        at = _below(place.pointer, place.key)
        place.value[place.key] = value
        place.key = None
        return at

    def _value(self, event: yaml.ScalarEvent) -> Any:
        """The scalar as JSON has it; None, and a problem, where it has not."""
        kind, text = _tag_of(event), event.value
        if kind == "str":
            if _SURROGATE.search(text):
                self.tell(event.start_mark, "half a surrogate pair is no text", "Write the whole character.")
            return text
        if kind not in ("null", "bool", "int", "float"):
            what = "a date" if kind == "timestamp" else f"of the kind {kind}"
            self.tell(event.start_mark, f"{text[:100]} is {what}, which a specification cannot hold", "Quote it.")
            return None
        try:
            value = self._constructor.construct_object(yaml.ScalarNode(f"{_TAG}{kind}", text))
        except (ValueError, KeyError, OverflowError):  # such as `!!int abc`
            self.tell(event.start_mark, f"{text[:100]} is no {kind}", "Correct it, or quote it.")
            return None
        most = LARGEST if isinstance(value, int) else sys.float_info.max
        if isinstance(value, int | float) and not abs(value) <= most:  # a NaN's is not, either
            self.tell(event.start_mark, f"{text[:100]} is no number that JSON has", "Give a smaller, finite one.")
            return None
        return value


def _below(above: str, name: int | str) -> str:
    """The pointer to `name`, cut behind the length up to which pointers are told."""
    return (above + pointer((name,)))[: MAX_POINTER + 1]


def _tag_of(event: yaml.ScalarEvent) -> str:
    """`str`, `int`, `timestamp` and so on: by its tag, or as a plain scalar looks."""
    tag = event.tag
    if tag in (None, "!"):
        tag = _RESOLVE.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
    return str(tag).removeprefix(_TAG)


def _sentence(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part)
