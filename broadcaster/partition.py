"""One partition in this instance's hands: taken over, numbered, written, put into snapshots, and
taken over again after any failure.

Owns the life of a partition. `broadcaster.ownership` is the protocol and `broadcaster.rooms` gives
the numbers; this module drives both over Kafka. There is one recovery path: whatever goes wrong
(deposed, no acknowledgement, a read that fails), all state is dropped and the partition is taken
over from the log with a new owner and epoch. Called by `broadcaster.kafka`.
"""

import asyncio
import math
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from broadcaster.dead_letters import DeadLetters, letter_of, letter_of_unfit
from broadcaster.inbox import Inbox
from broadcaster.ownership import Lost
from broadcaster.partition_log import DeposedError, PartitionLog, check_size
from broadcaster.restored_rooms import RestoredRooms
from broadcaster.rooms import NOTHING, Packed, Rooms
from broadcaster.snapshots import Snapshots
from broadcaster.traces import BatchTraces
from liveroom import clock, metric_catalog, topics
from liveroom.audience import Audience
from liveroom.broadcast_log import LogReader, LogReadError, LogVersionError
from liveroom.far_times import BEHIND_MS
from liveroom.kafka import Producer, Unsent, UnsentError
from liveroom.kafka_port import Kafka, KafkaError, Record
from liveroom.records.balance import Balance
from liveroom.records.broadcast import OWNER_BYTES, BatchParts, encode_batch, encode_traces
from liveroom.records.codec import AnotherVersionError
from liveroom.records.snapshot import PartitionState
from liveroom.records.uplink import DeadLetter, decode_uplink
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings
from liveroom.topics import partition_of

ASSIGNED: Final = "assigned"
FAILED: Final = "failed"
ANOTHER_VERSION: Final = "another_version"
TAKEOVER_REASONS: Final = (
    ASSIGNED,
    "deposed",
    "log_unread",
    "kafka",
    FAILED,
    ANOTHER_VERSION,
    *(f"unsent_{reason.value}" for reason in Unsent),
)
RETRY_S: Final = 0.2
MAX_DOUBLINGS: Final = 10  # of the delay, or the power would one day be too large for a float
VERSION_RETRY_MAX_S: Final = 30.0  # each attempt writes a claim, and only another version can cure it
RETRY_MAX_S: Final = 5.0  # a gift is never later than 10 s
STEADY_S: Final = 30.0
IDLE_S: Final = 1.0
MAX_LOST_LOGGED: Final = 10  # lost rooms of one batch that are logged one by one
LATE_MS: Final = 3_000  # what comes later after its own time burns the error budget of the reliable messages
LATE_LOGGED_S: Final = 10.0
MAX_LETTERS: Final = 200  # of one batch: they are held in memory until they are written
MAX_LETTERS_BYTES: Final = 1024 * 1024  # so much is written well within the time-out of each
_PROGRAM: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}").fullmatch  # whoever writes may set `via` to any text
log = structlog.get_logger()


class LateRecord(NamedTuple):
    """How long after its own time a record came into `uplink`, and which service wrote it."""

    ms: int
    via: str


NOT_LATE: Final = LateRecord(0, "")


