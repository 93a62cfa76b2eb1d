"""Requests to the storage itself, at addresses that the API gives out.

Such an address is the permission: nothing that identifies us to the API is sent there, and it is never logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing, contextmanager

import httpx

ADDRESS = "Location"
DIGEST = "Repr-Digest"  # an answer that has both says where the bytes lie, and which they are

_TRANSIENT = frozenset({408, 429})
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,60})</Code>")


class StorageRefused(httpx.TransportError):
    """The storage understood and said no. At another address it may say yes: each is good for a while only."""


def redirects_to_storage(answer: httpx.Response) -> bool:
    """Whether an answer of the API tells where in the storage the bytes are to be had."""
    return answer.is_redirect and DIGEST in answer.headers and ADDRESS in answer.headers


@contextmanager
def send_to_storage(http: httpx.Client, request: httpx.Request, timeout: httpx.Timeout) -> Iterator[httpx.Response]:
    """The storage's answer to `request`, a success, with its body to come. It goes over the connections of `http`.

    Raises:
        httpx.TransportError: the storage does not answer, or cannot now.
        StorageRefused: it refuses.
    """
    # The client's connections, and none of its headers.
    request.extensions["timeout"] = timeout.as_dict()
    response = http.send(request, stream=True, auth=None, follow_redirects=False)
    with closing(response):
        if response.is_success:
            yield response
            return
        status = response.status_code
        # Of its body, which tells what was asked of whom, no more than the one word.
        code = _CODE.search(next(response.iter_bytes(4096), b""))
        answered = f"the storage answered {status}" + (f" ({code[1].decode()})" if code else "")
        if response.is_server_error or status in _TRANSIENT:
            raise httpx.RemoteProtocolError(answered)
        raise StorageRefused(answered)
