"""Writes the newest digest of each image by others into the files that name it: `python deploy/pin_images.py`.

An image is written as NAME:TAG@sha256:DIGEST. The tag says which one is meant, the digest which bytes are run. It asks
the registry through `docker buildx`, and pulls nothing.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *sorted((ROOT / "deploy" / "k8s" / "stores").glob("*.yaml"))]
IMAGE = re.compile(r"(?P<name>[a-z0-9][a-z0-9./-]*:[\w.-]+)@(?P<digest>sha256:[0-9a-f]{64})")


def newest(name: str) -> str:
    """The digest that the tag has now, of all platforms together. Raises SystemExit where nobody can tell."""
    docker = shutil.which("docker")
    if docker is None:
        raise SystemExit("there is no docker here; run this where there is one, with its buildx plug-in")
    command = [docker, "buildx", "imagetools", "inspect", name, "--format", "{{json .Manifest}}"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        raise SystemExit(f"the registry does not tell of {name}: {asked.stderr.strip()}")
    digest: str = json.loads(asked.stdout)["digest"]
    return digest


def main() -> None:
    texts = {path: path.read_text() for path in FILES}
    names = sorted({match["name"] for text in texts.values() for match in IMAGE.finditer(text)})
    digests = {name: newest(name) for name in names}  # all, before any file is written
    for path, text in texts.items():
        path.write_text(IMAGE.sub(lambda match: f"{match['name']}@{digests[match['name']]}", text))
    for name, digest in digests.items():
        print(f"{name}@{digest}")


if __name__ == "__main__":
    main()
