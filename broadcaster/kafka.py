"""The broadcaster's share of the work: which partitions the group gives it, what it reads of the
uplink and of presence.

Owns the group membership, which is for assignment alone: where a partition goes on is found in the
log (`broadcaster.partition`), committed offsets are for watching the lag. Refuses nothing.
"""

import asyncio
import time
from collections.abc import Iterable
from typing import Final

import structlog

from broadcaster.ownership import Lost
from broadcaster.partition import ASSIGNED, TAKEOVER_REASONS, Partition
from liveroom import metric_catalog, topics
from liveroom.broadcast_log import REQUEST_TIMEOUT_MS
from liveroom.kafka import STALLED, Producer, TopicReader, join_group, waiting
from liveroom.kafka_port import Consumer, Kafka, KafkaError, OffsetOutOfRangeError, RebalanceListener, TopicPartition
from liveroom.kinds import Outcome
from liveroom.records.broadcast import Balance
from liveroom.records.codec import NO_OFFSET, BadRecord, BadRecordError, JsonReader
from liveroom.records.control import LoadReport, Presence
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings
from liveroom.topics import partition_of

READY: Final = "assigned"  # the condition of readiness
POLL_MS: Final = 250
RETRY_S: Final = 0.2
LOOK_S: Final = 1.0
SETTLE_S: Final = 5.0
STALLED_S: Final = 5.0
NOWHERE: Final = -2  # differs from every place and from None
log = structlog.get_logger()


