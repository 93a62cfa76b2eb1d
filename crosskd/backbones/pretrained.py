"""Where a backbone's first weights come from: nowhere, published ImageNet weights, or a file."""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import get_model_weights

from crosskd.backbones.mapping import FREE, propose
from crosskd.errors import WeightsError
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig, FileRef
from crosskd.weights.tensors import check_shapes, read_content, tensors_in

log = logging.getLogger(__name__)

POINTER = "/student/backbone/init"
SHOWN = 5  # names of each kind, or pairs, in a message


def load(backbone: nn.Module, config: BackboneConfig, *, unused: Sequence[str] = (), own: Sequence[str] = ()) -> None:
    """Fill `backbone` as `config.init` says. Raises `WeightsError`.

    `unused` begin the names that only the classifier has, `own` those that the classifier lacks: a file may have
    them, and where it has not they keep their start.
    """
    if config.init is None or config.init == "random":
        return
    if isinstance(config.init, FileRef):
        name, state = Path(config.init.file).name, read_init(config.init)
    else:
        name, state = f"torchvision's {config.name}", _imagenet(config.name)
    used = {key: value for key, value in state.items() if not key.startswith(tuple(unused))}
    fill(backbone, used, name, config, own)
    log.info("%s: %s", name, loaded(len(used), [key for key in state if key not in used]))


def read_init(init: FileRef) -> dict[str, Tensor]:
    """The tensors of the file that a backbone begins with. Raises `WeightsError`."""
    name = Path(init.file).name
    found = tensors_in(read_content(init.file), name)
    for note in found.notes:
        log.info("%s: %s", name, note)
    return found.tensors


def loaded(count: int, left: Sequence[str]) -> str:
    """What became of a file's tensors, in words."""
    shown = f" ({', '.join(left[:SHOWN])}{', …' if len(left) > SHOWN else ''})" if left else ""
    return f"{count} tensors were loaded into the backbone, {len(left)} were left out{shown}"


def fill(
    backbone: nn.Module, state: Mapping[str, Tensor], name: str, config: BackboneConfig, own: Sequence[str] = ()
) -> None:
    """Put `state`, read from `name`, into `backbone`: all of it, and nothing missing but counters and `own`."""
    wanted = backbone.state_dict()
    missing, unknown = missing_names(wanted, state, own), [key for key in state if key not in wanted]
    if not missing or len(unknown) < len(state):  # of another width, mostly
        check_shapes(state, wanted, name)
    if missing or unknown:
        raise misfit(config, name, state, unknown, wanted, missing, own)
    backbone.load_state_dict(dict(state), strict=False)


def missing_names(wanted: Mapping[str, Tensor], state: Container[str], own: Sequence[str] = ()) -> list[str]:
    """What a file must have and has not: all but counters, and what begins with `own`."""
    return [key for key in wanted if key not in state and not key.endswith(FREE) and not key.startswith(tuple(own))]


def misfit(
    config: BackboneConfig,
    name: str,
    given: Mapping[str, Tensor],
    unknown: Sequence[str],
    wanted: Mapping[str, Tensor],
    missing: Sequence[str],
    own: Sequence[str] = (),
) -> WeightsError:
    """How far the file `name` with the tensors `given` fits, and how it would."""
    remedy = f"Use weights of {source(config.name)}, with its parameter names."
    if missing and (proposal := propose(given, wanted, own)) is not None:
        pairs = [f"{theirs} as {ours}" for ours, theirs in proposal.names.items()]
        model = config.name if config.width == registry.BACKBONES[config.name].width else "RECIPE"
        remedy = (
            f"All of them fit {proposal.how}: {', '.join(pairs[:SHOWN])}{', …' if len(pairs) > SHOWN else ''}. "
            f"`crosskd convert {name} OUT.safetensors --to backbone --model {model}` writes them so, and prints each."
        )
    return WeightsError(
        f"{name} does not fit {config.name}: {len(given) - len(unknown)} of the file's {len(given)} tensors have a "
        f"name of the backbone; {len(missing)} tensors are missing {list(missing[:SHOWN])} "
        f"and {len(unknown)} are unknown {list(unknown[:SHOWN])}",
        where=POINTER,
        remedy=remedy,
    )


def source(name: str) -> str:
    """Who names the parameters of a backbone."""
    if name.startswith(registry.TIMM):
        return f"timm's {name.removeprefix(registry.TIMM)}"
    of_library = registry.BACKBONES[name].family in ("rt_detr_resnet", "hgnet_v2", "vit")
    return f"{name} of transformers" if of_library else f"torchvision's {name}"


def _imagenet(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights (the published results start from them), downloaded once and kept."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise unreachable(name, weights.url, error) from error
    return state


def unreachable(name: str, url: str, error: Exception, *, cached: bool = True) -> WeightsError:
    """That the weights at `url` cannot be had. `cached`: torch finds the file itself where it keeps its downloads."""
    file = url.rpartition("/")[2]
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    put = f"put it into {folder} on the machine that trains, or name" if cached else "name"
    fetch = f"Fetch {file} from {url} elsewhere and {put} it by `init: {{file: ...}}`" if url else "Use another name"
    return WeightsError(
        f"the ImageNet weights of {name} could not be fetched{f' from {url}' if url else ''}: {error}",
        where=POINTER,
        remedy=f"{fetch}, or use `init: random`.",
    )
