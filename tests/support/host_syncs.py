"""What would keep a GPU waiting for the host, counted on the CPU.

Counted are the operators whose result the host has to see before it can go on (a number, or how large a tensor is), and
the calls that copy numbers from the host into a tensor, for which a GPU's queue is emptied.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

READS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive",
    "is_nonzero", "equal", "bincount", "nms",
}  # fmt: skip
INDEXES = {"index", "index_put", "index_put_", "_index_put_impl_"}
CALLS = {
    torch.Tensor.tolist: "tolist",
    torch.Tensor.numpy: "numpy",
    torch.Tensor.cpu: "cpu",
    torch.Tensor.new_tensor: "new_tensor",
    torch.tensor: "tensor",
    torch.as_tensor: "as_tensor",
    torch.from_numpy: "from_numpy",
}


class HostSyncs:
    """While it is entered: `found` counts what would wait, by where it is; `operators` all that is computed."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self.operators = 0
        self._modes = (_Calls(self), _Operators(self))

    def count(self, name: str) -> None:
        self.found[f"{name} {_place()}"] += 1

    def __enter__(self) -> HostSyncs:
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)


class _Calls(TorchFunctionMode):
    def __init__(self, counted: HostSyncs) -> None:
        super().__init__()
        self.counted = counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if name := CALLS.get(func):
            self.counted.count(name)
        return func(*args, **(kwargs or {}))


class _Operators(TorchDispatchMode):
    def __init__(self, counted: HostSyncs) -> None:
        super().__init__()
        self.counted = counted

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counted.operators += 1
        name = func.overloadpacket.__name__
        if name in READS or (name in INDEXES and any(_is_mask(index) for index in args[1])):
            self.counted.count(name)
        if name == "repeat_interleave" and isinstance(args[-1], Tensor) and "output_size" not in (kwargs or {}):
            self.counted.count(name)
        return func(*args, **(kwargs or {}))


def _place() -> str:
    """The innermost line of crosskd that is being run, or of anything in a backward pass."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if "crosskd" in path.parts and "tests" not in path.parts:
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "elsewhere"


def _is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype in (torch.bool, torch.uint8)
