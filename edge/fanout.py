"""Fan-out: every batch of the queue is pushed to its rooms' viewers, and then acted on.

Owns the order of both, and the metrics of the fan-out. A batch is pushed to its end before the next
one is read; between two slices of a push all other tasks run.
"""

from collections.abc import Generator

import structlog

from edge.gateway import Gateway
from edge.hub import Delivered
from liveroom import clock, metric_catalog, topics
from liveroom.broadcast_log import QueueReader
from liveroom.records.broadcast import Batch
from liveroom.records.codec import BadRecord
from liveroom.service import Runtime

log = structlog.get_logger()


async def drive(delivering: Generator[None, None, Delivered]) -> Delivered:
    """Push a batch to its end and return the totals; all other tasks run between two slices."""
    while True:
        try:
            next(delivering)
        except StopIteration as done:
            delivered: Delivered = done.value
            return delivered
        await clock.sleep(0)


class FanOut:
    """The fan-out of one gateway."""

    def __init__(self, gateway: Gateway, runtime: Runtime) -> None:
        self._gateway = gateway
        self._runtime = runtime
        self._worst_delay_ms: float | None = None
        metrics = runtime.metrics
        self._frames = metrics.counter(metric_catalog.DELIVERED_BATCHES)
        self._messages = metrics.counter(metric_catalog.DELIVERED_MESSAGES)
        self._sent = metrics.counter(metric_catalog.SENT_BYTES)
        self._skipped = metrics.counter(metric_catalog.SKIPPED, "slow")
        self._wasted = metrics.counter(metric_catalog.WASTED_BYTES)
        self._gaps = metrics.counter(metric_catalog.GAPS, "queue")
        self._delay = metrics.histogram(metric_catalog.FANOUT_DELAY)
        self._queue_delay = metrics.histogram(metric_catalog.QUEUE_DELAY)
        self._seconds = metrics.histogram(metric_catalog.FANOUT_SECONDS)

    def take_worst_delay_ms(self) -> float | None:
        """Return the longest delay since the last call, in milliseconds, from the acceptance of an
        interaction to its push; None: nothing was pushed.
        """
        worst_ms, self._worst_delay_ms = self._worst_delay_ms, None
        return worst_ms

    async def follow(self, queue: QueueReader) -> None:
        """Read the queue and deliver its batches, for ever."""
        async for partition, offset, batch in queue.batches():
            await self.deliver(partition, offset, batch)

    async def deliver(self, partition: int, offset: int, batch: Batch) -> None:
        """Push a batch's local parts, then let in and put out the members whom it concerns."""
        began_s = clock.monotonic_s()
        delivered = await drive(self._gateway.hub.deliver(batch, partition, offset, began_s))
        await self._follow_up(delivered, partition, offset)
        self._wasted.inc(delivered.wasted_bytes)
        if delivered.rooms:
            self._measure(batch, delivered, clock.monotonic_s() - began_s)

    async def _follow_up(self, delivered: Delivered, partition: int, offset: int) -> None:
        """Let in members that waited for a snapshot; put out users who are kicked, and all members
        of a dissolved room.
        """
        for room, error in delivered.failed:  # the others have their parts
            self._runtime.metrics.counter(metric_catalog.BAD_RECORDS, topics.BROADCAST.name, BadRecord.UNHANDLED.value).inc()
            log.error("room_part_failed", room=room.name, partition=partition, offset=offset, exc_info=error)
        self._gateway.joins.on_snapshots(delivered.with_snapshot)
        for member, kicked_from in delivered.kicked:
            self._gateway.bans.kick(member, kicked_from)
        for room in delivered.dissolved:
            for _ in self._gateway.bans.dissolve(room):
                await clock.sleep(0)

    def _measure(self, batch: Batch, delivered: Delivered, took_s: float) -> None:
        now_ns = clock.unix_ns()
        now_ms = now_ns // 1_000_000
        self._seconds.observe(took_s)
        if (tracing := self._runtime.tracing) is not None:
            for trace, room_hash in batch.traces:
                if (local := self._gateway.hub.rooms.get(room_hash)) is not None:
                    began_ns = now_ns - int(took_s * 1e9)
                    tracing.go_on(trace, "edge fan-out", began_ns, now_ns, viewers=len(local.members))
        self._frames.inc(delivered.frames)
        self._messages.inc(delivered.messages)
        self._sent.inc(delivered.sent_bytes)
        self._skipped.inc(delivered.skipped)
        self._gaps.inc(delivered.gaps)
        self._queue_delay.observe(max(0, now_ms - batch.at_ms) / 1000)
        if batch.oldest_ms:
            late_ms = max(0, now_ms - batch.oldest_ms)
            self._delay.observe(late_ms / 1000)
            self._worst_delay_ms = max(self._worst_delay_ms or 0.0, late_ms)
