"""A broadcaster on the real Kafka, in this process, when its client hangs or its topics lose their
heads.
"""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from aiokafka import TopicPartition
from blockbuster import BlockBuster

from broadcaster import inbox, progress
from broadcaster.kafka import Broadcaster
from broadcaster.ownership import Lost
from broadcaster.rooms import Packed
from devstack.local_kafka import LocalKafka
from liveroom import metric_catalog
from liveroom.kafka import Producer, ensure_topics
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind
from liveroom.records import broadcast
from liveroom.records.broadcast import Anchor, Batch, BatchParts, Claim, RoomEntry, decode_broadcast, encode_batch, encode_claim
from liveroom.records.codec import BadRecord
from liveroom.records.sections import MUST, Section
from liveroom.records.uplink import Uplink, encode_uplink
from liveroom.registry import Metrics
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings, KafkaSettings
from liveroom.topics import BROADCAST, UPLINK, partition_of, room_hash
from liveroom.wire import BatchHeader, ReceivedBatch, pack_payload, payload_text
from tests.broadcaster.ticks import item
from tests.e2e.audience import settled
from tests.log import cut, producing, read_all, received

DEADLINE_S = 20.0


@pytest.fixture
def settings(kafka_settings: KafkaSettings) -> KafkaSettings:
    return kafka_settings.model_copy(update={"partitions": 1, "session_timeout_s": 3.0})


