"""Where a backbone's first weights come from: nowhere, published ImageNet weights, or a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torchvision.models import get_model_weights

from crosskd.errors import WeightsError
from crosskd.spec import registry
from crosskd.spec.config import BackboneConfig, FileRef
from crosskd.weights.tensors import check_shapes, read_tensors

POINTER = "/student/backbone/init"


def load(backbone: nn.Module, config: BackboneConfig, *, unused: Sequence[str] = (), own: Sequence[str] = ()) -> None:
    """Fill `backbone` as `config.init` says. Raises `WeightsError`.

    `unused` begin the names that only the classifier has, `own` those that the classifier lacks: a file may have
    them, and where it has not they keep their start.
    """
    if config.init is None or config.init == "random":
        return
    if isinstance(config.init, FileRef):
        name, state = Path(config.init.file).name, read_tensors(config.init.file)
    else:
        name, state = f"torchvision's {config.name}", _imagenet(config.name)
    fill(backbone, {key: value for key, value in state.items() if not key.startswith(tuple(unused))}, name, config, own)


def fill(
    backbone: nn.Module, state: dict[str, Tensor], name: str, config: BackboneConfig, own: Sequence[str] = ()
) -> None:
    """Put `state`, read from `name`, into `backbone`: all of it, and nothing missing but counters and `own`."""
    wanted = backbone.state_dict()
    check_shapes(state, wanted, name)
    free = ("num_batches_tracked", "relative_position_index")  # not learnt; older files leave them out
    missing = [key for key in wanted if key not in state and not key.endswith(free) and not key.startswith(tuple(own))]
    unknown = [key for key in state if key not in wanted]
    if missing or unknown:
        raise WeightsError(
            f"{name} does not fit {config.name}: {len(missing)} tensors are missing {missing[:5]} "
            f"and {len(unknown)} are unknown {unknown[:5]}",
            where=POINTER,
            remedy=f"Use weights of {source(config.name)}, with its parameter names.",
        )
    backbone.load_state_dict(state, strict=False)


def source(name: str) -> str:
    """Who names the parameters of a backbone."""
    return f"timm's {name.removeprefix(registry.TIMM)}" if name.startswith(registry.TIMM) else f"torchvision's {name}"


def _imagenet(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights (the published results start from them), downloaded once and kept."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise unreachable(name, f" from {weights.url}", error) from error
    return state


def unreachable(name: str, place: str, error: Exception) -> WeightsError:
    return WeightsError(
        f"the ImageNet weights of {name} could not be fetched{place}: {error}",
        where=POINTER,
        remedy="Fetch that file elsewhere and name it by `init: {file: ...}`, or use `init: random`.",
    )
