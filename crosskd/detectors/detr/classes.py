"""The layers of a DETR that have a row for each class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from crosskd.spec.detr.names import is_class_tensor


@torch.no_grad()
def select_rows(model: Any, kept: Sequence[int]) -> None:
    """Keep the rows `kept`, in that order, of every layer of the library's `model` that has one for each class.

    The embedding of noisy classes has one more row, for none of them, which stays.
    """
    replaced: dict[nn.Module, nn.Module] = {}  # a layer may stand in several places
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if not is_class_tensor(f"head.{name}.weight") or not isinstance(module, nn.Linear | nn.Embedding):
            continue
        if module not in replaced:
            replaced[module] = _narrowed(module, torch.tensor(kept, device=module.weight.device))
        place, _, last = name.rpartition(".")
        setattr(model.get_submodule(place), last, replaced[module])
    model.config.num_labels = len(kept)


def _narrowed(module: nn.Linear | nn.Embedding, kept: Tensor) -> nn.Module:
    old = module.weight
    if isinstance(module, nn.Linear):
        layer = nn.Linear(module.in_features, len(kept)).to(old)
        layer.bias.copy_(module.bias[kept])
        layer.weight.copy_(old[kept])
        return layer
    rows = torch.cat((kept, kept.new_tensor([module.num_embeddings - 1])))
    embedding = nn.Embedding(len(rows), module.embedding_dim, padding_idx=len(kept)).to(old)
    embedding.weight.copy_(old[rows])
    return embedding
