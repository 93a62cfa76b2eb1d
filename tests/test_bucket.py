"""Artifacts in a bucket, from end to end: the API as a process, a worker's uploads, a client's downloads."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.database import Database
from api.models import Base
from api.services import tokens
from api.settings import Settings
from api.stores.bucket import Bucket
from client import specs
from client.errors import DownloadError
from client.sdk import Crosskd
from client.stack.services import HOST, free_port
from tests.support.coco_files import write_spec
from tests.support.s3 import KEY, S3, SECRET, Recorder, s3_server
from tests.support.service import Service
from tests.support.worker_calls import DIGEST, WORKER_TOKEN
from wire.artifacts import ArtifactRef
from wire.reports import ClaimRequest
from wire.tokens import TokenCreate
from worker.deliver.client import AttemptClient, WorkerClient, connect
from worker.deliver.retry import Refused, Retry
from worker.deliver.uploads import Uploads

PART_SIZE = 100_000
CONTENT = os.urandom(250_000)  # three parts
SHA256 = hashlib.sha256(CONTENT).hexdigest()
RETRY = Retry(patience=20.0, first=0.05, longest=0.1)


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with s3_server() as server:
        yield server


@pytest.fixture(scope="module")
def recorder(s3: S3) -> Iterator[Recorder]:
    found = Recorder(s3.url)
    yield found
    found.close()


def environment(s3: S3, public: str | None = None) -> dict[str, str]:
    values = s3.settings(storage_part_size=PART_SIZE)
    if public is not None:
        values["storage_public_endpoint"] = public
    return {f"CROSSKD_{name.upper()}": str(value) for name, value in values.items()}


@dataclass
class Api:
    """The API as a process, with its home and its log, and a token of a client."""

    url: str
    home: Path
    token: str

    @property
    def log(self) -> str:
        return (self.home / "api.log").read_text()

    def files(self) -> list[Path]:
        return [path for path in (self.home / "artifacts").rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def api(s3: S3, recorder: Recorder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    home = tmp_path_factory.mktemp("bucket")
    (home / "data").mkdir()
    port = free_port(0)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("CROSSKD_", "AWS_"))}
    variables = inherited | environment(s3, recorder.url)
    variables |= {
        "CROSSKD_HOME": str(home),
        "CROSSKD_WORKER_TOKEN_SHA256": DIGEST,
        "CROSSKD_RELAY": "external",
        "CROSSKD_LEASE_SECONDS": "600",
    }
    database = Database(f"sqlite:///{home / 'crosskd.db'}")
    Base.metadata.create_all(database.engine)
    with database.transaction() as session:
        token = tokens.create(session, TokenCreate(name="test")).token
    database.close()
    command = [sys.executable, "-m", "api", "--host", HOST, "--port", str(port)]
    with (home / "api.log").open("wb") as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
    found = Api(f"http://{HOST}:{port}", home, token)
    try:
        deadline = time.monotonic() + 60
        while not _answers(found.url):
            assert process.poll() is None, found.log
            assert time.monotonic() < deadline, found.log
            time.sleep(0.05)
        yield found
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", trust_env=False).is_success
    except httpx.TransportError:
        return False


@pytest.fixture
def client(api: Api) -> Iterator[Crosskd]:
    with Crosskd(api.url, token=api.token) as client:
        yield client


@dataclass
class Work:
    """A job that a worker has claimed, with its two clients."""

    job: str
    worker: WorkerClient
    attempt: AttemptClient
    http: httpx.Client

    def upload(self, path: Path, name: str) -> None:
        self.attempt.upload(path, name, "weights", 3, RETRY)


@pytest.fixture
def work(api: Api, client: Crosskd, recorder: Recorder) -> Iterator[Work]:
    job = client.jobs.create(specs.complete({"spec": write_spec(api.home / "data")}, name="job")).id
    with connect(api.url, WORKER_TOKEN) as http:
        worker = WorkerClient(http)
        claim = worker.claim(job, ClaimRequest(worker="w", device="cpu"))
        assert claim is not None
        recorder.seen.clear()
        yield Work(job, worker, AttemptClient(http, claim.attempt, claim.fencing_token), http)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(CONTENT)
    return path


def test_from_the_worker_through_the_bucket_to_the_client(
    api: Api, client: Crosskd, work: Work, file: Path, recorder: Recorder, tmp_path: Path
) -> None:
    stale = threading.Event()
    uploads = Uploads(work.attempt, tmp_path / "staging", stale.set)
    uploads.submit(file, "best.safetensors", "weights", step=3)
    uploads.close(timeout=30)
    assert not stale.is_set()
    assert [seen.method for seen in recorder.seen] == ["PUT"] * 3
    (artifact,) = client.jobs.artifacts(work.job)
    assert (artifact.size, artifact.sha256, artifact.step) == (len(CONTENT), SHA256, 3)
    assert client.jobs.weights(work.job, tmp_path / "fetched").read_bytes() == CONTENT
    ref = ArtifactRef(name=artifact.name, url=artifact.url, sha256=SHA256, size=len(CONTENT))
    work.worker.download(ref, tmp_path / "again", RETRY)
    assert (tmp_path / "again").read_bytes() == CONTENT
    assert [seen.method for seen in recorder.seen] == ["PUT"] * 3 + ["GET"] * 2
    assert api.files() == []  # not a byte of it came to the API


def test_the_storage_hears_nothing_but_the_request(
    api: Api, work: Work, file: Path, recorder: Recorder, tmp_path: Path
) -> None:
    work.upload(file, "best.safetensors")
    ref = ArtifactRef(
        name="best.safetensors", url=f"/jobs/{work.job}/artifacts/best.safetensors", sha256=SHA256, size=len(CONTENT)
    )
    work.worker.download(ref, tmp_path / "a", RETRY)
    with httpx.Client(base_url=api.url, trust_env=False) as http:
        http.headers.update({"Authorization": f"Bearer {api.token}", "Cookie": "c=1", "X-Request-ID": "ours"})
        Crosskd(api.url, http=http).jobs.weights(work.job, tmp_path / "b")
    assert len(recorder.seen) == 5
    allowed = {
        "host",
        "accept-encoding",
        "range",
        "content-length",
        "content-md5",
        "content-type",
        "content-disposition",
    }
    for seen in recorder.seen:
        assert set(seen.headers) <= allowed, seen
        assert "X-Amz-Signature=" in seen.path
        assert SECRET not in seen.path
    assert SECRET not in api.log
    assert "X-Amz-Signature" not in api.log
    assert KEY not in api.log


@pytest.mark.parametrize("trouble", ["refused", "cut"])
def test_an_upload_that_breaks_off_sends_only_the_rest(
    client: Crosskd, work: Work, file: Path, recorder: Recorder, trouble: str, tmp_path: Path
) -> None:
    (recorder.refusals if trouble == "refused" else recorder.cuts).append(403 if trouble == "refused" else 50_000)
    work.upload(file, "best.safetensors")
    offsets = [seen.path.partition("?")[0].rpartition("/")[2] for seen in recorder.seen]
    assert offsets == ["0-100000", "0-100000", "100000-100000", "200000-50000"]
    assert client.jobs.weights(work.job, tmp_path / "fetched").read_bytes() == CONTENT


def test_a_storage_that_refuses_for_good_is_given_up(work: Work, file: Path, recorder: Recorder) -> None:
    impatient = AttemptClient(work.http, work.attempt._url.rpartition("/")[2], 1, refusals=0.3)
    recorder.refusals.extend([403] * 1000)
    try:
        with pytest.raises(Refused, match=r"best.safetensors is not taken: the storage answered 403; look at the"):
            impatient.upload(file, "best.safetensors", "weights", 3, Retry(first=0.05, longest=0.1))
    finally:
        recorder.refusals.clear()
    assert len(recorder.seen) > 2
    impatient = AttemptClient(work.http, work.attempt._url.rpartition("/")[2], 1, refusals=0.0)
    recorder.refusals.append(403)  # one alone may mean that an address was no longer good
    impatient.upload(file, "best.safetensors", "weights", 3, RETRY)


def test_parts_that_have_arrived_are_not_sent_again(work: Work, file: Path, recorder: Recorder) -> None:
    body = {"size": len(CONTENT), "sha256": SHA256, "kind": "weights", "step": 3}
    url = f"{work.attempt._url}/uploads/best.safetensors"
    plan = work.http.post(url, json=body, headers=work.attempt._headers).json()
    httpx.put(plan["parts"][1]["url"], content=CONTENT[100_000:200_000], trust_env=False).raise_for_status()
    recorder.seen.clear()
    work.upload(file, "best.safetensors")
    assert [int(seen.headers["content-length"]) for seen in recorder.seen] == [100_000, 50_000]


def test_a_file_that_the_disk_has_changed_is_not_sent(work: Work, file: Path, recorder: Recorder) -> None:
    with pytest.raises(Refused, match="has changed since it was written"):
        work.attempt.upload(file, "best.safetensors", "weights", 3, RETRY, sha256=bytes(32))
    assert recorder.seen == []


def fetch(who: str, client: Crosskd, work: Work, target: Path) -> None:
    """Download the weights, as a client does or as a worker does."""
    if who == "client":
        client.jobs.weights(work.job, target)
    else:
        url = f"/jobs/{work.job}/artifacts/best.safetensors"
        ref = ArtifactRef(name="best.safetensors", url=url, sha256=SHA256, size=len(CONTENT))
        work.worker.download(ref, target, RETRY)


@pytest.mark.parametrize("who", ["client", "worker"])
def test_a_download_that_breaks_off_goes_on_where_it_was(
    client: Crosskd, work: Work, file: Path, recorder: Recorder, tmp_path: Path, who: str
) -> None:
    work.upload(file, "best.safetensors")
    recorder.seen.clear()
    recorder.cuts.append(100_000)
    target = tmp_path / "fetched"
    fetch(who, client, work, target)
    assert target.read_bytes() == CONTENT
    first, second = recorder.seen
    assert "range" not in first.headers
    assert second.headers["range"] == "bytes=100000-"


@pytest.mark.parametrize("who", ["client", "worker"])
def test_an_address_that_is_no_longer_good_is_asked_for_anew(
    client: Crosskd, work: Work, file: Path, recorder: Recorder, tmp_path: Path, who: str
) -> None:
    work.upload(file, "best.safetensors")
    recorder.refusals.append(403)
    target = tmp_path / "fetched"
    fetch(who, client, work, target)
    assert target.read_bytes() == CONTENT


def test_bytes_that_the_bucket_has_lost_are_noticed(
    client: Crosskd, work: Work, file: Path, recorder: Recorder, s3: S3, tmp_path: Path
) -> None:
    work.upload(file, "best.safetensors")
    url = client._connection.http.get(f"/jobs/{work.job}/weights").headers["location"]
    _, bucket, *prefix, job, name = httpx.URL(url).path.split("/")
    assert prefix == ["some", "prefix"]
    settings = Settings(**s3.settings(bucket), worker_token_sha256=DIGEST)
    Bucket(settings).put(f"{job}/{name}", bytes(10) + CONTENT[10:])
    with pytest.raises(DownloadError, match=f"not {SHA256} as announced"):
        client.jobs.weights(work.job, tmp_path / "fetched")
    assert list(tmp_path.glob("*fetched*")) == []


@pytest.mark.slow
def test_a_training_leaves_its_files_in_the_bucket(s3: S3, tmp_path: Path) -> None:
    """The whole stack: broker, worker, training, resume from a checkpoint that lies in the bucket."""
    service = Service.start(tmp_path / "home", **environment(s3))
    try:
        job = service.post("in a bucket")
        service.train_until(job, 12)
        service.client.jobs.pause(job.id)
        service._until(job, lambda now: now.status == "paused", interval=0.2)
        service.client.jobs.resume(job.id)
        service.succeed(job)
        names = {artifact.name for artifact in service.client.jobs.artifacts(job.id)}
        assert {"best.safetensors", "last.safetensors", "log.txt", "manifest.json"} <= names
        fetched = service.client.jobs.weights(job.id, tmp_path / "best.safetensors")
        assert fetched.stat().st_size > 100_000
        student = service.post("distilled", teacher={"job": job.id})
        service.succeed(student)
        files: list[Any] = [path for path in (tmp_path / "home" / "artifacts").rglob("*") if path.is_file()]
        assert files == []
    finally:
        service.close()
