"""Workers on the wire: what they say of their devices, and the list of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from crosskd.spec.bounds import AtMost
from wire.errors import Text
from wire.request import RequestModel
from wire.scalars import Count, Number

MAX_DEVICES = 64


class DeviceState(BaseModel):
    """A device as its driver tells of it; null is what it does not tell."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")]
    memory_bytes: Count | None = None
    memory_used_bytes: Count | None = None
    utilisation: Annotated[Number, Field(ge=0, le=1)] | None = Field(default=None, description="The busy share, 0..1.")


Devices = Annotated[list[DeviceState], AtMost(MAX_DEVICES, fields=16)]


class Registration(RequestModel):
    """`POST /worker/register`: what a worker says of itself when it starts, and again while it runs."""

    worker: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
    device: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""
    versions: Annotated[dict[Text, Text], AtMost(100)] = Field(
        default={}, description="Of Python and of the packages that it has, such as `timm`."
    )
    devices: Devices = []


class HeartbeatReport(RequestModel):
    """The body of a heartbeat, which may also have none."""

    devices: Devices = []


class LiveAttempt(BaseModel):
    """What a worker is at."""

    id: str
    number: int
    job: str


class Worker(BaseModel):
    """A worker as it was last heard of: at its start, with a claim or a heartbeat, or every few hours."""

    name: str
    device: str = Field(description="Its device set: `cpu`, or indices of GPUs.")
    devices: list[DeviceState]
    versions: dict[str, str]
    attempt: LiveAttempt | None = Field(description="null: it is idle, or gone.")
    first_seen: AwareDatetime
    last_seen: AwareDatetime


class WorkerList(BaseModel):
    """`GET /workers`, the last heard first."""

    items: list[Worker]
