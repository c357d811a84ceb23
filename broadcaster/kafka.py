"""The broadcaster's loop: uplink in by a consumer group, one task a partition that packs per tick and writes the queue.

Owns the group membership and the ticks. A partition's batch is written again with the same bytes until it is
acknowledged, so its numbers stay what they are, and viewers drop what they have seen.
"""

import asyncio
import secrets
import time
from collections.abc import Iterable
from typing import Final

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from broadcaster.rooms import BadBodyError, Rooms
from liveroom import metrics, topics
from liveroom.kafka import Producer, UnsentError, client_arguments, close_consumer, topic_name
from liveroom.kinds import Outcome
from liveroom.records import (
    MAX_BROADCAST_BYTES,
    NO_OFFSET,
    OWNER_BYTES,
    Anchor,
    BadRecord,
    BadRecordError,
    Balance,
    Claim,
    DeadLetter,
    decode_uplink,
    encode_batch,
    encode_claim,
    encode_json,
)
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings

SEND_TIMEOUT_S: Final = 5.0
RETRY_S: Final = 0.2
COMMIT_INTERVAL_S: Final = 1.0
MAX_WAITING_BYTES: Final = 8 * 1024 * 1024
POLL_MS: Final = 1000
log = structlog.get_logger()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Partition:
    """One partition this instance owns: its rooms, and the task that writes them to the queue."""

    def __init__(self, number: int, settings: BroadcasterSettings, producer: Producer, runtime: Runtime) -> None:
        self.number = number
        self.uplink_next = NO_OFFSET
        self.committable = NO_OFFSET
        self._packed_to = NO_OFFSET
        self._unsent: bytes | None = None
        self._writing = asyncio.Lock()
        self._settings = settings
        self._producer = producer
        self._owner = secrets.token_bytes(OWNER_BYTES)
        self._epoch = _now_ms()
        self._claim_offset = NO_OFFSET
        self._pos = NO_OFFSET
        self.rooms = Rooms(new_epoch=self._epoch // 1000 % 2**31)
        self._waiting = asyncio.Event()
        self._below_limit = asyncio.Event()
        self._below_limit.set()
        self._waiting_bytes = 0
        made = runtime.metrics
        self._batches = made.counter(metrics.BATCHES)
        self._batch_bytes = made.histogram(metrics.BATCH_BYTES)
        self._before = made.counter(metrics.PACKED_BYTES, "before")
        self._after = made.counter(metrics.PACKED_BYTES, "after")
        self._delay = made.histogram(metrics.UPLINK_DELAY)

    async def run(self) -> None:
        """Claim the partition, then write one batch a tick while there is something; ends by cancellation."""
        claim = Claim(self._epoch, self._owner, _now_ms(), self._settings.instance)
        self._claim_offset = await self._write_until_acked(encode_claim(claim))
        interval_s, linger_s = self._settings.flush_interval_ms / 1000, self._settings.linger_ms / 1000
        flushed = time.monotonic() - interval_s
        while True:
            await self._waiting.wait()
            await asyncio.sleep(max(linger_s, flushed + interval_s - time.monotonic()))
            flushed = time.monotonic()
            await self.flush()

    async def flush(self) -> None:
        """Write everything that waits. Cancelled in the middle, what it had packed is written by the next call."""
        async with self._writing:
            self._waiting.clear()
            while self._unsent is not None or self.rooms.is_dirty:
                if self._unsent is None:
                    self._unsent = self._pack()
                await self._write_until_acked(self._unsent)
                self._unsent = None
                self._batches.inc()
            self._waiting_bytes = 0
            self._below_limit.set()
            self.committable = self._packed_to

    def _pack(self) -> bytes:
        now_ms = _now_ms()
        packed = self.rooms.pack(f"{self.number}.{self._pos}", now_ms, MAX_BROADCAST_BYTES - 256 * 1024)
        if not self.rooms.is_dirty:
            self._packed_to = self.uplink_next
        anchor = Anchor(self._packed_to, self._claim_offset, NO_OFFSET)
        value = encode_batch(
            self._epoch, self._owner, anchor, self._pos, now_ms, packed.oldest_ms, packed.rooms, packed.notices
        )
        self._batch_bytes.observe(len(value))
        self._before.inc(packed.text_bytes)
        self._after.inc(packed.packed_bytes)
        if packed.oldest_ms:
            self._delay.observe(max(0, now_ms - packed.oldest_ms) / 1000)
        return value

    async def _write_until_acked(self, value: bytes) -> int:
        while True:
            try:
                self._pos = await self._producer.send(topics.BROADCAST, value, partition=self.number, timeout_s=SEND_TIMEOUT_S)
            except UnsentError as error:
                log.warning("unsent", partition=self.number, reason=error.reason.value, error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return self._pos

    def take(self, records: Iterable[ConsumerRecord]) -> list[DeadLetter]:
        """Take uplink records in order; return those that cannot be used."""
        bad: list[DeadLetter] = []
        now_ms = _now_ms()
        for record in records:
            self.uplink_next = record.offset + 1
            self._waiting_bytes += len(record.value or b"")
            try:
                self.rooms.take(decode_uplink(record.key, record.value), now_ms)
            except BadRecordError as error:
                bad.append(self._put_aside(record, error.reason, error.detail, now_ms))
            except BadBodyError as error:
                bad.append(self._put_aside(record, BadRecord.SCHEMA, str(error), now_ms))
        if self._waiting_bytes > MAX_WAITING_BYTES:
            self._below_limit.clear()
        self._waiting.set()
        return bad

    async def room_for_more(self) -> None:
        """Wait while too much waits for the queue."""
        await self._below_limit.wait()

    def _put_aside(self, record: ConsumerRecord, reason: BadRecord, detail: str, now_ms: int) -> DeadLetter:
        self.rooms.dead_letter()
        return DeadLetter(
            1,
            record.topic,
            record.partition,
            record.offset,
            reason.value,
            detail,
            now_ms,
            record.key or b"",
            record.value or b"",
        )


class Broadcaster:
    """The group membership: reads the uplink partitions it is given and hands their records to their `Partition`s."""

    def __init__(self, settings: BroadcasterSettings, producer: Producer, runtime: Runtime, tasks: asyncio.TaskGroup) -> None:
        self._settings = settings
        self._producer = producer
        self._runtime = runtime
        self._tasks = tasks
        self._topic = topic_name(settings.kafka, topics.UPLINK)
        self._partitions: dict[int, Partition] = {}
        self._writers: dict[int, asyncio.Task[None]] = {}
        self._committed: dict[TopicPartition, int] = {}
        made = runtime.metrics
        self._outcomes = {outcome: made.counter(metrics.ITEMS, outcome.value) for outcome in Outcome}
        self._taken = made.counter(metrics.ITEMS, "taken")
        self._reported: dict[int, Balance] = {}
        self._balance_off = made.gauge(metrics.BALANCE_OFF)
        self._owned = made.gauge(metrics.PARTITIONS_OWNED)
        self._live = made.gauge(metrics.ROOMS_LIVE)
        timeout_ms = int(settings.kafka.session_timeout_s * 1000)
        self._consumer = AIOKafkaConsumer(
            **client_arguments(settings.kafka),
            group_id=f"{settings.kafka.prefix}broadcaster",
            client_id=settings.instance,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=timeout_ms,
            heartbeat_interval_ms=timeout_ms // 4,
            rebalance_timeout_ms=timeout_ms,
            max_poll_interval_ms=300_000,
            fetch_max_wait_ms=250,
        )

    async def run(self) -> None:
        """Join the group and work until `runtime.stopping`; then write what waits, commit and leave."""
        self._consumer.subscribe([self._topic], listener=Assignment(self))
        await self._consumer.start()
        try:
            # One poll may be under way while the wish to stop comes: at most POLL_MS.
            while not self._runtime.stopping.is_set():
                await self._poll()
                await self._commit()
            await self.settle()
        finally:
            await close_consumer(self._consumer)
            for writer in self._writers.values():
                writer.cancel()

    async def _poll(self) -> None:
        try:
            fetched = await self._consumer.getmany(timeout_ms=POLL_MS // 4)
        except KafkaError as error:
            log.warning("uplink_unread", error=repr(error))
            await asyncio.sleep(RETRY_S)
            return
        for tp, records in fetched.items():
            if (partition := self._partitions.get(tp.partition)) is None:
                continue  # taken away while the records were on their way
            for letter in partition.take(records):
                await self._put_aside(letter)
            await partition.room_for_more()

    async def _put_aside(self, letter: DeadLetter) -> None:
        log.warning("dead_letter", partition=letter.partition, offset=letter.offset, reason=letter.reason, detail=letter.detail)
        self._runtime.metrics.counter(metrics.DEAD_LETTERS, letter.reason).inc()
        value = encode_json(letter)
        if len(value) > MAX_BROADCAST_BYTES:
            value = encode_json(msgspec.structs.replace(letter, key=letter.key[:1024], value=letter.value[:65_536]))
        try:
            await self._producer.send(topics.DEAD_LETTER, value, key=letter.key[:1024] or None, timeout_s=SEND_TIMEOUT_S)
        except UnsentError as error:
            log.error("dead_letter_unsent", offset=letter.offset, partition=letter.partition, error=str(error))  # noqa: TRY400

    async def _commit(self) -> None:
        wanted = {
            TopicPartition(self._topic, number): partition.committable
            for number, partition in self._partitions.items()
            if partition.committable != NO_OFFSET
        }
        changed = {tp: offset for tp, offset in wanted.items() if self._committed.get(tp) != offset}
        self._report()
        if not changed:
            return
        try:
            await self._consumer.commit(changed)
        except KafkaError as error:
            log.warning("uncommitted", error=repr(error))
            return
        self._committed |= changed

    async def settle(self) -> None:
        """Write everything that waits and commit it, within the session's time-out."""
        try:
            async with asyncio.timeout(self._settings.kafka.session_timeout_s / 2):
                for partition in self._partitions.values():
                    await partition.flush()
                await self._commit()
        except TimeoutError:
            log.warning("unsettled", why="the queue did not take it in time; what is not committed is taken again")

    def assign(self, numbers: set[int]) -> None:
        """Work on exactly these partitions. One that was ours before goes on where it was."""
        for number in set(self._partitions) - numbers:
            self._writers.pop(number).cancel()
            del self._partitions[number]
        for number in numbers:
            if (partition := self._partitions.get(number)) is None:
                partition = Partition(number, self._settings, self._producer, self._runtime)
                self._partitions[number] = partition
            elif partition.uplink_next != NO_OFFSET:
                self._consumer.seek(TopicPartition(self._topic, number), partition.uplink_next)
            if number not in self._writers or self._writers[number].done():
                self._writers[number] = self._tasks.create_task(partition.run())
        log.info("assigned", partitions=sorted(numbers))
        self._runtime.ready("assigned")

    def _report(self) -> None:
        off = rooms = 0
        for number, partition in self._partitions.items():
            balance = partition.rooms.balance
            before = self._reported.get(number, Balance())
            for outcome, counter in self._outcomes.items():
                counter.inc(max(0, getattr(balance, outcome.value) - getattr(before, outcome.value)))
            self._taken.inc(max(0, balance.taken - before.taken))
            self._reported[number] = msgspec.structs.replace(balance)
            off += not balance.is_exact()
            rooms += len(partition.rooms)
        self._balance_off.set(off)
        self._owned.set(len(self._partitions))
        self._live.set(rooms)


class Assignment(ConsumerRebalanceListener):  # type: ignore[misc]
    """Tells the broadcaster what the group gives and takes."""

    def __init__(self, broadcaster: Broadcaster) -> None:
        self._broadcaster = broadcaster

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Write and commit what waits before another owner reads on."""
        if revoked:
            await self._broadcaster.settle()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Work on these."""
        self._broadcaster.assign({tp.partition for tp in assigned})
