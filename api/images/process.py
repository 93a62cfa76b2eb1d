"""One process for thumbnails: `python -m api.images.process MEMORY_BYTES SECONDS`."""

from __future__ import annotations

import sys
from typing import Any

from api.processes import image_process
from api.processes.image_process import Answer, fault
from crosskd.predict.display import displayed
from crosskd.predict.picture import BadImage


def thumbnail(order: dict[str, Any], content: bytes) -> Answer:
    """The picture that an order asks for, or its fault."""
    try:
        picture = displayed(
            content,
            order["side"],
            size=(order["height"], order["width"]),
            sixteen_bit=order["sixteen_bit"],
            max_pixels=order["pixels"],
        )
    except BadImage as error:
        return fault(error.kind, error.message, error.remedy), b""
    except MemoryError:
        return fault("memory"), b""
    return {}, picture


def main(memory: str, seconds: str) -> None:
    """Bound this process, then serve."""
    image_process.run(thumbnail, int(memory), float(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
