from __future__ import annotations

from hypothesis import settings

# No deadline: the machine that runs the tests may be busy.
settings.register_profile("data", deadline=None, derandomize=True)
settings.load_profile("data")
