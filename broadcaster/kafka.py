"""The broadcaster's place in its consumer group: which partitions it works on, and what it fetches
of the uplink.

Owns the group membership, which is for assignment alone. Where fetching a partition continues is
found in the log (`broadcaster.partition`); committed offsets are read only where the log does not
say. Refuses nothing. Called by `broadcaster.__main__`.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog

from broadcaster.assigned import Assigned, Seek
from broadcaster.audience_reader import AudienceReader
from broadcaster.ownership import Lost
from broadcaster.partition import ASSIGNED, TAKEOVER_REASONS, Partition
from broadcaster.progress import Progress
from broadcaster.rooms import RoomLimit
from liveroom import clock, metric_catalog, topics
from liveroom.broadcast_log import REQUEST_TIMEOUT_MS
from liveroom.kafka import STALLED, Producer, join_group, waiting
from liveroom.kafka_port import Consumer, Kafka, KafkaError, OffsetOutOfRangeError, RebalanceListener, TopicPartition
from liveroom.records.codec import BadRecord
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings

READY: Final = "assigned"  # the condition of readiness
POLL_MS: Final = 250
RETRY_S: Final = 0.2
CHECK_INTERVAL_S: Final = 1.0
SETTLE_S: Final = 5.0
log = structlog.get_logger()


class Broadcaster:
    """A member of the group: hands uplink records to the partitions that it is assigned."""

    def __init__(
        self, settings: BroadcasterSettings, kafka: Kafka, producer: Producer, runtime: Runtime, tasks: asyncio.TaskGroup
    ) -> None:
        self._settings = settings
        self._kafka = kafka
        self._producer = producer
        self._runtime = runtime
        self._tasks = tasks
        self._uplink = kafka.topic_name(topics.UPLINK)
        self._assigned: dict[int, Assigned] = {}
        self._is_stalled = False
        self._is_leaving = False
        metrics = runtime.metrics
        metrics.exist(metric_catalog.READER_RESTARTS, [topics.UPLINK.name], [STALLED])
        metrics.exist(metric_catalog.BAD_RECORDS, [topics.UPLINK.name], [reason.value for reason in BadRecord])
        metrics.exist(metric_catalog.DEAD_LETTERS, [reason.value for reason in BadRecord])
        metrics.exist(metric_catalog.HISTORY_LOST, [lost.value for lost in Lost])
        metrics.exist(metric_catalog.ROOMS_LIMITED, [limit.value for limit in RoomLimit])
        metrics.exist(metric_catalog.TAKEOVERS, TAKEOVER_REASONS)
        self._progress = Progress(kafka, metrics)
        self._audience = AudienceReader(kafka, runtime, self._assigned)
        self._consumer = self._make_consumer()
        self._offsets = self._make_offsets_client()
        self._wait = waiting(kafka, runtime, READY)

    def _make_offsets_client(self) -> Consumer:
        """Return a client that only asks for offsets: on the group's connection each question waits
        behind a long fetch.
        """
        return self._kafka.consumer(request_timeout_ms=REQUEST_TIMEOUT_MS)

    def _make_consumer(self) -> Consumer:
        timeout_ms = int(self._settings.kafka.session_timeout_s * 1000)
        return self._kafka.consumer(
            group_id=f"{self._settings.kafka.prefix}broadcaster",
            client_id=self._settings.instance,
            auto_offset_reset="none",  # an offset that is gone is an error: nothing is skipped
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=timeout_ms // 4,
            rebalance_timeout_ms=timeout_ms,
            fetch_max_wait_ms=250,
        )

    # ---- life
    async def run(self) -> None:
        """Join the group and work until `runtime.stopping` is set.

        Then write a last snapshot and leave, so that others take over at once.
        """
        helpers: list[asyncio.Task[None]] = []
        try:
            await self._wait.until(self._start_offsets_client)
            await self._wait.until(self._join)
            helpers = [
                self._tasks.create_task(self._audience.read_presence()),
                self._tasks.create_task(self._audience.read_gateways()),
                self._tasks.create_task(self._audience.watch_silence()),
                self._tasks.create_task(self._check()),
            ]
            while not self._runtime.stopping.is_set():
                await self._poll()
            for number in self._assigned:
                self._pause(number)
            await self._settle()
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if not self._runtime.stopping.is_set() or me is None or me.cancelling():
                raise
            # stopped while it waited for the group: it owns nothing
        finally:
            self._is_leaving = True
            for task in (*helpers, *(each.life for each in self._assigned.values())):
                task.cancel()
            await self._consumer.stop()
            await self._offsets.stop()

    async def _start_offsets_client(self) -> None:
        try:
            await self._offsets.start()
        except BaseException:
            await self._offsets.stop()
            self._offsets = self._make_offsets_client()
            raise

    async def _join(self) -> None:
        """Join the group. A client whose start failed cannot be used again."""
        try:
            self._consumer.subscribe([self._uplink], listener=Assignment(self))
            await join_group(self._consumer, self._kafka)
        except BaseException:
            if self._assigned:  # before the start failed
                self._work_on(set())
            await self._consumer.stop()
            self._consumer = self._make_consumer()
            raise

    async def _rejoin(self, reason: str) -> None:
        """Leave the group and join it with a new client: this one hangs (aiokafka issue 1154)."""
        log.warning("uplink_reader_restarted", reason=reason)
        self._runtime.metrics.counter(metric_catalog.READER_RESTARTS, topics.UPLINK.name, reason).inc()
        self._work_on(set())
        await self._consumer.stop()
        self._consumer = self._make_consumer()
        await self._wait.until(self._join)

    async def _poll(self) -> None:
        """Fetch once and hand in what came."""
        if self._is_stalled:
            self._is_stalled = False
            await self._rejoin(STALLED)
            return
        await self._seek()
        for number, assigned in self._assigned.items():
            if assigned.is_full and assigned.partition.has_space:
                assigned.is_full = False
                self._resume(number)
        try:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        except OffsetOutOfRangeError as error:
            self._find_place(error.args[0])
            return
        except KafkaError as error:
            log.warning("uplink_unread", error=repr(error))
            await clock.sleep(RETRY_S)
            return
        for tp, records in fetched.items():
            found = self._assigned.get(tp.partition)
            if found is None or found.seek is not None:
                continue  # taken away, or to be fetched from another place, while the records were on their way
            if not found.partition.hand_in(records):
                found.is_full = True
                self._pause(tp.partition)

    def _find_place(self, gone: Iterable[TopicPartition]) -> None:
        """Seek again where the offset is gone: retention overtook the owner, or the log lost its
        end.
        """
        for tp in gone:
            assigned = self._assigned.get(tp.partition)
            if assigned is not None and assigned.partition.is_ruling:
                self._pause(tp.partition)
                assigned.seek = Seek(assigned.partition.wanted_next)

    async def _seek(self) -> None:
        """Continue fetching where take-overs found that it continues."""
        pending = {
            TopicPartition(self._uplink, number): assigned.seek
            for number, assigned in self._assigned.items()
            if assigned.seek is not None
        }
        if not pending:
            return
        unknown = [tp for tp, seek in pending.items() if seek.offset is None]
        try:
            begins, ends, committed = await asyncio.gather(
                self._offsets.beginning_offsets(list(pending)),
                self._offsets.end_offsets(list(pending)),
                asyncio.gather(*(self._consumer.committed(tp) for tp in unknown)),
            )
        except KafkaError as error:
            log.warning("uplink_place_unknown", partitions=sorted(tp.partition for tp in pending), error=repr(error))
            return
        last_known = dict(zip(unknown, committed, strict=True))
        for tp, seek in pending.items():
            # Meanwhile the partition may have been taken away, or taken over once more.
            assigned = self._assigned.get(tp.partition)
            if assigned is None or assigned.seek != seek or tp not in self._consumer.assignment():
                continue
            place = seek.offset if seek.offset is not None else last_known[tp]
            self._go_on_at(tp, assigned, begins[tp] if place is None else place, begins[tp], ends[tp])

    def _go_on_at(self, tp: TopicPartition, assigned: Assigned, place: int, begin: int, end: int) -> None:
        """Fetch from `place` on. Where the log, which has `begin` to before `end`, does not have
        it, uplink is lost.
        """
        partition = assigned.partition
        if not begin <= place <= end:
            if partition.is_busy:
                return  # what was handed in before is written first
            partition.uplink_lost(place, begin)
            place = begin
        partition.begins_at(place)
        self._consumer.seek(tp, place)
        assigned.seek = None
        self._resume(tp.partition)

    # ---- assignment
    def assign(self, numbers: set[int]) -> None:
        """Work on exactly these partitions, as the group assigns them.

        An assignment that comes while the client leaves the group starts nothing: no one would end
        it.
        """
        if self._is_leaving:
            return
        self._work_on(numbers)
        self._runtime.ready(READY)

    def _work_on(self, numbers: set[int]) -> None:
        """Work on exactly these partitions.

        One that was ours before continues where it was: its log says if that is wrong.
        """
        for number in set(self._assigned) - numbers:
            self._assigned.pop(number).life.cancel()
        for number in numbers:
            self._hold(number)
            if (kept := self._assigned.get(number)) is not None:
                if kept.partition.is_ruling:
                    kept.seek = Seek(kept.partition.wanted_next)
                continue
            partition = Partition(
                number, self._settings, self._kafka, self._producer, self._runtime, self._on_ruling, self._on_lost
            )
            partition.audience.fall_behind()
            self._assigned[number] = Assigned(partition, self._tasks.create_task(partition.run(ASSIGNED)))
        log.info("assigned", partitions=sorted(numbers))

    async def _settle(self) -> None:
        """Let every partition write what it has and a snapshot."""
        try:
            async with asyncio.timeout(SETTLE_S):
                await asyncio.gather(*(assigned.partition.settle() for assigned in self._assigned.values()))
            await self._progress.commit(self._consumer, self._assigned)
        except (TimeoutError, KafkaError) as error:
            log.warning("unsettled", why="the next owner reads it from the log", error=repr(error))

    def _on_ruling(self, number: int, uplink_next: int | None) -> None:
        assigned = self._assigned[number]
        assigned.seek = Seek(uplink_next)
        assigned.reported = assigned.partition.balance

    def _on_lost(self, number: int) -> None:
        if (assigned := self._assigned.get(number)) is not None:
            assigned.seek = None
        self._pause(number)

    def _hold(self, number: int) -> None:
        """Fetch nothing of a partition that was just assigned.

        Without a place, the client would fetch from the committed one.
        """
        tp = TopicPartition(self._uplink, number)
        if tp in self._consumer.assignment():
            self._consumer.pause(tp)
            self._consumer.seek(tp, 0)

    def _pause(self, number: int) -> None:
        tp = TopicPartition(self._uplink, number)
        if tp in self._consumer.assignment():
            self._consumer.pause(tp)

    def _resume(self, number: int) -> None:
        tp = TopicPartition(self._uplink, number)
        if tp in self._consumer.assignment():
            self._consumer.resume(tp)

    async def _check(self) -> None:
        """Once a second: pass on where the logs end, commit, report, and see whether fetching
        hangs.
        """
        while True:
            await clock.sleep(CHECK_INTERVAL_S)
            try:
                async with asyncio.timeout(self._settings.kafka.request_timeout_s):
                    if await self._progress.follow_ends(self._offsets, self._assigned):
                        self._is_stalled = True  # never |=: it would write back what it read before it waited
                    await self._progress.commit(self._consumer, self._assigned)
            except (KafkaError, TimeoutError) as error:
                log.warning("not_looked", error=repr(error))
            self._progress.report(self._assigned)


class Assignment(RebalanceListener):
    """Passes on what the group assigns.

    What it takes away needs no call: the next owner's claim deposes us.
    """

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Nothing to do: most of them usually come back, and those keep what they have."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Work on these."""
        self._broadcaster.assign({tp.partition for tp in assigned})
