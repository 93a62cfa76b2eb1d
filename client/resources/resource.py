"""What a client's groups of operations have in common, and what they return: the wire's models, with operations."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from functools import partial
from typing import Generic, Protocol, Self, TypeVar, cast

from pydantic import BaseModel, PrivateAttr

from client.errors import ClientError
from client.transport.connection import Connection
from client.transport.flow import Connected, Flow, M, Pause, Tell


class Resource(Connected[M]):
    """A group of operations of a client, such as `client.jobs`."""

    def __init__(self, connection: M) -> None:
        self._own = connection

    @property
    def _connection(self) -> M:
        return self._own


class _Origin:
    """By which connection an answer came. Its copies share it; a pickle leaves it behind, as all connections."""

    def __init__(self, connection: Connection | None = None) -> None:
        self.connection = connection

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[type[_Origin], tuple[()]]:
        return _Origin, ()


class Returned(BaseModel, Connected[M], Generic[M]):
    """A model of the wire that knows by which connection it came. It is serialised and compared as the wire's own."""

    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    @classmethod
    def returned(cls, connection: M, answer: BaseModel) -> Self:
        """`answer`, which is of the model of the wire that this one stands for, as it came by `connection`."""
        made = cast("Self", cls.model_construct(answer.model_fields_set, **answer.__dict__))
        made._origin = _Origin(connection)
        return made

    @property
    def _connection(self) -> M:
        if self._origin.connection is None:
            remedy = "Use the one that a client returns, such as `client.jobs.get(ID)`."
            raise ClientError(f"This {type(self).__name__} came from no client.", remedy=remedy)
        return cast("M", self._origin.connection)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BaseModel) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]  # as of all models that can be changed


class WithStatus(Protocol):
    """A job, or a sweep."""

    @property
    def status(self) -> str: ...


W = TypeVar("W", bound=WithStatus)


def until_ended(
    read: Callable[[], Flow[W]],
    what: str,
    ends: Container[str],
    timeout: float | None,
    on_progress: Callable[[W], object] | None,
    interval: float,
) -> Flow[W]:
    """Read it every `interval` seconds until its status is one of `ends`; `what` it is for a `TimeoutError`."""
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        current = yield from read()
        if on_progress is not None:
            yield Tell(partial(on_progress, current))
        if current.status in ends:
            return current
        if deadline is not None and time.monotonic() > deadline:
            raise TimeoutError(f"{what} is still {current.status} after {timeout:g} s")
        yield Pause(interval)
