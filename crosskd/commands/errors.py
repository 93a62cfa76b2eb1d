"""What the commands say when something goes wrong, and how they are stopped: lines and exit codes, no traceback."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

import typer
from pydantic import ValidationError
from rich.console import Console

from crosskd.errors import ConfigError, CrossKDError, Interrupted
from crosskd.spec.config import BackboneConfig, ExportConfig, ModelConfig, TrainConfig
from crosskd.spec.nearest import model_at, propose

CONFIGS = {model.__name__: model for model in (BackboneConfig, ExportConfig, ModelConfig, TrainConfig)}
AFTER_THIS_STEP = "stopping after this step; once more to stop at once"


@contextlib.contextmanager
def stop_on_interrupt(console: Console, answer: str = AFTER_THIS_STEP) -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) asks for a stop, as `answer` says; the second ends the program at once."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        console.print(answer)
        stop.set()

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _fault_line(fault: Any, model: str) -> str:
    """One of the faults of the configuration `model`, with what to do where a field is not known."""
    place = fault["loc"]
    line = f"/{'/'.join(map(str, place))}: {fault['msg'].removeprefix('Value error, ')}"
    holder = model_at(CONFIGS.get(model), place[:-1]) if fault["type"] == "extra_forbidden" else None
    return line if holder is None else f"{line}. {propose(place[-1], holder.model_fields)}"


@contextlib.contextmanager
def clear_errors() -> Iterator[None]:
    """Errors of the user's making as lines on stderr with an exit code, never as a traceback."""
    try:
        yield
    except ValidationError as error:
        for fault in error.errors(include_url=False, include_context=False, include_input=False):
            typer.echo(_fault_line(fault, error.title), err=True)
        raise typer.Exit(2) from error
    except Interrupted as error:
        way = "--resume goes on from there" if error.step else "there is no checkpoint yet: start it again"
        typer.echo(f"{error.message}; {way}", err=True)
        raise typer.Exit(130) from error
    except ConfigError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    except (CrossKDError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from error
