"""Names and shapes of the projector of LW-DETR and RF-DETR: from the backbone's maps to those of the memory.

A test holds them against the library's. Imports no torch.
"""

from __future__ import annotations

from crosskd.spec.detr.section import DetrConfig

BLOCKS = 3  # of the layer that fuses the maps
_WIDE = 512  # channels above which a map is narrowed before it is made larger

Shapes = dict[str, tuple[int, ...]]


def projector_shapes(section: DetrConfig, channels: tuple[int, ...], *, scaled: bool) -> Shapes:
    """`neck.` and so on. `channels` of the backbone's maps; `scaled`: LW-DETR's, of a map for each of `scales`."""
    if not scaled:
        return _fused("neck", section, sum(channels), batch_norm=False)
    shapes: Shapes = {}
    for place, scale in enumerate(section.scales):
        name, read = f"neck.scale_layers.{place}", 0
        for number, width in enumerate(channels):
            found, left = _sampled(f"{name}.sampling_layers.{number}.layers", width, scale)
            shapes, read = shapes | found, read + left
        shapes |= _fused(name, section, read, batch_norm=True)
    return shapes


def _sampled(name: str, width: int, scale: float) -> tuple[Shapes, int]:
    """A map of `width` channels made larger or smaller, and how many channels it has then."""
    if scale == 0.5:
        return _conv_norm(f"{name}.0", width, width, 3, batch_norm=True), width
    if scale == 1:
        return {}, width
    place, shapes = 0, Shapes()
    if width > _WIDE:
        shapes = _conv_norm(f"{name}.0", width, width // 2, 1, batch_norm=True)
        place, width = 1, width // 2
    larger = {f"{name}.{place}.weight": (width, width // 2, 2, 2), f"{name}.{place}.bias": (width // 2,)}
    return shapes | larger, width // 2


def _fused(name: str, section: DetrConfig, read: int, *, batch_norm: bool) -> Shapes:
    inside = int(section.width * section.expansion)
    layer, width = f"{name}.projector_layer", section.width
    shapes = _conv_norm(f"{layer}.conv1", read, 2 * inside, 1, batch_norm=batch_norm)
    shapes |= _conv_norm(f"{layer}.conv2", (2 + BLOCKS) * inside, width, 1, batch_norm=batch_norm)
    for block in range(BLOCKS):
        for conv in ("conv1", "conv2"):
            shapes |= _conv_norm(f"{layer}.bottlenecks.{block}.{conv}", inside, inside, 3, batch_norm=batch_norm)
    return shapes | {f"{name}.layer_norm.weight": (width,), f"{name}.layer_norm.bias": (width,)}


def _conv_norm(name: str, read: int, made: int, kernel: int, *, batch_norm: bool) -> Shapes:
    norms = ("weight", "bias", "running_mean", "running_var") if batch_norm else ("weight", "bias")
    shapes: Shapes = {f"{name}.conv.weight": (made, read, kernel, kernel)}
    shapes |= {f"{name}.norm.{norm}": (made,) for norm in norms}
    return shapes | ({f"{name}.norm.num_batches_tracked": ()} if batch_norm else {})
