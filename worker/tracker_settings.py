"""The settings of trackers: where they are and how a worker signs in. No training sees any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, AnyHttpUrl, Field, SecretStr, TypeAdapter, ValidationError, model_validator
from pydantic_settings import SettingsConfigDict

from crosskd.spec.tracking import TRACKERS, TrackerName, TrackerNames
from wire.secret_files import SecretFileSettings

PREFIX = "CROSSKD_"
_NAMES: TypeAdapter[TrackerNames] = TypeAdapter(TrackerNames)


def _split(value: str) -> list[str]:
    return [name for part in value.split(",") if (name := part.strip())]


def _known_names(value: str) -> str:
    try:
        _NAMES.validate_python(_split(value))
    except ValidationError:
        raise ValueError(f"names no trackers, or one twice; known are {', '.join(TRACKERS)}") from None
    return value


def _without_user(value: AnyHttpUrl) -> AnyHttpUrl:
    if value.username or value.password:
        raise ValueError("holds a user or a password; give these by the variables that are made for them")
    return value


Address = Annotated[AnyHttpUrl, AfterValidator(_without_user)]


class TrackerSettings(SecretFileSettings):
    """What the process of a tracker reads. `Settings` has all of it as well."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    trackers: Annotated[str, AfterValidator(_known_names)] = Field(
        default="",
        description="Trackers of the trainings whose spec has no `track`, separated by commas.",
    )
    tracker_seconds: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds that trackers have after the end of a training for what they have not taken yet.",
    )
    tracker_links: Address | None = Field(
        default=None,
        description="Address of the API as people reach it, for the links in trackers; unset: `CROSSKD_API_URL`.",
    )
    tensorboard_folder: Path = Field(
        default=Path("tensorboard"),
        description="Folder of TensorBoard's event files, one in it for each job; a relative one lies in "
        "`CROSSKD_HOME`.",
    )
    mlflow_tracking_uri: Address | None = Field(
        default=None, description="Address of the MLflow server; unset: MLflow cannot be used."
    )
    mlflow_experiment: str = Field(
        default="crosskd", min_length=1, max_length=200, description="MLflow's experiment; made if missing."
    )
    mlflow_username: str | None = Field(default=None, description="User at the MLflow server.")
    mlflow_password: SecretStr | None = Field(default=None, description="Password of that user.")
    mlflow_token: SecretStr | None = Field(
        default=None, description="Bearer token for the MLflow server, in the place of user and password."
    )
    trackio_project: str = Field(
        default="crosskd",
        pattern=r"^[A-Za-z0-9_-]{1,128}$",
        description="Trackio's project; its database lies in `$CROSSKD_HOME/trackio`.",
    )
    wandb_mode: Literal["online", "offline"] = Field(
        default="online",
        description="`online`: runs go to the W&B server. `offline`: they stay in `$CROSSKD_HOME/wandb-runs`, and "
        "`wandb sync` sends them.",
    )
    wandb_api_key: SecretStr | None = Field(
        default=None, description="Key for the W&B server; unset: W&B can only be used offline."
    )
    wandb_base_url: Address | None = Field(default=None, description="Address of a W&B server of your own.")
    wandb_entity: str | None = Field(default=None, description="User or team that runs belong to at W&B.")
    wandb_project: str = Field(default="crosskd", min_length=1, max_length=128, description="W&B's project.")

    @model_validator(mode="after")
    def _user_with_password(self) -> TrackerSettings:
        if (self.mlflow_username is None) != (self.mlflow_password is None):
            raise ValueError(f"{PREFIX}MLFLOW_USERNAME and {PREFIX}MLFLOW_PASSWORD go together; set both, or neither")
        return self

    @property
    def tracker_names(self) -> list[TrackerName]:
        """The trackers of `trackers`."""
        return _NAMES.validate_python(_split(self.trackers))


def variables() -> list[str]:
    """The environment variables that tell of trackers."""
    return [PREFIX + name.upper() for name in TrackerSettings.model_fields]
