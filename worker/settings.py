"""The worker's settings: environment variables `CROSSKD_*` and nothing else, checked when the process starts."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AnyHttpUrl,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode, SettingsConfigDict

from wire import broker, tracing
from wire.process_log import LogFormat, LogLevel
from wire.tasks import queues
from worker.tracker_settings import PREFIX, TrackerSettings

SHORTEST_TOKEN = 16
_GPU = re.compile(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+")  # what CUDA_VISIBLE_DEVICES takes


class SettingsError(Exception):
    """The environment does not describe a worker; the message has one line per fault."""


def _detect_devices() -> str:
    """One worker serves one device set; without being told, that is the first GPU it may see, or the CPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return "0" if shutil.which("nvidia-smi") else "cpu"
    return visible.split(",")[0] or "cpu"


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class Settings(TrackerSettings):
    """What a worker needs to know. Every field is the variable of its name: `api_url` is `CROSSKD_API_URL`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    api_url: AnyHttpUrl = Field(description="Address of the API.")
    worker_token: SecretStr = Field(
        description=f"The workers' token, at least {SHORTEST_TOKEN} characters; the API knows its SHA-256."
    )
    broker_url: Annotated[str, AfterValidator(broker.check)] = Field(
        default="redis://127.0.0.1:6379/0",
        description="The broker: `redis://`, `rediss://` (TLS), `unix://` or `sentinel://…?master_name=NAME`.",
    )
    broker_password: SecretStr | None = Field(
        default=None,
        description="Password of the broker, as it is: any character, not encoded. In the place of one in the address.",
    )
    home: Path = Field(default=Path(".crosskd"), description="Folder for the files of attempts; made if missing.")
    data_roots: Annotated[list[Path], NoDecode] = Field(
        default=[],
        description="Folders in which a spec may name files, separated as in `PATH`; "
        "the same folders under the same names as for the API. Default: `$CROSSKD_HOME/data`",
    )
    devices: str = Field(
        default="auto",
        validate_default=True,
        description="`cpu`, or the GPUs that a training sees, separated by commas, such as `0` or `0,1`; "
        "`auto` is the first GPU, or the CPU where there is none.",
    )
    worker_name: str = Field(
        default_factory=platform.node,
        min_length=1,
        max_length=200,
        description="Name of this worker, different on each machine. Default: the machine's host name",
    )
    heartbeat_seconds: float = Field(
        default=5.0,
        gt=0,
        le=300,
        description="Seconds between two renewals of the lease; the API's `CROSSKD_LEASE_SECONDS` should be several "
        "times as long.",
    )
    grace_seconds: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Seconds that a training has to publish its last checkpoint before it is killed.",
    )
    outage_seconds: float = Field(
        default=3600.0,
        ge=0,
        description="Seconds that the end of a training waits for an API that is away, and that an upload, at any "
        "time, waits for a storage that refuses it.",
    )
    keep_failed_hours: float = Field(
        default=24.0, ge=0, description="Hours that the files of a failed attempt stay in `CROSSKD_HOME`."
    )
    keep_undelivered_hours: float = Field(
        default=720.0,
        ge=0,
        description="Hours that the files of an attempt stay in `CROSSKD_HOME` which was stopped before the API had "
        "taken them. The next attempt of the job on this worker goes on from them.",
    )
    spool_megabytes: int = Field(
        default=64, ge=1, le=100_000, description="Megabytes of undelivered reports that a training keeps on disk."
    )
    teacher_cache_gigabytes: int = Field(
        default=50,
        ge=0,
        le=1_000_000,
        description="Gigabytes in `$CROSSKD_HOME/teacher-cache`, where trainings keep what teachers make of images "
        "(`distill.cache`), for all teachers together. Of those that no training uses, the longest unused make way; "
        "0: nothing is kept on disk.",
    )
    log_format: LogFormat = Field(default="text", description="Format of the logs of the worker and its trainings.")
    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = Field(
        default="INFO", description="The lowest level that the worker and its trainings log."
    )
    otel_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Server that receives traces, by OTLP over HTTP; needs `crosskd[otel]`. Unset: no traces, "
        "or as OpenTelemetry's own variables say.",
    )
    audit_log: Path | None = Field(
        default=None,
        description="Folder in which each training keeps its own record of what it reports; unset: no record.",
    )

    @field_validator("data_roots", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return [part for part in value.split(os.pathsep) if part] if isinstance(value, str) else value

    @field_validator("worker_token")
    @classmethod
    def _token(cls, value: SecretStr) -> SecretStr:
        if len(value.get_secret_value()) < SHORTEST_TOKEN:
            raise ValueError(
                f"has less than {SHORTEST_TOKEN} characters; it must be the one whose sha256 the API knows"
            )
        return value

    @field_validator("broker_password")
    @classmethod
    def _broker_password(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url := info.data.get("broker_url"):
            broker.with_password(url, value)
        return value

    @field_validator("devices")
    @classmethod
    def _devices(cls, value: str) -> str:
        value = _detect_devices() if value == "auto" else value.replace(" ", "")
        indices = value.split(",")
        if value != "cpu" and not all(_GPU.fullmatch(index) for index in indices):
            raise ValueError(f"{value!r} names no devices; use `cpu`, or GPU indices such as `0` or `0,1`")
        if len(set(indices)) != len(indices):
            raise ValueError(f"{value!r} names a GPU twice")
        return value

    @model_validator(mode="after")
    def _roots_below_home(self) -> Settings:
        home = self.home.expanduser().absolute()
        roots = self.data_roots or [home / "data"]
        object.__setattr__(self, "home", home)
        object.__setattr__(self, "data_roots", [Path(os.path.realpath(root.expanduser())) for root in roots])
        return self

    @property
    def broker_address(self) -> str:
        """The broker's address with its password."""
        return broker.with_password(self.broker_url, self.broker_password)

    @property
    def work(self) -> Path:
        """Where the folders of the attempts are."""
        return self.home / "work"

    @property
    def teacher_cache(self) -> Path:
        """What trainings keep of teachers, for one another."""
        return self.home / "teacher-cache"

    @property
    def layouts(self) -> Path:
        """Which memory layout is faster on this machine, as trainings have measured it; a file."""
        return self.home / "layouts.json"

    @property
    def device(self) -> str:
        """The device class of the queue: `cpu` or `gpu`."""
        return "cpu" if self.devices == "cpu" else "gpu"

    @property
    def queues(self) -> list[str]:
        """Where this worker's jobs come from."""
        return queues(self.devices)

    @property
    def visible_devices(self) -> str:
        """`CUDA_VISIBLE_DEVICES` of the training; empty hides every GPU."""
        return "" if self.devices == "cpu" else self.devices


def _fault(error: Any) -> str:
    names = [PREFIX + str(part).upper() for part in error["loc"][:1]] or [PREFIX + "*"]
    if error["type"] == "missing":
        return f"{names[0]} is not set"
    return f"{names[0]}: {error['msg'].removeprefix('Value error, ')}"


def read_settings() -> Settings:
    """The settings in the environment.

    Raises:
        SettingsError: a variable is missing or wrong, or the work folder cannot be written.
    """
    try:
        settings = Settings()
    except ValidationError as exc:
        raise SettingsError("\n".join(_fault(error) for error in exc.errors(include_input=False))) from None
    if fault := tracing.configuration_error(settings.otel_endpoint):
        raise SettingsError(fault)
    try:
        settings.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=settings.work):
            pass
    except OSError as exc:
        raise SettingsError(
            f"{PREFIX}HOME: {settings.work} cannot be written ({exc.strerror}); name a folder that this user owns"
        ) from None
    return settings