class Broadcaster:
    """The group membership: hands uplink records to the partitions it is given."""

    def __init__(
        self, settings: BroadcasterSettings, kafka: Kafka, producer: Producer, runtime: Runtime, tasks: asyncio.TaskGroup
    ) -> None:
        self._settings = settings
        self._kafka = kafka
        self._producer = producer
        self._runtime = runtime
        self._tasks = tasks
        self._uplink = kafka.topic_name(topics.UPLINK)
        self._broadcast = kafka.topic_name(topics.BROADCAST)
        self._partitions: dict[int, Partition] = {}
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._to_seek: dict[int, int | None] = {}
        self._full: set[int] = set()
        self._committed: dict[TopicPartition, int] = {}
        self._waiting: dict[int, tuple[int, float]] = {}
        self._is_stalled = False
        metrics = runtime.metrics
        self._outcomes = {outcome: metrics.counter(metric_catalog.ITEMS, outcome.value) for outcome in Outcome}
        self._taken = metrics.counter(metric_catalog.ITEMS, "taken")
        metrics.exist(metric_catalog.READER_RESTARTS, [topics.UPLINK.name], [STALLED])
        metrics.exist(metric_catalog.BAD_RECORDS, [topics.UPLINK.name], [reason.value for reason in BadRecord])
        metrics.exist(metric_catalog.DEAD_LETTERS, [reason.value for reason in BadRecord])
        metrics.exist(metric_catalog.HISTORY_LOST, [lost.value for lost in Lost])
        metrics.exist(metric_catalog.TAKEOVERS, TAKEOVER_REASONS)
        self._reported: dict[int, Balance] = {}
        self._balance_off = metrics.gauge(metric_catalog.BALANCE_OFF)
        self._owned = metrics.gauge(metric_catalog.PARTITIONS_OWNED)
        self._live = metrics.gauge(metric_catalog.ROOMS_LIVE)
        self._consumer = self._make_consumer()
        self._asker = self._make_asker()
        self._wait = waiting(kafka, runtime, READY)

    def _make_asker(self) -> Consumer:
        """Return a client that only asks for offsets: on the group's connection each question waits
        behind a long fetch.
        """
        return self._kafka.consumer(request_timeout_ms=REQUEST_TIMEOUT_MS)

    def _make_consumer(self) -> Consumer:
        timeout_ms = int(self._settings.kafka.session_timeout_s * 1000)
        return self._kafka.consumer(
            group_id=f"{self._settings.kafka.prefix}broadcaster",
            client_id=self._settings.instance,
            auto_offset_reset="none",  # the log says where; a place that is gone must be told, not jumped over
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=timeout_ms // 4,
            rebalance_timeout_ms=timeout_ms,
            fetch_max_wait_ms=250,
        )

    # ---- life
    async def run(self) -> None:
        """Join the group and work until `runtime.stopping`; then settle and leave, so that others
        take over at once.
        """
        helpers: list[asyncio.Task[None]] = []
        try:
            await self._wait.until(self._start_asker)
            await self._wait.until(self._join)
            helpers = [
                self._tasks.create_task(self._watch_presence()),
                self._tasks.create_task(self._watch_gateways()),
                self._tasks.create_task(self._look()),
            ]
            while not self._runtime.stopping.is_set():
                await self._poll()
            for number in self._partitions:
                self._pause(number)
            await self._settle()
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if not self._runtime.stopping.is_set() or me is None or me.cancelling():
                raise
            # told to stop while it waited for the group: it owns nothing
        finally:
            for task in (*helpers, *self._lives.values()):
                task.cancel()
            await self._consumer.stop()
            await self._asker.stop()

    async def _start_asker(self) -> None:
        try:
            await self._asker.start()
        except BaseException:
            await self._asker.stop()
            self._asker = self._make_asker()
            raise

    async def _join(self) -> None:
        """Join the group. A client whose start failed is of no use any more."""
        try:
            self._consumer.subscribe([self._uplink], listener=Assignment(self))
            await join_group(self._consumer, self._kafka)
        except BaseException:
            if self._partitions:  # given to it before it failed
                self._work_on(set())
            await self._consumer.stop()
            self._consumer = self._make_consumer()
            raise

    async def _rejoin(self, reason: str) -> None:
        """Leave the group and join it with a new client: the old one hangs (aiokafka issue
        1154).
        """
        log.warning("uplink_reader_restarted", reason=reason)
        self._runtime.metrics.counter(metric_catalog.READER_RESTARTS, topics.UPLINK.name, reason).inc()
        self._work_on(set())
        await self._consumer.stop()
        self._consumer = self._make_consumer()
        await self._wait.until(self._join)

    async def _poll(self) -> None:
        if self._is_stalled:
            self._is_stalled = False
            await self._rejoin(STALLED)
            return
        await self._seek_where_ruling()
        for number in list(self._full):
            partition = self._partitions.get(number)
            if partition is None or partition.has_room:
                self._full.discard(number)
                self._resume(number)
        try:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS)
        except OffsetOutOfRangeError as error:
            self._find_place(error.args[0])
            return
        except KafkaError as error:
            log.warning("uplink_unread", error=repr(error))
            await asyncio.sleep(RETRY_S)
            return
        for tp, records in fetched.items():
            partition = self._partitions.get(tp.partition)
            if partition is None or tp.partition in self._to_seek:
                continue  # taken away, or begun anew elsewhere, while the records were on their way
            if not partition.hand_in(records):
                self._full.add(tp.partition)
                self._pause(tp.partition)

    def _find_place(self, gone: Iterable[TopicPartition]) -> None:
        """Look anew where these partitions go on: retention overtook their owner, or the log lost
        its end.
        """
        for tp in gone:
            partition = self._partitions.get(tp.partition)
            if partition is not None and partition.is_ruling:
                self._pause(tp.partition)
                self._to_seek[tp.partition] = partition.wanted_next

    async def _seek_where_ruling(self) -> None:
        """Read on where take-overs that are done have found to go on."""
        if not self._to_seek:
            return
        pending = {TopicPartition(self._uplink, number): wanted for number, wanted in self._to_seek.items()}
        unknown = [tp for tp, wanted in pending.items() if wanted is None]
        try:
            begins, ends, committed = await asyncio.gather(
                self._asker.beginning_offsets(list(pending)),
                self._asker.end_offsets(list(pending)),
                asyncio.gather(*(self._consumer.committed(tp) for tp in unknown)),
            )
        except KafkaError as error:
            log.warning("uplink_place_unknown", partitions=sorted(tp.partition for tp in pending), error=repr(error))
            return
        last_known = dict(zip(unknown, committed, strict=True))
        for tp, wanted in pending.items():
            # Meanwhile it may have been taken away, or taken over once more.
            partition = self._partitions.get(tp.partition)
            still_wanted = self._to_seek.get(tp.partition, NOWHERE) == wanted
            if partition is None or not still_wanted or tp not in self._consumer.assignment():
                continue
            place = wanted if wanted is not None else last_known[tp]
            place = begins[tp] if place is None else place
            if not begins[tp] <= place <= ends[tp]:
                if partition.is_busy:
                    continue  # what was handed in before is written first
                partition.uplink_lost(place, begins[tp])
                place = begins[tp]
            partition.begins_at(place)
            self._consumer.seek(tp, place)
            del self._to_seek[tp.partition]
            self._resume(tp.partition)

    # ---- assignment
    def assign(self, numbers: set[int]) -> None:
        """Work on exactly these partitions, as the group gives them."""
        self._work_on(numbers)
        self._runtime.ready(READY)

    def _work_on(self, numbers: set[int]) -> None:
        """Work on exactly these partitions.

        One that was ours before goes on where it was: its log says if that is wrong.
        """
        for number in set(self._partitions) - numbers:
            self._lives.pop(number).cancel()
            del self._partitions[number]
            self._to_seek.pop(number, None)
            self._full.discard(number)
            self._reported.pop(number, None)
            self._waiting.pop(number, None)
        for number in numbers:
            self._hold(number)
            if (kept := self._partitions.get(number)) is not None:
                if kept.is_ruling:
                    self._to_seek[number] = kept.wanted_next
                continue
            partition = Partition(
                number, self._settings, self._kafka, self._producer, self._runtime, self._on_ruling, self._on_lost
            )
            self._partitions[number] = partition
            self._lives[number] = self._tasks.create_task(partition.run(ASSIGNED))
        self._owned.set(len(self._partitions))
        log.info("assigned", partitions=sorted(numbers))

    async def _settle(self) -> None:
        """Let every partition write what it has and a snapshot."""
        try:
            async with asyncio.timeout(SETTLE_S):
                await asyncio.gather(*(partition.settle() for partition in self._partitions.values()))
            await self._commit()
        except (TimeoutError, KafkaError) as error:
            log.warning("unsettled", why="the next owner reads it from the log", error=repr(error))

    def _on_ruling(self, number: int, uplink_next: int | None) -> None:
        self._to_seek[number] = uplink_next
        self._reported[number] = self._partitions[number].balance

    def _on_lost(self, number: int) -> None:
        self._to_seek.pop(number, None)
        self._pause(number)

    def _hold(self, number: int) -> None:
        """Fetch nothing of a partition that is just assigned.

        Without a place, the client would look for a committed one.
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

    # ---- looking around
    async def _look(self) -> None:
        """Once a second: tell partitions where the log ends, commit, report, and see whether the
        client hangs.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(self._settings.kafka.request_timeout_s):
                    await self._tell_ends()
                    await self._commit()
            except (KafkaError, TimeoutError) as error:
                log.warning("not_looked", error=repr(error))
            self._report()

    async def _tell_ends(self) -> None:
        queue = {number: TopicPartition(self._broadcast, number) for number in self._partitions}
        uplink = {number: TopicPartition(self._uplink, number) for number in self._partitions}
        if not queue:
            return
        ends = await self._asker.end_offsets([*queue.values(), *uplink.values()])
        now = time.monotonic()
        for number, partition in list(self._partitions.items()):
            if number not in queue:
                continue
            partition.seen_end = ends[queue[number]]
            partition.wake()
            lag = max(0, ends[uplink[number]] - max(0, partition.uplink_next))
            self._runtime.metrics.gauge(metric_catalog.UPLINK_LAG, str(number)).set(lag)
            self._is_stalled |= self._stalls(number, partition, ends[uplink[number]], now)

    def _stalls(self, number: int, partition: Partition, end: int, now: float) -> bool:
        """Whether records have waited in the uplink for long and none of this partition came: the
        client hangs.
        """
        place = partition.wanted_next
        if not partition.is_ruling or number in self._full or place is None or place >= end:
            self._waiting.pop(number, None)
            return False
        waited_at, since_s = self._waiting.setdefault(number, (place, now))
        if waited_at != place:
            self._waiting[number] = (place, now)
            return False
        return now - since_s > STALLED_S

    async def _commit(self) -> None:
        wanted = {
            TopicPartition(self._uplink, number): partition.uplink_next
            for number, partition in self._partitions.items()
            if partition.uplink_next != NO_OFFSET
        }
        assigned = self._consumer.assignment()
        changed = {tp: offset for tp, offset in wanted.items() if tp in assigned and self._committed.get(tp) != offset}
        if changed:
            await self._consumer.commit(changed)
            self._committed |= changed

    def _report(self) -> None:
        off = rooms = 0
        for number, partition in self._partitions.items():
            if not partition.is_ruling:
                continue
            balance = partition.balance
            before = self._reported[number]
            for outcome, counter in self._outcomes.items():
                counter.inc(max(0, getattr(balance, outcome.value) - getattr(before, outcome.value)))
            self._taken.inc(max(0, balance.taken - before.taken))
            self._reported[number] = balance  # a pack makes a new one
            off += abs(balance.off)
            rooms += len(partition.rooms)
        self._balance_off.set(off)
        self._live.set(rooms)

    async def _watch_presence(self) -> None:
        """Hear how many watch each room; a room that became local at a gateway gets its card."""
        records = JsonReader(Presence)
        reader = TopicReader(self._kafka, topics.PRESENCE, self._runtime.metrics)
        await reader.start_at_last(self._runtime)
        try:
            async for _, batch in reader.read():
                for record in batch:
                    try:
                        presence = records.read(record.value)
                    except BadRecordError as error:
                        self._bad(topics.PRESENCE.name, error)
                        continue
                    number = partition_of(presence.room, self._settings.kafka.partitions)
                    partition = self._partitions.get(number)
                    if partition is not None:
                        if partition.audience.hear(presence, time.monotonic()):
                            partition.rooms.want_card(presence.room)
                        partition.wake()
        finally:
            await reader.stop()

    async def _watch_gateways(self) -> None:
        """Hear that gateways live; counts of those that do not are dropped."""
        records = JsonReader(LoadReport)
        reader = TopicReader(self._kafka, topics.GATEWAYS, self._runtime.metrics)
        await reader.start_at_last(self._runtime)
        try:
            async for _, batch in reader.read():
                now = time.monotonic()
                for record in batch:
                    if record.value is None:
                        continue
                    try:
                        report = records.read(record.value)
                    except BadRecordError as error:
                        self._bad(topics.GATEWAYS.name, error)
                        continue
                    for partition in self._partitions.values():
                        partition.audience.gateway_lives(report.gateway, report.generation, now)
        finally:
            await reader.stop()

    def _bad(self, topic: str, error: BadRecordError) -> None:
        self._runtime.metrics.counter(metric_catalog.BAD_RECORDS, topic, error.reason.value).inc()
        log.warning("bad_record", topic=topic, error=str(error))


class Assignment(RebalanceListener):
    """Tells the broadcaster what the group gives.

    What it takes needs no word: the next owner's claim deposes us.
    """

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Nothing to do: most of them usually come back, and those keep what they have."""

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Work on these."""
        self._broadcaster.assign({tp.partition for tp in assigned})
