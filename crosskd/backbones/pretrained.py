"""Where a backbone's first weights come from: nowhere, torchvision's ImageNet weights, or a file."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn
from torchvision.models import get_model_weights

from crosskd.config import BackboneConfig, FileRef
from crosskd.errors import WeightsError
from crosskd.tensorfile import check_shapes, read_tensors


def load(backbone: nn.Module, config: BackboneConfig) -> None:
    """Fill `backbone` as `config.init` says. Raises `WeightsError`; the classifier's `fc.*` is left out."""
    if config.init is None or config.init == "random":
        return
    if isinstance(config.init, FileRef):
        name, state = Path(config.init.file).name, read_tensors(config.init.file)
    else:
        name, state = f"torchvision's {config.name}", _imagenet(config.name)
    state = {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}
    wanted = backbone.state_dict()
    check_shapes(state, wanted, name)
    missing = [key for key in wanted if key not in state and not key.endswith("num_batches_tracked")]
    unknown = [key for key in state if key not in wanted]
    if missing or unknown:
        raise WeightsError(
            f"{name} does not fit {config.name}: {len(missing)} tensors are missing {missing[:5]} "
            f"and {len(unknown)} are unknown {unknown[:5]}",
            where="/student/backbone/init",
            remedy=f"Use weights of torchvision's {config.name}, with its parameter names.",
        )
    backbone.load_state_dict(state, strict=False)


def _imagenet(name: str) -> dict[str, Tensor]:
    """torchvision's first ImageNet weights (the published results start from them), downloaded once and kept."""
    weights = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        state: dict[str, Tensor] = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"the ImageNet weights of {name} could not be fetched from {weights.url}: {error}",
            where="/student/backbone/init",
            remedy="Fetch that file elsewhere and name it by `init: {file: ...}`, or use `init: random`.",
        ) from error
    return state
