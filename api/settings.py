"""Settings: read from the environment alone, checked before anything starts.

Every fault is reported at once, each with the variable's name; values never appear in a message, because
addresses carry passwords.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import NoDecode, SettingsConfigDict

from api.addresses import check_database, check_endpoint, check_storage, database_address, sqlite_address
from wire import broker, tracing
from wire.process_log import LogFormat, LogLevel
from wire.secret_files import SecretFileSettings


class SettingsError(Exception):
    """The environment does not make a working service; the message says what to set."""


def _split_paths(value: Any) -> Any:
    if isinstance(value, str):
        return [part for part in value.split(os.pathsep) if part]
    return value


def _split_commas(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _first_of(*names: str) -> Callable[[], str | None]:
    """The first of the environment's variables that is set, as the tools of a cloud read them."""
    return lambda: next(filter(None, map(os.environ.get, names)), None)


def _secret(name: str) -> Callable[[], SecretStr | None]:
    return lambda: SecretStr(os.environ[name]) if os.environ.get(name) else None


def _absolute(path: Path) -> Path:
    return path.expanduser().absolute()


Folder = Annotated[Path, AfterValidator(_absolute)]


class Settings(SecretFileSettings):
    """`CROSSKD_<NAME>` in the environment; an empty variable counts as unset."""

    model_config = SettingsConfigDict(env_prefix="CROSSKD_", env_ignore_empty=True, frozen=True, extra="ignore")

    home: Folder = Field(
        default=Path(".crosskd"), validate_default=True, description="Folder for the service's state; made if missing."
    )
    storage: Folder = Field(
        default_factory=lambda data: data.get("home", Path()) / "artifacts",
        description="Folder for artifacts. With a bucket, it only holds uploads on their way to the bucket.",
    )
    storage_url: Annotated[str, AfterValidator(check_storage)] | None = Field(
        default=None,
        description="The bucket for artifacts, as `s3://BUCKET/PREFIX`; unset: artifacts stay in `CROSSKD_STORAGE`.",
    )
    storage_endpoint: Annotated[str, AfterValidator(check_endpoint)] | None = Field(
        default_factory=_first_of("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
        validate_default=True,
        description="Server that holds the bucket. "
        "Default: `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`, else Amazon's for the region",
    )
    storage_public_endpoint: Annotated[str, AfterValidator(check_endpoint)] | None = Field(
        default=None,
        description="The same server, as workers and clients reach it; unset: `CROSSKD_STORAGE_ENDPOINT`.",
    )
    storage_region: str = Field(
        default_factory=lambda: _first_of("AWS_REGION", "AWS_DEFAULT_REGION")() or "us-east-1",
        description="Region of the bucket. Default: `AWS_REGION`, else `AWS_DEFAULT_REGION`, else `us-east-1`",
    )
    storage_access_key_id: str | None = Field(
        default_factory=_first_of("AWS_ACCESS_KEY_ID"),
        description="Access key for the bucket. Default: `AWS_ACCESS_KEY_ID`, else the machine's role",
    )
    storage_secret_access_key: SecretStr | None = Field(
        default_factory=_secret("AWS_SECRET_ACCESS_KEY"),
        description="The secret of that access key. Default: `AWS_SECRET_ACCESS_KEY`, else the machine's role",
    )
    storage_session_token: SecretStr | None = Field(
        default_factory=_secret("AWS_SESSION_TOKEN"),
        description="Session token, where the access key is temporary. Default: `AWS_SESSION_TOKEN`, else none",
    )
    storage_link_seconds: int = Field(
        default=3600, ge=10, le=604_800, description="Seconds for which an address in the bucket is valid."
    )
    storage_part_size: int = Field(
        default=256 << 20,
        ge=1_000,
        le=5_000_000_000,
        description="Bytes of one part of an upload to the bucket; larger files are sent in several parts.",
    )
    data_roots: Annotated[list[Folder], NoDecode, BeforeValidator(_split_paths), Field(min_length=1)] = Field(
        default_factory=lambda data: [data.get("home", Path()) / "data"],
        description="Folders in which a spec may name files, separated as in `PATH`.",
    )
    database_url: Annotated[str, AfterValidator(check_database)] = Field(
        default_factory=lambda data: sqlite_address(data.get("home", Path()) / "crosskd.db"),
        description=(
            "The database: `sqlite:///FILE` or `postgresql+psycopg://USER@HOST/NAME`, with each part percent-encoded. "
            "A password may stand apart, as it is, in `CROSSKD_DATABASE_PASSWORD` or `PGPASSWORD`."
        ),
    )
    database_password: SecretStr | None = Field(
        default=None,
        description="Password of the database, as it is: any character, not encoded. In the place of one in the "
        "address.",
    )
    broker_url: Annotated[str, AfterValidator(broker.check)] = Field(
        default="redis://127.0.0.1:6379/0",
        description="The broker: `redis://`, `rediss://` (TLS), `unix://` or `sentinel://…?master_name=NAME`.",
    )
    broker_password: SecretStr | None = Field(
        default=None,
        description="Password of the broker, as it is: any character, not encoded. In the place of one in the address.",
    )
    worker_token_sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$",
        description="SHA-256, in hex, of the token that workers present; the API never has the token itself.",
    )
    auth: Literal["loopback", "tokens"] = Field(
        default="loopback",
        description="`loopback`: callers on this machine need no token. `tokens`: every caller needs one; "
        "set this behind a proxy.",
    )
    lease_seconds: float = Field(
        default=30, gt=0, le=3600, description="Seconds without a heartbeat after which an attempt is lost."
    )
    max_resumes: int = Field(
        default=3,
        ge=0,
        le=100,
        description="How many times a job is queued again after failures of class `infrastructure` or `lost`.",
    )
    relay: Literal["embedded", "external"] = Field(
        default="embedded",
        description="`embedded`: the API process runs the relay. `external`: `python -m api.relay` runs beside it.",
    )
    redeliver_seconds: float = Field(
        default=15, gt=0, description="Seconds after which an unanswered dispatch message is sent again."
    )
    coco_check_seconds: float = Field(
        default=60, gt=0, description="Seconds that the check of one annotation file may take."
    )
    compare_seconds: float = Field(default=60, gt=0, description="Seconds that one comparison of jobs may take.")
    body_limit: int = Field(default=1_000_000, ge=1_000, description="Bytes that a JSON body may have.")
    upload_limit: int = Field(
        default=20_000_000_000, ge=1_000, description="Bytes that one file uploaded by a worker may have."
    )
    reports_per_second: float = Field(
        default=40,
        gt=0,
        description="Batches of metrics per second that one API process asks of all its workers together.",
    )
    rate_per_second: float = Field(
        default=50,
        gt=0,
        le=100_000,
        description="Requests per second of one API token, on average, at each API process.",
    )
    rate_burst: int = Field(
        default=100, ge=1, le=100_000, description="Requests of one API token that may come at once."
    )
    webhook_networks: Annotated[list[IPv4Network | IPv6Network], NoDecode, BeforeValidator(_split_commas)] = Field(
        default=[],
        description="Private networks that webhooks may call, such as `10.0.0.0/8,fd00::/8`, separated by commas.",
    )
    max_waiting_per_owner: int | None = Field(
        default=None, ge=1, description="Waiting, queued and paused jobs that one owner may have; unset: no limit."
    )
    max_running_per_owner: int | None = Field(
        default=None, ge=1, description="Running jobs that one owner may have; unset: no limit."
    )
    keep_checkpoints: int = Field(
        default=3, ge=1, le=1000, description="Last checkpoints kept of a job that has ended, besides its best one."
    )
    min_free_bytes: int = Field(
        default=500_000_000,
        ge=0,
        description="Bytes of the disk that stay free for the database; an upload that would use them gets 507.",
    )
    storage_limit: int | None = Field(
        default=None, ge=0, description="Bytes that all artifacts together may have; unset: no limit."
    )
    storage_limit_per_owner: int | None = Field(
        default=None, ge=0, description="Bytes that the artifacts of one owner may have; unset: no limit."
    )
    log_limit: int = Field(
        default=4_000_000,
        ge=1_000,
        description="Characters of a job's log that are kept to read and follow; `log.txt` has the whole log.",
    )
    max_streams: int = Field(
        default=500, ge=1, description="Event and log streams that one process keeps open at the same time."
    )
    stream_heartbeat_seconds: float = Field(
        default=15, gt=0, description="Seconds between two comments that keep an idle stream alive."
    )
    max_connections: int = Field(
        default=1000,
        ge=1,
        description="Connections that are open at once, at one process; further ones get 503. Fewer where the process "
        "may have fewer descriptors.",
    )
    header_seconds: float = Field(
        default=20, gt=0, description="Seconds that a connection has for the headers of a request."
    )
    transfer_stall_seconds: float = Field(
        default=60,
        gt=0,
        description="Seconds in which 1000 bytes of a body must come, and in which a client must take some of an "
        "answer; else the connection is closed.",
    )
    stream_stall_seconds: float = Field(
        default=30, gt=0, description="Seconds after which a stream is closed because its reader takes nothing."
    )

    images_seconds: float = Field(
        default=60, gt=0, description="Seconds that it may take to match the boxes of a job's validation images."
    )
    images_cache: int = Field(
        default=1_000_000_000,
        ge=0,
        description="Bytes of matched boxes of validation images that `CROSSKD_HOME` keeps; those in use always stay.",
    )
    thumbnail_processes: int = Field(
        default=2,
        ge=0,
        le=64,
        description="Processes that make thumbnails of validation images, each of which has one at a time; they start "
        "at the first one. 0: there are no thumbnails here.",
    )
    thumbnail_queue: int = Field(
        default=64, ge=0, le=10_000, description="Requests for thumbnails that wait at once; further ones get 429."
    )
    thumbnail_seconds: float = Field(default=20, gt=0, le=3600, description="Seconds that one thumbnail may take.")
    thumbnail_memory: int = Field(
        default=1 << 30, ge=256 << 20, description="Bytes of memory that a process for thumbnails may use."
    )
    thumbnail_pixels: int = Field(
        default=64_000_000,
        ge=1,
        le=1_000_000_000,
        description="Pixels that an image may have for a thumbnail; a job's own `data.max_image_pixels` holds as well.",
    )

    predict_processes: int = Field(
        default=1,
        ge=0,
        le=64,
        description="Processes for predictions, each of which has one image at a time; they start at the first one. "
        "0: there are no predictions here.",
    )
    predict_threads: int = Field(default=2, ge=1, le=256, description="CPU threads of one prediction.")
    predict_queue: int = Field(
        default=16, ge=0, le=10_000, description="Requests for predictions that wait at once; further ones get 429."
    )
    predict_seconds: float = Field(
        default=20, gt=0, le=3600, description="Seconds that one image may take, and that its bytes may take to come."
    )
    predict_memory: int = Field(
        default=3 << 30, ge=256 << 20, description="Bytes of memory that a process for predictions may use."
    )
    predict_pixels: int = Field(
        default=64_000_000, ge=1, le=1_000_000_000, description="Pixels that an image for a prediction may have."
    )
    predict_images: int = Field(
        default=16, ge=1, le=1000, description="Images that one request for predictions may have."
    )
    predict_body_limit: int = Field(
        default=32_000_000, ge=1_000, description="Bytes that all images of one request for predictions may have."
    )
    predict_cache: int = Field(
        default=2_000_000_000,
        ge=0,
        description="Bytes of graphs for predictions that are kept in `CROSSKD_HOME`; the one in use is always kept.",
    )

    log_format: LogFormat = Field(default="text", description="Format of the process's own log, on its standard error.")
    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = Field(
        default="INFO", description="The lowest level that the process logs."
    )
    otel_endpoint: str | None = Field(
        default=None,
        pattern=r"^https?://",
        description="Server that receives traces, by OTLP over HTTP; needs `crosskd[otel]`. Unset: no traces, "
        "or as OpenTelemetry's own variables say.",
    )

    @field_validator("database_password")
    @classmethod
    def _database_password(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and (url := info.data.get("database_url")):
            database_address(url, value.get_secret_value())
        return value

    @field_validator("broker_password")
    @classmethod
    def _broker_password(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if url := info.data.get("broker_url"):
            broker.with_password(url, value)
        return value

    @property
    def database_address(self) -> str:
        """The database's address with its password, where that stands apart."""
        password = self.database_password
        return (
            self.database_url if password is None else database_address(self.database_url, password.get_secret_value())
        )

    @property
    def broker_address(self) -> str:
        """The broker's address with its password."""
        return broker.with_password(self.broker_url, self.broker_password)

    @property
    def uptime_interval_seconds(self) -> float:
        """How often the API records that it is alive; see `services/lifecycle/uptime.py`."""
        return min(5.0, self.lease_seconds / 6)


def load() -> Settings:
    """Read and check the environment, and make the folders.

    Raises:
        SettingsError: naming every variable that is missing or wrong.
    """
    try:
        settings = Settings()
    except ValidationError as error:
        raise SettingsError("\n".join(_complaint(fault) for fault in error.errors())) from None
    given = "data_roots" in settings.model_fields_set
    faults = [
        *_unwritable("HOME", settings.home),
        *_unwritable("STORAGE", settings.storage),
        *([] if given else _unwritable("DATA_ROOTS", settings.data_roots[0])),
        *(f"CROSSKD_DATA_ROOTS: {root} is no folder; create it or leave it out" for root in settings.data_roots
          if given and not root.is_dir()),
        *filter(None, [tracing.configuration_error(settings.otel_endpoint)]),
    ]  # fmt: skip
    if faults:
        raise SettingsError("\n".join(faults))
    return settings


def _complaint(fault: Any) -> str:
    name = "CROSSKD_" + "_".join(str(part) for part in fault["loc"]).upper()
    if fault["loc"] == ("worker_token_sha256",):
        how = "printf %s \"$CROSSKD_WORKER_TOKEN\" | sha256sum | cut -d' ' -f1"
        what = "is not set" if fault["type"] == "missing" else "is no hex sha256"
        return f"{name}: {what}; set it to the sha256 of the workers' token, as `{how}` prints it"
    return f"{name}: {fault['msg'].removeprefix('Value error, ')}"


def _unwritable(name: str, folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return []
    except OSError as error:
        return [f"CROSSKD_{name}: cannot write to {folder} ({error.strerror}); name a folder that this user may write"]
