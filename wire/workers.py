"""Workers on the wire: what they say of their devices, and the list of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from crosskd.spec.bounds import AtMost
from wire.errors import Text
from wire.request import RequestModel
from wire.scalars import LARGEST, Count, Number

MAX_DEVICES = 64
MAX_ROOTS = 64
MAX_TRACKERS = 64


class DeviceState(BaseModel):
    """A device as its driver tells of it; null is what it does not tell."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] = Field(
        description="As the driver calls it, such as `NVIDIA H200`."
    )
    memory_bytes: Count | None = Field(default=None, description="Its memory, in bytes; null: not told.")
    memory_used_bytes: Count | None = Field(
        default=None, description="How much of it is in use, by whomever, in bytes; null: not told."
    )
    utilisation: Annotated[Number, Field(ge=0, le=1)] | None = Field(default=None, description="The busy share, 0..1.")


Devices = Annotated[list[DeviceState], AtMost(MAX_DEVICES, fields=16)]

Folder = Annotated[Text, Field(max_length=4096, pattern=r"^[^\x00]*$")]


class Machine(BaseModel):
    """What a worker finds where it runs; null is what it cannot tell."""

    model_config = ConfigDict(extra="forbid")

    data_roots: Annotated[list[Folder], AtMost(MAX_ROOTS)] = Field(
        default=[], description="Of the folders in which a spec may name files, those that it can list."
    )
    free_bytes: Count | None = Field(default=None, description="Free on the disk of its home, in bytes.")
    shared_memory_bytes: Count | None = Field(
        default=None, description="Size of /dev/shm, in which a loader's processes hand over batches, in bytes."
    )
    trackers: Annotated[list[Text], AtMost(MAX_TRACKERS)] | None = Field(
        default=None, description="The trackers that it has the packages and the settings for; null: not told."
    )


class MachineReport(Machine):
    """As a worker tells of it."""

    seconds: Annotated[Number, Field(ge=0, le=LARGEST)] | None = Field(
        default=None, description="By its own clock: since 1970 began in UTC."
    )


class MachineSeen(Machine):
    """As it was told last."""

    clock_ahead_seconds: float | None = Field(
        default=None,
        description="Its clock before the API's, in seconds: any number, below 0 where it is behind.",
    )


class Registration(RequestModel):
    """`POST /worker/register`: what a worker says of itself when it starts, and again while it runs."""

    worker: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")] = Field(
        description="Name of the worker, which no other has."
    )
    device: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = Field(
        default="", description="Its device set: `cpu`, or indices of GPUs."
    )
    versions: Annotated[dict[Text, Text], AtMost(100)] = Field(
        default={}, description="Of Python and of the packages that it has, such as `timm`."
    )
    devices: Devices = Field(default=[], description="Its devices as their driver tells of them.")
    machine: MachineReport | None = Field(default=None, description="Its folders, disk and clock.")


class HeartbeatReport(RequestModel):
    """The body of a heartbeat, which may also have none."""

    devices: Devices = Field(default=[], description="The worker's devices as their driver tells of them.")


class LiveAttempt(BaseModel):
    """What a worker is at."""

    id: str = Field(description="Of the attempt: 32 hex digits.")
    number: int = Field(description="Its place among the job's attempts, from 1.")
    job: str = Field(description="Id of the job.")
    job_name: Text = Field(description="What people call that job.")


class Worker(BaseModel):
    """A worker as it was last heard of: at its start, with a claim or a heartbeat, or every few hours."""

    name: str = Field(description="Name of the worker.")
    device: str = Field(description="Its device set: `cpu`, or indices of GPUs.")
    devices: list[DeviceState] = Field(description="Its devices as it last told of them.")
    versions: dict[str, str] = Field(description="Versions of Python and of the packages that it has.")
    machine: MachineSeen | None = Field(
        default=None, description="Its folders, disk and clock when it registered last; null: it did not tell."
    )
    attempt: LiveAttempt | None = Field(description="null: it is idle, or gone.")
    first_seen: AwareDatetime = Field(description="When it was first heard of, in UTC.")
    last_seen: AwareDatetime = Field(description="When it was last heard of, in UTC.")


class WorkerList(BaseModel):
    """`GET /workers`, the last heard first."""

    items: list[Worker] = Field(description="Every worker that was heard of.")
    data_roots: list[str] = Field(
        default=[], description="Folders in which a spec may name files, as the API has them; workers need the same."
    )
