"""Reports the load of this gateway to the pool, once a second, in the topic `gateways`.

Owns the figures of a report, and the gauges that show the same. An unknown figure is left out,
never sent as zero. A report that cannot be sent is dropped, since the next one is newer.
"""

import os
from collections.abc import Callable
from typing import Final, NamedTuple

import psutil
import structlog

from edge.fanout import FanOut
from edge.gateway import Gateway
from liveroom import clock, metric_catalog, tickets, topics
from liveroom.addresses import reachable, url_of
from liveroom.audience import GATEWAY_SILENCE_S
from liveroom.kafka import Producer, UnsentError
from liveroom.records.codec import encode_json
from liveroom.records.control import GatewayState, HotRoom, LoadReport
from liveroom.service import Runtime
from liveroom.tasks import BackgroundTasks

TIMEOUT_S: Final = 2.0
MIN_PERIOD_S: Final = 0.5
HOT_ROOMS: Final = 5
MOST_UNDER_WAY: Final = 4
log = structlog.get_logger()


class Usage(NamedTuple):
    """What this process uses of its machine.

    `cpu_s`: processor time since its start. `load1`: the machine's load average over a minute.
    `io_operations`: reads and writes since its start; None where the platform does not count them.
    """

    cpu_s: float
    rss_bytes: int
    sockets: int
    load1: float
    io_operations: int | None = None


