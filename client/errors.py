"""Everything the client refuses or gives up on, in one tree.

ClientError
├── ApiProblem        the service answered with a problem (RFC 9457)
├── Unreachable       no answer from the service
├── DownloadError     a file did not arrive as it was announced
└── StackError        the local stack cannot be started or has fallen over
"""

from __future__ import annotations

from client.visible import visible
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
    """The service refused a request; `problem` is its answer."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title, remedy=problem.remedy)
        self.problem = problem

    def lines(self) -> list[str]:
        problem = self.problem
        head = f"{problem.status} {problem.title}"
        if problem.detail and problem.detail != problem.title:
            head = f"{head}: {problem.detail}"
        faults = [_sentences(f"{fault.pointer or '/'}: {fault.detail}", fault.remedy) for fault in problem.errors]
        return [visible(line) for line in (_sentences(head, problem.remedy), *faults)]


class Unreachable(ClientError):
    """The service does not answer."""


class DownloadError(ClientError):
    """A download is not what the service announced, or cannot be stored."""


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
