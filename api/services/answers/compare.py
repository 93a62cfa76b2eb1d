"""Comparisons: computed in a process of its own, one at a time, and kept by the digests of the files behind them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO

from api.database import Database
from api.errors import InvalidSpec
from api.kept_bytes import KeptBytes
from api.processes import bounded
from api.processes.bounded import TooMuchMemory, TooSlow
from api.services.answers.find_matches import StoredMatches, find
from api.services.answers.stored_copy import stored_copy
from api.storage import Storage
from crosskd.spec.results.matches import MOST_BYTES
from wire.compare import RESAMPLES, SEED, ComparedJob, Comparison, Differences
from wire.errors import Fault

_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # its threads are its own
COMMAND = [sys.executable, "-m", "report.compare"]
CACHED_BYTES = 16 * 2**20  # of answers, as JSON
_VERSION = b"1"  # of what is computed: part of the tag

if TYPE_CHECKING:  # numpy is for the process that computes
    from report.compare import Answer


class Comparisons:
    """What was computed."""

    def __init__(self) -> None:
        self._answers = KeptBytes(CACHED_BYTES)

    def get(self, tag: str) -> Answer | None:
        stored = self._answers.get(tag)
        answer: Answer | None = None if stored is None else json.loads(stored)
        return answer

    def put(self, tag: str, answer: Answer) -> None:
        self._answers.put(tag, json.dumps(answer).encode())


def find_all(database: Database, refs: Sequence[str], baseline: str | None) -> list[StoredMatches]:
    """As `find_matches.find`, in a transaction of its own."""
    with database.reading() as session:
        return find(session, refs, baseline)


def tag_of(found: Sequence[StoredMatches]) -> str:
    """It stands for the files, their order and all that is done with them."""
    digests = "".join(matches.sha256 for matches in found)
    return hashlib.sha256(_VERSION + f"{digests} {RESAMPLES} {SEED}".encode()).hexdigest()


def kept(comparisons: Comparisons, found: Sequence[StoredMatches]) -> Comparison | None:
    """The answer, if it was computed before."""
    answer = comparisons.get(tag_of(found))
    return None if answer is None else _as_wire(answer, found)


def compute(comparisons: Comparisons, storage: Storage, found: Sequence[StoredMatches], seconds: float) -> Comparison:
    """The answer, from the files. It holds no transaction, and takes seconds: call it on a thread made for that.

    Raises:
        Gone: the storage has lost a file.
        InvalidSpec: the files cannot be compared, or not within `seconds`; it names what differs.
    """
    if (known := kept(comparisons, found)) is not None:  # another request has computed it meanwhile
        return known
    with ExitStack() as stack:
        files = [stack.enter_context(_copied(storage, matches)) for matches in found]
        answer = _run(files, seconds)
    if answer["faults"]:
        raise _incomparable(answer["faults"], found)
    comparisons.put(tag_of(found), answer)
    return _as_wire(answer, found)


def _copied(storage: Storage, matches: StoredMatches) -> BinaryIO:
    """The file as the process can read it, wherever it lies, and as its digest says it is."""
    if matches.size > MOST_BYTES:
        what = f"the {matches.model} of the job {matches.job} has matches of {matches.size} bytes"
        fault = Fault(pointer="job", detail=f"{what}, and {MOST_BYTES} are the most", remedy="Compare another job.")
        raise InvalidSpec("the matches are too large to compare", errors=[fault])
    return stored_copy(storage, matches.key, matches.sha256, f"matches of the job {matches.job}")


def _run(files: Sequence[BinaryIO], seconds: float) -> Answer:
    request = {"files": [file.fileno() for file in files], "resamples": RESAMPLES, "seed": SEED}
    try:
        answer: Answer = bounded.ask([*COMMAND, str(seconds)], request, files, seconds, _ENVIRONMENT)
    except TooSlow:
        raise _too_much(f"takes more than {seconds:g} s") from None
    except TooMuchMemory:
        raise _too_much("takes more memory than it may have") from None
    return answer


def _too_much(what: str) -> InvalidSpec:
    fault = Fault(
        pointer="job",
        detail=f"the comparison {what}",
        remedy="Compare fewer jobs at once, or set CROSSKD_COMPARE_SECONDS of the API higher.",
    )
    return InvalidSpec("the comparison is too large", errors=[fault])


def _incomparable(faults: Sequence[tuple[int, str]], found: Sequence[StoredMatches]) -> InvalidSpec:
    """It names each job and what differs, and how to have it measured as the baseline was."""
    errors = []
    for place, what in faults:
        matches = found[place]
        broken = "cannot be read" in what
        reason = "" if broken else f", otherwise than {found[0].ref}"
        again = f"`{matches.again}`" if matches.again else "an evaluate job on its weights"
        remedy = f"Run {again}" + (", and compare that." if broken else " on the baseline's images, and compare that.")
        errors.append(Fault(pointer="job", detail=f"{matches.ref}{reason}: {what}", remedy=remedy))
    return InvalidSpec(
        "the jobs were not measured alike; `errors` tells what differs", remedy="See `errors`.", errors=errors
    )


def _as_wire(answer: Answer, found: Sequence[StoredMatches]) -> Comparison:
    jobs = [
        ComparedJob(
            ref=matches.ref,
            job=matches.job,
            name=matches.name,
            model=matches.model,
            step=matches.step,
            matches_sha256=matches.sha256,
            metrics=compared["metrics"],
            per_class=compared["per_class"],
            differences=Differences(numbers=compared["numbers"], classes=compared["classes"]) if place else None,
        )
        for place, (compared, matches) in enumerate(zip(answer["compared"], found, strict=True))
    ]
    return Comparison(
        baseline=found[0].ref,
        images=answer["images"],
        resamples=RESAMPLES,
        seed=SEED,
        confidence=answer["confidence"],
        jobs=jobs,
    )
