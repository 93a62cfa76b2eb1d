from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from worker.configuration import configuration
from worker.settings import Settings, SettingsError, read_settings

GOOD = {
    "CROSSKD_API_URL": "http://127.0.0.1:8000",
    "CROSSKD_WORKER_TOKEN": "0123456789abcdef",
    "CROSSKD_DEVICES": "cpu",
}


def read(monkeypatch: pytest.MonkeyPatch, home: Path, **changes: str) -> Settings:
    for name in list(os.environ):
        if name.startswith("CROSSKD_"):
            monkeypatch.delenv(name)
    for name, value in {**GOOD, "CROSSKD_HOME": str(home), **changes}.items():
        monkeypatch.setenv(name, value)
    return read_settings()


def test_defaults(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = read(monkeypatch, tmp_path)
    assert settings.work == tmp_path / "work"
    assert settings.data_roots == [Path(os.path.realpath(tmp_path / "data"))]
    assert settings.broker_url == "redis://127.0.0.1:6379/0"
    assert settings.heartbeat_seconds == 5
    assert "0123456789abcdef" not in repr(settings)


def test_the_brokers_password_stands_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = read(monkeypatch, tmp_path, CROSSKD_BROKER_PASSWORD="p@ss")
    assert configuration(settings)["broker_url"] == "redis://:p%40ss@127.0.0.1:6379/0"
    assert "p@ss" not in repr(settings)
    with pytest.raises(SettingsError, match=r"^CROSSKD_BROKER_PASSWORD: and CROSSKD_BROKER_URL both"):
        read(monkeypatch, tmp_path, CROSSKD_BROKER_PASSWORD="p@ss", CROSSKD_BROKER_URL="redis://:x@h")


@pytest.mark.parametrize(
    ("devices", "queues", "visible"),
    [
        ("cpu", ["cpu", "any"], ""),
        ("0", ["gpu", "any"], "0"),
        ("3", ["gpu", "any"], "3"),
        ("0, 1,2,3", ["gpu-4", "gpu-3", "gpu-2", "gpu", "any"], "0,1,2,3"),
    ],
)
def test_devices_name_the_queues(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, devices: str, queues: list[str], visible: str
) -> None:
    settings = read(monkeypatch, tmp_path, CROSSKD_DEVICES=devices)
    assert settings.queues == queues
    assert settings.visible_devices == visible


def test_devices_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By nvidia-smi, which stands where there is a driver."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert read(monkeypatch, tmp_path, CROSSKD_DEVICES="auto").devices == "cpu"
    assert read(monkeypatch, tmp_path, CROSSKD_DEVICES="").queues == ["cpu", "any"]  # as if it were not set
    (tmp_path / "bin" / "nvidia-smi").touch(mode=0o755)
    assert read(monkeypatch, tmp_path, CROSSKD_DEVICES="auto").devices == "0"


@pytest.mark.parametrize(("visible", "devices"), [("4,5", "4"), ("", "cpu"), ("GPU-8932f937", "GPU-8932f937")])
def test_a_machine_that_lends_some_gpus_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str, devices: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert read(monkeypatch, tmp_path, CROSSKD_DEVICES="auto").devices == devices


def test_roots_are_split_and_their_links_resolved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    roots = os.pathsep.join([str(tmp_path / "link"), "/data"])
    assert read(monkeypatch, tmp_path, CROSSKD_DATA_ROOTS=roots).data_roots == [tmp_path / "real", Path("/data")]


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CROSSKD_API_URL", "localhost:8000", "CROSSKD_API_URL"),
        ("CROSSKD_API_URL", "", "CROSSKD_API_URL is not set"),
        ("CROSSKD_WORKER_TOKEN", "short", "CROSSKD_WORKER_TOKEN: .*16 characters"),
        ("CROSSKD_BROKER_URL", "amqp://x", "CROSSKD_BROKER_URL"),
        ("CROSSKD_DEVICES", "cuda:0", "CROSSKD_DEVICES: 'cuda:0' names no devices; use"),
        ("CROSSKD_DEVICES", "1,1", "CROSSKD_DEVICES: .*twice"),
        ("CROSSKD_HEARTBEAT_SECONDS", "0", "CROSSKD_HEARTBEAT_SECONDS: .*greater than 0"),
        ("CROSSKD_GRACE_SECONDS", "long", "CROSSKD_GRACE_SECONDS"),
        ("CROSSKD_TRACKERS", "mlflow,os.path", "CROSSKD_TRACKERS: names no trackers, or one twice; known are mlflow"),
        ("CROSSKD_TRACKERS", "mlflow, mlflow", "CROSSKD_TRACKERS: names no trackers, or one twice"),
        ("CROSSKD_MLFLOW_TRACKING_URI", "http://me:0123456789abcdef@h", "MLFLOW_TRACKING_URI: holds a user or a pass"),
        ("CROSSKD_MLFLOW_USERNAME", "me", "CROSSKD_MLFLOW_USERNAME and CROSSKD_MLFLOW_PASSWORD go together"),
        ("CROSSKD_HOME", "/proc/nowhere", "CROSSKD_HOME: /proc/nowhere/work cannot be written"),
    ],
)
def test_a_wrong_setting_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str, words: str
) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        read(monkeypatch, tmp_path, **{variable: value})
    assert "0123456789abcdef" not in str(caught.value)


@pytest.mark.parametrize("start", [["worker"], ["celery", "-A", "worker.app", "worker"]])
def test_a_worker_does_not_start_with_wrong_settings(tmp_path: Path, start: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CROSSKD_")}
    done = subprocess.run(
        [sys.executable, "-m", *start],
        env={**environment, "CROSSKD_HOME": str(tmp_path), "CROSSKD_GRACE_SECONDS": "-1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    for line in ("CROSSKD_API_URL is not set", "CROSSKD_WORKER_TOKEN is not set", "CROSSKD_GRACE_SECONDS: "):
        assert line in done.stderr
    assert "Traceback" not in done.stderr
