"""What this worker's devices are, how busy, and what it runs, without torch: for the API's list of workers."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from wire.workers import MAX_ROOTS, DeviceState, MachineReport
from worker.settings import Settings
from worker.tracking.usable import usable

logger = logging.getLogger(__name__)


SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not used

# Of these, some are extras that a job may need and a worker may lack.
_PACKAGES = ("crosskd", "torch", "celery", "timm", "transformers", "onnxruntime")


def versions() -> dict[str, str]:
    """What this worker runs, without importing it."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine(settings: Settings) -> MachineReport:
    """Its folders, disk and clock."""
    roots = [str(root) for root in settings.data_roots if os.access(root, os.R_OK | os.X_OK) and root.is_dir()]
    return MachineReport(
        data_roots=roots[:MAX_ROOTS],
        free_bytes=_disk(settings.home, "free"),
        shared_memory_bytes=_disk(SHARED_MEMORY, "total"),
        seconds=time.time(),
        trackers=list(usable(settings)),
    )


def _disk(folder: Path, part: Literal["free", "total"]) -> int | None:
    try:
        return int(getattr(shutil.disk_usage(folder), part))
    except OSError:  # no such folder, or not on this system
        return None


def devices(settings: Settings) -> list[DeviceState]:
    """The GPUs of this worker's device set, or the machine's memory where it computes on the CPU."""
    if settings.devices == "cpu":
        return [_machine()]
    return _gpus(settings.devices.split(","))


def _machine() -> DeviceState:
    pages, free = os.sysconf("SC_PHYS_PAGES"), None
    size = os.sysconf("SC_PAGE_SIZE")
    try:  # what the kernel would give without swapping; SC_AVPHYS_PAGES counts its caches as taken
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        logger.debug("this system does not tell how much memory is free")
    total = pages * size
    return DeviceState(
        name=f"{platform.machine()} CPU, {os.cpu_count()} cores",
        memory_bytes=total,
        memory_used_bytes=None if free is None else max(total - free, 0),
    )


def _gpus(wanted: list[str]) -> list[DeviceState]:
    """By NVIDIA's own bindings; a worker whose driver does not tell names its GPUs and no more."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 - not installed, no driver, no access: all the same to a list
        logger.debug("NVML does not answer: %s", error)
        return [DeviceState(name=f"GPU {index}") for index in wanted]
    try:
        return [_gpu(index) for index in wanted]
    finally:
        pynvml.nvmlShutdown()


def _gpu(index: str) -> DeviceState:
    import pynvml

    fields: dict[str, Any] = {"name": f"GPU {index}"}
    try:
        find = pynvml.nvmlDeviceGetHandleByIndex if index.isdecimal() else pynvml.nvmlDeviceGetHandleByUUID
        handle = find(int(index) if index.isdecimal() else index)
        fields["name"] = pynvml.nvmlDeviceGetName(handle)[:100]
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        fields |= {"memory_bytes": memory.total, "memory_used_bytes": memory.used}
        fields["utilisation"] = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
    except pynvml.NVMLError as error:  # a part of a GPU has no utilisation of its own
        logger.debug("GPU %s does not tell all: %s", index, error)
    return DeviceState(**fields)
