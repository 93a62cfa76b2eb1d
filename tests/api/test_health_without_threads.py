"""What has to be answered even when every thread of the pool waits for something."""

from __future__ import annotations

import anyio
import httpx
import pytest
from anyio import to_thread
from fastapi import FastAPI


@pytest.fixture(scope="module", params=["sqlite"])
def backend(request: pytest.FixtureRequest) -> str:
    """Nothing here depends on the database."""
    return str(request.param)


def test_a_probe_needs_no_thread(app: FastAPI) -> None:
    """Else an outage that fills the pool would have the process killed."""

    async def probe() -> int:
        pool = to_thread.current_default_thread_limiter()
        for _ in range(int(pool.total_tokens)):
            pool.acquire_on_behalf_of_nowait(object())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as http:
            with anyio.fail_after(30):
                return (await http.get("/health")).status_code

    assert anyio.run(probe) == 200
