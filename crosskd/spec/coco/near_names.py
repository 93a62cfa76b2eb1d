"""Why images are missing: names that nearly match a file, and what to change."""

from __future__ import annotations

import os
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from pathlib import Path
from urllib.parse import unquote

from crosskd.spec.inputs import LeadsOutside, WrongKind, open_within

LISTED = 5  # missing names that a message spells out
TRIED = 20  # names that something near is looked for
GROUPS = 3  # kinds of difference that a message spells out
ENTRIES = 200_000  # of a folder that are read
FOLDERS = 50  # that are read
BELOW = 20  # folders next to the images that a file is looked for in

# What tells two names apart, and what to do.
REMEDIES = {
    "backslashes": "Write `/` between folders in `file_name`.",
    "case": "Write `file_name` in the same upper and lower case as the file.",
    "Unicode form": "Write `file_name` in the same Unicode form as the file, best NFC in both.",
    "percent signs": "Write the file's own name: only in a web address is `%20` a space.",
    "white space": "Remove the white space at the ends of `file_name`.",
    "ending": "Write the file's own ending in `file_name`.",
}
# The same of images that a list names, and no annotation file.
OF_LIST = {"each `file_name`": "each name", "`file_name`": "the list", "the annotation file": "the list of names"}


@dataclass(frozen=True)
class Near:
    """`name`, as the annotation file has it, is there as `found`, relative to the folder of the images."""

    name: str
    found: str
    differences: tuple[str, ...]
    remedy: str


@dataclass(frozen=True)
class Missing:
    """For an error: what is missing, why it seems to be, and what to change."""

    detail: str
    remedy: str


def explain(
    root: Path,
    missing: Sequence[str],
    looked: int,
    roots: Sequence[Path] = (),
    *,
    seconds: float = 5.0,
    listed: bool = False,
) -> Missing:
    """`missing` are those of `looked` names that are no files below `root`, of an annotation file or (`listed`) a list.

    Near names are sought for some seconds, in folders that lie in `root` or in `roots` (real paths, both).
    """
    more = f" and {len(missing) - LISTED} more" if len(missing) > LISTED else ""
    names = ", ".join(f"{name!r:.120}" for name in missing[:LISTED])
    detail = f"{len(missing)} of {looked} images are missing: {names}{more}"
    search = _Search(root, roots, time.monotonic() + seconds)
    tried = missing[:TRIED]
    groups: dict[tuple[tuple[str, ...], str], list[Near]] = {}
    for name in tried:
        if (near := search.near(name)) is not None:
            groups.setdefault((near.differences, near.remedy), []).append(near)
    remedies = []
    for (differences, remedy), nears in sorted(groups.items(), key=lambda item: -len(item[1]))[:GROUPS]:
        first = nears[0]
        of = "" if len(nears) == len(missing) else f"; {len(nears)} of {len(tried)} looked into differ so"
        # Two Unicode forms look alike: only their code points tell them apart.
        spell = ascii if "Unicode form" in differences else repr
        detail += f". {spell(first.name):.120} is there as {spell(first.found):.120} ({' and '.join(differences)}{of})"
        remedies.append(remedy)
    for folder, why in search.unreadable.items():
        detail += f". The folder {folder} cannot be read: {why}"
    if search.unreadable:
        remedies.append("Give the users of the API and of the workers the right to list and to enter the folder.")
    remedy = " ".join(remedies) or "Check the image folder against the annotation file."
    for file, of_list in OF_LIST.items() if listed else ():
        remedy = remedy.replace(file, of_list)
    return Missing(detail, remedy)


@dataclass
class _Listing:
    exact: set[str] = field(default_factory=set)
    alike: dict[str, str] = field(default_factory=dict)  # `_alike` of a name -> the name
    stems: dict[str, str] = field(default_factory=dict)  # the same without the ending
    folders: list[str] = field(default_factory=list)


