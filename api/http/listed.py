"""Filters that lists of jobs and of sweeps have in common."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from wire.jobs import LONGEST_NAME, SHORTEST_PREFIX
from wire.tokens import ME, OWNER_PATTERN

OwnerFilter = Annotated[
    str | None,
    Query(pattern=f"^{ME}$|{OWNER_PATTERN}", description="Whoever's token posted it; `@me`: whoever asks."),
]
NameFilter = Annotated[
    str | None,
    Query(min_length=1, max_length=LONGEST_NAME, pattern=r"^[^\x00]+$", description="Exactly this name."),
]
IdFilter = Annotated[
    str | None,
    Query(alias="id", pattern=rf"^[0-9a-f]{{{SHORTEST_PREFIX},32}}$", description="An id, or its beginning."),
]
