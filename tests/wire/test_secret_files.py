"""Every secret may stand in a file, for API, worker and client alike; what is wrong with it is told in words."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import BaseSettings

import api.addresses
import api.settings
import wire.secret_files
import worker.settings
from client.settings import TokenSettings
from wire.secret_files import LONGEST, is_secret, secret_of

NEEDED = {"CROSSKD_WORKER_TOKEN_SHA256": "0" * 64, "CROSSKD_API_URL": "http://h", "CROSSKD_DEVICES": "cpu"}
POSTGRES = "postgresql+psycopg://me@h/n"
SECRET = "p@ss:/% 1234567890"
CLASSES = (api.settings.Settings, worker.settings.Settings, TokenSettings)
SECRETS = [(made, name) for made in CLASSES for name, field in made.model_fields.items() if is_secret(field)]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("CROSSKD_")]:
        monkeypatch.delenv(name)
    for name, value in {**NEEDED, "CROSSKD_DATABASE_URL": POSTGRES}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def variable(name: str) -> str:
    return f"CROSSKD_{name.upper()}"


def test_these_are_the_secrets() -> None:
    assert [name for _, name in SECRETS] == [
        *("storage_secret_access_key", "storage_session_token", "database_password", "broker_password"),
        *("mlflow_password", "mlflow_token", "wandb_api_key", "worker_token", "broker_password", "token"),
    ]


@pytest.mark.parametrize(("made", "name"), SECRETS)
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_stands_in_a_file(
    environment: pytest.MonkeyPatch, tmp_path: Path, made: type[BaseSettings], name: str, end: str
) -> None:
    (tmp_path / "secret").write_bytes((SECRET + end).encode())
    environment.setenv("CROSSKD_WORKER_TOKEN", "0123456789abcdef")
    environment.setenv("CROSSKD_MLFLOW_USERNAME", "me" if name == "mlflow_password" else "")
    environment.delenv(variable(name), raising=False)
    environment.setenv(variable(name) + "_FILE", str(tmp_path / "secret"))
    assert getattr(made(), name).get_secret_value() == SECRET


@pytest.mark.parametrize(("made", "name"), SECRETS)
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read (No such file or directory); name one that this user may read"),
        (b"", "is empty; write the secret into it"),
        (b"\n \n", "is empty; write the secret into it"),
        (b"one\ntwo\n", "has more than one line; write the secret alone into it"),
        (b"x" * (LONGEST + 1), "has more than one line; write the secret alone into it"),
        (b"\xff\xfe", "is no text; write the secret alone into it"),
    ],
)
def test_a_file_without_a_secret_is_refused_in_words(
    environment: pytest.MonkeyPatch,
    tmp_path: Path,
    made: type[BaseSettings],
    name: str,
    content: bytes | None,
    said: str,
) -> None:
    path = tmp_path / "hunter2"
    if content is not None:
        path.write_bytes(content)
    environment.setenv(variable(name) + "_FILE", str(path))
    assert told(made)[variable(name)] == f"the file that {variable(name)}_FILE names {said}"


def test_a_pipe_may_give_a_secret_and_holds_nobody_up(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setattr(wire.secret_files, "PIPE_SECONDS", 0.05)
    os.mkfifo(tmp_path / "pipe")
    environment.setenv("CROSSKD_TOKEN_FILE", str(tmp_path / "pipe"))
    with pytest.raises(ValueError, match="is empty; write the secret into it"):  # nobody writes
        secret_of("CROSSKD_TOKEN")
    environment.setenv("CROSSKD_TOKEN_FILE", str(tmp_path))
    with pytest.raises(ValueError, match="Is a directory"):
        secret_of("CROSSKD_TOKEN")
    environment.setattr(wire.secret_files, "PIPE_SECONDS", 30.0)
    environment.setenv("CROSSKD_TOKEN_FILE", str(tmp_path / "pipe"))
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=(SECRET + "\n",))
    writer.start()
    assert secret_of("CROSSKD_TOKEN") == SECRET
    writer.join()


@pytest.mark.parametrize(("made", "name"), SECRETS)
def test_a_secret_given_twice_is_refused(
    environment: pytest.MonkeyPatch, tmp_path: Path, made: type[BaseSettings], name: str
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    environment.setenv(variable(name), SECRET)
    environment.setenv(variable(name) + "_FILE", str(tmp_path / "secret"))
    assert told(made)[variable(name)] == f"and {variable(name)}_FILE are both set; leave one of them out"


def told(made: type[BaseSettings]) -> dict[str, str]:
    """By variable, what is wrong; the place of the file is not repeated, because it may be the secret itself."""
    with pytest.raises(ValidationError) as caught:
        made()
    faults = caught.value.errors(include_input=False)
    assert "hunter2" not in str([fault["msg"] for fault in faults])
    return {variable(str(fault["loc"][0])): fault["msg"].removeprefix("Value error, ") for fault in faults}


def test_the_passwords_of_database_and_broker_reach_their_addresses(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text("p@ss")
    for name in ("CROSSKD_DATABASE_PASSWORD_FILE", "CROSSKD_BROKER_PASSWORD_FILE"):
        environment.setenv(name, str(tmp_path / "secret"))
    settings = api.settings.Settings()
    assert settings.database_address == "postgresql+psycopg://me:p%40ss@h/n" == api.addresses.database_address(POSTGRES)
    assert settings.broker_address == "redis://:p%40ss@127.0.0.1:6379/0"
    assert "p@ss" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+psycopg://me:hunter2@h/n", "and CROSSKD_DATABASE_URL both hold a password; leave one of them out"),
        ("sqlite:///x.db", "is for Postgres; a SQLite file has no password"),
    ],
)
def test_a_database_that_takes_no_password_apart(environment: pytest.MonkeyPatch, url: str, said: str) -> None:
    environment.setenv("CROSSKD_DATABASE_URL", url)
    environment.setenv("CROSSKD_DATABASE_PASSWORD", "x")
    assert told(api.settings.Settings) == {"CROSSKD_DATABASE_PASSWORD": said}