class _Search:
    """Lists each folder once, and not without end."""

    def __init__(self, root: Path, roots: Sequence[Path], deadline: float) -> None:
        self.root, self.roots, self.deadline = root, (root, *roots), deadline
        self.unreadable: dict[str, str] = {}
        self._listings: dict[str, _Listing] = {}

    def near(self, name: str) -> Near | None:
        """The file that `name` most likely means."""
        readings = _readings(name)
        for parts, differences in readings:
            for dropped in range(min(len(parts), 5)):
                if (found := self._walk("", parts[dropped:])) is not None:
                    return self._compared(name, parts, dropped, found, list(differences))
        for folder in self._list("").folders[:BELOW]:
            if readings and (found := self._walk(folder, readings[-1][0][-1:])) is not None:
                remedy = f"Name {self.root / folder} as `images`, or write '{folder}/' before each `file_name`."
                return Near(name, found, ("a folder further down",), remedy)
        return None

    def _compared(self, name: str, parts: list[str], dropped: int, found: str, differences: list[str]) -> Near | None:
        if found == name:  # it is listed, but no regular file that can be found: perhaps its folder can't be entered
            folder = self.root / os.path.dirname(name)  # noqa: PTH120 - text
            if not os.access(folder, os.X_OK):
                self.unreadable.setdefault(str(folder), "it may be listed, but not entered")
            return None
        remedies = []
        if dropped:
            differences.append("a folder too much")
            remedies.append(self._folder_remedy(parts[:dropped]))
        differences += _differences("/".join(parts[dropped:]), found)
        remedies += [REMEDIES[each] for each in differences if each in REMEDIES]
        return Near(name, found, tuple(differences), " ".join(remedies)) if differences else None

    def _folder_remedy(self, parts: list[str]) -> str:
        """`images` may be named one folder too deep, or the names have one too many."""
        if tuple(parts) == self.root.parts[-len(parts) :]:
            above = Path(*self.root.parts[: -len(parts)])
            return f"Name {above} as `images`."
        return f"Leave '{'/'.join(parts)}/' out of `file_name`, or name another folder as `images`."

    def _walk(self, folder: str, parts: list[str]) -> str | None:
        """The file that `parts` nearly name below `folder`."""
        found = folder
        for index, part in enumerate(parts):
            listing = self._list(found)
            last = index == len(parts) - 1
            entry = part if part in listing.exact else listing.alike.get(_alike(part))
            if entry is None and last:
                entry = listing.stems.get(_stem(part))
            if entry is None:
                return None
            found = f"{found}/{entry}" if found else entry
        return found if parts else None

    def _list(self, folder: str) -> _Listing:
        if folder in self._listings:
            return self._listings[folder]
        listing = self._listings[folder] = _Listing()
        if len(self._listings) > FOLDERS or time.monotonic() > self.deadline:
            return listing
        try:
            with (
                open_within(self.root / folder, self.roots, folder=True) as opened,
                os.scandir(opened.descriptor) as entries,
            ):
                for entry in islice(entries, ENTRIES):
                    listing.exact.add(entry.name)
                    listing.alike.setdefault(_alike(entry.name), entry.name)
                    listing.stems.setdefault(_stem(entry.name), entry.name)
                    if len(listing.folders) < BELOW and entry.is_dir(follow_symlinks=False):
                        listing.folders.append(entry.name)
        except (NotADirectoryError, FileNotFoundError, WrongKind, LeadsOutside):  # names outside are nobody's business
            pass
        except OSError as error:
            self.unreadable[str(self.root / folder)] = error.strerror or type(error).__name__
        listing.folders.sort()
        return listing


def _readings(name: str) -> list[tuple[list[str], tuple[str, ...]]]:
    """The parts of a path as it stands, and as Windows or a web address would have it, with what that changes."""
    slashes, decoded = name.replace("\\", "/"), unquote(name)
    readings = [
        (name, ()),
        (slashes, ("backslashes",)),
        (decoded, ("percent signs",)),
        (decoded.replace("\\", "/"), ("percent signs", "backslashes")),
    ]
    seen: set[str] = set()
    found: list[tuple[list[str], tuple[str, ...]]] = []
    for reading, differences in readings:
        parts = [part for part in reading.split("/") if part not in ("", ".")]
        if reading not in seen and parts and ".." not in parts:
            found.append((parts, differences))
        seen.add(reading)
    return found


def _without_ending(name: str) -> str:
    folder, slash, leaf = name.rpartition("/")
    return folder + slash + (leaf.rpartition(".")[0] or leaf)


_CHANGES: dict[str, Callable[[str], str]] = {
    "percent signs": unquote,
    "Unicode form": lambda name: unicodedata.normalize("NFC", name),
    "case": str.casefold,
    "white space": lambda name: "/".join(part.strip() for part in name.split("/")),
    "ending": _without_ending,
}


def _alike(name: str) -> str:
    """The same for names that differ in what no person sees or heeds."""
    for difference, change in _CHANGES.items():
        if difference != "ending":
            name = change(name)
    return name


def _stem(name: str) -> str:
    return _without_ending(_alike(name))


def _differences(wanted: str, found: str) -> list[str]:
    """The fewest changes that make the two one."""
    for number in range(len(_CHANGES) + 1):
        for names in combinations(_CHANGES, number):
            a, b = wanted, found
            for name in names:
                a, b = _CHANGES[name](a), _CHANGES[name](b)
            if a == b:
                return list(names)
    return list(_CHANGES)
