"""The service on this machine, and its tokens: what needs the `local` extra."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from client.commands.shared import AtTheEnd, PathAsJson, print_json, show_path
from client.signals import on_signals
from client.stack.home import Home, default_home

app = typer.Typer()
data_app = typer.Typer(help="Data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@app.command()
def up(
    home: Annotated[Path | None, typer.Option(envvar="CROSSKD_HOME", help="State folder; default ./.crosskd.")] = None,
    host: Annotated[
        str, typer.Option(envvar="CROSSKD_HOST", help="Any but loopback needs an API token: `crosskd token create`.")
    ] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Default: CROSSKD_PORT, or 8470.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print its address as JSON once it answers; all else: stderr.")
    ] = False,
) -> None:
    """Run the whole service in the foreground until Ctrl-C: broker, database, API and one worker."""
    from client.stack.stack import Stack  # here: a client without the `local` extra has the other verbs

    tell = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    stack = Stack(Home(home or default_home()), host=host, port=port, notify=tell)
    on_signals(stack.request_stop)
    tell("Starting …")
    with stack:
        tell(f"CrossKD is at {stack.url}: open it in a browser. State: {stack.home.path}")
        tell(f"The API is described at {stack.url}/docs.")
        tell("Ctrl-C stops it; a running job goes on at the next start.")
        if as_json:
            print_json({"url": stack.url, "home": str(stack.home.path)})
        stack.wait()
        tell("Stopping …")


@app.command()
def demo(
    home: Annotated[Path | None, typer.Option(help="State folder; default: `demo` in CROSSKD_HOME.")] = None,
    as_json: AtTheEnd = False,
) -> None:
    """Train a teacher, a student alone and a student with CrossKD through the service, and compare them."""
    from client.demo import run  # here: needs the `local` extra

    run(home or default_home() / "demo", as_json=as_json)


@data_app.command("demo")
def data_demo(
    folder: Annotated[Path, typer.Argument(help="Made, or filled if it is empty.")], as_json: PathAsJson = False
) -> None:
    """Draw the demo data set."""
    from client.demo import write_data  # here: needs the `core` extra

    write_data(folder)
    show_path(folder, as_json)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True}, add_help_option=False)
def token(context: typer.Context) -> None:
    """API tokens of this home's database: `create NAME --scope read|write|admin`, `list`, `revoke ID`; `--json`."""
    from client.stack.tokens import manage  # here: needs the `local` extra

    raise typer.Exit(manage(Home(default_home()), context.args))