class ProcessUsage:
    """Measures this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._counts_io = self._io_operations() is not None

    def __call__(self) -> Usage:
        """Return what the process uses now."""
        process = self._process
        cpu = process.cpu_times()
        operations = self._io_operations() if self._counts_io else None
        return Usage(cpu.user + cpu.system, process.memory_info().rss, process.num_fds(), os.getloadavg()[0], operations)

    def _io_operations(self) -> int | None:
        try:
            counted = self._process.io_counters()
        except (AttributeError, psutil.Error):  # not on every platform, nor in every container
            return None
        return int(counted.read_count + counted.write_count)


class _Totals(NamedTuple):
    """Counters at one moment; two of them make rates."""

    at_s: float
    usage: Usage
    joins: int
    leaves: int
    batches: float
    sent_bytes: float


class _Moment(NamedTuple):
    """A moment by the monotonic clock and by the machine's own.

    The monotonic clock stands still while a machine is suspended; the other one may be set back.
    """

    monotonic_s: float
    machine_s: float

    @classmethod
    def now(cls) -> "_Moment":
        """Return the present moment."""
        return cls(clock.monotonic_s(), clock.machine_ms() / 1000)

    def since(self, before: "_Moment") -> float:
        """Return how many seconds have passed since a moment before."""
        return max(self.monotonic_s - before.monotonic_s, self.machine_s - before.machine_s)


class LoadReporter:
    """Measures and reports the load of one gateway.

    `port`: where it listens. `lag_records` returns how far its reader of `broadcast` is behind, or
    None. `measure_usage` returns what its process uses; a simulation, in which
    many gateways share one process, passes its own.
    """

    def __init__(
        self,
        gateway: Gateway,
        fan_out: FanOut,
        runtime: Runtime,
        port: int,
        measure_usage: Callable[[], Usage] | None = None,
        *,
        lag_records: Callable[[], int | None] = lambda: None,
    ) -> None:
        settings = self._settings = gateway.settings
        self._gateway = gateway
        self._fan_out = fan_out
        self._runtime = runtime
        self._measure_usage = measure_usage or ProcessUsage()
        self._lag_records = lag_records
        host = reachable(settings.host)
        scheme = "wss" if settings.tls_cert_file else "ws"
        self._url = settings.public_url or url_of(scheme, host, port, "/v1/live")
        self._host, self._ip, self._port = host, settings.public_ip or host, port
        self._limits = settings.limits
        metrics = runtime.metrics
        self._frames = metrics.counter(metric_catalog.DELIVERED_BATCHES)
        self._sent = metrics.counter(metric_catalog.SENT_BYTES)
        self._gauges = (
            metrics.gauge(metric_catalog.CONNECTIONS),
            metrics.gauge(metric_catalog.USERS),
            metrics.gauge(metric_catalog.ROOMS_LOCAL),
        )
        self._slow = metrics.gauge(metric_catalog.SLOW_MEMBERS)
        self._vacant = metrics.gauge(metric_catalog.ROOMS_VACANT)
        self._quiet = metrics.gauge(metric_catalog.ROOMS_QUIET)
        self._before = self._totals()
        self._reported = _Moment.now()

    async def run(self, producer: Producer) -> None:
        """Report every `report_interval_s`, for ever, however long the acknowledgements take.

        A report is left out where `MOST_UNDER_WAY` are not acknowledged yet.
        """
        sending, due_s = BackgroundTasks("reporting the load"), clock.monotonic_s()
        try:
            while True:
                if sending.failure is not None:
                    raise sending.failure
                if len(sending) < MOST_UNDER_WAY:
                    sending.start(self.report(producer))
                now_s = clock.monotonic_s()
                due_s = max(due_s + self._settings.report_interval_s, now_s)
                await clock.sleep(due_s - now_s)
        finally:
            await sending.cancel()

    async def report(self, producer: Producer) -> None:
        """Send one report now."""
        report = self._measure()
        for gauge, value in zip(self._gauges, (report.connections, report.users, report.rooms), strict=True):
            gauge.set(value or 0)
        self._slow.set(report.slow or 0)
        self._vacant.set(self._gateway.hub.vacant)
        self._quiet.set(self._gateway.hub.quiet)
        try:
            await producer.send(topics.GATEWAYS, encode_json(report), key=report.gateway.encode(), timeout_s=TIMEOUT_S)
        except UnsentError as error:
            log.warning("load_unreported", error=str(error))
        else:
            before, self._reported = self._reported, _Moment.now()
            if self._reported.since(before) > GATEWAY_SILENCE_S / 2:
                self._gateway.was_silent = True

    def _totals(self) -> _Totals:
        return _Totals(
            clock.monotonic_s(),
            self._measure_usage(),
            self._gateway.joins.arrived,
            self._gateway.leaves,
            self._frames._value.get(),  # noqa: SLF001 - the library has no other way to read a counter
            self._sent._value.get(),  # noqa: SLF001
        )

    def _measure(self) -> LoadReport:
        now, before = self._totals(), self._before
        self._before = now
        passed_s = now.at_s - before.at_s

        def rate(after: float, earlier: float) -> float | None:
            return (after - earlier) / passed_s if passed_s >= MIN_PERIOD_S else None  # too short to tell: unknown, not zero

        gateway, settings = self._gateway, self._settings
        state = GatewayState.SERVING if self._runtime.is_ready else GatewayState.STARTING
        if gateway.draining or self._runtime.stopping.is_set():
            state = GatewayState.DRAINING
        io_now, io_before = now.usage.io_operations, before.usage.io_operations
        io_per_s = rate(io_now, io_before) if io_now is not None and io_before is not None else None
        return LoadReport(
            v=LoadReport.VERSION,
            gateway=settings.instance,
            generation=gateway.generation,
            state=state,
            at_ms=clock.machine_ms(),  # right or wrong: the scheduler judges by it whether this clock is off
            url=self._url,
            host=self._host,
            ip=self._ip,
            port=self._port,
            zone=settings.zone,
            limits=self._limits,
            connections=len(gateway.members),
            users=gateway.hub.users,
            rooms=gateway.hub.watched,
            joins_per_s=rate(now.joins, before.joins),
            leaves_per_s=rate(now.leaves, before.leaves),
            batches_per_s=rate(now.batches, before.batches),
            bytes_per_s=rate(now.sent_bytes, before.sent_bytes),
            packets_per_s=rate(now.batches, before.batches),
            cpu=rate(now.usage.cpu_s, before.usage.cpu_s),
            loop_lag_ms=self._runtime.loop_lag_s * 1000,
            rss_bytes=now.usage.rss_bytes,
            load1=now.usage.load1,
            io_per_s=io_per_s,
            sockets=now.usage.sockets,
            slow=len(gateway.queues),
            lag_records=self._lag_records(),
            delay_ms=self._fan_out.take_worst_delay_ms(),
            hot=tuple(HotRoom(name, connections) for name, connections in gateway.hub.hottest(HOT_ROOMS)),
            ticket_version=tickets.VERSION if settings.verifies_signed_tickets else tickets.HMAC_VERSION,
        )


async def begin_generation(gateway: Gateway, producer: Producer) -> None:
    """Withdraw the report of an earlier start, and make Kafka's present time the generation.

    The acknowledgement gives that time before anything names the generation. With the machine's, a
    clock that was ahead and is right again would make this start look like an earlier one. Where no
    acknowledgement comes in time, the machine's holds. Call it before the first report.
    """
    try:
        await producer.send(topics.GATEWAYS, None, key=gateway.settings.instance.encode(), timeout_s=TIMEOUT_S)
    except UnsentError as error:
        log.warning("load_unreported", error=str(error))
    gateway.generation = clock.unix_ms()
