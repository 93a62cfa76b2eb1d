"""Which storage the environment means, and what is told at start about one that cannot work."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.main import create_app
from api.settings import Settings, SettingsError, load
from api.storage import StorageUnavailable
from api.stores.choose import open_storage
from api.stores.local import LocalStorage
from api.stores.s3 import S3Storage
from tests.support.s3 import KEY, S3, SECRET
from tests.support.worker_calls import DIGEST


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(("CROSSKD_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CROSSKD_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CROSSKD_WORKER_TOKEN_SHA256", DIGEST)
    return monkeypatch


@pytest.fixture
def of_cloud(environment: pytest.MonkeyPatch, s3: S3) -> pytest.MonkeyPatch:
    """A bucket by the variables that the tools of a cloud read."""
    environment.setenv("CROSSKD_STORAGE_URL", f"s3://{s3.bucket()}")
    environment.setenv("AWS_ENDPOINT_URL", s3.url)
    environment.setenv("AWS_ACCESS_KEY_ID", KEY)
    environment.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return environment


def test_a_folder_is_what_there_is_without_an_address(tmp_path: Path) -> None:
    assert isinstance(open_storage(load()), LocalStorage)
    assert (tmp_path / "home" / "artifacts").is_dir()


def test_the_variables_of_the_cloud_are_understood(of_cloud: pytest.MonkeyPatch, s3: S3) -> None:
    of_cloud.setenv("AWS_SESSION_TOKEN", "a-session")
    of_cloud.setenv("AWS_REGION", "eu-central-1")
    storage = open_storage(load())
    assert isinstance(storage, S3Storage)
    (part,) = storage.direct_uploads.presigned_parts("0" * 64, 3)
    query = httpx.URL(part.url).params
    assert query["X-Amz-Credential"].startswith(f"{KEY}/")
    assert "/eu-central-1/s3/" in query["X-Amz-Credential"]
    assert query["X-Amz-Security-Token"] == "a-session"
    assert (query["X-Amz-Expires"], query["X-Amz-SignedHeaders"]) == ("3600", "host")


def test_our_own_variables_come_first(of_cloud: pytest.MonkeyPatch, s3: S3) -> None:
    of_cloud.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    of_cloud.setenv("CROSSKD_STORAGE_ENDPOINT", s3.url)
    of_cloud.setenv("CROSSKD_STORAGE_ACCESS_KEY_ID", "ours")
    of_cloud.setenv("CROSSKD_STORAGE_SECRET_ACCESS_KEY", "our-secret")
    of_cloud.setenv("CROSSKD_STORAGE_LINK_SECONDS", "60")
    storage = open_storage(load())
    storage.probe()
    assert storage.direct_uploads is not None
    query = httpx.URL(storage.direct_uploads.presigned_parts("0" * 64, 3)[0].url).params
    assert query["X-Amz-Credential"].startswith("ours/")
    assert query["X-Amz-Expires"] == "60"


@pytest.mark.parametrize(
    "url",
    ["bucket", "file:///x", "s3://", "s3://key:hunter2@bucket", "s3://Bucket", "s3://bucket/../x?y", "gs://bucket"],
)
def test_other_addresses_are_refused(environment: pytest.MonkeyPatch, url: str) -> None:
    environment.setenv("CROSSKD_STORAGE_URL", url)
    with pytest.raises(SettingsError, match="CROSSKD_STORAGE_URL: is no address of a bucket; use s3://") as caught:
        load()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["CROSSKD_STORAGE_ENDPOINT", "AWS_ENDPOINT_URL", "CROSSKD_STORAGE_PUBLIC_ENDPOINT"])
@pytest.mark.parametrize("url", ["minio:9000", "http://u:hunter2@minio", "http://minio/bucket", "ftp://minio"])
def test_other_endpoints_are_refused(environment: pytest.MonkeyPatch, name: str, url: str) -> None:
    environment.setenv(name, url)
    with pytest.raises(SettingsError, match="is no address of a server; use https://HOST:PORT") as caught:
        load()
    assert "hunter2" not in str(caught.value)


def test_a_bucket_that_is_not_there_ends_the_start(of_cloud: pytest.MonkeyPatch, migrated: str) -> None:
    of_cloud.setenv("CROSSKD_DATABASE_URL", migrated)
    of_cloud.setenv("CROSSKD_STORAGE_URL", "s3://nobody-has-made-it/prefix")
    with pytest.raises(SystemExit, match="CROSSKD_STORAGE_URL: there is no such bucket; create it, or name another"):
        create_app()


@pytest.fixture
def migrated(empty_file: Path) -> str:
    return f"sqlite:///{empty_file}"


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_half_a_pair_of_credentials_ends_the_start(of_cloud: pytest.MonkeyPatch, missing: str) -> None:
    of_cloud.delenv(missing)
    with pytest.raises(SettingsError, match="an access key needs its secret") as caught:
        open_storage(load())
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("AccessDenied", "may not be written with these credentials"),
        ("InvalidAccessKeyId", "does not know the access key"),
        ("SignatureDoesNotMatch", "the secret does not fit the access key"),
        ("AuthorizationHeaderMalformed", "another region; set CROSSKD_STORAGE_REGION"),
    ],
)
def test_a_refusal_ends_the_start(of_cloud: pytest.MonkeyPatch, code: str, told: str) -> None:
    def refuse(_storage: S3Storage) -> None:
        raise StorageUnavailable(f"the bucket answers {code}", code)

    of_cloud.setattr(S3Storage, "probe", refuse)
    with pytest.raises(SettingsError, match=told):
        open_storage(load())


def test_a_server_that_is_away_may_come(
    of_cloud: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    monkeypatch.setattr("api.stores.bucket._RETRIES", {"max_retries": 0})
    of_cloud.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with caplog.at_level(logging.WARNING):
        assert isinstance(open_storage(load()), S3Storage)
    assert "the storage does not work yet: the bucket does not answer" in caplog.text
    assert SECRET not in caplog.text


def test_settings_show_no_secret(of_cloud: pytest.MonkeyPatch) -> None:
    of_cloud.setenv("AWS_SESSION_TOKEN", "a-session-token")
    settings = load()
    assert isinstance(settings, Settings)
    assert SECRET not in f"{settings!r} {settings.model_dump_json()}"
    assert "a-session-token" not in f"{settings!r} {settings.model_dump_json()}"
