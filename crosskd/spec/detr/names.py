"""Names of a DETR's tensors: which of them have a row for each class, and the library's own. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable

# What is said of a checkpoint of the library's without its folder.
ALONE = "a DETR as transformers saves it, whose sizes stand in the config.json beside it"
INSTEAD = "Name the folder that holds both, in place of the file."

_ROBOFLOW = "refpoint_embed."  # begins a name of RF-DETR's, by those of its own code
# Parts of a name. The last one has a row more than there are classes: for a query that is none.
NOISY_CLASSES = "denoising_class_embed"
CLASS_LAYERS = ("class_embed", "enc_out_class_embed", "enc_score_head", NOISY_CLASSES)


def is_library_checkpoint(names: Iterable[str]) -> bool:
    """Whether these are the library's own names of a DETR's tensors."""
    return any(name.removeprefix("model.").startswith(("decoder.layers.", _ROBOFLOW)) for name in names)


def is_class_tensor(name: str) -> bool:
    """Whether the tensor, by our name, has a row for each class."""
    parts = name.split(".")
    return parts[0] == "head" and any(part in CLASS_LAYERS for part in parts)
