"""Every rule over a history: one check for each kind of what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.faults.checker.clients import check_clients
from tests.faults.checker.dependencies import check_dependencies
from tests.faults.checker.files import check_files
from tests.faults.checker.index import Index
from tests.faults.checker.journal import check_journal
from tests.faults.checker.lifecycle import check_lifecycle
from tests.faults.checker.resumes import check_resumes
from tests.faults.checker.rows import History
from tests.faults.checker.series import check_series
from tests.faults.checker.violations import Violation

CHECKS: tuple[Callable[[Index], Iterator[Violation]], ...] = (
    check_clients,
    check_lifecycle,
    check_dependencies,
    check_journal,
    check_series,
    check_resumes,
    check_files,
)


def check(history: History) -> list[Violation]:
    """All that is wrong in a history; empty if nothing is. Reads nothing but `history`."""
    index = Index(history)
    return [violation for look in CHECKS for violation in look(index)]
