"""`crosskd audit`: the service compares its rows with its files, and each finding is a line."""

from __future__ import annotations

import json
from collections.abc import Iterable

import httpx
from pydantic import ValidationError
from rich.console import Console

from client.errors import ClientError
from client.terminal.visible import visible
from client.transport.answers import checked
from client.transport.flow import Item, Items, Next, Open
from wire.audit import LINE, Aborted, Finding, Progress, Summary

SILENCE = httpx.Timeout(120.0, connect=10.0)  # seconds: the service gives a sign of life every few, on a good day

_WORDS = {
    "missing": "no file",
    "size": "{expected} bytes expected, {found} found",
    "bytes": "sha256 {expected} expected, {found} found",
    "unreadable": "{found}",
    "unnamed": "no row; {found} bytes, {age_seconds:.0f} s old",
    "in_flight": "no row yet; {found} bytes, {age_seconds:.0f} s old",
}


def lines(verify: bool) -> Items[Finding | Progress | Summary]:
    """The lines of an audit; the last is a `Summary`.

    Raises: `ApiProblem` for a refusal, `ClientError` if the audit did not come to its end.
    """
    remedy = "Start it again; what was told until here holds."
    options = {"params": {"verify": verify}, "timeout": SILENCE}
    try:
        checked((yield Open("/audit", options, as_events=False)))
        while (line := (yield Next())) is not None:
            item = LINE.validate_json(line)
            if isinstance(item, Aborted):
                raise ClientError(f"The audit broke off: {item.detail}.")
            yield Item(item)
            if isinstance(item, Summary):
                return
    except httpx.TransportError as error:
        raise ClientError(f"The audit broke off ({error or type(error).__name__}).", remedy=remedy) from error
    except ValidationError as error:
        raise ClientError(
            "The service answered with something that is no audit.", remedy="Use a client of its version."
        ) from error
    raise ClientError("The audit broke off.", remedy=remedy)


def show(lines: Iterable[Finding | Progress | Summary], *, as_json: bool) -> bool:
    """Print findings as they come, as a table or as the service's own lines; whether rows and files agree."""
    screen = Console(stderr=True)
    headed = agrees = False
    with screen.status("auditing …") as status:
        for line in lines:
            if isinstance(line, Progress):
                status.update(f"auditing: {line.rows} rows, {line.files} files, {line.bytes_read} bytes read")
                continue
            if isinstance(line, Summary):
                agrees = line.findings == 0
            elif not headed and not as_json:
                print(_row("problem", "job", "artifact", "what", "key"))
                headed = True
            as_text = json.dumps(line.model_dump(mode="json", exclude_none=True)) if as_json else visible(_text(line))
            print(as_text, flush=True)
    return agrees


def _text(line: Finding | Summary) -> str:
    if isinstance(line, Finding):
        what = _WORDS[line.problem].format(**line.model_dump())
        return _row(line.problem, line.job or "-", line.artifact or "-", what, line.key)
    verified = f", {line.bytes_read} bytes read" if line.bytes_read else ""
    flying = f", {line.in_flight} uploads in flight" if line.in_flight else ""
    return f"{line.rows} rows, {line.files} files{verified}: {line.findings} findings{flying}"


def _row(problem: str, job: str, artifact: str, what: str, key: str) -> str:
    return f"{problem:<10}  {job:<32}  {artifact:<24}  {what:<32}  {key}"
