"""One partition in this instance's hands: taken over, numbered, written, snapshotted, and taken
over again after any failure.

Owns the life of a partition here. The protocol is `broadcaster.ownership`, the numbers are
`broadcaster.rooms`; this is what drives them over Kafka. One recovery path: whatever goes wrong
(deposed, no ack, a read that fails), all state is thrown away and the partition is taken over from
the log with a new owner and epoch.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import structlog

from broadcaster.ownership import Append, Apply, Lease, Load, Lost, TakenOver, take_over
from broadcaster.rooms import NOTHING, BadBodyError, Packed, Rooms, Unfit
from liveroom import metric_catalog, topics
from liveroom.audience import Audience
from liveroom.broadcast_log import LogReader, LogReadError
from liveroom.fencing import Walk
from liveroom.kafka import Producer, Unsent, UnsentError
from liveroom.kafka_port import Kafka, KafkaError, Record
from liveroom.kinds import RecordType
from liveroom.records.broadcast import (
    MAX_BROADCAST_BYTES,
    MAX_TRACED,
    OWNER_BYTES,
    Balance,
    Batch,
    BatchParts,
    Claim,
    SnapshotChunk,
    Stamp,
    Traced,
    decode_broadcast,
    encode_batch,
    encode_claim,
    encode_snapshot_chunk,
    encode_traces,
)
from liveroom.records.codec import NO_OFFSET, BadRecord, BadRecordError, encode_json
from liveroom.records.snapshot import decode_state, encode_state
from liveroom.records.uplink import DeadLetter, Uplink, decode_uplink
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings
from liveroom.topics import partition_of

ASSIGNED: Final = "assigned"
FAILED: Final = "failed"
TAKEOVER_REASONS: Final = (
    ASSIGNED,
    "deposed",
    "log_unread",
    "kafka",
    FAILED,
    *(f"unsent_{reason.value}" for reason in Unsent),
)
SEND_TIMEOUT_S: Final = 4.0
RETRY_S: Final = 0.2
RETRY_MAX_S: Final = 5.0  # a gift is never later than 10 s
STEADY_S: Final = 30.0
IDLE_S: Final = 1.0
SNAPSHOT_AT_LEAST_S: Final = 3600.0
STORE_STEP: Final = 200
MAX_INBOX: Final = 20_000
MAX_INBOX_BYTES: Final = 16 * 1024 * 1024
DEAD_LETTER_BYTES: Final = 65_536
MAX_TOLD: Final = 10  # lost rooms of one batch that are logged one by one
MAX_LETTERS: Final = 200  # of one batch: they are held in memory until they are written
MAX_LETTERS_BYTES: Final = 1024 * 1024  # so much is written well within the time-out of each
MAX_DETAIL_CHARS: Final = 200  # a detail may quote what it refuses
log = structlog.get_logger()


class DeposedError(Exception):
    """Somebody else rules the partition now."""


def now_ms() -> int:
    """Return the wall clock in milliseconds."""
    return time.time_ns() // 1_000_000


class Partition:
    """A partition assigned to this instance. `run` it as a task; cancel it when it is assigned
    elsewhere.

    `on_ruling(number, uplink_next)` is called when it has been taken over and uplink records are
    wanted from that offset on (None: nothing says where; begin at what is there), `on_lost(number)`
    when records must not be handed in any more.
    """

    def __init__(
        self,
        number: int,
        settings: BroadcasterSettings,
        kafka: Kafka,
        producer: Producer,
        runtime: Runtime,
        on_ruling: Callable[[int, int | None], None],
        on_lost: Callable[[int], None],
    ) -> None:
        self.number = number
        self.audience = Audience()
        self.uplink_next = NO_OFFSET
        self.is_ruling = False
        self.seen_end = NO_OFFSET
        self.rooms = Rooms()
        self._settings = settings
        self._kafka = kafka
        self._producer = producer
        self._runtime = runtime
        self._on_ruling = on_ruling
        self._on_lost = on_lost
        self._inbox: deque[Record] = deque()
        self._inbox_bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._lease: Lease | None = None
        self._taken_to = NO_OFFSET
        self._snapshot_s = 0.0
        self._traced: list[tuple[Traced, int]] = []
        self._unfit: set[int] = set()
        self._at_work = False
        self._careful_to = NO_OFFSET
        self._is_alone = False
        self._tracing = runtime.tracing
        metrics = runtime.metrics
        self._batches = metrics.counter(metric_catalog.BATCHES)
        self._batch_bytes = metrics.histogram(metric_catalog.BATCH_BYTES)
        self._before = metrics.counter(metric_catalog.PACKED_BYTES, "before")
        self._after = metrics.counter(metric_catalog.PACKED_BYTES, "after")
        self._delay = metrics.histogram(metric_catalog.UPLINK_DELAY)
        self._snapshots = metrics.counter(metric_catalog.SNAPSHOTS)
        self._epoch = metrics.gauge(metric_catalog.EPOCH, str(number))
        self._takeover_s = metrics.histogram(metric_catalog.TAKEOVER_SECONDS)

    @property
    def balance(self) -> Balance:
        """What became of everything taken, up to the last batch."""
        return self.rooms.balance

    # ---- called by the group's loop
    def hand_in(self, records: Sequence[Record]) -> bool:
        """Take uplink records in order; say whether there is room for more."""
        if self.is_ruling:
            self._inbox.extend(records)
            self._inbox_bytes += sum(len(record.value or b"") for record in records)
            self._wake.set()
        return len(self._inbox) < MAX_INBOX and self._inbox_bytes < MAX_INBOX_BYTES

    @property
    def wanted_next(self) -> int | None:
        """The first uplink offset that was not handed in yet; None: nothing says where to begin."""
        if self._inbox:
            return int(self._inbox[-1].offset) + 1
        return None if self._taken_to == NO_OFFSET else self._taken_to

    def begins_at(self, offset: int) -> None:
        """Learn where records will be handed in from: nothing in the log said so."""
        if self._taken_to == NO_OFFSET:
            self._taken_to = self.uplink_next = offset

    @property
    def has_room(self) -> bool:
        """Whether more records may be handed in."""
        return len(self._inbox) < MAX_INBOX // 2 and self._inbox_bytes < MAX_INBOX_BYTES // 2

    @property
    def is_busy(self) -> bool:
        """Whether records were handed in that no acknowledged batch reflects."""
        return bool(self._inbox) or self._taken_to != self.uplink_next

    def wake(self) -> None:
        """Look around: the log's end or the audience changed."""
        self._wake.set()

    async def settle(self) -> None:
        """Write what was handed in and a last snapshot, so that the next owner takes over at
        once.
        """
        if not self.is_ruling:
            return
        self._idle.clear()
        self._wake.set()
        await self._idle.wait()

    # ---- life
    async def run(self, reason: str) -> None:
        """Rule the partition for ever, by taking it over as often as needed.

        No failure of it leaves it.
        """
        failures = 0  # in a row, of those that nobody foresaw
        while not _is_cancelled():
            began = time.monotonic()
            self._runtime.metrics.counter(metric_catalog.TAKEOVERS, reason).inc()
            try:
                await self._take_over()
                self._takeover_s.observe(time.monotonic() - began)
                await self._rule()
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                reason, failures = "kafka", 0  # a client cancelled a task of its own
                log.warning("partition_dropped", partition=self.number, reason=reason, error="broken off by a client")
            except (DeposedError, UnsentError, LogReadError, KafkaError, OSError, TimeoutError) as error:
                reason, failures = _reason(error), 0
                log.warning("partition_dropped", partition=self.number, reason=reason, error=str(error) or repr(error))
            except Exception:  # the other partitions of this process must not notice
                reason, failures = FAILED, failures + 1 if time.monotonic() - began < STEADY_S else 1
                log.exception("partition_failed", partition=self.number, in_a_row=failures)
                self._look_for_the_unfit()
            finally:
                self._drop()
            await asyncio.sleep(min(RETRY_S * 2**failures, RETRY_MAX_S))

    def _look_for_the_unfit(self) -> None:
        """After a failure at work take its records one by one: the one that fails alone too is put
        aside.

        Those behind them are taken as ever: one by one a busy partition would fall behind for good.
        """
        if not self._at_work:
            return
        if self._is_alone:
            self._unfit.add(self._taken_to - 1)
        self._careful_to = max(self._careful_to, self._taken_to)

    def _drop(self) -> None:
        was_ruling, self.is_ruling = self.is_ruling, False
        self._lease = None
        self._inbox.clear()
        self._inbox_bytes = 0
        self._traced.clear()
        self._at_work = False
        self._idle.set()
        if was_ruling:
            self._on_lost(self.number)

    async def _take_over(self) -> None:
        owner = secrets.token_bytes(OWNER_BYTES)
        rooms = self._new_rooms(None, floor=1)
        is_readable = True

        async def answer(asked: Append | Load | Apply) -> Any:
            nonlocal rooms, is_readable
            match asked:
                case Append(epoch):
                    claim = Claim(epoch, owner, now_ms(), self._settings.instance)
                    return await self._send(encode_claim(claim))
                case Load(chunks):
                    try:
                        rooms = self._new_rooms(decode_state(chunks), floor=1)
                    except BadRecordError as error:
                        log.error("snapshot_unreadable", partition=self.number, error=str(error))  # noqa: TRY400
                        return False
                    return True
                case Apply(values):
                    try:
                        _apply(rooms, values)
                    except (ValueError, msgspec.DecodeError) as error:
                        log.error("history_unreadable", partition=self.number, error=str(error))  # noqa: TRY400
                        is_readable = False
                    return None

        async with LogReader(self._kafka, self.number) as reader:
            start, end = await reader.bounds()
            # Where the log no longer says who ruled, an epoch from the clock is above all that were
            # counted up from 1.
            floor = now_ms() // 1000 if start > 0 else 1
            taken: TakenOver = await reader.drive(take_over(start, end, owner, floor), answer)
        if _is_cancelled():
            raise asyncio.CancelledError
        if taken.lost is not None or not is_readable:  # taken over again it would be no better
            rooms = self._history_lost(taken.lost or Lost.BROADCAST)
        self.rooms = rooms
        self.audience.tell_all_again()
        self._lease = taken.lease
        self._epoch.set(taken.lease.epoch)
        self._snapshot_s = time.monotonic() if taken.lease.snapshot_offset != NO_OFFSET else float("-inf")
        uplink_next = None if taken.uplink_next in {None, NO_OFFSET} else taken.uplink_next
        self._taken_to = self.uplink_next = NO_OFFSET if uplink_next is None else uplink_next
        self.seen_end = NO_OFFSET
        self.is_ruling = True
        log.info("taken_over", partition=self.number, epoch=taken.lease.epoch, uplink_next=uplink_next, rooms=len(rooms))
        self._on_ruling(self.number, uplink_next)

    def _new_rooms(self, state: Any, *, floor: int) -> Rooms:
        settings = self._settings
        return Rooms(
            state,
            dedupe_ms=int(settings.dedupe_s * 1000),
            limit_per_s=settings.room_limit_per_s,
            epoch_floor=floor,
            belongs=lambda room: partition_of(room, settings.kafka.partitions) == self.number,
        )

    def _history_lost(self, lost: Lost) -> Rooms:
        """Begin again, loudly, with epochs above all that were given."""
        self._runtime.metrics.counter(metric_catalog.HISTORY_LOST, lost.value).inc()
        log.error("history_lost", partition=self.number, what=lost.value, then="rooms get new epochs and numbers")
        return self._new_rooms(None, floor=now_ms() // 1000)

    def uplink_lost(self, wanted: int, found: int) -> None:
        """Note that uplink records are gone which were never taken: retention overtook their
        owner.
        """
        log.error("uplink_lost", partition=self.number, wanted=wanted, found=found)
        self.rooms = self._history_lost(Lost.UPLINK)
        self._taken_to = self.uplink_next = found
        self._careful_to = NO_OFFSET  # other records may lie at these offsets now
        self._unfit.clear()

    # ---- ruling
    async def _rule(self) -> None:
        interval_s, linger_s = self._settings.flush_interval_ms / 1000, self._settings.linger_ms / 1000
        flushed = time.monotonic() - interval_s
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._look_around()
            if self._taken_to != NO_OFFSET and (self._inbox or self.rooms.has_news):
                await asyncio.sleep(max(linger_s, flushed + interval_s - time.monotonic()))
                flushed = time.monotonic()
                await self._flush()
            is_settling = not self._idle.is_set()
            if not self._inbox and self._is_snapshot_due(is_settling):
                await self._snapshot()
            if not self._inbox:
                self._idle.set()

    async def _look_around(self) -> None:
        lease = self._ruling()
        if self.seen_end > lease.next_offset and not await self._drive(lease.up_to(self.seen_end)):
            raise DeposedError("another claim was found in the log")
        self._tell_lost_rooms()
        now = time.monotonic()
        self.audience.expire(now)
        for room, viewers in self.audience.due(now):
            self.rooms.watch(room, viewers)

    def _tell_lost_rooms(self) -> None:
        """Tell loudly of rooms that lost their history: damaged in the snapshot or the log, or not
        to be packed.
        """
        lost, self.rooms.lost = self.rooms.lost, []
        for name, why in lost[:MAX_TOLD]:
            log.error("room_lost", partition=self.number, room=name, why=why, then="it gets a new epoch and numbers")
        if lost:
            self._runtime.metrics.counter(metric_catalog.HISTORY_LOST, Lost.ROOM.value).inc(len(lost))
            log.error("history_lost", partition=self.number, what=Lost.ROOM.value, rooms=len(lost))

    async def _flush(self) -> None:
        """Write what was handed in: one batch, one step. As many as it takes."""
        while True:
            self._at_work = True
            letters = self._take()
            await asyncio.gather(*map(self._put_aside, letters))
            packed = self.rooms.pack(f"{self.number}.{self._ruling().next_offset - 1}", now_ms())
            await asyncio.gather(*(self._put_aside(self._letter_of(unfit)) for unfit in packed.unfit))
            value = self._encode(packed, self._taken_to)
            _check_size(value)
            self._at_work = False  # what fails from here on is no record's doing
            traced, self._traced = self._traced, []
            await self._write(value, encode_traces(each for each, _ in traced))
            self.uplink_next = self._taken_to
            self._trace(traced)
            self._batches.inc()
            self._batch_bytes.observe(len(value))
            self._before.inc(packed.text_bytes)
            self._after.inc(packed.packed_bytes)
            if packed.oldest_ms:
                self._delay.observe(max(0, now_ms() - packed.oldest_ms) / 1000)
            if not self._inbox:
                return

    def _encode(self, packed: Packed, uplink_next: int) -> bytes:
        lease = self._ruling()
        return encode_batch(
            BatchParts(
                lease.epoch,
                lease.owner,
                lease.anchor(uplink_next),
                lease.next_offset - 1,
                now_ms(),
                packed.oldest_ms,
                packed.rooms,
                packed.notices,
                packed.cards,
                self.rooms.clock_ms,
                self.rooms.balance,
            )
        )

    def _letter_of(self, unfit: Unfit) -> DeadLetter:
        """Return the dead letter of a record that no batch can hold."""
        topic, record = self._kafka.topic_name(topics.UPLINK), unfit.record
        key, value, reason = record.room.encode(), encode_json(record), BadRecord.UNHANDLED.value
        return DeadLetter(1, topic, self.number, unfit.offset, reason, unfit.why[:MAX_DETAIL_CHARS], now_ms(), key, value)

    def _take(self) -> list[DeadLetter]:
        letters: list[DeadLetter] = []
        inbox, rooms = self._inbox, self.rooms
        started = self._taken_to
        is_careful, self._is_alone = started < self._careful_to, False
        letters_bytes = 0
        while inbox and not rooms.is_full and len(letters) < MAX_LETTERS and letters_bytes < MAX_LETTERS_BYTES:
            if is_careful and self._taken_to != started:
                break
            record = inbox.popleft()
            self._inbox_bytes -= len(record.value or b"")
            if record.offset < self._taken_to:
                continue
            self._taken_to = record.offset + 1
            self._is_alone = is_careful
            try:
                uplink = self._read(record)
                rooms.take(uplink, record.offset, record.timestamp)
            except BadRecordError as error:
                letters.append(_letter(record, error.reason, error.detail))
            except BadBodyError as error:
                letters.append(_letter(record, BadRecord.SCHEMA, str(error)))
            except Exception as error:
                log.exception("record_unhandled", partition=self.number, offset=record.offset)
                letters.append(_letter(record, BadRecord.UNHANDLED, repr(error)))
            else:
                self._sample(uplink)
                continue
            letters_bytes += len(letters[-1].value)
            rooms.dead_letter()
        return letters

    def _read(self, record: Record) -> Uplink:
        if record.offset in self._unfit:
            raise BadRecordError(BadRecord.UNHANDLED, "the batch with it could not be made; the log has the reason")
        return decode_uplink(record.key, record.value)

    def _sample(self, uplink: Uplink) -> None:
        """Note an interaction that was taken, if it is one of those that are traced."""
        if self._tracing is None or len(self._traced) >= MAX_TRACED:
            return
        if (trace := self._tracing.trace_of(uplink.room, uplink.id)) is not None:
            self._traced.append((Traced(trace, topics.room_hash(uplink.room)), time.time_ns()))

    def _trace(self, traced: Sequence[tuple[Traced, int]]) -> None:
        """Tell of interactions whose batch is written."""
        if self._tracing is not None:
            for (trace, _), taken_ns in traced:
                self._tracing.go_on(trace, "broadcaster number and write", taken_ns, time.time_ns(), partition=self.number)

    async def _put_aside(self, letter: DeadLetter) -> None:
        """Write a record that cannot be used to the dead letters; only then may the batch that
        counts it be written.

        After a take-over it may be put aside twice: its place in the uplink says that it is the
        same.
        """
        log.warning("dead_letter", partition=letter.partition, offset=letter.offset, reason=letter.reason, detail=letter.detail)
        await self._producer.send(topics.DEAD_LETTER, encode_json(letter), timeout_s=SEND_TIMEOUT_S)
        self._runtime.metrics.counter(metric_catalog.DEAD_LETTERS, letter.reason).inc()

    def _is_snapshot_due(self, is_settling: bool) -> bool:
        passed = time.monotonic() - self._snapshot_s
        if not self.rooms.has_changed:
            return passed > SNAPSHOT_AT_LEAST_S
        return is_settling or passed > self._settings.snapshot_interval_s

    async def _snapshot(self) -> None:
        """Write the state, then renew the claim behind it, so that retention never takes what
        others start from.

        An empty batch names both: nothing before it is needed any more.
        """
        lease, rooms = self._ruling(), self.rooms
        while not rooms.store(STORE_STEP):  # noqa: ASYNC110 - it works in steps, and others go on between them
            await asyncio.sleep(0)
        state = rooms.snapshot(self.audience.rooms())
        try:
            parts = await asyncio.to_thread(encode_state, state)
        except BadRecordError as error:  # absurdly many rooms: the log since the last snapshot still has it all
            log.error("snapshot_too_large", partition=self.number, error=str(error))  # noqa: TRY400
            self._snapshot_s = time.monotonic()
            return
        anchor, at_ms, snapshot_id = lease.anchor(self.uplink_next), now_ms(), secrets.randbits(63)
        stamp = Stamp(RecordType.SNAPSHOT, lease.epoch, lease.owner)
        first = NO_OFFSET
        for part, data in enumerate(parts):
            chunk = SnapshotChunk(stamp, anchor, at_ms, snapshot_id, part, len(parts), data)
            offset = await self._write(encode_snapshot_chunk(chunk))
            first = offset if part == 0 else first
        lease.snapshot_offset = first
        renewal = Claim(lease.epoch, lease.owner, now_ms(), self._settings.instance)
        lease.renewed(await self._write(encode_claim(renewal)))
        await self._write(self._encode(NOTHING, self.uplink_next))
        self._snapshot_s = time.monotonic()
        self._snapshots.inc()

    # ---- the log
    async def _write(self, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> int:
        """Append a record and make sure that we still ruled where it lies."""
        offset = await self._send(value, headers)
        if not await self._drive(self._ruling().acked(offset)):
            raise DeposedError("another claim lies before what was just written")
        return offset

    async def _send(self, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> int:
        _check_size(value)
        return await self._producer.send(
            topics.BROADCAST, value, partition=self.number, headers=headers, timeout_s=SEND_TIMEOUT_S
        )

    async def _drive(self, steps: Walk[bool]) -> bool:
        """Run a walk of our lease.

        Nearly always nobody else wrote, and it needs nothing of the log.
        """
        try:
            asked = next(steps)
        except StopIteration as done:
            return bool(done.value)
        async with LogReader(self._kafka, self.number) as reader:
            return await reader.drive(steps, asked=asked)

    def _ruling(self) -> Lease:
        if self._lease is None:
            raise DeposedError("not taken over")
        return self._lease


def _apply(rooms: Rooms, values: Sequence[bytes]) -> None:
    for value in values:
        batch = decode_broadcast(value)
        if isinstance(batch, Batch):
            rooms.apply(batch)


def _check_size(value: bytes) -> None:
    if len(value) > MAX_BROADCAST_BYTES + 64 * 1024:
        raise RuntimeError(f"a record of {len(value)} bytes: the bound on a batch does not hold")


def _is_cancelled() -> bool:
    """Say whether our task was cancelled: aiokafka 0.14 swallows that at several places, and we
    would rule on unseen.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _reason(error: Exception) -> str:
    match error:
        case DeposedError():
            return "deposed"
        case UnsentError():
            return f"unsent_{error.reason.value}"
        case LogReadError():
            return "log_unread"
        case _:
            return "kafka"


def _letter(record: Record, reason: BadRecord, detail: str) -> DeadLetter:
    return DeadLetter(
        1,
        record.topic,
        record.partition,
        record.offset,
        reason.value,
        detail[:MAX_DETAIL_CHARS],
        now_ms(),
        (record.key or b"")[:1024],
        (record.value or b"")[:DEAD_LETTER_BYTES],
    )
