"""The queue's side of the edge: reads all of `broadcast` without a group, reports load and audiences."""

import asyncio
import os
import time
from collections.abc import Generator
from typing import Final, NamedTuple

import psutil
import structlog

from edge.hub import Delivered, Hub
from edge.presence import Pace
from edge.server import Server
from liveroom import metrics, topics
from liveroom.follow import records
from liveroom.kafka import Producer, TopicReader, UnsentError
from liveroom.queue import QueueReader
from liveroom.records import BadRecord, GatewayState, HotRoom, LoadReport, Order, Presence, encode_json
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings

REPORT_TIMEOUT_S: Final = 2.0
PRESENCE_LOOK_S: Final = 0.05
MIN_PERIOD_S: Final = 0.5
HOT_ROOMS: Final = 5
log = structlog.get_logger()


async def drive(delivering: Generator[None, None, Delivered]) -> Delivered:
    """Push a batch to its end; between two slices everything else has its turn."""
    while True:
        try:
            next(delivering)
        except StopIteration as done:
            delivered: Delivered = done.value
            return delivered
        await asyncio.sleep(0)


async def fan_out(queue: QueueReader, server: Server, runtime: Runtime) -> None:
    """Read the queue and push what is for rooms here, for ever."""
    made = runtime.metrics
    frames, messages = made.counter(metrics.DELIVERED_BATCHES), made.counter(metrics.DELIVERED_MESSAGES)
    sent, skipped = made.counter(metrics.SENT_BYTES), made.counter(metrics.SKIPPED, "slow")
    wasted = made.counter(metrics.WASTED_BYTES)
    delay, queue_delay = made.histogram(metrics.FANOUT_DELAY), made.histogram(metrics.QUEUE_DELAY)
    tracing = runtime.tracing
    seconds, gaps = made.histogram(metrics.FANOUT_SECONDS), made.counter(metrics.GAPS, "queue")
    async for partition, offset, batch in queue.batches():
        began = time.monotonic()
        delivered = await drive(server.hub.deliver(batch, partition, offset, began))
        _tell_failed(delivered, partition, offset, runtime)
        server.carded(delivered.carded)
        for room_hash, user in delivered.kicked:
            server.kick(room_hash, user)
        for room in delivered.dissolved:
            for _ in server.dissolve(room):
                await asyncio.sleep(0)
        wasted.inc(delivered.wasted_bytes)
        if not delivered.rooms:
            continue
        now_ns = time.time_ns()
        now_ms = now_ns // 1_000_000
        took_s = time.monotonic() - began
        seconds.observe(took_s)
        if tracing is not None:
            for trace, room_hash in batch.traces:
                if (local := server.hub.rooms.get(room_hash)) is not None:
                    began_ns = now_ns - int(took_s * 1e9)
                    tracing.go_on(trace, "edge fan-out", began_ns, now_ns, viewers=len(local.members))
        frames.inc(delivered.frames)
        messages.inc(delivered.messages)
        sent.inc(delivered.sent_bytes)
        skipped.inc(delivered.skipped)
        gaps.inc(delivered.gaps)
        queue_delay.observe(max(0, now_ms - batch.at_ms) / 1000)
        if batch.oldest_ms:
            late_ms = max(0, now_ms - batch.oldest_ms)
            delay.observe(late_ms / 1000)
            server.worst_delay_ms = max(server.worst_delay_ms or 0.0, late_ms)


def _tell_failed(delivered: Delivered, partition: int, offset: int, runtime: Runtime) -> None:
    """Tell of rooms whose part of a batch could not be handled; the others have theirs."""
    for room, error in delivered.failed:
        runtime.metrics.counter(metrics.BAD_RECORDS, topics.BROADCAST.name, BadRecord.UNHANDLED.value).inc()
        log.error("room_part_failed", room=room.name, partition=partition, offset=offset, exc_info=error)


async def follow_orders(orders: TopicReader, server: Server, runtime: Runtime) -> None:
    """Do what the pool asks of this gateway, for ever."""
    async for found in records(orders, topics.CONTROL, Order, runtime):
        for _, order in found:
            server.obey(order)


