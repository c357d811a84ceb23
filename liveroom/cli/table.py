"""`liveroom topics`: the topics of a cluster, how far each goes, and who rules which partition of `broadcast`.

Owns the look at a cluster; changes nothing and joins no group. The doctor uses it too.
"""

import asyncio
import time
from dataclasses import dataclass, field
from typing import Final

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from rich import box
from rich.table import Table

from liveroom import topics
from liveroom.kafka import client_arguments, topic_name
from liveroom.records import Anchor, BadRecordError, Batch, Claim, SnapshotChunk, decode_broadcast, decode_stamp
from liveroom.settings import KafkaSettings
from liveroom.topics import Topic

READ_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a cluster has: brokers, and partitions by topic name (only of this system's topics)."""

    brokers: int
    partitions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Extent:
    """One partition of a topic: its first offset and the one after the last."""

    partition: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Last:
    """The last record of a partition of `broadcast`: who wrote it, when, what."""

    partition: int
    offset: int
    what: str
    epoch: int | None = None
    owner: str = ""
    at_ms: int | None = None
    anchor: Anchor | None = None


@dataclass(frozen=True, slots=True)
class Survey:
    """All that `liveroom topics` shows."""

    extents: dict[str, list[Extent]]
    last: list[Last] = field(default_factory=list)


async def look(settings: KafkaSettings) -> Cluster:
    """Ask the cluster for its brokers and our topics."""
    admin = AIOKafkaAdminClient(**client_arguments(settings))
    try:
        await admin.start()
        cluster = await admin.describe_cluster()
        ours = {topic_name(settings, topic) for topic in topics.ALL} & set(await admin.list_topics())
        described = await admin.describe_topics(sorted(ours)) if ours else []
    finally:
        await admin.close()
    return Cluster(len(cluster["brokers"]), {entry["topic"]: len(entry["partitions"]) for entry in described})


async def survey(settings: KafkaSettings) -> Survey:
    """Read where every topic begins and ends, and the last record of every partition of `broadcast`."""
    cluster = await look(settings)
    consumer = AIOKafkaConsumer(**client_arguments(settings), group_id=None, enable_auto_commit=False, auto_offset_reset="none")
    try:
        await consumer.start()
        extents = {
            topic.name: await _extents(consumer, topic_name(settings, topic), cluster.partitions[topic_name(settings, topic)])
            for topic in topics.ALL
            if topic_name(settings, topic) in cluster.partitions
        }
        last = await _last(consumer, topic_name(settings, topics.BROADCAST), extents.get(topics.BROADCAST.name, []))
    finally:
        await consumer.stop()
    return Survey(extents, last)


async def _extents(consumer: AIOKafkaConsumer, name: str, count: int) -> list[Extent]:
    partitions = [TopicPartition(name, partition) for partition in range(count)]
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    return [Extent(tp.partition, begins[tp], ends[tp]) for tp in partitions]


async def _last(consumer: AIOKafkaConsumer, name: str, extents: list[Extent]) -> list[Last]:
    """Read the last record of each partition that has one."""
    wanted = {TopicPartition(name, extent.partition): extent.end - 1 for extent in extents if extent.end > extent.begin}
    if not wanted:
        return []
    consumer.assign(list(wanted))
    for tp, offset in wanted.items():
        consumer.seek(tp, offset)
    found: dict[int, Last] = {}
    deadline = time.monotonic() + READ_TIMEOUT_S
    while len(found) < len(wanted) and time.monotonic() < deadline:
        for tp, records in (await consumer.getmany(timeout_ms=500)).items():
            if records:
                found[tp.partition] = describe(tp.partition, records[-1].offset, records[-1].value)
                consumer.pause(tp)
        await asyncio.sleep(0)
    return [found[partition] for partition in sorted(found)]


def describe(partition: int, offset: int, value: bytes | None) -> Last:
    """Say what one record of `broadcast` is."""
    try:
        record = decode_broadcast(value)
        stamp = decode_stamp(value or b"")
    except BadRecordError as error:
        return Last(partition, offset, f"unreadable ({error})")
    anchor = None if isinstance(record, Claim) else record.anchor
    match record:
        case Claim():
            what = f"claim by {record.instance}"
        case Batch():
            rooms = list(record.rooms())
            what = f"batch: {len(rooms)} rooms, {sum(entry.messages for entry, _ in rooms)} messages"
        case SnapshotChunk():
            what = f"snapshot, part {record.part + 1} of {record.parts}"
    return Last(partition, offset, what, stamp.epoch, stamp.owner.hex()[:8], record.at_ms, anchor)


def topics_table(found: Survey, settings: KafkaSettings) -> Table:
    """Return the table of topics."""
    title = f"Topics at {settings.bootstrap}" + (f", prefix {settings.prefix!r}" if settings.prefix else "")
    shown = Table(title=title, box=box.SIMPLE, title_justify="left")
    for name in ("topic", "key", "kept"):
        shown.add_column(name, no_wrap=True)
    for name in ("partitions", "records", "begin..end"):
        shown.add_column(name, justify="right", no_wrap=True)
    for topic in topics.ALL:
        extents = found.extents.get(topic.name)
        if extents is None:
            shown.add_row(topic.name, topic.key, _kept(topic), "not made yet", "", "")
            continue
        begin, end = sum(extent.begin for extent in extents), sum(extent.end for extent in extents)
        shown.add_row(topic.name, topic.key, _kept(topic), str(len(extents)), f"{end - begin:,}", f"{begin:,}..{end:,}")
    return shown


def partitions_table(found: Survey, now_ms: int) -> Table:
    """Return the table of `broadcast`'s partitions: who wrote last, and what."""
    shown = Table(title="broadcast, the last record of every partition", box=box.SIMPLE, title_justify="left")
    for name in ("p", "begin", "end", "epoch", "owner", "uplink next", "claim at", "snapshot at", "age"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("what", no_wrap=True)
    last = {entry.partition: entry for entry in found.last}
    for extent in found.extents.get(topics.BROADCAST.name, []):
        place = (str(extent.partition), f"{extent.begin:,}", f"{extent.end:,}")
        entry = last.get(extent.partition)
        if entry is None:
            shown.add_row(*place, *[""] * 6, "empty" if extent.end == extent.begin else "not read in time")
            continue
        age = f"{max(0, now_ms - entry.at_ms) / 1000:.1f} s" if entry.at_ms is not None else ""
        anchor = [_offset(offset) for offset in entry.anchor] if entry.anchor is not None else [""] * 3
        epoch = str(entry.epoch) if entry.epoch is not None else ""
        shown.add_row(*place, epoch, entry.owner, *anchor, age, entry.what)
    return shown


def _offset(offset: int) -> str:
    return f"{offset:,}" if offset >= 0 else "-"


def _kept(topic: Topic) -> str:
    if topic.retention_ms <= 0:
        span = "for good"
    else:
        unit, name = next(
            entry for entry in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")) if topic.retention_ms >= entry[0]
        )
        span = f"{topic.retention_ms / unit:g} {name}"
    return f"compacted, {span}" if topic.compacted else span
