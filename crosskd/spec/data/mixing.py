"""Training images that are put together from several, cut out and coloured anew. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from crosskd.spec.section import Probability, Section, refused

Factor = Annotated[float, Field(ge=0.05, le=4)]
OFF = "The last so many of `schedule.epochs` go without; 0: none."


def _ascending(scales: tuple[float, float] | None) -> None:
    if scales is not None and scales[0] > scales[1]:
        raise refused(f"scales must ascend, not {list(scales)}", "scales")


class MosaicConfig(Section):
    """Four images around a point, on a canvas of twice the letterbox's side (arXiv 2004.10934, 2107.08430)."""

    probability: Probability = Field(default=1.0, description="How often an image becomes a mosaic, 0..1.")
    cached: bool = Field(
        default=False,
        description="The three others come from the image's own batch, where each is read once, as RTMDet takes them "
        "from a cache; false: from the whole split, as YOLOX.",
    )
    off_last_epochs: int = Field(default=15, ge=0, le=10_000, description=OFF)


class AffineConfig(Section):
    """The mosaic about its centre: turned, scaled, sheared, moved, and shown in the letterbox's square, as YOLOX."""

    degrees: float = Field(default=10.0, ge=0, le=180, description="It is turned by at most so many, either way.")
    translate: float = Field(default=0.1, ge=0, le=0.5, description="It is moved by at most this share of the side.")
    scales: tuple[Factor, Factor] = Field(default=(0.1, 2.0), description="It is scaled by a factor between these.")
    shear: float = Field(default=2.0, ge=0, le=45, description="It is sheared by at most so many degrees per axis.")

    @model_validator(mode="after")
    def _order(self) -> AffineConfig:
        _ascending(self.scales)
        return self


class CropConfig(Section):
    """A mosaic or an image is scaled by a random factor; a random piece of the letterbox's size is shown. As RTMDet."""

    scales: tuple[Factor, Factor] = Field(
        default=(0.1, 2.0), description="The factor lies between these; 1: the image fits the letterbox."
    )

    @model_validator(mode="after")
    def _order(self) -> CropConfig:
        _ascending(self.scales)
        return self


class HSVConfig(Section):
    """Hue, saturation and value are each shifted in half of the images, as for YOLOX and RTMDet."""

    hue: float = Field(default=10.0, ge=0, le=180, description="At most so many degrees of 360, either way.")
    saturation: float = Field(default=30.0, ge=0, le=255, description="At most so much of 255, either way.")
    value: float = Field(default=30.0, ge=0, le=255, description="At most so much of 255, either way.")


class MixUpConfig(Section):
    """The mean of two images, with the boxes of both (arXiv 1710.09412, 2107.08430)."""

    probability: Probability = Field(default=1.0, description="How often an image gets a second one, 0..1.")
    cached: bool = Field(
        default=False,
        description="The second is another finished one of the batch, mosaic included, as RTMDet takes it from a "
        "cache; false: any of the split, before the changes of colour, as YOLOX.",
    )
    scales: tuple[Factor, Factor] | None = Field(
        default=None,
        description="The second is scaled by a factor between these. Default: 0.8 to 1.6; where cached, 1 to 1.",
    )
    flip: Probability = Field(default=0.5, description="How often the second is mirrored left to right, 0..1.")
    off_last_epochs: int = Field(default=15, ge=0, le=10_000, description=OFF)

    @model_validator(mode="after")
    def _order(self) -> MixUpConfig:
        _ascending(self.scales)
        return self

    @property
    def range(self) -> tuple[float, float]:
        """`scales`, with its default."""
        return self.scales or ((1.0, 1.0) if self.cached else (0.8, 1.6))
