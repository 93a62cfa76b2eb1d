"""The client's settings: the environment variables `CROSSKD_*` that `crosskd` reads for itself."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from wire.secret_files import SecretFileSettings

DEFAULT_PORT = 8470


class Settings(BaseSettings):
    """What every command may need. No text is wrong for these, so that none stops a command that does not need it."""

    model_config = SettingsConfigDict(env_prefix="CROSSKD_", env_ignore_empty=True, extra="ignore", frozen=True)

    url: str | None = Field(
        default=None,
        description="Address of the service. Default: the stack that runs on `CROSSKD_HOME`, "
        f"else `http://127.0.0.1:{DEFAULT_PORT}`",
    )
    home: Path = Field(default=Path(".crosskd"), description="Folder for all state of a local stack; made if missing.")


class TokenSettings(SecretFileSettings):
    """What a command needs that calls the service. Its file may be wrong."""

    model_config = Settings.model_config

    token: SecretStr | None = Field(
        default=None, description="API token, for a service that asks for one; unset: none is sent."
    )


class StackSettings(Settings):
    """What `crosskd up` needs besides."""

    host: str = Field(
        default="127.0.0.1",
        description="Address on which the API listens; any but loopback needs an API token, "
        "which `crosskd token create` makes.",
    )
    port: int = Field(
        default=DEFAULT_PORT, ge=0, le=65535, description="Port on which the API listens; 0 is any free one."
    )
