"""From Pydantic's complaints to `Fault`s: where in the body, what is wrong, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from crosskd.spec.bounds import TOO_MANY
from wire.errors import Fault
from wire.jobs import SPECS, JobCreate
from wire.reports import BATCH_TOO_LARGE

Location = tuple[int | str, ...]
OWN_ERRORS = frozenset({"value_error", TOO_MANY, BATCH_TOO_LARGE})


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
    return Fault(pointer=_clipped(_pointer(error, body)), detail=_clipped(detail), remedy=_clipped(remedy))


def _texts(error: Any, holder: type[BaseModel] | None) -> tuple[str, str]:
    """What is wrong, and what to do."""
    message = error["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if error["type"] in OWN_ERRORS and ("; " in message or ": " in message):
        # Our own validators write "what is wrong; what to do" or "what is to be done: why".
        detail, separator, remedy = message.partition("; ")
        return detail, _sentence(remedy) if separator else _sentence(message)
    return message, _remedy(error, holder)


def _clipped(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:].rstrip(".") + "."


def _remedy(error: Any, holder: type[BaseModel] | None) -> str:
    context = error.get("ctx") or {}
    match error["type"]:
        case "missing":
            return "Add it."
        case "extra_forbidden":
            return _known_fields(str(error["loc"][-1]), holder)
        case "greater_than" | "greater_than_equal" | "less_than" | "less_than_equal" | "multiple_of":
            sign = {"gt": ">", "ge": ">=", "lt": "<", "le": "<=", "multiple_of": "a multiple of"}
            return "Give a number " + " and ".join(f"{sign[k]} {v}" for k, v in context.items() if k in sign) + "."
        case "literal_error" | "enum":
            return f"Use {context.get('expected', 'one of the listed values')}."
        case "string_pattern_mismatch":
            return f"It must match {context.get('pattern')}."
        case "finite_number":
            return "Give a finite number."
        case _:
            return "Correct the value."


def _known_fields(name: str, holder: type[BaseModel] | None) -> str:
    if holder is None:
        return "Remove it."
    known = sorted(holder.model_fields)
    close = get_close_matches(name, known, n=1)
    hint = f"Did you mean {close[0]}? " if close else "Remove it. "
    return f"{hint}Known here: {', '.join(known)}."


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
    """`_model_at`, where a job's kind says which of the specifications its spec is."""
    kind = body.get("kind") if isinstance(body, dict) else None
    if model is JobCreate and path[:1] == ("spec",) and isinstance(kind, str) and kind in SPECS:
        return _model_at(SPECS[kind], path[1:])
    return _model_at(model, path)


def _model_at(annotation: Any, path: Location) -> type[BaseModel] | None:
    """The model that the body's field at `path` is an instance of; None where a union leaves it open."""
    models = list(_models(annotation))
    for part in path:
        inner = [m.model_fields[part].annotation for m in models if isinstance(part, str) and part in m.model_fields]
        # An index, or a free key of a mapping: `_models` has looked through the container already.
        models = [found for hint in inner for found in _models(hint)] if inner else models
    return models[0] if len(models) == 1 else None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)
