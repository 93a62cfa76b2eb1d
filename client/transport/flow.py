"""Operations on the service, written once, for programs that block and for those that await.

An operation is a generator: it yields what has to be done outside of it (a request, a pause) and is sent what came of
it. A connection (`connection.py`) does these steps, one kind blocking, the other with `await`. So neither the paths nor
the rules of repeating stand twice, and both kinds have types: what `operation` makes of a generator is a function that
returns `T` on a blocking connection, and an `Awaitable[T]` on the other.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from wire.download import OnBytes

if TYPE_CHECKING:
    from client.transport.connection import AsyncConnection, Connection, SyncConnection

T = TypeVar("T")
P = ParamSpec("P")
M = TypeVar("M", bound="Connection")  # the mode: blocking or awaiting


@dataclass(frozen=True)
class Send:
    """A request; its answer is sent back whole. What httpx raises is raised in the generator."""

    method: str
    path: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of `httpx.Client.request`


@dataclass(frozen=True)
class Open:
    """A GET whose answer is read piece by piece, by `Next`; a former one is closed. A refusal is read at once."""

    path: str
    options: Mapping[str, Any]
    as_events: bool  # or else as lines


@dataclass(frozen=True)
class Next:
    """The next event or line of what was opened last; None at its end."""


@dataclass(frozen=True)
class Pause:
    """Nothing, for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Tell:
    """A call of a function that the caller gave; what it returns is awaited where that can be done."""

    function: Callable[[], object]


@dataclass(frozen=True)
class Fetch:
    """A verified download of `path` into a file; `head` has announced it. Its path is sent back."""

    path: str
    head: httpx.Response
    target: Path
    on_bytes: OnBytes | None


@dataclass(frozen=True)
class Item(Generic[T]):
    """A value for whoever iterates."""

    value: T


@dataclass(frozen=True)
class Ended(Generic[T]):
    """The operation is over, and has returned this."""

    value: T


Step = Send | Open | Next | Pause | Tell | Fetch
Flow = Generator[Step, Any, T]
Items = Generator[Step | Item[T], Any, None]
S = TypeVar("S")


def advance(flow: Generator[S, Any, T], outcome: Any) -> S | Ended[T]:
    """What the operation asks for next, now that it is told what came of the step before: trouble is raised in it."""
    try:
        return flow.throw(outcome) if isinstance(outcome, Exception) else flow.send(outcome)
    except StopIteration as end:
        return Ended(end.value)


class Connected(ABC, Generic[M]):
    """What has operations: it knows by which connection they are done."""

    @property
    @abstractmethod
    def _connection(self) -> M: ...


class operation(Generic[P, T]):  # noqa: N801 - it is used as `property` is
    """Makes a method of a `Connected` class of a generator that returns `T`."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Flow[T]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, owner: None, kind: Any = None) -> Self: ...
    @overload
    def __get__(self, owner: Connected[SyncConnection], kind: Any = None) -> Callable[P, T]: ...
    @overload
    def __get__(self, owner: Connected[AsyncConnection], kind: Any = None) -> Callable[P, Awaitable[T]]: ...
    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        return _bound(self.flow, owner, lambda flow: _connection_of(owner).run(flow))


class iteration(Generic[P, T]):  # noqa: N801 - see above
    """Makes a method of a `Connected` class of a generator that yields `Item[T]`: an iterator, or an async one."""

    def __init__(self, flow: Callable[Concatenate[Any, P], Items[T]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, owner: None, kind: Any = None) -> Self: ...
    @overload
    def __get__(self, owner: Connected[SyncConnection], kind: Any = None) -> Callable[P, Iterator[T]]: ...
    @overload
    def __get__(self, owner: Connected[AsyncConnection], kind: Any = None) -> Callable[P, AsyncIterator[T]]: ...
    def __get__(self, owner: Any, kind: Any = None) -> Any:
        if owner is None:
            return self
        return _bound(self.flow, owner, lambda flow: _connection_of(owner).iterate(flow))


class called(Generic[P, T]):  # noqa: N801 - see above
    """An operation on one thing, for the class that has them all: the first argument says which is meant.

    The class has a method `ref`, from what the thing is called to something that has the operation.
    """

    def __init__(self, of: operation[P, T]) -> None:
        self.of = of
        self.__doc__ = of.__doc__

    @overload
    def __get__(self, owner: None, kind: Any = None) -> Self: ...
    @overload
    def __get__(self, owner: Connected[SyncConnection], kind: Any = None) -> Callable[Concatenate[str, P], T]: ...
    @overload
    def __get__(
        self, owner: Connected[AsyncConnection], kind: Any = None
    ) -> Callable[Concatenate[str, P], Awaitable[T]]: ...
    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else _of_called(self.of, owner)


class called_iteration(Generic[P, T]):  # noqa: N801 - see above
    """As `called`, of an `iteration`."""

    def __init__(self, of: iteration[P, T]) -> None:
        self.of = of
        self.__doc__ = of.__doc__

    @overload
    def __get__(self, owner: None, kind: Any = None) -> Self: ...
    @overload
    def __get__(
        self, owner: Connected[SyncConnection], kind: Any = None
    ) -> Callable[Concatenate[str, P], Iterator[T]]: ...
    @overload
    def __get__(
        self, owner: Connected[AsyncConnection], kind: Any = None
    ) -> Callable[Concatenate[str, P], AsyncIterator[T]]: ...
    def __get__(self, owner: Any, kind: Any = None) -> Any:
        return self if owner is None else _of_called(self.of, owner)


def _connection_of(owner: Any) -> Any:
    return owner._connection


def _bound(flow: Callable[..., Any], owner: Any, run: Callable[[Any], Any]) -> Callable[..., Any]:
    """A method as a person sees it: with the generator's name, docstring and parameters."""

    @wraps(flow)
    def method(*positional: Any, **named: Any) -> Any:
        return run(flow(owner, *positional, **named))

    method.__signature__ = _without_self(flow)  # type: ignore[attr-defined]
    return method


def _of_called(of: Any, owner: Any) -> Callable[..., Any]:
    @wraps(of.flow)
    def method(one: str, /, *positional: Any, **named: Any) -> Any:
        return of.__get__(owner.ref(one))(*positional, **named)

    which = inspect.Parameter("called", inspect.Parameter.POSITIONAL_ONLY, annotation="str")
    own = _without_self(of.flow)
    method.__signature__ = own.replace(parameters=[which, *own.parameters.values()])  # type: ignore[attr-defined]
    return method


def _without_self(flow: Callable[..., Any]) -> Any:
    signature = inspect.signature(flow)
    return signature.replace(parameters=list(signature.parameters.values())[1:])
