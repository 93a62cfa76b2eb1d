"""Operations of the client (`client/transport/flow.py`) without a connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from client.transport.flow import Flow, T


def ended(flow: Flow[T]) -> T:
    """What an operation returns that needs nothing from outside."""
    try:
        step = next(flow)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError(f"it asks for {step}")


def flowing(function: Callable[..., T]) -> Callable[..., Flow[T]]:
    """The function as an operation that needs nothing from outside."""

    def flow(*positional: Any, **named: Any) -> Flow[T]:
        yield from ()
        return function(*positional, **named)

    return flow
