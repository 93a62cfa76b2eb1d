"""A disk that changes bytes: what was written is what counts, never what is read back."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import httpx
import pytest

from crosskd.engine.checkpoint import read_checkpoint
from crosskd.errors import CheckpointCorrupt
from tests.support.api_double import Double
from tests.support.worker_stack import claim
from wire.artifacts import ArtifactRef
from wire.reports import Claim
from worker.deliver.client import AttemptClient, WorkerClient
from worker.deliver.retry import Refused
from worker.deliver.uploads import Uploads
from worker.folder import WorkFolder
from worker.settings import Settings
from worker.supervise.former_attempts import FormerAttempts
from worker.supervise.lease import Control
from worker.supervise.supervisor import Supervisor

WRITTEN, FOUND = b"as it was written", b"as it was writtem"


@pytest.mark.parametrize("when", ["before it is queued", "while it waits"])
def test_a_file_that_the_disk_has_changed_is_not_published(
    when: str, double: Double, attempt: AttemptClient, folder: WorkFolder, tmp_path: Path, stale: threading.Event
) -> None:
    uploads, file, reported = Uploads(attempt, folder.staging, stale.set), tmp_path / "file", threading.Event()
    file.write_bytes(FOUND if when == "before it is queued" else WRITTEN)
    sha256 = hashlib.sha256(WRITTEN).digest()
    uploads.submit(file, "checkpoint-00000001.pt", "checkpoint", step=1, after=reported, sha256=sha256)
    file.write_bytes(FOUND)  # the link in the staging folder is the same file
    reported.set()
    with pytest.raises(Refused, match="not those of the digest"):
        uploads.close(60)
    assert double.uploads == []


def test_a_checkpoint_that_changes_after_its_download_is_not_resumed_from(
    double: Double, http: httpx.Client, attempt: AttemptClient, folder: WorkFolder
) -> None:
    double.files["c"] = WRITTEN
    resume = ArtifactRef(
        name="c", url="/jobs/j/artifacts/c", sha256=hashlib.sha256(WRITTEN).hexdigest(), size=len(WRITTEN), step=4
    )
    order = Claim.model_validate(claim("j", {}, resume=resume.model_dump()))
    settings = Settings(api_url=double.url, worker_token="a-token-for-the-tests")
    Supervisor(
        order, WorkerClient(http), attempt, settings, Control(), FormerAttempts(settings.work, order.job)
    )._prepare(folder)
    folder.resume.write_bytes(FOUND)
    with pytest.raises(CheckpointCorrupt, match="does not have the sha256 that was written with it"):
        read_checkpoint(folder.resume)
