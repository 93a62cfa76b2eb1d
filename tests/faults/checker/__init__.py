"""Reads what a service under faults has left behind, and says what of it must not be.

from tests.faults.checker import check
from tests.faults.checker.history import Seen, collect

violations = check(collect(database_url, LocalStorage(folder), [audit_logs], seen))
"""

from tests.faults.checker.rules import check as check
from tests.faults.checker.violations import Rule as Rule
from tests.faults.checker.violations import Violation as Violation
