"""From an exception of the training to the failure that the service stores. Imports no torch."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import ValidationError

from crosskd.errors import CrossKDError
from wire.jobs import Failure, FailureClass
from wire.remedies import with_remedy

SPEC = "/spec"
_CLASSES: tuple[FailureClass, ...] = get_args(FailureClass)


def describe(error: BaseException, spec: Mapping[str, Any]) -> Failure:
    """What went wrong, where in the job, and what to do: always. Classes decide whether the job is tried again."""
    return with_remedy(_described(error, spec))


def _described(error: BaseException, spec: Mapping[str, Any]) -> Failure:
    if isinstance(error, CrossKDError):
        where = SPEC + error.where if _is_pointer(error.where, spec) else error.where
        return Failure(failure_class=_class_of(error), message=error.message, where=where, remedy=error.remedy)
    message = f"{type(error).__name__}: {error}"
    if _is_out_of_memory(error):
        return Failure(failure_class="out_of_memory", message=message)
    remedy = ""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        remedy = "Free space on the worker's disk (CROSSKD_HOME)."
    if isinstance(error, ModuleNotFoundError):
        remedy = "Install what is missing on that worker: pip install 'crosskd[worker,timm,detr]'."
    return Failure(failure_class="infrastructure", message=message, remedy=remedy)


def invalid_spec(error: ValidationError) -> Failure:
    """A stored spec that this worker's version of the core does not take."""
    faults = error.errors(include_input=False, include_url=False)
    pointers = [SPEC + "".join(f"/{part}" for part in fault["loc"]) for fault in faults]
    texts = [fault["msg"].removeprefix("Value error, ") for fault in faults]
    return Failure(
        failure_class="user",
        message="; ".join(f"{at}: {text}" for at, text in zip(pointers, texts, strict=True)),
        where=pointers[0],
        remedy="Post the job again as this version takes it, or run workers of the API's version.",
    )


def _class_of(error: CrossKDError) -> FailureClass:
    return next((known for known in _CLASSES if known == error.failure_class), "infrastructure")


def _is_pointer(where: str, spec: Mapping[str, Any]) -> bool:
    """Whether `where` is a JSON pointer into the spec: a file's path begins with a slash, too."""
    if not where.startswith("/"):
        return False
    node: Any = spec
    for part in where[1:].replace("~1", "\0").split("/"):
        key = part.replace("\0", "/").replace("~0", "~")
        if isinstance(node, Mapping) and key in node:
            node = node[key]
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return False
    return True


def _is_out_of_memory(error: BaseException) -> bool:
    """By name and text: `torch.OutOfMemoryError` is for devices, a host allocation fails as RuntimeError."""
    names = {cls.__name__ for cls in type(error).__mro__}
    return (
        isinstance(error, MemoryError)
        or "OutOfMemoryError" in names
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
