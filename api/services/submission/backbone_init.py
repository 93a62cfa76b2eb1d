"""`backbone.init: {file}`: whether the header of the file has the backbone that the specification describes."""

from __future__ import annotations

from crosskd.spec.backbone import BackboneConfig
from crosskd.spec.weights.header import Shape, WeightsHeader
from crosskd.spec.weights.shapes import backbone_shapes
from wire.errors import Fault

_SHOWN = 5  # tensors that a fault names


def misfit(config: BackboneConfig, header: WeightsHeader | None, file: str, pointer: str) -> Fault | None:
    """Why the tensors of `file` cannot be those of the backbone; None where they can, or where no header tells.

    Only tensors that both have are compared. For other names the worker proposes a mapping, which needs the tensors.
    """
    # A vision transformer's file has the library's names; the backbone keeps the library's model under `net`.
    own = "" if config.vit is None else "net."
    expected = {name.removeprefix(own): shape for name, shape in backbone_shapes(config).items()}
    found = {} if header is None else header.shapes
    wrong = [name for name, shape in expected.items() if name in found and found[name] != shape]
    if not wrong:
        return None
    stem = next(iter(expected))
    if stem == wrong[0] and config.width is not None and found[stem][1:] == expected[stem][1:]:
        # All channels are scaled alike, and some stems have a part of the width.
        width = found[stem][0] * config.width // expected[stem][0]
        detail = f"{file} holds a backbone of width {width}, not {config.width}: {_told(stem, found[stem])}"
        remedy = f"Set `width` of this backbone to {width}, or name a file of width {config.width}."
        return Fault(pointer=pointer, detail=detail, remedy=remedy)
    told = "; ".join(f"{_told(name, found[name])}, not {list(expected[name])}" for name in wrong[:_SHOWN])
    more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return Fault(
        pointer=pointer,
        detail=f"{file} does not fit {config.name}: {len(wrong)} tensors have other shapes: {told}{more}",
        remedy="Name the backbone that the file was trained as, or another file.",
    )


def _told(name: str, shape: Shape) -> str:
    return f"{name} is {list(shape)}"
