"""What this machine is like: Python, PyTorch and its devices, disk, shared memory."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from client.doctor.finding import Finding, error, ok, skipped, warning

GIBIBYTE = 1 << 30
LEAST_DISK, SOME_DISK = 1 * GIBIBYTE, 10 * GIBIBYTE  # free: below the first nothing can be kept, then few checkpoints
LEAST_SHARED_MEMORY = 1 * GIBIBYTE  # a loader's batches lie in it; Docker's default of 64 MiB holds none
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - looked at, not used
EXTRAS = {"timm": "timm", "transformers": "detr", "onnxruntime": "api"}  # package -> extra that brings it
TORCH_SECONDS = 120.0
# A process of its own: a broken installation may end it, and this command never needs torch.
PROBE = """
import json, torch, torchvision
devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({
    "torch": torch.__version__, "torchvision": torchvision.__version__, "cuda": torch.version.cuda,
    "threads": torch.get_num_threads(),
    "devices": [torch.cuda.get_device_name(i) for i in range(devices)],
    "sum": float((torch.ones(8, device="cuda" if devices else "cpu") * 2).sum()),
}))
"""


def look(home: Path) -> Iterator[Finding]:
    """All checks of this machine; `home` is where a stack or a worker keeps its files."""
    yield ok("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield packages()
    yield from torch()
    yield disk(home)
    yield shared_memory()


def packages() -> Finding:
    """The project's own version, and which optional packages are there."""
    found, lacking = [], []
    for package, extra in EXTRAS.items():
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            lacking.append(f"{package} (`pip install 'crosskd[{extra}]'`)")
    parts = [f"crosskd {metadata.version('crosskd')}", *found]
    return ok("packages", ", ".join(parts) + (f"; not installed: {', '.join(lacking)}" if lacking else ""))


def torch(python: str = sys.executable, seconds: float = TORCH_SECONDS) -> Iterator[Finding]:
    """PyTorch, and whether it can compute on the devices that are there. `python` is tried for at most `seconds`."""
    if python == sys.executable and not _installed("torch"):
        yield skipped("PyTorch", "not installed: this machine trains nothing itself")
        return
    try:
        done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        remedy = "Look at the driver (`nvidia-smi`): PyTorch waits for a device that does not answer."
        yield error("PyTorch", f"it did not add two numbers within {seconds:.0f} s", remedy)
        return
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        yield error(
            "PyTorch", f"it does not work: {last[0]}", "Install it anew: `pip install --force-reinstall torch`."
        )
        return
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    yield ok("PyTorch", f"{told['torch']}, torchvision {told['torchvision']}, {told['threads']} threads")
    yield _devices(told)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _devices(told: dict[str, Any]) -> Finding:
    if told["devices"]:
        return ok("GPU", f"{', '.join(told['devices'])} (CUDA {told['cuda']})")
    driver = driver_version()
    if driver is None:
        return ok("GPU", "no NVIDIA driver: trainings compute on the CPU")
    if told["cuda"] is None:
        remedy = "Install a build of PyTorch for CUDA, as pytorch.org tells for this driver."
        return error("GPU", f"the driver {driver} is there, but PyTorch was built for the CPU alone", remedy)
    return error(
        "GPU",
        f"PyTorch for CUDA {told['cuda']} sees no device with the driver {driver}",
        "Update the driver, or install PyTorch for an older CUDA; in a container, run it with `--gpus all`; "
        "an empty CUDA_VISIBLE_DEVICES hides all of them.",
    )


def driver_version() -> str | None:
    """NVIDIA's; None where there is none."""
    if (tool := shutil.which("nvidia-smi")) is None:
        return None
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "that does not answer"
    return done.stdout.strip().partition("\n")[0] or "that does not answer"


def disk(home: Path) -> Finding:
    """Free for `home`, where `crosskd up` keeps its state: on its disk, or that of the folder that it is made in."""
    home = folder = home.expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    said = f"{free / GIBIBYTE:.1f} GiB free for the state folder of `crosskd up`, {home}"
    remedy = "Free some, or keep state elsewhere: CROSSKD_HOME."
    if not os.access(folder, os.W_OK):
        return error(
            "disk",
            f"{folder} may not be written, and the state folder is {home}",
            "Give its owner's rights, or set CROSSKD_HOME.",
        )
    if free < LEAST_DISK:
        return error("disk", said, remedy)
    return warning("disk", said, remedy) if free < SOME_DISK else ok("disk", said)


def shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """Where a loader's processes hand over their batches."""
    check = "shared memory"
    if not folder.is_dir():
        return skipped(check, f"no {folder} on this system")
    size = shutil.disk_usage(folder).total
    said = f"{folder} has {size / GIBIBYTE:.2f} GiB"
    if size >= LEAST_SHARED_MEMORY:
        return ok(check, said)
    return warning(check, said, "Run a container with `--shm-size 2g`, or set `loader.workers: 0` in the spec.")