class Bench:
    """A broadcaster, and the two ends of its partition."""

    def __init__(self, settings: KafkaSettings, broadcaster: Broadcaster, producer: Producer, runtime: Runtime) -> None:
        self.broadcaster = broadcaster
        self.runtime = runtime
        self._settings = settings
        self._producer = producer

    async def send(self, count: int = 1) -> None:
        await send(self._producer, count)

    async def got(self, count: int) -> list[ReceivedBatch]:
        """Wait until so many messages lie on the queue; return the batches that hold them."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                batches = await batches_of(self._settings)
                if sum(len(batch.messages) for batch in batches) >= count:
                    return batches
                await asyncio.sleep(0.1)

    def lost(self, what: Lost) -> float:
        value: float = self.runtime.metrics.counter(metric_catalog.HISTORY_LOST, what.value)._value.get()
        return value


ROOMS = [next(name for name in map(str, range(100)) if partition_of(name, 2) == partition) for partition in range(2)]


async def send(producer: Producer, count: int, partition: int = 0) -> None:
    for _ in range(count):
        record = Uplink(1, ROOMS[partition], secrets.token_hex(8), "u", 1, [item(Kind.GIFT)])
        key = record.room.encode()
        await producer.send(UPLINK, encode_uplink(record), key=key, partition=partition, timeout_s=5)


async def batches_of(settings: KafkaSettings) -> list[ReceivedBatch]:
    records = await read_all(settings.bootstrap, AioKafka(settings).topic_name(BROADCAST), [0])
    batches = [decode_broadcast(record.value) for record in records]
    return [frame for batch in batches if isinstance(batch, Batch) for frame in received(batch)]


@asynccontextmanager
async def writing(settings: KafkaSettings) -> AsyncIterator[Producer]:
    await ensure_topics(AioKafka(settings))
    async with producing(settings, Metrics("broadcaster")) as producer:
        yield producer


@asynccontextmanager
async def broadcasting(settings: KafkaSettings) -> AsyncIterator[Bench]:
    """Run a broadcaster while the block runs; it ends in order, with a snapshot."""
    runtime = Runtime("broadcaster", "assigned")
    whole = BroadcasterSettings(kafka=settings, instance="one", snapshot_interval_s=3600)
    async with writing(settings) as producer, asyncio.TaskGroup() as tasks:
        broadcaster = Broadcaster(whole, AioKafka(settings), producer, runtime, tasks)
        running = tasks.create_task(broadcaster.run())
        try:
            yield Bench(settings, broadcaster, producer, runtime)
        finally:
            runtime.stopping.set()
            await running


async def test_a_group_member_whose_client_hangs_joins_anew_and_misses_nothing(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STALLED_S", 1.0)
    async with broadcasting(settings) as bench:
        await bench.send(3)
        await bench.got(3)
        hanging = bench.broadcaster._consumer
        hanging.pause(*hanging.assignment())
        await bench.send(5)
        batches = await bench.got(8)
        assert bench.broadcaster._consumer is not hanging
        restarts = bench.runtime.metrics.counter(metric_catalog.READER_RESTARTS, UPLINK.name, "stalled")
        assert restarts._value.get() == 1
    assert [message.rseq for batch in batches for message in batch.messages] == list(range(1, 9))


async def test_one_partition_that_hangs_while_another_flows_is_noticed(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "STALLED_S", 1.0)
    settings = settings.model_copy(update={"partitions": 2})
    async with broadcasting(settings) as bench, asyncio.TaskGroup() as tasks:
        await bench.send(3)
        await bench.got(3)

        async def flow() -> None:
            while True:
                await send(bench._producer, 1, partition=1)
                await asyncio.sleep(0.1)

        flowing = tasks.create_task(flow())
        hanging = bench.broadcaster._consumer
        hanging.pause(TopicPartition(AioKafka(settings).topic_name(UPLINK), 0))
        await asyncio.sleep(0.5)
        await bench.send(5)
        batches = await bench.got(8)
        flowing.cancel()
        assert bench.broadcaster._consumer is not hanging
    assert [message.rseq for batch in batches for message in batch.messages] == list(range(1, 9))


async def test_a_restart_in_order_goes_on_with_the_next_number(settings: KafkaSettings) -> None:
    async with broadcasting(settings) as bench:
        await bench.send(3)
        await bench.got(3)
    async with broadcasting(settings) as bench:
        await bench.send(2)
        batches = await bench.got(5)
        assert [message.rseq for batch in batches for message in batch.messages] == [1, 2, 3, 4, 5]
        assert len({batch.header.epoch for batch in batches}) == 1
        assert sum(bench.lost(what) for what in Lost) == 0


async def test_uplink_that_retention_took_unread_is_a_loud_loss_and_a_new_room_epoch(
    settings: KafkaSettings,
) -> None:
    async with broadcasting(settings) as bench:
        await bench.send(3)
        (first, *_) = await bench.got(3)
    async with writing(settings) as producer:
        await send(producer, 4)
    await cut(settings, UPLINK, 0, 5)
    await asyncio.sleep(1.1)  # an epoch is a second: the new one must be above
    async with broadcasting(settings) as bench:
        batches = await bench.got(5)
        assert bench.lost(Lost.UPLINK) == 1
    assert [message.rseq for message in batches[-1].messages][-1] == 2
    assert batches[-1].header.epoch > first.header.epoch


async def test_uplink_that_retention_takes_from_under_a_ruling_owner_is_told_too(settings: KafkaSettings) -> None:
    async with broadcasting(settings) as bench:
        await bench.send(3)
        (first, *_) = await bench.got(3)
        consumer = bench.broadcaster._consumer
        consumer.pause(*consumer.assignment())
        await asyncio.sleep(1.1)  # a fetch may be on its way; and an epoch is a second
        await bench.send(5)
        await cut(settings, UPLINK, 0, 6)
        consumer.resume(*consumer.assignment())
        batches = await bench.got(5)
        await bench.send(1)
        batches = await bench.got(6)
        assert bench.broadcaster._consumer is consumer
        assert bench.lost(Lost.UPLINK) == 1
    assert [message.rseq for batch in batches for message in batch.messages] == [1, 2, 3, 1, 2, 3]
    assert batches[-1].header.epoch > first.header.epoch


async def test_what_was_handed_in_before_its_uplink_was_cut_is_written_before_the_rooms_begin_anew(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broadcasting(settings) as bench:
        await bench.send(3)
        (first, *_) = await bench.got(3)
        consumer = bench.broadcaster._consumer
        partition = bench.broadcaster._assigned[0].partition
        append, may_write = partition._log.append, asyncio.Event()

        async def write_late(value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> int:
            await may_write.wait()
            return await append(value, headers)

        monkeypatch.setattr(partition._log, "append", write_late)
        await bench.send(2)
        await settled(lambda: partition.wanted_next == 5)
        assert partition.is_busy
        consumer.pause(*consumer.assignment())
        await asyncio.sleep(1.1)
        await bench.send(3)
        await cut(settings, UPLINK, 0, 7)
        consumer.resume(*consumer.assignment())
        await asyncio.sleep(1)
        assert bench.lost(Lost.UPLINK) == 0
        may_write.set()
        batches = await bench.got(6)
        assert bench.lost(Lost.UPLINK) == 1
    assert [message.rseq for batch in batches for message in batch.messages] == [1, 2, 3, 4, 5, 1]
    assert batches[-1].header.epoch > first.header.epoch


@pytest.mark.fault
async def test_a_group_member_joins_anew_when_the_broker_is_back_and_ends_in_time_when_it_is_not() -> None:
    async with LocalKafka() as cluster:
        settings = KafkaSettings(bootstrap=cluster.bootstrap, prefix="", partitions=1, session_timeout_s=3)
        async with broadcasting(settings) as bench:
            await bench.send(2)
            await bench.got(2)
            await cluster.kill_broker()
            bench.broadcaster._is_stalled = True
            await asyncio.sleep(3)
            await cluster.start_broker()
            await bench.send(2)
            batches = await bench.got(4)
            assert [message.rseq for batch in batches for message in batch.messages] == [1, 2, 3, 4]
            await cluster.kill_broker(number=signal.SIGSTOP)
            bench.broadcaster._is_stalled = True
            await asyncio.sleep(2)
            began = time.monotonic()
        assert time.monotonic() - began < DEADLINE_S


async def test_a_queue_without_its_history_is_a_loud_loss_and_a_new_room_epoch(settings: KafkaSettings) -> None:
    async with broadcasting(settings) as bench:
        await bench.send(3)
        (first, *_) = await bench.got(3)
    await cut(settings, BROADCAST, 0, -1)
    await asyncio.sleep(1.1)
    async with broadcasting(settings) as bench:
        await bench.send(2)
        batches = await bench.got(2)
        assert bench.lost(Lost.BROADCAST) == 1
    assert [message.rseq for batch in batches for message in batch.messages] == [1, 2]
    assert batches[0].header.epoch > first.header.epoch


async def test_a_snapshot_that_retention_took_is_a_loud_loss_and_a_new_room_epoch(settings: KafkaSettings) -> None:
    async with broadcasting(settings) as bench:
        await bench.send(3)
        (first, *_) = await bench.got(3)
    # What is left is the renewed claim behind the snapshot, and batches that name both.
    async with broadcasting(settings) as bench:
        await bench.send(1)
        await bench.got(4)
        partition = bench.broadcaster._assigned[0].partition
        claim = partition._log.held.claim_offset
        for assigned in bench.broadcaster._assigned.values():
            assigned.life.cancel()  # no settling: it dies
        partition.is_ruling = False
    await cut(settings, BROADCAST, 0, claim)
    await asyncio.sleep(1.1)
    async with broadcasting(settings) as bench:
        await bench.send(2)
        batches = await bench.got(3)
        assert bench.lost(Lost.SNAPSHOT) == 1
    assert [message.rseq for message in batches[-1].messages][-1] == 2
    assert batches[-1].header.epoch > first.header.epoch


@pytest.mark.parametrize("payload", [b"no batch", pack_payload(BatchHeader(ROOMS[0], 7, (5, 5), 0, at=1), [], []).data])
async def test_a_room_whose_history_cannot_be_applied_is_lost_loudly_and_the_partition_comes_back(
    settings: KafkaSettings, payload: bytes
) -> None:
    owner = b"x" * 16
    async with writing(settings) as producer:
        await producer.send(BROADCAST, encode_claim(Claim(1, owner, 1, "gone")), partition=0, timeout_s=5)
        entry = RoomEntry(room_hash(ROOMS[0]), 5, 5, 0, 1, 0, len(payload), 0, 7, 0)
        batch = encode_batch(BatchParts(1, owner, 1, Anchor(0, 0, None), 0, 1, 1, [(entry, payload)]))
        await producer.send(BROADCAST, batch, partition=0, timeout_s=5)
    async with broadcasting(settings) as bench:
        await bench.send(2)
        async with asyncio.timeout(DEADLINE_S):
            while not bench.lost(Lost.ROOM):  # noqa: ASYNC110 - a metric is all there is to see
                await asyncio.sleep(0.05)
        partition = bench.broadcaster._assigned[0].partition
        async with asyncio.timeout(DEADLINE_S):
            while partition.balance.numbered < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert (bench.lost(Lost.ROOM), bench.lost(Lost.BROADCAST)) == (1, 0)
        assert partition.rooms._open[ROOMS[0]].state.epoch > 7, "viewers must see that its numbers are others"


async def test_a_partition_with_a_batch_of_a_later_version_waits_for_an_owner_that_understands_it(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with broadcasting(settings) as bench:
        await bench.send(2)
        first, *_ = await bench.got(2)
        anchor = bench.broadcaster._assigned[0].partition._log.held.anchor(2)
    async with writing(settings) as producer:
        owner = b"x" * 16
        claimed = await producer.send(BROADCAST, encode_claim(Claim(99, owner, 1, "newer")), partition=0, timeout_s=5)
        parts = BatchParts(
            99, owner, 1, anchor._replace(claim_offset=claimed), 0, 1, 1, [], others=[Section(MUST | 0x100, b"new")]
        )
        await producer.send(BROADCAST, encode_batch(parts), partition=0, timeout_s=5)
    async with broadcasting(settings) as bench:
        refused = bench.runtime.metrics.counter(metric_catalog.TAKEOVERS, "another_version")
        async with asyncio.timeout(DEADLINE_S):
            while refused._value.get() < 2:  # noqa: ASYNC110 - a metric is all there is to see
                await asyncio.sleep(0.05)
        await bench.send(1)
        assert not any(bench.lost(what) for what in Lost)
    monkeypatch.setattr(broadcast, "_OF_BATCH", broadcast._OF_BATCH | {MUST | 0x100})
    async with broadcasting(settings) as bench:
        batches = await bench.got(3)
        assert not any(bench.lost(what) for what in Lost)
    assert batches[-1].header.epoch == first.header.epoch
    assert [message.rseq for batch in batches for message in batch.messages] == [1, 2, 3]


async def test_a_partition_that_fails_in_an_unforeseen_way_is_taken_over_again_and_the_others_go_on(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, blocking_calls_fail: BlockBuster
) -> None:
    blocking_calls_fail.functions["os.stat"].deactivate()  # a traceback looks for the source
    settings = settings.model_copy(update={"partitions": 2})
    async with broadcasting(settings) as bench:
        await bench.send(1)
        await bench.got(1)
        broken = bench.broadcaster._assigned[0].partition
        other = bench.broadcaster._assigned[1].partition
        check_lease = broken._check_lease

        async def fail_once() -> None:
            monkeypatch.setattr(broken, "_check_lease", check_lease)
            raise ZeroDivisionError

        monkeypatch.setattr(broken, "_check_lease", fail_once)
        await bench.send(2)
        batches = await bench.got(3)
        takeovers = bench.runtime.metrics.counter(metric_catalog.TAKEOVERS, "failed")
        assert takeovers._value.get() == 1
        assert bench.broadcaster._assigned[1].partition is other
        assert other.is_ruling
    assert [message.rseq for batch in batches for message in batch.messages] == [1, 2, 3]


async def test_a_record_whose_batch_cannot_be_made_is_found_and_put_aside_and_what_came_with_it_is_numbered(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, blocking_calls_fail: BlockBuster
) -> None:
    blocking_calls_fail.functions["os.stat"].deactivate()  # a traceback looks for the source
    async with broadcasting(settings) as bench:
        await bench.send(1)
        await bench.got(1)
        partition = bench.broadcaster._assigned[0].partition
        encode = partition._encode

        def fail(packed: Packed, uplink_next: int | None) -> bytes:
            if any(b'"poison"' in payload_text(data, deflated=bool(entry.flags & 1)) for entry, data in packed.rooms):
                raise ZeroDivisionError
            return encode(packed, uplink_next)

        monkeypatch.setattr(partition, "_encode", fail)
        key = ROOMS[0].encode()
        ids = ["a", "b", "poison", "c", "d"]
        records = [(key, encode_uplink(Uplink(1, ROOMS[0], id_, "u", 1, [item(Kind.GIFT)]))) for id_ in ids]
        await bench._producer.send_many(UPLINK, records, timeout_s=5)
        batches = await bench.got(5)
        letters = bench.runtime.metrics.counter(metric_catalog.DEAD_LETTERS, BadRecord.UNHANDLED.value)
        assert letters._value.get() == 1
        assert partition.balance.is_exact()
        await bench.send(1)
        batches = await bench.got(6)
    messages = [message for batch in batches for message in batch.messages]
    assert [message.rseq for message in messages] == list(range(1, 7))
    assert [message.id for message in messages[1:5]] == ["a", "b", "c", "d"]


async def test_an_inbox_is_bounded_in_records_and_bytes_and_takes_more_once_it_was_emptied(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inbox, "MAX_INBOX_BYTES", 4000)
    async with writing(settings) as producer:
        await send(producer, 400)
    async with broadcasting(settings) as bench:
        batches = await bench.got(400)
        assert bench.broadcaster._assigned[0].partition._inbox._bytes == 0
    assert [message.rseq for batch in batches for message in batch.messages] == list(range(1, 401))