async def report_presence(hub: Hub, server: Server, producer: Producer) -> None:
    """Tell the owners of rooms how many watch them here, for ever."""
    pace = Pace()

    async def tell(room: str, now_s: float, *, card: bool = False) -> None:
        users, connections = hub.audience(room)
        if not pace.wants(room, users, connections, now_s) and not (card and connections):
            return
        gateway = server.settings.instance
        record = Presence(1, room, gateway, server.generation, users, connections, time.time_ns() // 1_000_000, card)
        try:
            await producer.send(topics.PRESENCE, encode_json(record), key=room.encode(), timeout_s=REPORT_TIMEOUT_S)
        except UnsentError as error:
            log.warning("presence_unreported", room=room, error=str(error))
            pace.failed(room)
        else:
            pace.told(room, users, connections, now_s)

    while True:
        await asyncio.sleep(PRESENCE_LOOK_S)
        changed, hub.changed = hub.changed, {}
        pace.changed(changed)
        now_s = time.monotonic()
        wanted, server.cards_wanted = server.cards_wanted, {}
        due = dict.fromkeys(pace.due(now_s)) | wanted
        await asyncio.gather(*(tell(room, now_s, card=room in wanted) for room in due))


class _Totals(NamedTuple):
    """Counters at one moment; two of them make rates."""

    at: float
    cpu_s: float
    joins: int
    leaves: int
    batches: float
    sent_bytes: float


class Reporter:
    """Tells the pool every second how this gateway is."""

    def __init__(self, settings: EdgeSettings, server: Server, runtime: Runtime, port: int) -> None:
        self._settings = settings
        self._server = server
        self._runtime = runtime
        self._process = psutil.Process(os.getpid())
        host = settings.host if settings.host != "0.0.0.0" else "127.0.0.1"
        scheme = "wss" if settings.tls_cert_file else "ws"
        self._url = settings.public_url or f"{scheme}://{host}:{port}/v1/live"
        self._host, self._ip, self._port = host, settings.public_ip or host, port
        self._limits = settings.limits
        made = runtime.metrics
        self._frames = made.counter(metrics.DELIVERED_BATCHES)
        self._sent = made.counter(metrics.SENT_BYTES)
        self._gauges = made.gauge(metrics.CONNECTIONS), made.gauge(metrics.USERS), made.gauge(metrics.ROOMS_LOCAL)
        self._slow = made.gauge(metrics.SLOW_MEMBERS)
        self._before = self._totals()

    async def run(self, producer: Producer) -> None:
        """Report for ever; a report that cannot be sent is dropped, the next one is newer."""
        while True:
            await self.report(producer)
            await asyncio.sleep(self._settings.report_interval_s)

    async def report(self, producer: Producer) -> None:
        """Send one report now."""
        report = self._measure()
        for gauge, value in zip(self._gauges, (report.connections, report.users, report.rooms), strict=True):
            gauge.set(value or 0)
        self._slow.set(report.slow or 0)
        try:
            await producer.send(topics.GATEWAYS, encode_json(report), key=report.gateway.encode(), timeout_s=REPORT_TIMEOUT_S)
        except UnsentError as error:
            log.warning("load_unreported", error=str(error))

    def _totals(self) -> _Totals:
        cpu = self._process.cpu_times()
        return _Totals(
            time.monotonic(),
            cpu.user + cpu.system,
            self._server.joins,
            self._server.leaves,
            self._frames._value.get(),  # noqa: SLF001 - the library has no other way to read a counter
            self._sent._value.get(),  # noqa: SLF001
        )

    def _measure(self) -> LoadReport:
        now, before = self._totals(), self._before
        self._before = now
        passed = now.at - before.at

        def rate(after: float, earlier: float) -> float | None:
            return (after - earlier) / passed if passed >= MIN_PERIOD_S else None  # too short to tell: unknown, not zero

        server, settings = self._server, self._settings
        delay_ms, server.worst_delay_ms = server.worst_delay_ms, None
        state = GatewayState.SERVING if self._runtime.is_ready else GatewayState.STARTING
        if server.draining or self._runtime.stopping.is_set():
            state = GatewayState.DRAINING
        return LoadReport(
            v=1,
            gateway=settings.instance,
            generation=server.generation,
            state=state,
            at_ms=time.time_ns() // 1_000_000,
            url=self._url,
            host=self._host,
            ip=self._ip,
            port=self._port,
            zone=settings.zone,
            limits=self._limits,
            connections=len(server.members),
            users=server.hub.users,
            rooms=server.hub.watched,
            joins_per_s=rate(now.joins, before.joins),
            leaves_per_s=rate(now.leaves, before.leaves),
            batches_per_s=rate(now.batches, before.batches),
            bytes_per_s=rate(now.sent_bytes, before.sent_bytes),
            packets_per_s=rate(now.batches, before.batches),
            cpu=rate(now.cpu_s, before.cpu_s),
            loop_lag_ms=self._runtime.loop_lag_s * 1000,
            rss_bytes=self._process.memory_info().rss,
            load1=os.getloadavg()[0],
            sockets=self._process.num_fds(),
            slow=len(server.backlogs),
            delay_ms=delay_ms,
            hot=tuple(HotRoom(name, connections) for name, connections in server.hub.hottest(HOT_ROOMS)),
        )
