"""The application that `python -m api` serves."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib.metadata import version

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client import Gauge
from sqlalchemy import inspect
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from starlette.datastructures import State

from api import errors, openapi, process_log
from api.auth import AttemptTokens, require_authenticated, security
from api.database import Database
from api.disk_cache import DiskCache
from api.http.correlation import CorrelationMiddleware
from api.http.request_metrics import RequestMetrics, RequestMetricsMiddleware
from api.http.streams import Streams
from api.images.pool import ThumbnailPool
from api.limits import BodyLimit, RateLimit
from api.models import Job
from api.notifications import NotificationBridge
from api.predict.models import ModelCache
from api.predict.pool import Pool
from api.relay import Relay
from api.report_interval import ReportIntervals
from api.routes import (
    artifacts,
    audit,
    compare,
    control,
    datasets,
    events,
    images,
    jobs,
    logs,
    metrics,
    observability,
    predict,
    reports,
    sign_in,
    specs,
    sweeps,
    system,
    tokens,
    webhooks,
    worker,
    worker_artifacts,
    worker_uploads,
)
from api.services.answers.compare import Comparisons
from api.services.files import artifacts as artifact_service
from api.services.files import retention
from api.services.lifecycle import uptime
from api.services.operations.prometheus import DatabaseCollector
from api.settings import Settings, SettingsError, load
from api.storage import Storage
from api.stores.choose import open_storage
from api.turns import Turns
from api.web import pages
from wire import tracing

log = logging.getLogger(__name__)

SWEEP_SECONDS = 3600.0


PARTS = (
    jobs,
    control,
    sweeps,
    datasets,
    specs,
    metrics,
    reports,
    events,
    logs,
    artifacts,
    worker,
    worker_artifacts,
    worker_uploads,
    system,
    observability,
    tokens,
    webhooks,
    audit,
    compare,
    images,
    predict,
    sign_in,
    pages,
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. Without `settings` they come from the environment. Ends the process if it cannot be run."""
    app = build_app()
    try:
        if settings is None:  # this process is ours
            settings = load()
            process_log.configure(settings)
            tracing.start("crosskd-api", settings.otel_endpoint)
        configure(app, settings)
    except SettingsError as error:
        raise SystemExit(str(error)) from None
    return app


def build_app() -> FastAPI:
    """What is the same whatever the settings: the routes, what stands around them, and the description."""
    app = FastAPIOffline(  # the pages of /docs come with the package, not from a content network
        title="CrossKD",
        version=version("crosskd"),
        description="Distil object detectors: post a job, watch its metrics, download the weights.",
        lifespan=_lifespan,
        generate_unique_id_function=openapi.operation_id,
        responses=openapi.PROBLEMS,
        dependencies=[Depends(require_authenticated)],
        redirect_slashes=False,  # such a redirect would name whatever host the caller has written
    )
    app.add_middleware(BodyLimit)
    # Outside of the limits: it sees refusals too.
    app.add_middleware(RequestMetricsMiddleware)
    app.add_middleware(CorrelationMiddleware)
    errors.install(app)
    openapi.install(app, lambda path: security(app.state.settings, path))
    for part in PARTS:
        app.include_router(part.router)
    return app


def configure(app: FastAPI, settings: Settings) -> None:
    """Give the application what its settings ask for, in place of what it had.

    Raises:
        SettingsError: it cannot be run like that.
    """
    database = Database(settings.database_address)
    _check_tables(database)
    app.state = State()
    app.state.settings = settings
    app.state.database = database
    app.state.storage = open_storage(settings)
    app.state.closing = threading.Event()  # set when the server is told to stop: held requests then answer
    app.state.turns = Turns()
    app.state.streams = Streams(settings, app.state.closing)
    app.state.request_metrics = _request_metrics(database, app.state.streams)
    app.state.report_intervals = ReportIntervals(settings.reports_per_second)
    app.state.attempt_tokens = AttemptTokens()
    app.state.rates = RateLimit(settings.rate_per_second, settings.rate_burst)
    app.state.comparisons = Comparisons()
    app.state.predictions = Pool(settings)
    app.state.models = ModelCache(settings.home / "predict", settings.predict_cache)
    app.state.thumbnails = ThumbnailPool(settings)
    app.state.image_indexes = DiskCache(settings.home / "images", settings.images_cache, ".sqlite")
    app.openapi_schema = None  # it says who may call


def _request_metrics(database: Database, streams: Streams) -> RequestMetrics:
    metrics = RequestMetrics()
    metrics.registry.register(DatabaseCollector(database))
    held = Gauge("crosskd_open_streams", "Event and log streams that are held open.", registry=metrics.registry)
    held.set_function(lambda: streams.open)
    return metrics


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    database: Database = app.state.database
    closing: threading.Event = app.state.closing
    with ExitStack() as stack:
        stack.callback(tracing.stop)
        stack.callback(database.close)
        stack.callback(app.state.predictions.close)
        stack.callback(app.state.thumbnails.close)
        stack.enter_context(_closing_on_signal(closing))
        stack.enter_context(NotificationBridge(database.notifier, settings.broker_address).running())
        stopping = threading.Event()
        stack.enter_context(_thread("uptime", lambda: _record_uptime(database, settings, stopping), stopping.set))
        sweep = partial(_sweep, database, app.state.storage, settings, stopping)
        stack.enter_context(_thread("sweep", sweep, stopping.set))
        if settings.relay == "embedded":
            relay = Relay(database, settings)
            stack.enter_context(_thread("relay", relay.run, relay.stop))
        if threading.current_thread() is threading.main_thread():  # else somebody else runs the application
            collect_less_garbage()
        yield
        closing.set()


def collect_less_garbage() -> None:
    """A look through all that was imported holds up every request for a quarter of a second, every few seconds."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def _check_tables(database: Database) -> None:
    """Raises `SettingsError` for a database that nobody has migrated."""
    try:
        present = inspect(database.engine).has_table(Job.__tablename__)
    except OperationalError as error:
        log.warning("the database does not answer yet: %s", error)  # it may come: every request tries anew
        return
    if not present:
        raise SettingsError("CROSSKD_DATABASE_URL: the database has no tables; run `alembic upgrade head` with it")


def _record_uptime(database: Database, settings: Settings, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            with database.transaction() as session:
                uptime.record(session, settings)
        except Exception:  # without it nothing would ever be reaped
            log.exception("the uptime of the API could not be recorded")
        stopping.wait(settings.uptime_interval_seconds)


def _sweep(database: Database, storage: Storage, settings: Settings, stopping: threading.Event) -> None:
    """At the start and every hour: what crashes and broken uploads leave is no hurry, and must hold up nothing."""
    while not stopping.is_set():
        try:
            if removed := retention.trim_ended_jobs(database, storage, settings.keep_checkpoints):
                log.info("removed %d checkpoints of jobs at their end", removed)
            if removed := artifact_service.sweep(database, storage):
                log.info("removed %d files that no artifact names", removed)
        except (SQLAlchemyError, OSError) as error:
            log.warning("could not look for checkpoints and files that nobody needs: %s", error)
        stopping.wait(SWEEP_SECONDS)


@contextmanager
def _thread(name: str, run: Callable[[], None], stop: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=run, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(timeout=10)


@contextmanager
def _closing_on_signal(closing: threading.Event) -> Iterator[None]:
    """Set `closing` before the server's own handler runs: it would wait for held requests until their time is over."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread gets signals: here somebody else runs the application
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, frame: object) -> None:
        closing.set()
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)  # type: ignore[arg-type]  # the frame that Python gave

    for number, handler in before.items():
        if callable(handler):
            signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
