"""Every error that the API answers with, as RFC 9457 problem details.

ApiError
├── BadRequest            400   the request cannot be read
│   └── DigestMismatch    400   the bytes that came are not those of the digest; they are forgotten
├── Unauthorized          401   no token, or a wrong one
├── Forbidden             403   the token's scopes do not reach so far
├── NotFound              404
├── NotAcceptable         406   no such representation
├── RequestTimeout        408   the body does not come
├── Conflict              409   the state forbids it
│   ├── InFlight          409   a request under the same Idempotency-Key is being answered
│   ├── StaleAttempt      409   the attempt is no longer the job's live one
│   └── WrongOffset       409   an upload does not go on where it stopped; `Upload-Offset` tells where that is
├── Gone                  410   the storage has lost a file
├── LengthRequired        411
├── PreconditionFailed    412   If-Match names another version
├── PayloadTooLarge       413
├── UnsupportedMediaType  415
├── RangeNotSatisfiable   416
├── InvalidSpec           422   well-formed, but wrong; `errors` lists every fault at once
├── KeyReused             422   an Idempotency-Key that came with another request
├── TooManyRequests       429   too many in too short a time; Retry-After says when to come back
│   └── QuotaExceeded     429   too many jobs of one owner
├── NotOffered            501   it is turned off by a setting
├── Unavailable           503   the database is away, or something else that comes back by itself; try again
├── TookTooLong           504   it was given up because its time was over
└── InsufficientStorage   507   a disk is full, or a bound on the bytes stored is reached; make room and come back
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from itertools import compress
from typing import Any, ClassVar

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from sqlalchemy.exc import DataError, SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from api import infrastructure_errors
from api.process_log import current_request_id
from api.storage import StorageUnavailable
from wire.artifacts import OFFSET_HEADER
from wire.errors import DIGEST_MISMATCH, IN_FLIGHT, MEDIA_TYPE, QUOTA_EXCEEDED, WRONG_OFFSET, Fault, Problem
from wire.faults import MAX_LISTED, NO_BODY, faults
from wire.process_log import REQUEST_ID_HEADER
from wire.reports import BATCH_TOO_LARGE

log = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 2
QUOTA_RETRY_SECONDS = 60  # jobs take minutes at least
FULL_RETRY_SECONDS = 10  # somebody has to make room first
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class ApiError(Exception):
    """What is wrong, and what to do about it. The class carries the status."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "about:blank"
    title: ClassVar[str] = "Internal Server Error"

    def __init__(
        self,
        detail: str,
        *,
        remedy: str = "",
        errors: Sequence[Fault] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.remedy = remedy
        self.errors = list(errors)
        self.headers = dict(headers or {})


class BadRequest(ApiError):
    status, type, title = 400, "/problems/bad-request", "Bad Request"


class DigestMismatch(BadRequest):
    type, title = DIGEST_MISMATCH, "Digest Mismatch"


class Unauthorized(ApiError):
    status, type, title = 401, "/problems/unauthorized", "Unauthorized"

    def __init__(self, detail: str, *, remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ApiError):
    status, type, title = 403, "/problems/forbidden", "Forbidden"


class NotFound(ApiError):
    status, type, title = 404, "/problems/not-found", "Not Found"


class NotAcceptable(ApiError):
    status, type, title = 406, "/problems/not-acceptable", "Not Acceptable"


class RequestTimeout(ApiError):
    status, type, title = 408, "/problems/request-timeout", "Request Timeout"


class Conflict(ApiError):
    status, type, title = 409, "/problems/conflict", "Conflict"


class InFlight(Conflict):
    type, title = IN_FLIGHT, "Request In Flight"

    def __init__(self, detail: str, *, remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy, headers={"Retry-After": "1"})


class StaleAttempt(Conflict):
    type, title = "/problems/stale-attempt", "Stale Attempt"


class WrongOffset(Conflict):
    type, title = WRONG_OFFSET, "Wrong Upload Offset"

    def __init__(self, detail: str, *, remedy: str, offset: int) -> None:
        super().__init__(detail, remedy=remedy, headers={OFFSET_HEADER: str(offset)})


class Gone(ApiError):
    status, type, title = 410, "/problems/gone", "Gone"

    def __init__(self, detail: str, *, remedy: str) -> None:
        # A cache may keep a 410, and a backup may bring the file back.
        super().__init__(detail, remedy=remedy, headers={"Cache-Control": "no-store"})


class LengthRequired(ApiError):
    status, type, title = 411, "/problems/length-required", "Length Required"


class PreconditionFailed(ApiError):
    status, type, title = 412, "/problems/precondition-failed", "Precondition Failed"


class PayloadTooLarge(ApiError):
    status, type, title = 413, "/problems/content-too-large", "Content Too Large"


class UnsupportedMediaType(ApiError):
    status, type, title = 415, "/problems/unsupported-media-type", "Unsupported Media Type"


class RangeNotSatisfiable(ApiError):
    status, type, title = 416, "/problems/range-not-satisfiable", "Range Not Satisfiable"


class InvalidSpec(ApiError):
    status, type, title = 422, "/problems/invalid-request", "Invalid Request"


class KeyReused(ApiError):
    status, type, title = 422, "/problems/idempotency-key-reused", "Idempotency Key Reused"


class TooManyRequests(ApiError):
    status, type, title = 429, "/problems/too-many-requests", "Too Many Requests"

    def __init__(self, detail: str, *, remedy: str = "", retry_after: int = 1) -> None:
        super().__init__(detail, remedy=remedy, headers={"Retry-After": str(retry_after)})


class QuotaExceeded(TooManyRequests):
    type, title = QUOTA_EXCEEDED, "Quota Exceeded"

    def __init__(self, detail: str, *, remedy: str = "") -> None:
        super().__init__(detail, remedy=remedy, retry_after=QUOTA_RETRY_SECONDS)


class Unavailable(ApiError):
    status, type, title = 503, "/problems/unavailable", "Service Unavailable"

    def __init__(self, detail: str, *, remedy: str = "Try again in a moment.", errors: Sequence[Fault] = ()) -> None:
        super().__init__(detail, remedy=remedy, errors=errors, headers={"Retry-After": str(RETRY_AFTER_SECONDS)})


class NotOffered(ApiError):
    status, type, title = 501, "/problems/not-offered", "Not Implemented"


class TookTooLong(ApiError):
    status, type, title = 504, "/problems/took-too-long", "Gateway Timeout"


class InsufficientStorage(ApiError):
    status, type, title = 507, "/problems/insufficient-storage", "Insufficient Storage"

    def __init__(self, detail: str, *, remedy: str) -> None:
        super().__init__(detail, remedy=remedy, headers={"Retry-After": str(FULL_RETRY_SECONDS)})


def problem_response(error: ApiError, instance: str = "") -> JSONResponse:
    """The answer that tells of `error`; `instance` is the path that was asked for."""
    request_id = current_request_id() or ""
    problem = Problem(
        type=error.type,
        title=error.title,
        status=error.status,
        detail=error.detail,
        remedy=error.remedy,
        instance=instance,
        request_id=request_id,
        errors=error.errors,
    )
    # Named here too: the answer to what nobody foresaw is made outside of every middleware.
    headers = {**error.headers, REQUEST_ID_HEADER: request_id} if request_id else error.headers
    return JSONResponse(problem.model_dump(), error.status, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""
    app.add_exception_handler(ApiError, _answer)
    app.add_exception_handler(RequestValidationError, _answer)
    app.add_exception_handler(HTTPException, _answer)
    app.add_exception_handler(SQLAlchemyError, _answer_outage)
    app.add_exception_handler(OSError, _answer_outage)
    app.add_exception_handler(Exception, _answer)  # Starlette re-raises it for the server's log


async def _answer(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, RequestValidationError):  # a body may have thousands of faults
        found = await run_in_threadpool(invalid_request, request, error)
    else:
        found = _as_api_error(request, error)
    return problem_response(found, request.url.path)


async def _answer_outage(request: Request, error: Exception) -> JSONResponse:
    found = outage_error(error)
    if found is None:
        raise error
    return problem_response(found, request.url.path)


def outage_error(error: Exception) -> ApiError | None:
    """What a request is refused with for an error of what the API stands on; None: it is a fault of its own."""
    match error:
        case DataError():
            return InvalidSpec("the database cannot store a value of this request", remedy="Look for a NUL character.")
        case SQLAlchemyError():
            found = infrastructure_errors.database_outage(error)
            if found is None:
                return None
            log.error("database: %s", error)
            if found == "full":
                remedy = "Make room on its disk, then repeat the request."
                return InsufficientStorage("the disk of the database is full", remedy=remedy)
            return Unavailable("the database does not answer")
        case StorageUnavailable():
            log.error("storage: %s", error)
            return Unavailable("the storage of the artifacts does not answer")
        case OSError() if infrastructure_errors.is_disk_full(error):
            log.error("disk: %s", error)
            return InsufficientStorage("a disk of the API is full", remedy="Make room on it, then repeat the request.")
    return None


def _as_api_error(request: Request, error: Exception) -> ApiError:
    match error:
        case ApiError():
            return error
        case HTTPException():
            return _of_status(request, error)
        case _:
            return ApiError("the service failed in an unforeseen way", remedy="The server's log tells more.")


def invalid_body(pointer: str, what: str, remedy: str) -> InvalidSpec:
    """What a request is refused with whose body is of the right type, but wrong at `pointer`."""
    fault = Fault(pointer=pointer, detail=what, remedy=remedy)
    return InvalidSpec("the request has one fault; `errors` tells where", errors=[fault])


def invalid_query(name: str, what: str, remedy: str) -> InvalidSpec:
    """What a request is refused with whose query parameter `name` is of the right type, but wrong."""
    fault = Fault(pointer=name, detail=what, remedy=remedy)
    return InvalidSpec("the query has one fault; `errors` tells where", errors=[fault])


def invalid_request(request: Request, error: RequestValidationError, further: Sequence[Fault] = ()) -> ApiError:
    """What a request is refused with whose body or parameters its model refuses; `further` faults join them."""
    complaints = error.errors()
    for complaint in complaints:
        if complaint["type"] == "json_invalid":
            return _malformed(complaint, error.body)
        if complaint["type"] == BATCH_TOO_LARGE:
            count, most = complaint["ctx"]["count"], complaint["ctx"]["most"]
            return PayloadTooLarge(
                f"the batch has {count} points, and at most {most} are taken at once",
                remedy="Send several batches, each with a sequence number of its own.",
            )
    if isinstance(error.body, bytes):  # FastAPI parses a body only if it calls itself JSON
        return UnsupportedMediaType("the body is not JSON", remedy="Send it with `Content-Type: application/json`.")
    found = faults(complaints, error.body, _body_model(request))
    if [(fault.detail, fault.remedy) for fault in found.listed] == [NO_BODY] and not further:
        return InvalidSpec(NO_BODY[0], remedy=NO_BODY[1], errors=found.listed)
    return invalid("request", [*found.listed, *further], found.total + len(further))


def invalid(what: str, found: Sequence[Fault], count: int | None = None) -> InvalidSpec:
    """What a request is refused with for the faults of its body; `count` of them, where not all are in `found`."""
    listed = found[:MAX_LISTED]
    count = len(found) if count is None else count
    number = "one fault" if count == 1 else f"{count} faults"
    where = "`errors` tells where" if count <= len(listed) else f"`errors` tells where the first {len(listed)} are"
    return InvalidSpec(f"the {what} has {number}; {where}", errors=listed)


def _malformed(complaint: Any, text: Any) -> BadRequest:
    position = complaint["loc"][-1]
    before = str(text)[:position]
    line, column = before.count("\n") + 1, position - (before.rfind("\n") + 1) + 1
    reason = complaint["ctx"]["error"]
    return BadRequest(
        f"malformed JSON at line {line}, column {column}: {reason}",
        remedy="Look there for a comma, quote or bracket too much or too few.",
    )


def _body_model(request: Request) -> Any:
    route = request.scope.get("route")
    field = route.body_field if isinstance(route, APIRoute) else None
    return None if field is None else field.field_info.annotation


def _of_status(request: Request, error: HTTPException) -> ApiError:
    """Starlette's own: an unknown path, a method that a path lacks, a body that cannot be read."""
    remedies = {404: "GET /openapi.json lists the paths.", 405: "The Allow header lists the methods."}
    kinds = {kind.status: kind for kind in (BadRequest, NotFound, PayloadTooLarge)}
    base = kinds.get(error.status_code, ApiError)
    phrase = HTTPStatus(error.status_code).phrase
    # The class of one answer: its status is known only now.
    kind = type(base.__name__, (base,), {"status": error.status_code, "title": phrase})
    headers = {"Allow": _allowed(request)} if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED else error.headers
    found: ApiError = kind(error.detail, remedy=remedies.get(error.status_code, ""), headers=headers)
    return found


def _allowed(request: Request) -> str:
    """Every method of the path; the router knows only those of the first route that has it."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": request.scope.get("root_path", "")}
    routes = request.app.routes
    fits = (any(route.matches(scope | {"method": one})[0] is Match.FULL for route in routes) for one in _METHODS)
    return ", ".join(compress(_METHODS, fits))
