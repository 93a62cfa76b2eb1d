"""Why does it not work? Looks at this machine, the service and its workers."""

from __future__ import annotations

from importlib import metadata
from itertools import chain

import typer

from client.commands.shared import FAILED, AsJson, Url, connect, console
from client.doctor import machine, service
from client.doctor.finding import Findings
from client.stack.home import default_home
from client.terminal.visible import visible

app = typer.Typer()
SIGNS = {"ok": "ok", "warning": "WARNING", "error": "ERROR", "skipped": "skipped"}


@app.command()
def doctor(url: Url = "", as_json: AsJson = False) -> None:
    """Look at this machine, the service and its workers: what works, what does not, and what to do about it.

    The disk is that of the state folder which `crosskd up` uses: CROSSKD_HOME, or else .crosskd in the current folder.
    Another machine's service: `crosskd doctor --url http://gpu-box:8470`.

    Exit code 0 if jobs can run, 1 if something must be mended first.
    """
    out = console()
    found = Findings(items=[])
    with connect(url) as client:
        client.patience = 0.0  # a service that is away is a finding, nothing to wait for
        for finding in chain(machine.look(default_home()), service.look(client, metadata.version("crosskd"))):
            found.items.append(finding)
            if not as_json:
                out.print(f"{SIGNS[finding.state]:8} {finding.check}: {visible(finding.detail)}", soft_wrap=True)
                if finding.remedy:
                    out.print(f"{'':8} {visible(finding.remedy)}", soft_wrap=True)
    if as_json:
        print(found.model_dump_json(indent=2))
    raise typer.Exit(FAILED if found.failed else 0)
