"""`crosskd`: the service from the command line.

Exit codes: 0 well, 1 refused or failed (each fault on a line of its own), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from client.commands import (
    core,
    dataset_import,
    datasets,
    doctor,
    init,
    jobs,
    machine,
    predict,
    report,
    results,
    sweeps,
)
from client.commands.shared import FAILED, INTERRUPTED
from client.errors import ClientError
from client.terminal.visible import visible
from crosskd.errors import CrossKDError

app = typer.Typer(
    help="Distil object detectors with CrossKD, as a service.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for part in (machine, doctor, init, dataset_import, datasets, jobs, sweeps, results, predict, report, core):
    app.add_typer(part.app)


def main() -> None:
    """The entry point: errors that are the user's to mend become lines, never tracebacks."""
    errors = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        app()
    except ClientError as error:
        for line in error.lines():
            errors.print("\n".join(map(visible, line.split("\n"))))
        sys.exit(FAILED)
    except (CrossKDError, TimeoutError) as error:
        errors.print("\n".join(map(visible, str(error).split("\n"))))
        sys.exit(FAILED)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # `crosskd jobs | head` is no failure


if __name__ == "__main__":
    main()
