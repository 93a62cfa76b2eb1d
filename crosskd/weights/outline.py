"""What a pickle describes, without making anything of it: containers, and calls by the name of what would be called.

No name is looked up and nothing is called, so that a file that is refused can still be told apart.
Format: the standard library's `pickletools`.
"""

from __future__ import annotations

import pickletools
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from crosskd.spec.inputs import opened

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # begins the files of torch.save before they were zip archives
_LEGACY_HEAD = 3  # pickles before the content in such a file: this number, a version, sizes of the machine
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}
_CONTAINERS: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": list}
_MARKED = {"TUPLE", "LIST", "DICT", "FROZENSET"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}

# What reading bytes comes to that may be anything: a zip archive that is broken, encrypted or packed unusually; a
# pickle that is cut off, or that takes from an empty stack.
_UNREADABLE = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, StopIteration, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True)
class Thing:
    """A function, a class, or what calling it would give; `name` is its full path."""

    name: str


@dataclass
class Outline:
    value: Any = None
    names: list[str] = field(default_factory=list)  # full paths of all that the pickle asks for, each once
    torch: bool = True  # written by torch.save; else another program's pickle


def outline(path: Path) -> Outline | None:
    """Of a file of torch.save, or of a bare pickle; None for one that cannot be followed."""
    try:
        if zipfile.is_zipfile(opened(path)):
            with zipfile.ZipFile(opened(path)) as archive:
                name = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
                with archive.open(name) as file:
                    return _Machine().run(file)
        with opened(path).open("rb") as file:
            found = _Machine().run(file)
            if found.value != TORCH_MAGIC:
                found.torch = False
                return found
            for _ in range(_LEGACY_HEAD):
                found = _Machine().run(file)
            return found
    except _UNREADABLE:
        return None


class _Machine:
    """The stack of a pickle, with names in place of things."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.names: dict[str, None] = {}

    def run(self, file: IO[bytes]) -> Outline:
        for opcode, argument, _ in pickletools.genops(file):
            self._step(opcode.name, argument)
        return Outline(self.stack[-1], list(self.names))

    def _step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in ("PROTO", "FRAME", "STOP"):
            return
        if name == "MARK":
            self.marks.append(stack)
            self.stack = []
        elif name in _CONTAINERS:
            stack.append(_CONTAINERS[name]())
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _MARKED:
            self._marked(name)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif "PUT" in name or name == "MEMOIZE":
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = stack[-1]
        elif "GET" in name:
            stack.append(self.memo[argument])
        elif name in ("POP", "POP_MARK", "DUP"):
            self._shuffle(name)
        elif not self._fill(name) and not self._call(name, argument):
            stack.append(argument)  # a number or a text

    def _marked(self, name: str) -> None:
        items = self._items()
        made = dict(zip(items[::2], items[1::2], strict=True)) if name == "DICT" else items
        self.stack.append(tuple(items) if name == "TUPLE" else made)

    def _items(self) -> list[Any]:
        """What was put on the stack since the last mark, which is thereby gone."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _shuffle(self, name: str) -> None:
        if name == "POP_MARK":
            self._items()
        elif name == "DUP":
            self.stack.append(self.stack[-1])
        else:
            self.stack.pop()

    def _fill(self, name: str) -> bool:
        """Put items into the container below them. Whether `name` does so."""
        if name in ("SETITEMS", "APPENDS", "ADDITEMS"):
            items = self._items()
        elif name == "SETITEM":
            items = [self.stack.pop(-2), self.stack.pop()]
        elif name == "APPEND":
            items = [self.stack.pop()]
        else:
            return False
        target = self.stack[-1]
        if isinstance(target, dict) and name.startswith("SETITEM"):
            keys = [key if isinstance(key, str | int | float | bytes) else type(key).__name__ for key in items[::2]]
            target.update(zip(keys, items[1::2], strict=True))
        elif isinstance(target, list):
            target.extend(items)
        return True

    def _call(self, name: str, argument: Any) -> bool:
        """Name what would be looked up, called or built. Whether `name` does so."""
        stack = self.stack
        if name in ("GLOBAL", "STACK_GLOBAL", "INST"):
            if name == "INST":
                self._items()
            module, _, thing = (
                argument.partition(" ") if name != "STACK_GLOBAL" else (stack.pop(-2), "", str(stack.pop()))
            )
            full = f"{_PYTHON_2.get(module, module)}.{thing}"
            self.names[full] = None
            stack.append(Thing(full))
        elif name in ("REDUCE", "NEWOBJ", "NEWOBJ_EX"):
            for _ in range(2 if name == "NEWOBJ_EX" else 1):
                stack.pop()
            called = stack.pop()
            plain = isinstance(called, Thing) and called.name == "collections.OrderedDict"
            stack.append({} if plain else called)
        elif name == "OBJ":
            stack.append(self._items()[0])
        elif name == "BUILD":
            stack.pop()
        elif name in ("BINPERSID", "PERSID"):
            told = stack.pop() if name == "BINPERSID" else ()
            # A storage, or in files before zip archives the class of a whole module.
            stack.append(told[1] if isinstance(told, tuple) and told[:1] == ("module",) else Thing("storage"))
        else:
            return False
        return True
