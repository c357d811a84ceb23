"""The only runtime: signals, logging, the internal port, metrics and an orderly end.

A service's `__main__` calls `main(name, Settings, body)`. `body(settings, runtime)` starts the
service, calls `runtime.ready` with each condition that comes true, waits for `runtime.stopping` and
ends in order: stop accepting, drain with a deadline, close. Any exception ends the process with
exit code 1 and a log line. A failure that passes by itself does not: the start waits for it
(`liveroom.waiting`) and reports it by `runtime.waits`, and SIGTERM still ends the process.
"""

import argparse
import asyncio
import gc
import logging
import math
import signal
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

import prometheus_client as prometheus
import structlog
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from liveroom import __version__, clock, metric_catalog
from liveroom.chance import Chance, SystemChance
from liveroom.connections import Connections
from liveroom.debug import Debug
from liveroom.errors import ExplainedError
from liveroom.extras import explained, remedy
from liveroom.machine import Machine
from liveroom.networks import Callers
from liveroom.refusals import RefusalLog
from liveroom.registry import Metrics
from liveroom.setting_sources import UnusableSettingsError, read_settings, unknown
from liveroom.settings import ServiceSettings, fields
from liveroom.tracebacks import named, traceback_of, write_traceback
from liveroom.web import ListenError, request_ids, serve

if TYPE_CHECKING:
    from liveroom.tracing import Tracing

S = TypeVar("S", bound=ServiceSettings)
LAG_INTERVAL_S = 0.1
START_END_S: Final = 1.0
HELP_COLUMNS: Final = 90
MOST_REASONS: Final = 50  # that are told of one wait, each of them once
GC_THRESHOLDS: Final = (20_000, 20, 20)  # records come in thousands and are no cycles: the default looks every 700 of them
log = structlog.get_logger()


class StartError(ExplainedError):
    """A failure that ends a start because waiting does not cure it.

    The message says in one line what is wrong.
    """


def callers_of(settings: ServiceSettings) -> Callers:
    """Return what knows the callers of a service, behind the proxies of its settings."""
    return Callers(
        settings.proxies,
        settings.forwarded_header,
        lambda proxy: log.warning("proxy_reports_no_caller", proxy=proxy, header=settings.forwarded_header),
    )


def public_connections(
    settings: ServiceSettings,
    runtime: "Runtime",
    head_timeout_s: float = math.inf,
    *,
    beside: int = 0,
    takes_proxy_header: bool | None = None,
) -> Connections:
    """Return the bounds on connections of a service's public port.

    `head_timeout_s`: the service's own time for a head, which is used where it is less. `beside`:
    how many connections of other kinds it may have. `takes_proxy_header`: whether the PROXY header
    is read there; by default where the settings say that one comes.
    """
    http = settings.http.model_copy(update={"head_timeout_s": min(settings.http.head_timeout_s, head_timeout_s)})
    takes = http.proxy_protocol if takes_proxy_header is None else takes_proxy_header
    return Connections(http, callers_of(settings), runtime.metrics, takes_proxy_header=takes, beside=beside)


