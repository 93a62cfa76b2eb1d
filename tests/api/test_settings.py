"""The environment is checked at start, every fault at once, and no secret is repeated."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from api.settings import Settings, SettingsError, load
from tests.support.worker_calls import DIGEST


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith("CROSSKD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CROSSKD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CROSSKD_WORKER_TOKEN_SHA256", DIGEST)
    return monkeypatch


def test_defaults_lie_in_the_home(tmp_path: Path) -> None:
    settings = load()
    home = tmp_path / "home"
    assert settings.home == home
    assert settings.storage == home / "artifacts"
    assert settings.data_roots == [home / "data"]
    assert settings.database_url == f"sqlite:///{home / 'crosskd.db'}"
    assert settings.storage.is_dir()
    assert settings.data_roots[0].is_dir()


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:hun@ter2@h/n", "postgresql+psycopg://me:hunter2@x:/y@h/n"])
def test_a_raw_password_that_would_name_another_host_is_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("CROSSKD_DATABASE_URL", url)
    with pytest.raises(SettingsError, match=r"CROSSKD_DATABASE_URL: .*PGPASSWORD") as caught:
        load()
    assert "ter2" not in str(caught.value)


@pytest.mark.parametrize("host", ["h", "10.0.0.1:5", "[::1]:5", "a_b.c-d", "a,b", ""])
def test_hosts_of_a_database(environment: pytest.MonkeyPatch, host: str) -> None:
    environment.setenv("CROSSKD_DATABASE_URL", f"postgresql+psycopg://me:p%40ss@{host}/n")
    load()


def test_the_brokers_password_stands_apart(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CROSSKD_BROKER_PASSWORD", "p@ss:/%")
    assert load().broker_address == "redis://:p%40ss%3A%2F%25@127.0.0.1:6379/0"
    environment.setenv("CROSSKD_BROKER_URL", "redis://:hunter2@h")
    with pytest.raises(SettingsError, match=r"^CROSSKD_BROKER_PASSWORD: and CROSSKD_BROKER_URL both") as caught:
        load()
    assert "hunter2" not in str(caught.value)


def test_the_home_may_be_relative(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.chdir(tmp_path)
    environment.setenv("CROSSKD_HOME", "here")
    assert load().storage == tmp_path / "here" / "artifacts"


def test_values_come_from_the_environment(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    environment.setenv("CROSSKD_DATA_ROOTS", f"{tmp_path}/a:{tmp_path}/b")
    environment.setenv("CROSSKD_LEASE_SECONDS", "2.5")
    environment.setenv("CROSSKD_RELAY", "external")
    environment.setenv("CROSSKD_BROKER_URL", "")
    settings = load()
    assert settings.data_roots == [tmp_path / "a", tmp_path / "b"]
    assert (settings.lease_seconds, settings.relay) == (2.5, "external")
    assert settings.broker_url == Settings.model_fields["broker_url"].default


def test_every_fault_is_told_at_once(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("CROSSKD_WORKER_TOKEN_SHA256")
    environment.setenv("CROSSKD_LEASE_SECONDS", "-1")
    environment.setenv("CROSSKD_DATABASE_URL", "mysql://root:hunter2@x/y")
    environment.setenv("CROSSKD_BROKER_URL", "amqp://root:hunter2@x")
    environment.setenv("CROSSKD_RELAY", "maybe")
    with pytest.raises(SettingsError) as caught:
        load()
    lines = {line.partition(":")[0]: line for line in str(caught.value).splitlines()}
    assert set(lines) == {
        "CROSSKD_WORKER_TOKEN_SHA256",
        "CROSSKD_LEASE_SECONDS",
        "CROSSKD_DATABASE_URL",
        "CROSSKD_BROKER_URL",
        "CROSSKD_RELAY",
    }
    assert "sha256sum" in lines["CROSSKD_WORKER_TOKEN_SHA256"]
    assert "postgresql+psycopg" in lines["CROSSKD_DATABASE_URL"]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgres://u@h/n", "postgresql://u@h/n", "nonsense", "sqlite+aiosqlite:///x"])
def test_other_databases_are_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("CROSSKD_DATABASE_URL", url)
    with pytest.raises(SettingsError, match=r"CROSSKD_DATABASE_URL: .*postgresql\+psycopg"):
        load()


def test_a_token_that_is_no_digest(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("CROSSKD_WORKER_TOKEN_SHA256", "the-token-itself")
    with pytest.raises(SettingsError, match="is no hex sha256") as caught:
        load()
    assert "the-token-itself" not in str(caught.value)


def test_a_home_that_cannot_be_written(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    environment.setenv("CROSSKD_HOME", str(tmp_path / "file"))
    with pytest.raises(SettingsError, match="CROSSKD_HOME: cannot write to"):
        load()
    environment.setenv("CROSSKD_HOME", "/proc/crosskd")
    with pytest.raises(SettingsError, match="name a folder that this user may write"):
        load()


def test_a_data_root_that_does_not_exist(environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.setenv("CROSSKD_DATA_ROOTS", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"CROSSKD_DATA_ROOTS: .* is no folder"):
        load()
