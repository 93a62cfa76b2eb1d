"""The client of a command: of the service that is named, or that runs on this home, with the token of the settings."""

from __future__ import annotations

import httpx
from pydantic import ValidationError

from client.errors import ClientError
from client.sdk import Crosskd
from client.settings import TokenSettings
from client.stack.home import default_home, read_owner
from client.transport.connection import DEFAULT_URL, TIMEOUT


def connect(url: str, timeout: httpx.Timeout = TIMEOUT) -> Crosskd:
    """A client of `url`, or of the stack that runs on this home, or of the default address."""
    if not url:
        owner = read_owner(default_home())
        url = owner.url if owner else DEFAULT_URL
    try:
        token = TokenSettings().token
    except ValidationError as error:
        fault = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ClientError(f"CROSSKD_TOKEN: {fault}.") from None
    # Never an argument: those are seen by `ps`.
    return Crosskd(url, token=token.get_secret_value() if token else None, timeout=timeout)