class Runtime:
    """What a process gives its service: metrics, chance, readiness, and the request to stop.

    `conditions`: the service is ready once each of them holds. `chance`: a seeded source for tests
    and simulations; by default the system's. `refusals`: the log of them; by default one that names
    no users.
    """

    def __init__(
        self, service: str, *conditions: str, chance: Chance | None = None, refusals: RefusalLog | None = None
    ) -> None:
        self.service = service
        self.chance = chance if chance is not None else SystemChance()
        self.refusals = refusals if refusals is not None else RefusalLog()
        self.metrics = Metrics(service)
        self._machine = Machine(self.metrics)
        self.stopping = asyncio.Event()
        self.tracing: Tracing | None = None
        self.loop_lag_s = 0.0
        self._pauses_s: deque[float] = deque(maxlen=1000)
        self._waiting_for: dict[str, str] = dict.fromkeys(conditions, "not yet")
        self._said: dict[str, set[str]] = {}
        self.was_ready = not conditions

    def ready(self, condition: str) -> None:
        """Record that `condition` holds."""
        self._said.pop(condition, None)
        if self._waiting_for.pop(condition, None) is not None and not self._waiting_for:
            self.was_ready = True
            log.info("ready")

    def waits(self, name: str, why: str) -> None:
        """Report why a part of the start waits.

        The log gets each reason once; `/readyz` shows the last one where `name` is a condition.
        """
        if name in self._waiting_for:
            self._waiting_for[name] = why
        said = self._said.setdefault(name, set())
        if why not in said and len(said) < MOST_REASONS:
            said.add(why)
            log.warning("waiting", waits_for=name, why=why)

    def unready(self, condition: str, why: str) -> None:
        """Record that `condition` does not hold, and why; `/readyz` shows it."""
        if self._waiting_for.get(condition) != why:
            log.warning("not_ready", condition=condition, why=why)
        self._waiting_for[condition] = why

    @property
    def is_ready(self) -> bool:
        """Whether every condition holds."""
        return not self._waiting_for and not self.stopping.is_set()

    def internal_app(self, debug_key: str = "") -> web.Application:
        """Return the app of the internal port. `debug_key`: the bearer key for /debug."""
        app = web.Application(middlewares=[request_ids(self.chance)])
        Debug(debug_key).add_to(app)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        return app

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        reasons = dict(self._waiting_for)
        if self.stopping.is_set():
            reasons["serving"] = "stopping"
        text = "".join(f"{condition}: {why}\n" for condition, why in reasons.items()) or "ok\n"
        return web.Response(status=503 if reasons else 200, text=text)

    async def _metrics(self, _: web.Request) -> web.Response:
        await asyncio.to_thread(self._machine.read)
        body = prometheus.generate_latest(self.metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def watch_loop(self) -> None:
        """Until cancelled, measure how late the loop runs, record the pauses that `watch_gc` saw,
        and log how many refusals were not logged.
        """
        lag = self.metrics.histogram(metric_catalog.LOOP_LAG)
        pause = self.metrics.histogram(metric_catalog.GC_PAUSE)
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL_S
            await clock.sleep(LAG_INTERVAL_S)
            late = max(0.0, loop.time() - due)
            lag.observe(late)
            self.loop_lag_s += (late - self.loop_lag_s) * 0.3
            while self._pauses_s:
                pause.observe(self._pauses_s.popleft())
            self.refusals.tell()

    def watch_gc(self) -> None:
        """Collect garbage less often, and measure each collection.

        A collection may begin anywhere, also while a metric's lock is held. So the callback touches
        no metric; `watch_loop` records what it measured.
        """
        began = 0.0

        def on_gc(phase: str, _: dict[str, int]) -> None:
            nonlocal began
            if phase == "start":
                began = clock.monotonic_s()
            else:
                self._pauses_s.append(clock.monotonic_s() - began)

        gc.callbacks.append(on_gc)
        gc.freeze()  # what was imported stays for good
        gc.set_threshold(*GC_THRESHOLDS)


Body = Callable[[S, Runtime], Coroutine[Any, Any, None]]


def main(service: str, settings: type[S], body: Body[S], *conditions: str, argv: Sequence[str] | None = None) -> None:
    """Parse the settings and run the service until SIGTERM or SIGINT.

    Exit codes: 0 after an orderly end, 1 after a failure, 2 for settings that cannot be used.
    """
    _parse_arguments(service, settings, argv)
    try:
        parsed = read_settings(settings)
    except UnusableSettingsError as error:
        sys.stderr.write(f"{service}: settings are not usable\n{textwrap.indent(str(error), '  ')}\n")
        sys.exit(2)
    configure_logging(parsed, service)
    for one in unknown(settings):
        log.warning("unknown_setting", name=one.name, file=one.file or None, nearest=one.nearest or None)
    chance = SystemChance()
    with explained(service):
        tracing = _tracing(service, parsed, chance)
    try:
        _run(_guarded(service, parsed, body, conditions, chance, tracing))
    except Exception as error:
        for leaf in _leaves(error):
            if isinstance(leaf, StartError | ListenError):  # for whoever runs it, not a defect
                log.critical("cannot_start", error=str(leaf))
            elif text := remedy(leaf):
                log.critical("cannot_start", error=text)
            else:
                log.critical("service_failed", error=named(leaf), exc_info=leaf)
        sys.exit(1)


def _run(work: Any) -> None:
    try:
        import uvloop  # noqa: PLC0415 - not available on every platform
    except ImportError:
        asyncio.run(work)
    else:
        uvloop.run(work)


def _tracing(service: str, settings: ServiceSettings, chance: Chance) -> "Tracing | None":
    if not settings.trace_ratio:
        return None
    from liveroom.tracing import Tracing  # noqa: PLC0415 - an extra

    return Tracing(service, settings.instance, settings.trace_ratio, chance)


async def _guarded(
    service: str, settings: S, body: Body[S], conditions: Sequence[str], chance: Chance, tracing: "Tracing | None"
) -> None:
    refusals = RefusalLog(settings.log_key.get_secret_value().encode(), settings.log_refusals_per_s)
    runtime = Runtime(service, *conditions, chance=chance, refusals=refusals)
    runtime.tracing = tracing
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_failure)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, runtime.stopping.set)
    runtime.watch_gc()
    runtime.metrics.gauge(metric_catalog.PARTITIONS).set(settings.kafka.partitions)
    try:
        async with serve(
            runtime.internal_app(settings.debug_key.get_secret_value()),
            settings.internal_host,
            settings.internal_port,
            loopback=settings.loopback,
            connections=Connections(settings.http, callers_of(settings), runtime.metrics, "internal"),
        ) as (_, port):
            log.info("started", internal_port=port, version=__version__)
            async with asyncio.TaskGroup() as tasks:
                watcher = tasks.create_task(runtime.watch_loop())
                working = tasks.create_task(body(settings, runtime))
                ender = tasks.create_task(_end_start(runtime, working))
                await asyncio.wait({working})
                watcher.cancel()
                ender.cancel()
    finally:
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    log.info("stopped")


