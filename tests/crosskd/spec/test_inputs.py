from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from crosskd.spec import inputs
from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within, opened, pinned, real_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_text("inside")
    (tmp_path / "root" / "b").write_text("beside")
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "root"


def content(path: Path, root: Path) -> tuple[str, str]:
    """Where it was found, and what was read."""
    with open_within(path, [root]) as found, found.reader() as file:
        return found.path.name, file.read().decode()


def link_to(target: str) -> Callable[[Path], None]:
    def swap(path: Path) -> None:
        path.with_name("new").symlink_to(target)
        path.with_name("new").replace(path)

    return swap


def write_anew(path: Path) -> None:
    path.with_name("new").write_text("newer")
    path.with_name("new").replace(path)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def hook(monkeypatch: pytest.MonkeyPatch, name: str, do: Callable[[], None], *, after: bool = False) -> None:
    """Do something once, right before or after a call of `os` that opening makes."""
    real, pending = getattr(os, name), [do]

    def call(*arguments: Any, **options: Any) -> Any:
        if pending and not after:
            pending.pop()()
        answer = real(*arguments, **options)
        if pending:
            pending.pop()()
        return answer

    monkeypatch.setattr(inputs.os, name, call)


@pytest.mark.parametrize("moment", ["stat", "open"])
@pytest.mark.parametrize(
    ("swap", "expected"),
    [
        (link_to("../secret"), LeadsOutside),
        (link_to("b"), ("b", "beside")),
        (become_a_pipe, WrongKind),
        (write_anew, ("a", "newer")),
        (lambda path: path.unlink(), FileNotFoundError),
    ],
    ids=["link out", "link inside", "pipe", "file", "nothing"],
)
def test_what_takes_its_place_before_it_is_opened(
    root: Path, monkeypatch: pytest.MonkeyPatch, moment: str, swap: Callable[[Path], None], expected: Any
) -> None:
    hook(monkeypatch, moment, lambda: swap(root / "a"))
    if isinstance(expected, tuple):
        assert content(root / "a", root) == expected
    else:
        with pytest.raises(expected):
            content(root / "a", root)


def test_a_link_that_takes_its_place_afterwards_is_not_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_within(root / "a", [root]) as found:
        link_to("../secret")(root / "a")
        assert found.reader().read() == found.reader().read() == b"inside"


def test_a_file_that_is_replaced_once_it_is_open_is_looked_for_again(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook(monkeypatch, "open", lambda: write_anew(root / "a"), after=True)
    assert content(root / "a", root) == ("a", "newer")


def test_a_name_that_only_looks_like_a_removed_file(root: Path) -> None:
    (root / "a (deleted)").write_text("still there")
    assert content(root / "a (deleted)", root) == ("a (deleted)", "still there")


def test_a_link_that_becomes_a_file_while_it_is_followed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some Pythons' `realpath` raises then: it reads as a link what was one a moment ago."""
    link_to("b")(root / "a")
    hook(monkeypatch, "readlink", lambda: write_anew(root / "a"))
    assert content(root / "a", root) == ("a", "newer")


def test_the_roots_are_spelt_as_what_lies_below(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    assert real_path(root.parent / "alias") == root
    assert real_path(root.parent / "none") == root.parent / "none"
    with open_within(root.parent / "alias", [root], folder=True) as found:
        assert found.path == root


def test_no_descriptor_stays_open(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count() -> int:
        return sum(1 for _ in Path("/dev/fd").iterdir())

    before = count()
    content(root / "a", root)
    (root / "out").symlink_to("../secret")
    for path, kind in ((root / "out", LeadsOutside), (root, WrongKind), (root / "none", FileNotFoundError)):
        with pytest.raises(kind):
            content(path, root)
    hook(monkeypatch, "open", lambda: link_to("../secret")(root / "a"))
    with pytest.raises(LeadsOutside):
        content(root / "a", root)
    assert count() == before


def test_a_pinned_path_is_read_as_it_was_opened(root: Path) -> None:
    path = root / "a"
    with open_within(path, [root]) as found, pinned({f"{root}//a": found}):
        link_to("../secret")(path)
        assert opened(path).read_text() == opened(str(path)).read_text() == "inside"
        assert opened(root / "b") == root / "b"
    assert opened(path) == path


def test_a_thread_that_swaps_all_the_time_never_shows_what_lies_outside(root: Path) -> None:
    done, seen = threading.Event(), set()

    def swap() -> None:
        while not done.is_set():
            for change in (link_to("../secret"), write_anew, link_to("b"), write_anew):
                change(root / "a")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(1000):
            with suppress(LeadsOutside, OSError):
                seen.add(content(root / "a", root)[1])
    finally:
        done.set()
        thread.join()
    assert seen <= {"inside", "newer", "beside"}
