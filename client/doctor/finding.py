"""What a check found, with its remedy."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

State = Literal["ok", "warning", "error", "skipped"]


class Finding(BaseModel):
    """One thing that was looked at."""

    check: str = Field(description="What was looked at.")
    state: State = Field(description="`error`: jobs will fail; `warning`: some may; `skipped`: it could not be tried.")
    detail: str = Field(description="What was found.")
    remedy: str = Field(default="", description="What to do about it; empty where all is well.")


class Findings(BaseModel):
    """All of one visit; the exit code is 1 where one of them is an error."""

    items: list[Finding] = Field(description="In the order in which they were made.")

    @property
    def failed(self) -> bool:
        return any(item.state == "error" for item in self.items)


def ok(check: str, detail: str) -> Finding:
    return Finding(check=check, state="ok", detail=detail)


def warning(check: str, detail: str, remedy: str) -> Finding:
    return Finding(check=check, state="warning", detail=detail, remedy=remedy)


def error(check: str, detail: str, remedy: str) -> Finding:
    return Finding(check=check, state="error", detail=detail, remedy=remedy)


def skipped(check: str, detail: str) -> Finding:
    return Finding(check=check, state="skipped", detail=detail)
