"""On which databases a test runs: on both, unless it says otherwise."""

from __future__ import annotations

import pytest

# For what is decided before anything is stored or sought: of a request, a file's bytes, a header. Postgres, since it
# refuses more of what such a request may carry, if it does come through.
ONE_DATABASE = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)

# For hundreds of requests, of which most are refused before any database is asked: on SQLite they run with those tests
# that take minutes.
SQLITE_IS_SLOW = pytest.mark.parametrize(
    "backend", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)], indirect=True
)
