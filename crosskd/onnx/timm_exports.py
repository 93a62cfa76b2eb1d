"""Writes which timm models export: `python -m crosskd.onnx.timm_exports [SECONDS]`. Takes hours; goes on where it was.

Models that are made of the same kinds of modules are traced alike, so the smallest of each kind speaks for all: it is
written as ONNX with free image sizes, in a process of its own that may use `LIMIT_SECONDS` of a core. A model of the
table of backbones whose kind has not been tried yet is not in the file. With SECONDS, no trial begins after that time.
"""

from __future__ import annotations

import json
import logging
import math
import multiprocessing
import resource
import signal
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from multiprocessing.connection import Connection
from typing import Any

import timm
import torch
from torch import Tensor, nn

from crosskd.backbones.timm_features import build, run
from crosskd.onnx.same_padding import traceable_padding
from crosskd.spec import registry
from crosskd.spec.backbones.registry import TIMM_EXPORTS, timm_exports

log = logging.getLogger(__name__)

LIMIT_SECONDS = 600.0
SIZE = (96, 128)  # pixels of the images that are traced
FREE = torch.export.Dim.DYNAMIC

Kind = tuple[str, ...]


class _Maps(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> list[Tensor]:
        return run(self.net, images)


def net_of(name: str) -> Any:
    """The extractor that `TimmFeatures` builds for a name of timm's, with random weights."""
    return build(name, registry.BACKBONES[registry.TIMM + name].levels)


def kind_of(name: str) -> Kind:
    """The types of all modules of a model, by name."""
    with warnings.catch_warnings(action="ignore"), torch.device("meta"):
        return tuple(sorted({f"{type(m).__module__}.{type(m).__qualname__}" for m in net_of(name).modules()}))


def backbones() -> list[str]:
    """The names, as timm has them, of the models in the table."""
    return [name.removeprefix(registry.TIMM) for name in registry.BACKBONES if name.startswith(registry.TIMM)]


def kinds(names: Iterable[str]) -> dict[Kind, list[str]]:
    """Models of the table by their kind, the smallest first."""
    found: dict[Kind, list[str]] = defaultdict(list)
    for name in sorted(names, key=lambda name: registry.BACKBONES[registry.TIMM + name].parameters):
        found[kind_of(name)].append(name)
    return found


def fault_of(name: str, limit: float = LIMIT_SECONDS) -> str:
    """Why a model does not export; empty where it does."""
    context = multiprocessing.get_context("fork")  # torch is imported once for all
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_tell_within, args=(limit, name, there))
    process.start()
    there.close()
    try:
        return str(here.recv())
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            return f"the exporter does not end within {limit:g} seconds"
        return "the exporter ends without a word"
    finally:
        process.kill()
        process.join()


def _tell_within(limit: float, name: str, pipe: Connection) -> None:
    """In a new process: the limit is of a core's time, so that other work on the machine decides nothing."""
    end = math.ceil(limit)
    resource.setrlimit(resource.RLIMIT_CPU, (end, end + 1))
    _tell(name, pipe)


def _tell(name: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    try:
        with traceable_padding(), warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                _Maps(net_of(name)).eval().requires_grad_(False),
                (torch.zeros(2, 3, *SIZE),),
                dynamo=True,
                opset_version=18,
                dynamic_shapes=({0: FREE, 2: FREE, 3: FREE},),
                verbose=False,
            )
    except Exception as error:  # whatever the exporter does with a model of a third party
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        pipe.send((lines[0] if lines else type(error).__name__)[:200])
        raise SystemExit(1) from error
    pipe.send("")


def text(faults: Mapping[str, str]) -> str:
    """The file's content, one line a model."""
    lines = [f"{json.dumps(name)}: {json.dumps(fault)}" for name, fault in sorted(faults.items())]
    versions = f'"timm": {json.dumps(timm.__version__)}, "torch": {json.dumps(torch.__version__.partition("+")[0])}'
    return f'{{{versions}, "models": {{\n' + ",\n".join(lines) + "\n}}\n"


def main(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    known = dict(timm_exports())
    for names in sorted(kinds(backbones()).values(), key=len, reverse=True):
        told = [known[name] for name in names if name in known]
        if not told and time.monotonic() > deadline:
            continue
        fault = told[0] if told else fault_of(names[0])
        if not told:
            log.info("%s: %s", names[0], fault or "exports")
        known |= dict.fromkeys(names, fault)
        TIMM_EXPORTS.write_text(text(known))
    log.info("%d models known", len(known))


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)
    main(float(sys.argv[1]) if len(sys.argv) > 1 else float("inf"))
