"""Who calls is known before a body is read: FastAPI parses and checks a body before it asks any dependency."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.auth import authenticate
from api.http.query_parameters import names, refuse_unknown


class AuthenticatedRoute(APIRoute):
    """The class of every route, or its base."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        known = set(names(self.dependant))

        async def answer(request: Request) -> Response:
            await authenticate(request)
            refuse_unknown(request, known)
            return await handle(request)

        return answer
