"""What a file that is to hold weights really is, told by its first bytes and not by its ending. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import BinaryIO, Literal

SAFETENSORS = ".safetensors"
FORMAT = "crosskd"  # what the metadata of a file of ours says
MAX_HEADER = 100_000_000  # bytes; the bound that the safetensors library sets itself
_BEGINNING = 512  # bytes that are looked at
_LFS = b"version https://git-lfs.github.com/spec/"
# What people save in place of a weights file, by its first bytes.
_OTHERS: list[tuple[bytes, str, str]] = [
    (b"<!doctype html", "a web page", "Download the file itself: the address led to a page about it, or to a sign-in."),
    (b"<html", "a web page", "Download the file itself: the address led to a page about it, or to a sign-in."),
    (b"<?xml", "an XML document, such as the error that a bucket answers", "Download the file itself."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it, and name the file inside."),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "Unpack it, and name the file inside."),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes it", "Use weights of PyTorch, or save them as safetensors."),
    (b"GGUF", "a GGUF file", "Use weights of PyTorch, or save them as safetensors."),
]

Form = Literal["safetensors", "pytorch", "none"]


@dataclass(frozen=True)
class Beginning:
    """The form of a file; of one that is `none` also what it is instead ("a web page"), and what to do."""

    form: Form
    what: str = ""
    remedy: str = ""


# Whoever names a file `.safetensors` means that it cannot be a pickle.
_PROMISED = Beginning(
    "none", "no readable safetensors file: it is one of PyTorch", "Give it the ending .pth, or write it anew."
)


def beginning_of(file: BinaryIO, suffix: str) -> Beginning:
    """What an open file is. Where its first bytes say nothing, its ending `suffix` decides: a broken file is then
    called broken by whoever reads that form. The file is left at its begin."""
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(_BEGINNING)
    file.seek(0)
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 2 <= length <= min(MAX_HEADER, size - 8):
        return Beginning("safetensors")
    if start.startswith((b"PK\x03\x04", b"\x80")):  # a zip archive, a pickle: what torch.save writes
        return _PROMISED if suffix == SAFETENSORS else Beginning("pytorch")
    if start.startswith(_LFS):
        return _pointer(start)
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what, remedy in _OTHERS:
        if start.startswith(magic) or text.startswith(magic):
            return Beginning("none", what, remedy)
    return Beginning("safetensors" if suffix == SAFETENSORS else "pytorch")


def _pointer(start: bytes) -> Beginning:
    """Three lines that Git keeps in place of a large file."""
    text = start.decode("ascii", "replace")
    size = re.search(r"^size (\d{1,18})$", text, re.MULTILINE)
    digest = re.search(r"^oid sha256:([0-9a-f]{12})", text, re.MULTILINE)
    told = [f"{int(size[1]):,} bytes"] if size else []
    told += [f"sha256 {digest[1]}…"] if digest else []
    return Beginning(
        "none",
        "a Git LFS pointer, not the weights themselves" + (f" ({', '.join(told)})" if told else ""),
        "Run `git lfs pull` where it was cloned and copy the file anew, or download the file itself.",
    )
