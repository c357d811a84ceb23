"""A partition's life in its owner's hands, without Kafka: whom a failure costs what."""

import asyncio
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from structlog.testing import capture_logs

from broadcaster.dead_letters import MAX_DETAIL_CHARS
from broadcaster.ownership import Lease
from broadcaster.partition import Partition
from broadcaster.rooms import Packed
from liveroom import clock, metric_catalog, topics
from liveroom.fencing import Ruling
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind
from liveroom.records.control import Presence
from liveroom.records.uplink import Uplink, encode_uplink
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings, KafkaSettings
from tests.broadcaster.ticks import item

NOTHING = -1


class Log:
    """A producer of a log that nobody else writes."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.fails: Exception | None = None

    async def send(self, topic: topics.Topic, *_: Any, **__: Any) -> int:
        if self.fails is not None:
            raise self.fails
        self.written.append(topic.name)
        return self.written.count(topics.BROADCAST.name)


class Owner(Partition):
    """A partition that is ours at once, and goes on behind its last batch as after a take-over."""

    def __init__(self, log: Log) -> None:
        settings = BroadcasterSettings(kafka=KafkaSettings(partitions=1))
        kafka, runtime = AioKafka(settings.kafka), Runtime("broadcaster")
        super().__init__(0, settings, kafka, log, runtime, lambda *_: None, lambda _: None)  # type: ignore[arg-type]
        self.log = log
        self.sizes: list[int] = []
        self.poison = NOTHING

    def again(self, records: list[ConsumerRecord]) -> None:
        self._log.lease = Lease(Ruling(1, b"x" * 16, self.log.written.count(topics.BROADCAST.name)))
        self.rooms = self._new_rooms()
        self._inbox.next_offset = self.uplink_next = uplink_next = self.uplink_next or 0
        self.is_ruling = True
        self.hand_in([record for record in records if record.offset >= uplink_next])

    async def work(self, records: list[ConsumerRecord]) -> None:
        """Flush until nothing is left, or until it failed more often than there are records."""
        for _ in range(len(records)):
            self.again(records)
            try:
                await self._flush()
            except Exception:  # noqa: BLE001 - as in `run`
                self._note_failure()
            else:
                return
            finally:
                self._drop()

    def _encode(self, packed: Packed, uplink_next: int | None) -> bytes:
        self.sizes.append(sum(entry.messages for entry, _ in packed.rooms))
        reflected = range(self.uplink_next or 0, uplink_next or 0)
        if self.poison in reflected and self.poison not in self._inbox.unfit:
            raise ZeroDivisionError
        return super()._encode(packed, uplink_next)


def records(count: int) -> list[ConsumerRecord]:
    return [record(offset, 1_000, 1) for offset in range(count)]


def record(offset: int, written_ms: int, at_ms: int, via: str = "") -> ConsumerRecord:
    value = encode_uplink(Uplink(1, "r", str(offset), "u", at_ms, [item(Kind.GIFT)], via=via))
    return ConsumerRecord("uplink", 0, offset, written_ms, 1, b"r", value, None, 1, len(value), ())


async def test_who_wrote_a_record_long_after_its_own_time_is_told_and_how_long() -> None:
    owner, now = Owner(Log()), 1_700_000_000_000
    with capture_logs() as told:
        late = [record(0, now, now), record(1, now, now - 12_000, "shop"), record(2, now, now - 90_000, "of another time")]
        await owner.work(late)
    assert [line for line in told if line["event"] == "sender_late"] == [
        {"event": "sender_late", "log_level": "warning", "partition": 0, "via": "shop", "late_s": 12.0}
    ]
    with capture_logs() as told:
        other = Owner(Log())
        await other.work([record(0, now, now - 12_000, "some\nwords " * 1000)])
    assert [line["via"] for line in told if line["event"] == "sender_late"] == [None]
    age = owner._runtime.metrics.registry.get_sample_value
    name = metric_catalog.UPLINK_AGE.name
    assert (age(f"{name}_bucket", {"le": "10.0"}), age(f"{name}_count"), age(f"{name}_sum")) == (0, 1, 12)


async def test_only_what_was_in_the_batch_that_failed_is_taken_one_by_one() -> None:
    owner = Owner(Log())
    owner.poison = 2
    owner.again(records(4))
    with pytest.raises(ZeroDivisionError):
        await owner._flush()
    owner._note_failure()
    owner._drop()
    owner.sizes.clear()
    await owner.work(records(100))
    assert owner._inbox.unfit == {2}
    assert owner.sizes == [1, 1, 1, 0, 1, 96], "a busy partition would never catch up one by one"
    assert owner.uplink_next == 100
    assert owner.log.written.count(topics.DEAD_LETTER.name) == 1


async def test_dead_letters_are_written_a_megabyte_at_a_time_and_quote_little() -> None:
    owner = Owner(Log())
    value = encode_uplink(Uplink(1, "r", "i", "u", 1, [item(Kind.DANMAKU)]))[:-1] + b',"role":"%b"}' % (b"x" * 60_000)
    made = [ConsumerRecord("uplink", 0, offset, 1_000, 1, b"r", value, None, 1, len(value), ()) for offset in range(40)]
    owner.again(made)
    letters = []
    while owner._inbox:
        letters.append(owner._take())
    assert [len(each) for each in letters] == [18, 18, 4]
    assert {len(letter.detail) for each in letters for letter in each} == {MAX_DETAIL_CHARS}


async def test_a_failure_of_the_writing_puts_no_record_aside() -> None:
    owner = Owner(Log())
    owner.log.fails = ZeroDivisionError()
    await owner.work(records(10))
    assert owner._inbox.unfit == set()
    owner.log.fails = None
    await owner.work(records(10))
    assert (owner.uplink_next, owner.log.written) == (10, [topics.BROADCAST.name])


async def test_rooms_that_begin_again_after_lost_uplink_publish_who_watches_them_above_all_their_epochs() -> None:
    owner = Owner(Log())
    owner.again(records(1))
    owner.audience.update(Presence(1, "r", "e1", 1, 3, 4, 0), clock.monotonic_s())
    await owner._watch_audience()
    owner.rooms.pack("0.0", 4_000_000_000_000)  # by a clock that was far ahead
    owner.uplink_lost(0, 5)
    await owner._watch_audience()
    [(entry, _)] = owner.rooms.pack("0.1", 0).rooms
    assert entry.epoch == 4_000_000_001


async def test_what_a_client_breaks_off_by_itself_is_tried_again_and_a_cancellation_of_ours_ends_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    owner, tries, again = Owner(Log()), 0, asyncio.Event()

    async def take_over() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise asyncio.CancelledError
        again.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(owner, "_take_over", take_over)
    life = asyncio.create_task(owner.run("assigned"))
    async with asyncio.timeout(10):
        await again.wait()
    takeovers = owner._runtime.metrics.counter(metric_catalog.TAKEOVERS, "kafka")
    assert takeovers._value.get() == 1
    life.cancel()
    with pytest.raises(asyncio.CancelledError):
        await life
