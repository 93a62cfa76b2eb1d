"""On which databases a test runs: on both, unless it says otherwise."""

from __future__ import annotations

import pytest

# For what is decided before anything is stored or sought: of a request, a file's bytes, a header. Postgres, since it
# refuses more of what such a request may carry, if it does come through.
ONE_DATABASE = pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
