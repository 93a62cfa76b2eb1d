"""Everything the client refuses or gives up on, in one tree.

ClientError
├── ApiProblem        the service answered with a problem (RFC 9457)
│   ├── NotAllowed       401, 403: no token, or one that may not do this
│   ├── NotFound         404: there is no such job, sweep, file, …
│   ├── Conflict         409: not in the state in which it is
│   ├── InvalidRequest   400, 413, 415, 422: what was sent cannot be used; `pointers` lead to the places
│   ├── TooMany          429: requests, or jobs of this owner
│   └── ServiceFault     5xx: the service, or what it stands on, is at fault
├── Unreachable       no answer from the service
├── DownloadError     a file did not arrive as it was announced
├── MissingPackage    an optional package is not installed
└── StackError        the local stack cannot be started or has fallen over
"""

from __future__ import annotations

from client.terminal.visible import visible
from wire.errors import Problem


class ClientError(Exception):
    """What went wrong and what to do about it."""

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def lines(self) -> list[str]:
        """The error as a person reads it: one fault a line, the remedy behind its fault."""
        return [_sentences(self.message, self.remedy)]

    def __str__(self) -> str:
        return "\n".join(self.lines())


class ApiProblem(ClientError):
    """The service refused a request; `problem` is its answer, and `remedy` what it says to do about it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title, remedy=problem.remedy)
        self.problem = problem

    @property
    def type(self) -> str:
        """Names the kind of problem, such as `/problems/invalid-spec`; `about:blank`: the status says all."""
        return self.problem.type

    @property
    def title(self) -> str:
        """The kind of problem in words."""
        return self.problem.title

    @property
    def status(self) -> int:
        """Of HTTP, 400 to 599."""
        return self.problem.status

    @property
    def detail(self) -> str:
        """What is wrong with this request."""
        return self.problem.detail

    @property
    def pointers(self) -> list[str]:
        """The places that are at fault: JSON pointers (RFC 6901) into the body, or names of query parameters."""
        return [fault.pointer for fault in self.problem.errors]

    def lines(self) -> list[str]:
        problem = self.problem
        head = f"{problem.status} {problem.title}"
        if problem.detail and problem.detail != problem.title:
            head = f"{head}: {problem.detail}"
        faults = [_sentences(f"{fault.pointer or '/'}: {fault.detail}", fault.remedy) for fault in problem.errors]
        return [visible(line) for line in (_sentences(head, problem.remedy), *faults)]


class NotAllowed(ApiProblem):
    """401 or 403: there is no token, or its scope is too small."""


class NotFound(ApiProblem):
    """404: there is no such thing."""


class Conflict(ApiProblem):
    """409: it cannot be done to a thing in this state."""


class InvalidRequest(ApiProblem):
    """400, 413, 415 or 422: what was sent cannot be used; `problem.errors` tells each fault."""


class TooMany(ApiProblem):
    """429: too many requests, or a quota is used up."""


class ServiceFault(ApiProblem):
    """5xx: the service, or what it stands on, is at fault."""


_BY_STATUS: dict[int, type[ApiProblem]] = {
    400: InvalidRequest,
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    413: InvalidRequest,
    415: InvalidRequest,
    422: InvalidRequest,
    429: TooMany,
}
_SERVICE = 500  # and above


def problem_of(problem: Problem) -> ApiProblem:
    """The error that a problem is, by its status."""
    kind = ServiceFault if problem.status >= _SERVICE else _BY_STATUS.get(problem.status, ApiProblem)
    return kind(problem)


class Unreachable(ClientError):
    """The service does not answer."""


class DownloadError(ClientError):
    """A download is not what the service announced, or cannot be stored."""


class MissingPackage(ClientError):
    """A package is not installed that only some need: `extra` of crosskd brings it."""

    def __init__(self, what: str, package: str | None, extra: str) -> None:
        super().__init__(
            f"{what} the package {package}, which is not installed.",
            remedy=f"Install it by `pip install 'crosskd[{extra}]'`.",
        )


class StackError(ClientError):
    """The local stack cannot be started."""


def _sentences(message: str, remedy: str) -> str:
    """What is wrong and what to do, as two sentences."""
    if not remedy:
        return message
    return f"{message} {remedy}" if message.endswith((".", "!", "?", ":")) else f"{message}. {remedy}"


def not_utf8(error: UnicodeEncodeError) -> ClientError:
    """What cannot be sent, such as an argument of a shell that is not in UTF-8."""
    what = f"{error.object[:100]!r} is no text that can be sent: UTF-8 does not know all of its characters"
    return ClientError(what, remedy="Write it in UTF-8.")
