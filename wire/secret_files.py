"""Secrets from files, as Docker and Kubernetes mount them: `CROSSKD_TOKEN_FILE` names a file in the place of
`CROSSKD_TOKEN`. No message repeats what the variable says: whoever mixes the two up has put the secret there.
"""

from __future__ import annotations

import os
import select
import stat
import time
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

SUFFIX = "_FILE"
PIPE_SECONDS = 10.0  # that a pipe may take, such as that of <(pass show token)
LONGEST = 64_000  # bytes; what is longer is no secret, but a file named by mistake


def with_files(*variables: str) -> tuple[str, ...]:
    """`variables`, each with that of its file."""
    return (*variables, *(name + SUFFIX for name in variables))


def is_secret(field: FieldInfo) -> bool:
    """Whether a field of a settings class is one that a file may give."""
    return SecretStr in (field.annotation, *get_args(field.annotation))


def secret_of(variable: str) -> str | None:
    """The secret that `variable` holds, or the file that its twin names; None where neither is set.

    Raises `ValueError`: both are set, or the file cannot be read or holds no secret; in words that follow the name.
    """
    given, path = os.environ.get(variable), os.environ.get(variable + SUFFIX)
    if not path:
        return given or None
    if given:
        raise ValueError(f"and {variable}{SUFFIX} are both set; leave one of them out")
    file = f"the file that {variable}{SUFFIX} names"
    try:
        content = _content(Path(path).expanduser())
    except (OSError, RuntimeError) as error:  # the latter: a home of nobody
        why = getattr(error, "strerror", None) or "there is no such home"
        raise ValueError(f"{file} cannot be read ({why}); name one that this user may read") from None
    try:
        lines = content.decode().splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text; write the secret alone into it") from None
    if not any(line.strip() for line in lines):
        raise ValueError(f"{file} is empty; write the secret into it")
    if len(content) > LONGEST or len(lines) > 1:
        raise ValueError(f"{file} has more than one line; write the secret alone into it")
    return lines[0]


def _content(path: Path) -> bytes:
    """Up to a byte more than `LONGEST`. A pipe that nobody writes into holds nobody up: it is empty."""
    with open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        pipe = stat.S_ISFIFO(os.fstat(file.fileno()).st_mode)
        deadline = time.monotonic() + PIPE_SECONDS
        content = b""
        while len(content) <= LONGEST:
            if pipe and not select.select([file], [], [], max(0.0, deadline - time.monotonic()))[0]:
                break
            if not (chunk := file.read(LONGEST + 1 - len(content))):
                break
            content += chunk
    return content


class SecretFileSettings(BaseSettings):
    """Settings from the environment whose secret fields may also come from files."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _SecretFiles(settings_cls), env_settings, dotenv_settings, file_secret_settings

    @field_validator("*", mode="before")
    @classmethod
    def _as_told(cls, value: Any) -> Any:
        if isinstance(value, _Fault):
            raise ValueError(value)
        return value


class _Fault(str):
    """What is wrong with a file, in the place of its secret: all settings are checked before any fault is told."""


class _SecretFiles(PydanticBaseSettingsSource):
    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        if not is_secret(field):
            return None, field_name, False
        try:
            return secret_of((str(self.config.get("env_prefix")) + field_name).upper()), field_name, False
        except ValueError as error:
            return _Fault(error), field_name, False

    def __call__(self) -> dict[str, Any]:
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}
