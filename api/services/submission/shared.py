"""What several specifications of one request share, so that a sweep's two hundred cost hardly more than one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from api.services.submission.datasets import CheckResult
from api.services.submission.findings import Findings
from api.storage import Storage
from crosskd.spec.coco.survey import Use
from crosskd.spec.config import CocoSplit

T = TypeVar("T")
Checked = tuple[dict[str, Any], CheckResult | None]


@dataclass
class Shared:
    """`planned`: stored specifications, by id, of jobs that the request is about to make and that others may name.
    `images`: how many each annotation file that was looked at gives to a training or an evaluation. `storage`: where
    the files of imported data sets lie.
    """

    storage: Storage
    planned: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, int] = field(default_factory=dict)
    _known: dict[str, tuple[Any, Findings]] = field(default_factory=dict)

    def split(
        self, split: CocoSplit, use: Use, allowed: int, findings: Findings, check: Callable[[Findings], Checked]
    ) -> Checked:
        """What `check` says of a split used like this; it is called once, and what it finds is told every time."""
        key = json.dumps([split.model_dump(), asdict(use), allowed], sort_keys=True)
        values, result = self.once(key, findings, check)
        if result is not None and result.use is not None:
            self.images[values["annotations"]] = result.use["images"]
        return values, result

    def once(self, key: str, findings: Findings, check: Callable[[Findings], T]) -> T:
        """What `check` says of what `key` names; it is called once, and what it finds is told every time."""
        if key not in self._known:
            own = Findings()
            self._known[key] = check(own), own
        checked: T
        checked, own = self._known[key]
        findings.faults += own.faults
        findings.warnings += own.warnings
        return checked
