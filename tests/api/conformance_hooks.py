"""What `schemathesis` needs to know of the service under test: ids that there are. Loaded by its process, not by ours.

Most generated requests are given a real id in place of an invented one, so that they come past the 404: requests that
use something up (finish, delete, cancel …) get `spent` ids, all others `kept` ones. Which, follows from the request
alone, so that the same run is made again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import zlib
from typing import Any

import schemathesis

POOLS: dict[str, dict[str, list[str]]] = json.loads(os.environ["CONFORMANCE_IDS"])
FILES: dict[str, str] = json.loads(os.environ["CONFORMANCE_FILES"])
KINDS = ("train", "distill", "evaluate", "export", "import")
SPENDING = frozenset(
    {"cancel_job", "stop_job", "pause_job", "resume_job", "retry_job", "delete_job", "claim_job", "finish_attempt"}
    | {"cancel_sweep", "pause_sweep", "resume_sweep", "retry_sweep", "delete_sweep"}
    | {"revoke_token", "delete_webhook", "delete_dataset"}
)
ENDED = frozenset({"stream_events", "read_logs"})  # of a job that lives, the answer would never end
LONGEST_WAIT = 0.01  # seconds that a request for commands is held


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Put real ids, and digests that fit, into most requests."""
    operation = case.operation.definition.raw.get("operationId", "")
    draw = zlib.crc32(repr((operation, case.path_parameters, case.query, dict(case.headers), case.body)).encode())
    if operation == "wait_for_command" and case.query and _is_number(case.query.get("wait", 20)):
        case.query["wait"] = min(float(case.query.get("wait", 20)), LONGEST_WAIT)
    elif operation == "wait_for_command":
        case.query = {**(case.query or {}), "wait": (case.query or {}).get("wait", LONGEST_WAIT)}
    if draw % 8 == 0 and operation not in ENDED:
        return
    if re.fullmatch(r"[\x20-\x7e]{1,255}", str(case.headers.get("Idempotency-Key", ""))):
        case.headers["Idempotency-Key"] = f"{operation} {draw}"  # else it would mostly be refused as used before
    if isinstance(case.body, dict):
        _make_sense(case.body)
    pool = POOLS["ended" if operation in ENDED else "spent" if operation in SPENDING else "kept"]
    for name in case.path_parameters or {}:
        if name in pool:
            case.path_parameters[name] = pool[name][draw // 8 % len(pool[name])]
    if operation == "compare_jobs" and isinstance(case.query, dict) and isinstance(case.query.get("job"), list):
        case.query["job"] = [pool["job"][(draw // 8 + n) % len(pool["job"])] for n in range(len(case.query["job"]))]
    if _is_number(case.headers.get("Fencing-Token", "")) and draw % 3:
        case.headers["Fencing-Token"] = "1"
    if isinstance(case.body, bytes) and draw % 2:
        _announce(case)


def _announce(case: schemathesis.Case) -> None:
    assert isinstance(case.body, bytes)
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(case.body).digest()).decode()}:"
    for name in {"Content-Digest", "Repr-Digest"} & {key.title() for key in case.headers}:
        case.headers[name] = digest
    if "Upload-Length" in case.headers:
        case.headers["Upload-Length"], case.headers["Upload-Offset"] = str(len(case.body)), "0"


def _make_sense(order: dict[str, Any]) -> None:
    """A job of the kind that its specification is for, with files that there are, is looked at further."""
    if isinstance(order.get("base"), dict):  # a sweep, of a specification that may be anything
        order["base"] = {"data": {"train": FILES, "val": FILES}, "student": {"backbone": {"name": "resnet_tiny"}}}
        order.pop("teacher", None)
    spec = order.get("spec")
    if not isinstance(spec, dict):
        return
    data = spec.get("data")
    for split in data.values() if isinstance(data, dict) else ():
        if isinstance(split, dict):
            split |= {name: path for name, path in FILES.items() if isinstance(split.get(name), str)}
    if isinstance(data, dict) and isinstance(data.get("classes"), list):
        del data["classes"]
    if order.get("kind") in KINDS:
        trains = "distill" if "teacher" in spec else "train"
        of_weights = "evaluate" if "data" in spec else "import" if "source" in spec else "export"
        order["kind"] = trains if "student" in spec else of_weights


def _is_number(value: Any) -> bool:
    try:
        return 1 <= float(value) < 2**31 or value == 0
    except (TypeError, ValueError):
        return False