def _log_failure(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what failed where nobody waited for it; asyncio's own line quotes the error."""
    log.error("task_failed", what=context.get("message", ""), exc_info=context.get("exception"))


async def _end_start(runtime: Runtime, working: asyncio.Task[None]) -> None:
    """Cancel start-up on shutdown: code that is blocked on Kafka never checks the stop flag."""
    await runtime.stopping.wait()
    await asyncio.wait({working}, timeout=START_END_S)
    while not (runtime.was_ready or working.done()):
        working.cancel()
        await asyncio.wait({working}, timeout=START_END_S)  # a Kafka client may swallow it


def _parse_arguments(service: str, settings: type[ServiceSettings], argv: Sequence[str] | None) -> None:
    rows = [
        f"  {name} {default}".rstrip() + "\n" + textwrap.indent(textwrap.fill(about, HELP_COLUMNS), "      ")
        for name, default, about in fields(settings)
    ]
    parser = argparse.ArgumentParser(
        prog=f"python -m {service}",
        description=f"The {service} service of liveroom. Its settings come from the environment, from the\n"
        "TOML file that LIVEROOM_CONFIG names, or from the folder that LIVEROOM_SECRETS names, one file\n"
        "each. They are listed below with their defaults. Lists and maps are written as JSON.",
        epilog="\n".join(rows),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"liveroom {__version__}", help="print the version and exit")
    parser.parse_args(argv)


def _leaves(error: BaseException) -> list[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        return [error]
    return [leaf for inner in error.exceptions for leaf in _leaves(inner)]


def configure_logging(settings: ServiceSettings, service: str) -> None:
    """Write one event per line to standard error: JSON, or colours on a terminal.

    aiokafka and aiohttp log the same way.
    """
    level = getattr(logging, settings.log_level.upper())
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(exception_formatter=write_traceback)
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([structlog.processors.ExceptionRenderer(lambda failure: traceback_of(failure[1]))] if as_json else []),
            renderer,
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.getLogger("aiokafka").setLevel(max(level, logging.WARNING))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service, instance=settings.instance)
