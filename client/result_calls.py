"""What a `Client` gets of what a job made: metrics, evaluations, images, reports, charts, files, predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from client import charts, predict, references
from client.job_calls import JobCalls
from client.transport import COMPARE_TIMEOUT, given, parse, segment
from crosskd.spec.results.predictions import Predictions
from wire.artifacts import BEST_WEIGHTS, Artifact, ArtifactList
from wire.compare import Comparison
from wire.download import OnBytes
from wire.images import PAGE as IMAGES
from wire.images import THUMBNAIL, ImagePage, Order
from wire.job_report import JobReport
from wire.reports import Curves, Evaluation, EvaluationList, MetricPage, MetricRow, Model

if TYPE_CHECKING:
    from report.charts.parts import AnyChart

POINTS = 1000  # metric points asked for at once


class ResultCalls(JobCalls):
    """Methods of a `Client`."""

    def metrics(
        self, job: str, *, key: str | None = None, since_step: int = 0, attempt: int | None = None
    ) -> Iterator[MetricRow]:
        """The series by step, page by page; `attempt` shows an earlier try as it was."""
        params: dict[str, Any] = {"since_step": since_step, "limit": POINTS}
        if key is not None:
            params["key"] = key
        if attempt is not None:
            params["attempt"] = attempt
        job = self.resolve(job)
        while True:
            page = parse(MetricPage, self._send("GET", f"/jobs/{job}/metrics", params=params))
            yield from page.items
            if not page.has_more or page.next_step is None:
                return
            params["since_step"] = page.next_step

    def evaluations(self, job: str) -> list[Evaluation]:
        """All of them, by step; several pages of a job with thousands of classes."""
        path, found = f"/jobs/{self.resolve(job)}/evaluations", list[Evaluation]()
        params: dict[str, int] = {}
        while True:
            page = parse(EvaluationList, self._send("GET", path, params=params))
            found += page.items
            if page.next_step is None:
                return found
            params = {"since_step": page.next_step}

    def curves(self, job: str, step: int, *, model: Model = "student") -> Curves:
        """Precision over recall of one evaluation, per class and their mean."""
        path = f"/jobs/{self.resolve(job)}/evaluations/{step}/curves"
        return parse(Curves, self._send("GET", path, params={"model": model}))

    def compare(self, jobs: Sequence[str], *, baseline: str | None = None) -> Comparison:
        """How 2 to 8 jobs differ that were measured on the same images, with 95 % intervals.

        A job is called as in `resolve`; with `:teacher` behind, it is its teacher. `baseline` is by default the first.
        The service needs seconds for an answer that nobody has asked for before.
        """
        ids = [references.job_or_teacher(job, self.resolve) for job in jobs]
        params = given(job=ids, baseline=baseline and references.job_or_teacher(baseline, self.resolve))
        return parse(Comparison, self._send("GET", "/compare", params=params, timeout=COMPARE_TIMEOUT))

    def images(
        self,
        job: str,
        *,
        order: Order = "f1_loss",
        against: str | None = None,
        class_name: str | None = None,
        step: int | None = None,
        limit: int = IMAGES,
        after: int | None = None,
    ) -> ImagePage:
        """A page of the validation images of a job, the worst first: true, false and missed boxes at IoU 0.5.

        `order` is "gain" with another job to hold it `against`. `class_name` leaves the boxes of one class, `step` the
        sample images of one evaluation. `after` is the id of the last image of the page before. The service needs
        seconds for the first page of a job.
        """
        params = given(order=order, step=step, limit=limit, after=after, **{"class": class_name})
        if against is not None:
            params["against"] = self.resolve(against)
        path = f"/jobs/{self.resolve(job)}/images"
        return parse(ImagePage, self._send("GET", path, params=params, timeout=COMPARE_TIMEOUT))

    def thumbnail(self, job: str, image: int, *, size: int = THUMBNAIL) -> bytes:
        """A validation image as a JPEG whose longer side has `size` pixels at most, oriented so that its boxes fit."""
        path = f"/jobs/{self.resolve(job)}/images/{image}/thumbnail"
        return self._send("GET", path, params={"size": size}, timeout=COMPARE_TIMEOUT).content

    def report(self, job: str, *, alone: str | None = None) -> JobReport:
        """What became of a job. `alone`: the job that trained the same student without the teacher."""
        return parse(JobReport, self._send("GET", f"/jobs/{self.resolve(job)}/report", params=self._alone(alone)))

    def report_as(self, job: str, media_type: str, *, alone: str | None = None) -> str:
        """The same as `text/html`, a page that needs nothing else, or as `text/markdown`, a model card."""
        return self._text(f"/jobs/{self.resolve(job)}/report", media_type, **self._alone(alone))

    def _alone(self, alone: str | None) -> dict[str, Any]:
        return given(alone=None if alone is None else self.resolve(alone))

    def chart(self, job: str, name: str = "loss", *, alone: str | None = None) -> AnyChart:
        """A chart of a job, as Altair's: a notebook shows it. It needs `pip install 'crosskd[charts]'`.

        `name`: loss, ap, lr, throughput, steps_per_second, gradient_norm, memory, classes, curves, cost. A job that
        this client has returned has the same as `job.chart("loss")`.
        Raises: `ClientError` for another name, and where the job has nothing to draw for it.
        """
        return charts.of_job(self.report(job, alone=alone), name)

    def artifacts(self, job: str) -> list[Artifact]:
        return parse(ArtifactList, self._send("GET", f"/jobs/{self.resolve(job)}/artifacts")).items

    def download(self, job: str, name: str, target: Path, on_bytes: OnBytes | None = None) -> Path:
        """Fetch an artifact to `target` (a file, or a folder to put it in), verified by its sha256.

        A broken transfer goes on where it stopped, in this call or the next; `target` appears whole or not at all.
        Raises: `DownloadError` when the bytes do not match their digest or cannot be stored.
        """
        return self._fetch(f"/jobs/{self.resolve(job)}/artifacts/{segment(name)}", name, target, on_bytes)

    def weights(self, job: str, target: Path, on_bytes: OnBytes | None = None) -> Path:
        """Fetch the best student of a job; see `download`."""
        return self._fetch(f"/jobs/{self.resolve(job)}/weights", BEST_WEIGHTS, target, on_bytes)

    # --- what a job's model finds ------------------------------------------------------------------------------------

    def predict(
        self,
        job: str,
        images: Path | str | Sequence[Path | str],
        *,
        score: float | None = None,
        most: int | None = None,
    ) -> Predictions:
        """What the best student of a job finds in an image, or in each of several, in their order.

        `score` is that of the least sure detection, 0..1, `most` how many an image may have; the service has defaults.
        Of several, an image that cannot be used has its `fault` in the answer.
        Raises: `ApiProblem` where the only image cannot be used; `ConfigError` where a file cannot be read.
        """
        one = isinstance(images, Path | str)
        paths = [Path(images)] if isinstance(images, Path | str) else [Path(path) for path in images]
        params, path = predict.query(score, most), f"/jobs/{self.resolve(job)}/predict"

        def ask(some: list[predict.Image]) -> Predictions:
            files = predict.files(some)
            return parse(Predictions, self._send("POST", path, params=params, files=files, timeout=predict.TIMEOUT))

        return ask(next(predict.read(paths))) if one else predict.ask_all(ask, paths)

    def predict_picture(
        self, job: str, image: Path | str, *, score: float | None = None, most: int | None = None
    ) -> bytes:
        """An image with the boxes of what the best student of a job finds in it, as PNG; see `predict`."""
        files, headers = predict.files(next(predict.read([Path(image)]))), {"accept": "image/png"}
        path, params = f"/jobs/{self.resolve(job)}/predict", predict.query(score, most)
        options = {"params": params, "files": files, "headers": headers, "timeout": predict.TIMEOUT}
        return self._send("POST", path, **options).content
