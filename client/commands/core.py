"""The core alone, on this machine, without any service: every argument is the core's own, `--help` too."""

from __future__ import annotations

import os
import sys

import typer

AS_GIVEN = {"ignore_unknown_options": True, "allow_extra_args": True}

app = typer.Typer()


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def train(context: typer.Context) -> None:
    """Train a detector on this machine, alone or distilled, without the service."""
    become_core("train", context.args)


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Evaluate a weights file: its COCO AP on this machine, without the service."""
    become_core("evaluate", context.args)


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def export(context: typer.Context) -> None:
    """Write a weights file as ONNX, checked against PyTorch, on this machine, without the service."""
    become_core("export", context.args)


@app.command(context_settings=AS_GIVEN, add_help_option=False)
def convert(context: typer.Context) -> None:
    """Translate weights between this project, MMDetection, torchvision and transformers, without the service."""
    become_core("convert", context.args)


def become_core(verb: str, arguments: list[str]) -> None:
    """Go on as `python -m crosskd`: its exit code and its signals are this command's."""
    command = [sys.executable, "-m", "crosskd", verb, *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - an argument list, no shell
