"""Numbers as JSON has them: `false` is none, nor is `"1"`, though Pydantic would take both for one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

LARGEST = 2**53  # the largest whole number up to which every JSON reader has each one exactly

Number = Annotated[float, Field(strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, le=LARGEST)]
Flag = Annotated[bool, Field(strict=True)]
