"""The judgement over a history: every rule, one room for each kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.faults.checker.books import check_books
from tests.faults.checker.clients import check_clients
from tests.faults.checker.files import check_files
from tests.faults.checker.index import Index
from tests.faults.checker.lives import check_lives
from tests.faults.checker.resumes import check_resumes
from tests.faults.checker.rows import History
from tests.faults.checker.series import check_series
from tests.faults.checker.violations import Violation

ROOMS: tuple[Callable[[Index], Iterator[Violation]], ...] = (
    check_clients,
    check_lives,
    check_books,
    check_series,
    check_resumes,
    check_files,
)


def check(history: History) -> list[Violation]:
    """All that is wrong in a history; empty if nothing is. Reads nothing but `history`."""
    index = Index(history)
    return [violation for room in ROOMS for violation in room(index)]
