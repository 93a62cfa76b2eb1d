"""From Pydantic's complaints to `Fault`s: where in the body, what is wrong, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from pydantic import BaseModel

from crosskd.spec.bounds import TOO_MANY
from crosskd.spec.nearest import did_you_mean, model_at, propose
from wire.errors import Fault, MissingField
from wire.jobs import SPECS, JobCreate
from wire.kinds import known_or_inferred
from wire.reports import BATCH_TOO_LARGE

Location = tuple[int | str, ...]
OWN_ERRORS = frozenset({"value_error", TOO_MANY, BATCH_TOO_LARGE})

_QUOTED = re.compile(r"'([^']*)'")  # in Pydantic's list of the values that a field takes

NO_BODY = (
    "the request has no body",
    "Send JSON with `Content-Type: application/json`; the description at /docs shows its fields.",
)

MAX_LISTED = 100  # faults of a request that are told one by one; all are counted
MAX_TEXT = 1000  # characters of one part of a fault: a name in a body may be as long as the body


class Faults(NamedTuple):
    """The first faults of a request, and how many there are."""

    listed: list[Fault]
    total: int


def faults(errors: Sequence[Any], body: Any = None, model: Any = None) -> Faults:
    """Translate `ValidationError.errors()`; the first `MAX_LISTED` of them, since each costs time and bytes.

    Args:
        errors: Pydantic's error dictionaries; `loc` starts with `body`, or with `query`, `path`, `header`.
        body: the parsed body, which tells fields from the names of union branches that Pydantic mixes into `loc`.
        model: the body's model, so that an unknown field can name the known ones.
    """
    found: dict[tuple[str, str], Any] = {}
    for error in _one_branch_per_union(errors, body):
        found.setdefault((_pointer(error, body), error["msg"]), error)
    listed = [_fault(error, body, model) for error in islice(found.values(), MAX_LISTED)]
    return Faults(listed, len(found))


def at_what_was_sent(found: Sequence[Fault], body: Any) -> list[Fault]:
    """The faults, each at a part of `body`: one about a default is told at the section that holds no such field.

    A field that has to be added stays where it is wanted.
    """
    if not isinstance(body, dict | list):
        return list(found)
    return [
        fault
        if isinstance(fault, MissingField) or not fault.pointer.startswith("/")
        else fault.model_copy(update={"pointer": _sent_part(fault.pointer, body)})
        for fault in found
    ]


def _sent_part(text: str, body: Any) -> str:
    if len(text) > MAX_TEXT:  # clipped: it leads nowhere any more
        return text
    node, parts = body, []
    for part in text.split("/")[1:]:
        name: int | str = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and part.isdecimal():
            name = int(part)
        if not _holds(node, name):
            break
        parts.append(part)
        node = node[name]
    return "".join(f"/{part}" for part in parts)


def pointer(location: Sequence[int | str]) -> str:
    """RFC 6901."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in location)


def _pointer(error: Any, body: Any) -> str:
    source, *rest = error["loc"]
    if source != "body":
        return str(rest[0]) if rest else str(source)
    return pointer(_place(tuple(rest), body)[0])


def _fault(error: Any, body: Any, model: Any) -> Fault:
    holder = None
    if error["type"] == "extra_forbidden" and error["loc"][0] == "body":
        holder = _holder(model, _place(tuple(error["loc"][1:]), body)[0][:-1], body)
    detail, remedy = _texts(error, holder)
    kind = MissingField if error["type"] == "missing" else Fault
    return kind(pointer=_clipped(_pointer(error, body)), detail=_clipped(detail), remedy=_clipped(remedy))


def _texts(error: Any, holder: type[BaseModel] | None) -> tuple[str, str]:
    """What is wrong, and what to do."""
    if error["type"] == "missing" and tuple(error["loc"]) == ("body",):
        return NO_BODY
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if error["type"] in OWN_ERRORS and ("; " in message or ": " in message):
        # Our own validators write "what is wrong; what to do" or "what is to be done: why".
        detail, separator, remedy = message.partition("; ")
        return detail, _sentence(remedy) if separator else _sentence(message)
    return message, _remedy(error, holder)


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _sentence(text: str) -> str:
    """With a capital, but of a name, which is written as it is: `pad_to`, `d_fine`, `augment.flip`."""
    first = text.partition(" ")[0].rstrip(".,:")
    begin = text[:1] if "_" in first or "." in first else text[:1].upper()
    return begin + text[1:].rstrip(".") + "."


def _remedy(error: Any, holder: type[BaseModel] | None) -> str:
    context = error.get("ctx") or {}
    match error["type"]:
        case "missing":
            return "Add it."
        case "extra_forbidden":
            return "Remove it." if holder is None else propose(error["loc"][-1], holder.model_fields)
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "multiple_of":
            sign = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}
            return "Give a number " + " and ".join(f"{sign[k]} {v}" for k, v in context.items() if k in sign) + "."
        case "literal_error" | "enum":
            expected = str(context.get("expected", "one of the listed values"))
            return f"{did_you_mean(error.get('input'), _QUOTED.findall(expected))} Use {expected}.".lstrip()
        case "string_pattern_mismatch":
            return f"It must match {context.get('pattern')}."
        case "finite_number":
            return "Give a finite number."
        case _:
            return "Correct the value."


def _place(location: Location, body: Any) -> tuple[Location, Location | None]:
    """The part of `loc` that points into the body, and the first union branch (prefix and name) in it, if any."""
    place: list[int | str] = []
    branch: Location | None = None
    node = body
    for index, part in enumerate(location):
        if _holds(node, part):
            node = node[part]
        elif isinstance(node, dict) and index == len(location) - 1 and not _is_branch(part):
            pass  # a missing field
        else:
            branch = branch or (*location[:index], part)
            continue
        place.append(part)
    return tuple(place), branch


def _holds(node: Any, part: int | str) -> bool:
    if isinstance(node, list):
        return isinstance(part, int) and part < len(node)
    return isinstance(node, dict) and part in node


def _is_branch(part: int | str) -> bool:
    # `JobRef`, `function-after[…]`, `[key]`: our own fields are lower case and without brackets.
    return isinstance(part, str) and ("[" in part or part[:1].isupper())


def _one_branch_per_union(errors: Sequence[Any], body: Any) -> Iterator[Any]:
    """Where a value fits no branch of a union, keep the branch that it nearly fits: the one with the fewest errors."""
    branches: dict[Location, dict[Location, int]] = {}
    tagged = []
    for error in errors:
        location = tuple(error["loc"][1:]) if error["loc"][:1] == ("body",) else ()
        branch = _place(location, body)[1]
        tagged.append((error, branch))
        if branch is not None:
            counts = branches.setdefault(branch[:-1], {})
            counts[branch] = counts.get(branch, 0) + 1
    best = {prefix: min(counts, key=lambda name: counts[name]) for prefix, counts in branches.items()}
    for error, branch in tagged:
        if branch is None or best[branch[:-1]] == branch:
            yield error


def _holder(model: Any, path: Location, body: Any) -> type[BaseModel] | None:
    """`model_at`, where a job's kind says which of the specifications its spec is."""
    if model is JobCreate and path[:1] == ("spec",) and isinstance(body, dict):
        kind = known_or_inferred(body.get("kind"), body.get("spec"))
        return None if kind is None else model_at(SPECS[kind], path[1:])
    return model_at(model, path)
