from __future__ import annotations

import io
import json
import os
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from crosskd.spec.weights.header import NotSafetensors, read_header


def framed(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def read(content: bytes) -> Any:
    return read_header(io.BytesIO(content))


def test_reads_what_the_library_writes(tmp_path: Path) -> None:
    tensors = {
        "a": torch.zeros(2, 3),
        "b.c": torch.zeros((), dtype=torch.int64),
        "d": torch.zeros(0, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "x.safetensors", {"classes": '["dog"]', "model": "{"})
    with (tmp_path / "x.safetensors").open("rb") as file:
        header = read_header(file)
    assert dict(header.shapes) == {"a": (2, 3), "b.c": (), "d": (0,)}
    assert header.json_metadata("classes") == ["dog"]
    assert header.json_metadata("model") is None
    assert header.json_metadata("none") is None
    assert not header.foreign


@pytest.mark.parametrize("name", ["bbox_head.gfl_cls.bias", "backbone.body.bn1.bias"])
def test_knows_the_names_of_mmdetection_and_torchvision(name: str) -> None:
    header = read(framed({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)))
    assert header.foreign


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begin with the length"),
        (b"\x01\x02", "begin with the length"),
        (framed({"a": ENTRY}, bytes(7)), "should hold 8 bytes of tensors but holds 7"),
        (framed({"a": ENTRY}, bytes(9)), "but holds 9"),
        ((2**62).to_bytes(8, "little") + b"{}", "begin with the length"),
        ((17_000_000).to_bytes(8, "little") + bytes(17_000_000), "begin with the length"),
        (framed(b"{x}"), "not JSON"),
        (framed(b"[" * 50_000), "not JSON"),
        (framed([]), "not a JSON object"),
        (framed({"__metadata__": {"a": 1}}), "map of strings"),
        (framed({"a": 3}), "entry for 'a'"),
        (framed({"a": ENTRY | {"dtype": "F31"}}, bytes(8)), "entry for 'a'"),
        (framed({"a": ENTRY | {"shape": [-2]}}, bytes(8)), "entry for 'a'"),
        (framed({"a": ENTRY | {"shape": [2.0]}}, bytes(8)), "entry for 'a'"),
        (framed({"a": ENTRY | {"shape": [10**30, 0], "data_offsets": [0, 0]}}), "entry for 'a'"),
        (framed({"a": ENTRY | {"shape": [1] * 50_000}}, bytes(8)), "entry for 'a'"),
        (framed({"a": ENTRY | {"data_offsets": [0, 8, 9]}}, bytes(8)), "entry for 'a'"),
        (framed({"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, bytes(12)), "overlap"),
        (framed({"a": ENTRY | {"data_offsets": [4, 12]}}, bytes(12)), "gaps"),
    ],
)
def test_broken_files_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(NotSafetensors, match=message):
        read(content)


def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    with pytest.raises(NotSafetensors):
        read(pickle.dumps(Evil()) + bytes(100))
    assert not (tmp_path / "ran").exists()


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)).map(
        framed
    )
)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(NotSafetensors):
        assert all(isinstance(shape, tuple) for shape in read(content).shapes.values())
