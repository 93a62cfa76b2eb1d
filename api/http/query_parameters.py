"""A parameter that nobody reads is refused: misspelt, it would be left out in silence (`?stats=failed` lists all)."""

from __future__ import annotations

from collections.abc import Iterator

from fastapi import Request
from fastapi.dependencies.models import Dependant

from api.errors import InvalidSpec
from crosskd.spec.nearest import propose
from wire.errors import Fault
from wire.faults import MAX_LISTED

LONGEST = 100  # characters of a name that are compared and told


def names(dependant: Dependant) -> Iterator[str]:
    """The query parameters of an endpoint and of all that it depends on."""
    yield from (parameter.alias for parameter in dependant.query_params)
    for inner in dependant.dependencies:
        yield from names(inner)


def refuse_unknown(request: Request, known: set[str]) -> None:
    """Raises `InvalidSpec` with a fault for each parameter that the endpoint does not have, the first hundred."""
    unknown = [name for name in request.query_params if name not in known]
    if not unknown:
        return
    faults = [
        Fault(
            pointer=name[:LONGEST],
            detail="there is no such query parameter",
            remedy=propose(name[:LONGEST], known),
        )
        for name in unknown[:MAX_LISTED]
    ]
    count = "1 query parameter is" if len(unknown) == 1 else f"{len(unknown)} query parameters are"
    raise InvalidSpec(f"{count} unknown", remedy="See `errors`.", errors=faults)
