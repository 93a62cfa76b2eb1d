"""Networks compiled by `torch.compile`.

What is compiled are the convolutions: backbone, neck and head. Assignment and losses stay as they are; their shapes
change with every batch, and each change would be compiled anew.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from crosskd.errors import ConfigError

_REMEDY = "Install a C++ compiler (g++) and Python's headers, or leave compile out."


def require_compiler(device: torch.device) -> None:
    """Raises `ConfigError` where torch.compile has nothing to build kernels for `device` with."""
    if device.type == "cuda":
        wanted = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]  # builds the launchers of Triton
    else:
        wanted = [os.environ.get("CXX") or "g++"]
    if not any(shutil.which(name) for name in wanted):
        raise ConfigError(
            f"torch.compile needs a compiler, and there is no {' or '.join(wanted)} here",
            where="/compile",
            remedy=_REMEDY,
        )


def compile_within(trainee: nn.Module, methods: Iterable[tuple[nn.Module, str]]) -> None:
    """Compile `methods`, each a module and the name of its method, for calls of `trainee` and for nothing else.

    Evaluations, averages and exports call the plain methods: they have other shapes, and a single pass would not
    repay its compiling. Nothing is wrapped: modules, parameters and their names are what they were.
    """
    switch = _Switch()
    for module, name in methods:
        setattr(module, name, _Compiled(getattr(module, name), switch))
    trainee.register_forward_pre_hook(switch.turn_on)
    trainee.register_forward_hook(switch.turn_off, always_call=True)


class _Switch:
    """Whether compiled methods run compiled: while the trainee's forward does."""

    on = False

    def turn_on(self, *_: Any) -> None:
        self.on = True

    def turn_off(self, *_: Any) -> None:
        self.on = False


class _Compiled:
    """A method, plain or compiled."""

    def __init__(self, plain: Callable[..., Any], switch: _Switch) -> None:
        self.plain, self.switch = plain, switch
        self.compiled = torch.compile(plain)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.switch.on:
            return self.plain(*args, **kwargs)
        from torch._dynamo.exc import BackendCompilerFailed  # slow to import, and only compiling needs it

        try:
            return self.compiled(*args, **kwargs)
        except BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().partition("\n")[0]
            raise ConfigError(f"torch.compile failed: {reason}", where="/compile", remedy=_REMEDY) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., Any]:
        """A copied module has the plain method, bound to the copy: the compiled one is the original's."""
        return copy.deepcopy(self.plain, memo)
