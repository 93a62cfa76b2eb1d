"""The Markdown files: their links lead somewhere, and their lines are no longer than a reader's window."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

WIDTH = 100  # characters
_BARE_LINK = re.compile(r"\s*([-*] )?<?https?://\S+\s*|\s*\[[^\]]*\]: \S+\s*")
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names of a page's headings in addresses, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def dead_links(document: Path) -> list[str]:
    """The links of a page to files, or to headings in them, that do not exist."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", document.read_text(encoding="utf-8"))):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = document.parent / parts.path if parts.path else document
        named = parts.fragment and target.suffix == ".md" and target.exists()
        if not target.exists() or (named and parts.fragment not in anchors(target.read_text(encoding="utf-8"))):
            dead.append(link)
    return dead


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    assert dead_links(document) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One `heading`: here\n\n```sh\n# no heading\n```\n")
    page = tmp_path / "page.md"
    good = "[a](other.md) [b](other.md#one-heading-here) [c](https://example.org/x#y) [d](#top)\n# Top\n"
    page.write_text(good + "[e](gone.md) [f](other.md#no-heading) [g](#nowhere)\n```\n[h](gone.md)\n```\n")
    assert dead_links(page) == ["gone.md", "other.md#no-heading", "#nowhere"]


def long_lines(text: str) -> list[int]:
    """The numbers, from 1, of lines over the width. Tables, code blocks and bare links cannot be wrapped."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and len(line) > WIDTH and not line.lstrip().startswith("|") and not _BARE_LINK.fullmatch(line):
            found.append(number)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_wrapped(document: Path) -> None:
    assert long_lines(document.read_text(encoding="utf-8")) == []


def test_a_long_line_is_found() -> None:
    text, address = "word " * 21, "https://example.org/" + "x" * 100
    page = [
        *("x" * 100, "x" * 101, text, f"| {text} |", "```sh", text, "```", text),
        *(address, f"- <{address}>", f"[name]: {address}", f"see {address}"),
    ]
    assert long_lines("\n".join(page)) == [2, 3, 8, 12]