class Partition:
    """A partition assigned to this instance. Run `run` as a task; cancel it when the group assigns
    the partition to another instance.

    `on_ruling(number, uplink_next)` is called once it was taken over and wants uplink records from
    that offset on (None: the log does not show where, so the caller chooses). `on_lost(number)` is
    called when no more records may be handed in. `uplink_next` is the first uplink offset that no
    acknowledged batch reflects (None: not known). The caller sets `log_end` to the end of the
    partition of `broadcast` and calls `wake`.
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
        self.uplink_next: int | None = None
        self.is_ruling = False
        self.log_end = 0
        self.rooms = Rooms()
        self._settings = settings
        self._kafka = kafka
        self._runtime = runtime
        self._on_ruling = on_ruling
        self._on_lost = on_lost
        self._inbox = Inbox()
        self._log = PartitionLog(kafka, producer, number)
        self._letters = DeadLetters(producer, runtime.metrics)
        self._traces = BatchTraces(runtime.tracing, number)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._snapshots = Snapshots(self._log, number, settings, runtime)
        self._is_packing = False
        metrics = runtime.metrics
        self._batches = metrics.counter(metric_catalog.BATCHES)
        self._batch_bytes = metrics.histogram(metric_catalog.BATCH_BYTES)
        self._before = metrics.counter(metric_catalog.PACKED_BYTES, "before")
        self._after = metrics.counter(metric_catalog.PACKED_BYTES, "after")
        self._delay = metrics.histogram(metric_catalog.UPLINK_DELAY)
        self._age = metrics.histogram(metric_catalog.UPLINK_AGE)
        self._late = NOT_LATE
        self._late_logged_s = -math.inf
        self._far_times = metrics.counter(metric_catalog.FAR_TIMES, topics.UPLINK.name)
        self._epoch = metrics.gauge(metric_catalog.EPOCH, str(number))
        self._takeover_s = metrics.histogram(metric_catalog.TAKEOVER_SECONDS)

    @property
    def balance(self) -> Balance:
        """What became of everything taken, up to the last batch."""
        return self.rooms.balance

    # ---- called by the group's loop
    def hand_in(self, records: Sequence[Record]) -> bool:
        """Put uplink records, in order, behind those that wait; return whether more may follow."""
        if not self.is_ruling:
            return True
        has_space = self._inbox.put(records)
        self._wake.set()
        return has_space

    @property
    def wanted_next(self) -> int | None:
        """The first uplink offset that was not handed in; None: not known."""
        return self._inbox.wanted_next

    def begins_at(self, offset: int) -> None:
        """Set where records will be handed in from, if nothing in the log said so."""
        if self._inbox.next_offset is None:
            self._inbox.next_offset = self.uplink_next = offset

    @property
    def has_space(self) -> bool:
        """Whether fetching may resume."""
        return self._inbox.has_space

    @property
    def is_busy(self) -> bool:
        """Whether records were handed in that no acknowledged batch reflects."""
        return bool(self._inbox) or self._inbox.next_offset != self.uplink_next

    def wake(self) -> None:
        """Let the partition check again: the log's end or the audience changed."""
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
        """Rule the partition until the task is cancelled, by taking it over as often as needed.

        `reason` labels the first take-over. No failure of this partition is raised.
        """
        failures = 0  # in a row, of those that another attempt at once would not cure
        while not _is_cancelled():
            began = clock.monotonic_s()
            self._runtime.metrics.counter(metric_catalog.TAKEOVERS, reason).inc()
            try:
                await self._take_over()
                self._takeover_s.observe(clock.monotonic_s() - began)
                await self._rule()
            except asyncio.CancelledError:
                if _is_cancelled():
                    raise
                reason, failures = "kafka", 0  # a client cancelled a task of its own
                log.warning("partition_dropped", partition=self.number, reason=reason, error="cancelled by a client")
            except (AnotherVersionError, LogVersionError) as error:
                reason, failures = ANOTHER_VERSION, failures + 1
                log.error("partition_refused", partition=self.number, reason=reason, error=str(error))  # noqa: TRY400
            except (DeposedError, UnsentError, LogReadError, KafkaError, OSError, TimeoutError) as error:
                reason, failures = _reason(error), 0
                log.warning("partition_dropped", partition=self.number, reason=reason, error=str(error) or repr(error))
            except Exception:  # the other partitions of this process must not notice
                reason, failures = FAILED, failures + 1 if clock.monotonic_s() - began < STEADY_S else 1
                log.exception("partition_failed", partition=self.number, in_a_row=failures)
                self._note_failure()
            finally:
                self._drop()
            at_most_s = VERSION_RETRY_MAX_S if reason == ANOTHER_VERSION else RETRY_MAX_S
            await clock.sleep(min(RETRY_S * 2 ** min(failures, MAX_DOUBLINGS), at_most_s))

    def _note_failure(self) -> None:
        if self._is_packing:
            self._inbox.blame()

    def _drop(self) -> None:
        was_ruling, self.is_ruling = self.is_ruling, False
        self._log.lease = None
        self._inbox.clear()
        self._traces.cut()
        self._is_packing = False
        self._idle.set()
        if was_ruling:
            self._on_lost(self.number)

    async def _take_over(self) -> None:
        owner = self._runtime.chance.token_bytes(OWNER_BYTES)
        async with LogReader(self._kafka, self.number) as reader:
            restored = RestoredRooms(self._log, self.number, self._settings.instance, owner, self._new_rooms)
            taken, rooms = await restored.run(reader)
        if _is_cancelled():
            raise asyncio.CancelledError
        if rooms is None:
            rooms = self._history_lost(taken.lost or Lost.BROADCAST, restored.epoch_above_all)
        self._begin_with(rooms)
        self._log.lease = taken.lease
        self._epoch.set(taken.lease.epoch)
        self._snapshots.taken_over()
        self._inbox.next_offset = self.uplink_next = taken.uplink_next
        self.log_end = 0
        self.is_ruling = True
        log.info(
            "taken_over", partition=self.number, epoch=taken.lease.epoch, uplink_next=taken.uplink_next, rooms=len(self.rooms)
        )
        self._on_ruling(self.number, taken.uplink_next)

    def _new_rooms(self, state: PartitionState | None = None, floor: int = 1) -> Rooms:
        settings = self._settings
        return Rooms(
            state,
            dedupe_ms=int(settings.dedupe_s * 1000),
            limit_per_s=settings.room_limit_per_s,
            epoch_floor=floor,
            belongs=lambda room: partition_of(room, settings.kafka.partitions) == self.number,
            max_rooms=settings.max_partition_rooms,
        )

    def _begin_with(self, rooms: Rooms) -> None:
        """Work with these rooms from now on; they do not know who watches them."""
        self.rooms = rooms
        self.audience.publish_all_again()

    def _history_lost(self, lost: Lost, epoch_floor: int) -> Rooms:
        """Log and count the loss, and return new rooms, with epochs above all that were given.

        `epoch_floor` is above those that are still known; the clock is above the others.
        """
        self._runtime.metrics.counter(metric_catalog.HISTORY_LOST, lost.value).inc()
        log.error("history_lost", partition=self.number, what=lost.value, then="rooms get new epochs and numbers")
        return self._new_rooms(floor=max(epoch_floor, clock.unix_ms() // 1000))

    def uplink_lost(self, wanted: int, found: int) -> None:
        """Begin with new rooms: retention deleted the uplink from offset `wanted` to `found` before
        it was taken.

        The caller waits until the partition is not `is_busy`.
        """
        log.error("uplink_lost", partition=self.number, wanted=wanted, found=found)
        self._begin_with(self._history_lost(Lost.UPLINK, self.rooms.epoch_above_all))
        self._inbox.next_offset = self.uplink_next = found
        self._inbox.forgive()

    # ---- ruling
    async def _rule(self) -> None:
        interval_s, linger_s = self._settings.flush_interval_ms / 1000, self._settings.linger_ms / 1000
        flushed = clock.monotonic_s() - interval_s
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self._check_lease()
            self._report_lost_rooms()
            await self._watch_audience()
            if self._inbox.next_offset is not None and (self._inbox or self.rooms.has_news):
                await clock.sleep(max(linger_s, flushed + interval_s - clock.monotonic_s()))
                flushed = clock.monotonic_s()
                await self._flush()
            is_settling = not self._idle.is_set()
            if not self._inbox and self._snapshots.is_due(has_changed=self.rooms.has_changed, is_settling=is_settling):
                await self._snapshots.write(self.rooms, self.uplink_next, self._encode_empty)
            if not self._inbox:
                self._idle.set()

    async def _check_lease(self) -> None:
        await self._log.check(self.log_end)

    async def _watch_audience(self) -> None:
        now = clock.monotonic_s()
        self.audience.expire(now)
        while True:
            for room, viewers in self.audience.due(now):
                self.rooms.watch(room, viewers)
            if not self.audience.is_counting:
                break
            await clock.sleep(0)
        self.rooms.forget_silent(int(1000 * now))

    def _report_lost_rooms(self) -> None:
        """Count rooms that the caps forgot, and records whose time was far from Kafka's.

        Log and count rooms that lost their history: a snapshot or a batch was damaged, or they
        could not be packed.
        """
        for reason, rooms in self.rooms.limited.items():
            self._runtime.metrics.counter(metric_catalog.ROOMS_LIMITED, reason.value).inc(rooms)
        self.rooms.limited.clear()
        if self.rooms.far_times:
            self._far_times.inc(self.rooms.far_times)
            self.rooms.far_times = 0
        lost, self.rooms.lost = self.rooms.lost, []
        for name, why in lost[:MAX_LOST_LOGGED]:
            log.error("room_lost", partition=self.number, room=name, why=why, then="it gets a new epoch and numbers")
        if lost:
            self._runtime.metrics.counter(metric_catalog.HISTORY_LOST, Lost.ROOM.value).inc(len(lost))
            log.error("history_lost", partition=self.number, what=Lost.ROOM.value, rooms=len(lost))

    def _report_late(self) -> None:
        """Report by how much the records of a batch came after their own times, and now and then
        which program wrote the latest one.
        """
        late, self._late = self._late, NOT_LATE
        self._age.observe(late.ms / 1000)
        if late.ms >= LATE_MS and clock.monotonic_s() - self._late_logged_s > LATE_LOGGED_S:
            self._late_logged_s = clock.monotonic_s()
            log.warning(
                "sender_late", partition=self.number, via=late.via if _PROGRAM(late.via) else None, late_s=late.ms / 1000
            )

    async def _flush(self) -> None:
        """Write what was handed in, in as many batches as it takes: one batch is one step."""
        while True:
            self._is_packing = True
            await asyncio.gather(*map(self._letters.write, self._take()))
            packed = self.rooms.pack(f"{self.number}.{self._log.held.next_offset - 1}", clock.unix_ms())
            uplink = self._kafka.topic_name(topics.UPLINK)
            letters = [letter_of_unfit(unfit, uplink, self.number) for unfit in packed.unfit]
            await asyncio.gather(*map(self._letters.write, letters))
            value = self._encode(packed, self._inbox.next_offset)
            check_size(value)
            self._is_packing = False  # what fails from here on is no record's doing
            traced = self._traces.cut()
            await self._log.append(value, encode_traces(each for each, _ in traced))
            self.uplink_next = self._inbox.next_offset
            self._traces.report(traced)
            self._batches.inc()
            self._batch_bytes.observe(len(value))
            self._before.inc(packed.text_bytes)
            self._after.inc(packed.packed_bytes)
            if packed.oldest_ms:
                self._delay.observe(max(0, clock.unix_ms() - packed.oldest_ms) / 1000)
                self._report_late()
            if not self._inbox:
                return

    def _encode(self, packed: Packed, uplink_next: int | None) -> bytes:
        lease = self._log.held
        return encode_batch(
            BatchParts(
                lease.epoch,
                lease.owner,
                lease.next_serial(),
                lease.anchor(uplink_next),
                lease.next_offset - 1,
                clock.unix_ms(),
                packed.oldest_ms,
                packed.rooms,
                packed.notices,
                packed.cards,
                self.rooms.clock_ms,
                self.rooms.balance,
                self.rooms.allowances(),
            )
        )

    def _encode_empty(self) -> bytes:
        return self._encode(NOTHING, self.uplink_next)

    def _take(self) -> list[DeadLetter]:
        """Take what was handed in, at most what one batch holds.

        Return the letters that must be written before that batch.
        """
        letters: list[DeadLetter] = []
        letters_bytes = 0
        rooms, traces, inbox = self.rooms, self._traces, self._inbox
        for record in inbox.take():
            try:
                if inbox.unfit:
                    inbox.refuse_unfit(record.offset)
                uplink = decode_uplink(record.key, record.value)
                rooms.take(uplink, record.offset, record.timestamp)
            except AnotherVersionError:  # the room's state, not the record: it is taken again later
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this record's
                letters.append(letter_of(record, error))
                letters_bytes += len(letters[-1].value)
                rooms.dead_letter()
                if len(letters) >= MAX_LETTERS or letters_bytes >= MAX_LETTERS_BYTES:
                    break
            else:
                # where Kafka's time is taken in the place of one that is too far, nothing is late
                if self._late.ms < (late_ms := record.timestamp - uplink.at_ms) <= BEHIND_MS:
                    self._late = LateRecord(late_ms, uplink.via)
                if traces.is_on:
                    traces.sample(uplink)
                if rooms.is_full:
                    break
        return letters


def _is_cancelled() -> bool:
    """Return whether our task was cancelled.

    aiokafka 0.14 swallows a cancellation at several places, and we would rule on unseen.
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
