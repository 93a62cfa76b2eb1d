"""What a job has made: metrics, evaluations, images, reports, charts, files, predictions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from client import charts, predict, references
from client.errors import ApiProblem
from client.frames import Evaluations, Metrics
from client.transport.answers import COMPUTED, given, parse, segment
from client.transport.connection import Connection
from client.transport.flow import Connected, Fetch, Flow, M, operation
from crosskd.spec.results.predictions import Predictions
from wire.artifacts import BEST_WEIGHTS, Artifact, ArtifactList
from wire.download import OnBytes
from wire.images import PAGE as IMAGES
from wire.images import THUMBNAIL, ImagePage, Order
from wire.job_report import JobReport
from wire.jobs import JobPage, JobSummary
from wire.reports import Curves, EvaluationList, MetricPage, Model

if TYPE_CHECKING:
    from report.charts.parts import AnyChart

POINTS = 1000  # metric points asked for at once


def id_of(connection: Connection, job: str) -> Flow[str]:
    """The id of the job that is called `job`: by its id, the beginning of it, its name, or `@last`.

    An id is given back as it is, whether there is such a job or not. Raises: `UnknownReference`, `AmbiguousReference`.
    """

    def newest(**filters: Any) -> Flow[Sequence[JobSummary]]:
        return parse(JobPage, (yield from connection.send("GET", "/jobs", params=filters))).items

    return (yield from references.resolve(job, newest))


class JobResults(Connected[M]):
    """The operations of one job that read what it has made."""

    @abstractmethod
    def _identify(self) -> Flow[str]:
        """The job's id."""

    @operation
    def metrics(self, *, key: str | None = None, since_step: int = 0, attempt: int | None = None) -> Flow[Metrics]:
        """Its series by step; `key` is one of them, `attempt` shows an earlier try as it was.

        >>> points = job.metrics(key="loss")
        >>> [(point.step, point.value) for point in points]
        [(1, 1.0), (2, 0.5), (3, 0.25)]
        >>> job.metrics().to_pandas()["loss"].min()
        np.float64(0.25)
        """
        params = given(since_step=since_step, limit=POINTS, key=key, attempt=attempt)
        path, found = f"/jobs/{yield from self._identify()}/metrics", Metrics()
        while True:
            page = parse(MetricPage, (yield from self._connection.send("GET", path, params=params)))
            found += page.items
            if not page.has_more or page.next_step is None:
                return found
            params["since_step"] = page.next_step

    @operation
    def evaluations(self) -> Flow[Evaluations]:
        """All of them, by step.

        >>> [(found.model, found.metrics.AP, found.best) for found in job.evaluations()]
        [('student', 0.25, True)]
        """
        path, found = f"/jobs/{yield from self._identify()}/evaluations", Evaluations()
        params: dict[str, int] = {}
        while True:
            page = parse(EvaluationList, (yield from self._connection.send("GET", path, params=params)))
            found += page.items
            if page.next_step is None:
                return found
            params = {"since_step": page.next_step}

    @operation
    def curves(self, step: int, *, model: Model = "student") -> Flow[Curves]:
        """Precision over recall of one evaluation, per class and their mean."""
        path = f"/jobs/{yield from self._identify()}/evaluations/{step}/curves"
        return parse(Curves, (yield from self._connection.send("GET", path, params={"model": model})))

    @operation
    def images(
        self,
        *,
        order: Order = "f1_loss",
        against: str | None = None,
        class_name: str | None = None,
        step: int | None = None,
        limit: int = IMAGES,
        after: int | None = None,
    ) -> Flow[ImagePage]:
        """A page of its validation images, the worst first: true, false and missed boxes at IoU 0.5.

        `order` is "gain" with another job to hold it `against`. `class_name` leaves the boxes of one class, `step` the
        sample images of one evaluation. `after` is the id of the last image of the page before. The service needs
        seconds for the first page of a job.
        """
        params = given(order=order, step=step, limit=limit, after=after, **{"class": class_name})
        if against is not None:
            params["against"] = yield from id_of(self._connection, against)
        path = f"/jobs/{yield from self._identify()}/images"
        return parse(ImagePage, (yield from self._connection.send("GET", path, params=params, timeout=COMPUTED)))

    @operation
    def thumbnail(self, image: int, *, size: int = THUMBNAIL) -> Flow[bytes]:
        """A validation image as a JPEG whose longer side has `size` pixels at most, oriented so that its boxes fit."""
        path = f"/jobs/{yield from self._identify()}/images/{image}/thumbnail"
        answer = yield from self._connection.send("GET", path, params={"size": size}, timeout=COMPUTED)
        return answer.content

    # --- its report --------------------------------------------------------------------------------------------------

    @operation
    def report(self, *, alone: str | None = None) -> Flow[JobReport]:
        """What became of it. `alone`: the job that trained the same student without the teacher.

        >>> job.report().job.name
        'student'
        """
        return (yield from self._report(alone))

    @operation
    def report_as(self, media_type: str = "text/html", *, alone: str | None = None) -> Flow[str]:
        """The same as `text/html`, a page that needs nothing else, or as `text/markdown`, a model card.

        >>> job.report_as("text/markdown").startswith("---")
        True
        """
        answer = yield from self._ask_report(alone, headers={"accept": media_type}, timeout=COMPUTED)
        return answer.text

    @operation
    def chart(self, name: str = "loss", *, alone: str | None = None) -> Flow[AnyChart]:
        """A chart of it, as Altair's: a notebook shows it. It needs `pip install 'crosskd[charts]'`.

        `name`: loss, ap, lr, throughput, steps_per_second, gradient_norm, memory, classes, curves, cost. The service is
        asked anew, so the chart of a running job shows what it has reported by now.
        Raises: `ClientError` for another name, and where the job has nothing to draw for it; `MissingPackage`.

        >>> job.chart("loss").save("loss.html")
        """
        return charts.of_job((yield from self._report(alone)), name)

    def _report(self, alone: str | None) -> Flow[JobReport]:
        return parse(JobReport, (yield from self._ask_report(alone)))

    def _ask_report(self, alone: str | None, **options: Any) -> Flow[httpx.Response]:
        path = f"/jobs/{yield from self._identify()}/report"
        params = {} if alone is None else {"alone": (yield from id_of(self._connection, alone))}
        return (yield from self._connection.send("GET", path, params=params, **options))

    # --- its files ---------------------------------------------------------------------------------------------------

    @operation
    def artifacts(self) -> Flow[list[Artifact]]:
        """The files that it has published, each with size and sha256.

        >>> sorted(found.name for found in job.artifacts())
        ['best.safetensors', 'model.onnx']
        """
        path = f"/jobs/{yield from self._identify()}/artifacts"
        return parse(ArtifactList, (yield from self._connection.send("GET", path))).items

    @operation
    def download(self, name: str, target: Path | str = "", on_bytes: OnBytes | None = None) -> Flow[Path]:
        """Fetch an artifact to `target` (a file, or a folder to put it in), verified by its sha256.

        A broken transfer goes on where it stopped, in this call or the next; `target` appears whole or not at all.
        `on_bytes` is told the bytes that are here and those in all; of an async client, in another thread.
        Raises: `DownloadError` when the bytes do not match their digest or cannot be stored.

        >>> job.download("best.safetensors", "copy.safetensors").name
        'copy.safetensors'
        """
        path = f"/jobs/{yield from self._identify()}/artifacts/{segment(name)}"
        return (yield from self._fetch(path, name, Path(target), on_bytes))

    @operation
    def weights(self, target: Path | str = "", on_bytes: OnBytes | None = None) -> Flow[Path]:
        """Fetch the best student; see `download`.

        >>> job.weights().name
        'best.safetensors'
        """
        path = f"/jobs/{yield from self._identify()}/weights"
        return (yield from self._fetch(path, BEST_WEIGHTS, Path(target), on_bytes))

    def _fetch(self, path: str, name: str, target: Path, on_bytes: OnBytes | None) -> Flow[Path]:
        target = target / name if target.is_dir() else target
        try:
            head = yield from self._connection.send("HEAD", path)
        except ApiProblem:
            # An answer to HEAD has no body: ask for the reason.
            yield from self._connection.send("GET", path, headers={"range": "bytes=0-0"})
            raise
        stored: Path = yield Fetch(path, head, target, on_bytes)
        return stored

    # --- what its model finds ----------------------------------------------------------------------------------------

    @operation
    def predict(
        self, images: Path | str | Sequence[Path | str], *, score: float | None = None, most: int | None = None
    ) -> Flow[Predictions]:
        """What its best student finds in an image, or in each of several, in their order.

        `score` is that of the least sure detection, 0..1, `most` how many an image may have; the service has defaults.
        Of several, an image that cannot be used has its `fault` in the answer.
        Raises: `ApiProblem` where the only image cannot be used; `ConfigError` where a file cannot be read.

        >>> [(found.score, found.bbox) for found in job.predict("street.png", score=0.8).results]
        [(0.9, (0.0, 0.0, 200.0, 100.0))]
        """
        one = isinstance(images, Path | str)
        paths = [Path(images)] if isinstance(images, Path | str) else [Path(path) for path in images]
        params, path = predict.query(score, most), f"/jobs/{yield from self._identify()}/predict"

        def ask(some: list[predict.Image]) -> Flow[Predictions]:
            options = {"params": params, "files": predict.files(some), "timeout": predict.TIMEOUT}
            return parse(Predictions, (yield from self._connection.send("POST", path, **options)))

        if one:
            return (yield from ask(next(predict.read(paths))))
        return (yield from predict.ask_all(ask, paths))

    @operation
    def predict_picture(self, image: Path | str, *, score: float | None = None, most: int | None = None) -> Flow[bytes]:
        """An image with the boxes of what its best student finds in it, as PNG; see `predict`."""
        files, headers = predict.files(next(predict.read([Path(image)]))), {"accept": "image/png"}
        options = {"params": predict.query(score, most), "files": files, "headers": headers, "timeout": predict.TIMEOUT}
        path = f"/jobs/{yield from self._identify()}/predict"
        answer = yield from self._connection.send("POST", path, **options)
        return answer.content
