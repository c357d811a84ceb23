"""`liveroom topics`: the topics of a cluster, their offsets, and the owner of each partition.

Owns the reading and the tables; `liveroom.broadcast_log.describe` finds the owners. It changes
nothing and joins no group. The doctor uses it too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.table import Table

from cli.consoles import plain_console
from cli.endpoints import UsageError, find_kafka
from cli.figures import shown
from liveroom import clock, topics
from liveroom.broadcast_log import Description, LogReadError, describe
from liveroom.kafka_port import AioKafka, Consumer, Kafka, KafkaError, TopicPartition
from liveroom.settings import KafkaSettings
from liveroom.topics import Topic

_WIDTH: Final = 160  # of tables in a file or pipe
_LAST: Final = {None: "none", False: "valid", True: "void"}


@dataclass(frozen=True, slots=True)
class ClusterTopics:
    """The brokers of a cluster, and the partitions of this system's topics, by name."""

    brokers: int
    partitions: dict[str, int]


@dataclass(frozen=True, slots=True)
class Extent:
    """The offsets of a partition: the first, and the one after the last."""

    partition: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that `liveroom topics` shows."""

    extents: dict[str, list[Extent]]
    queue: Sequence[Description] = ()


async def read_cluster(kafka: Kafka) -> ClusterTopics:
    """Return the cluster's brokers and our topics."""
    admin = kafka.admin()
    try:
        await admin.start()
        cluster = await admin.describe_cluster()
        ours = {kafka.topic_name(topic) for topic in topics.ALL} & set(await admin.list_topics())
        described = await admin.describe_topics(sorted(ours)) if ours else []
    finally:
        await admin.close()
    return ClusterTopics(len(cluster.brokers), {entry.name: len(entry.partitions) for entry in described})


async def survey(kafka: Kafka) -> Survey:
    """Read the partitions of `broadcast`, then every topic's offsets, so that no lag is below 0."""
    cluster = await read_cluster(kafka)
    queue = await describe(kafka, range(cluster.partitions.get(kafka.topic_name(topics.BROADCAST), 0)))
    consumer = kafka.consumer()
    try:
        await consumer.start()
        extents = {
            topic.name: await _extents(consumer, kafka.topic_name(topic), cluster.partitions[kafka.topic_name(topic)])
            for topic in topics.ALL
            if kafka.topic_name(topic) in cluster.partitions
        }
    finally:
        await consumer.stop()
    return Survey(extents, queue)


async def _extents(consumer: Consumer, name: str, count: int) -> list[Extent]:
    partitions = [TopicPartition(name, partition) for partition in range(count)]
    begins, ends = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    return [Extent(tp.partition, begins[tp], ends[tp]) for tp in partitions]


def topics_table(found: Survey, settings: KafkaSettings) -> Table:
    """Return the table of topics."""
    title = f"Topics at {settings.bootstrap}" + (f", prefix {settings.prefix!r}" if settings.prefix else "")
    table = Table(title=title, box=box.SIMPLE, title_justify="left")
    for name in ("topic", "key", "kept"):
        table.add_column(name, no_wrap=True)
    for name in ("partitions", "records", "begin..end"):
        table.add_column(name, justify="right", no_wrap=True)
    for topic in topics.ALL:
        extents = found.extents.get(topic.name)
        if extents is None:
            table.add_row(topic.name, topic.key, _kept(topic), "not created yet", "", "")
            continue
        begin, end = sum(extent.begin for extent in extents), sum(extent.end for extent in extents)
        table.add_row(topic.name, topic.key, _kept(topic), str(len(extents)), f"{end - begin:,}", f"{begin:,}..{end:,}")
    return table


def partitions_table(found: Survey, now_ms: int) -> Table:
    """Return the table of `broadcast`'s partitions: owner, progress, newest snapshot.

    `now_ms`: Unix time in milliseconds.
    """
    table = Table(title="broadcast, the owner of each partition", box=box.SIMPLE, title_justify="left")
    for name in ("p", "begin..end"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("owner", no_wrap=True)
    for name in ("epoch", "claim age", "uplink next", "lag", "snapshot at", "its age", "its size"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("last record", no_wrap=True)
    ends = {extent.partition: extent.end for extent in found.extents.get(topics.UPLINK.name, [])}
    for entry in found.queue:
        uplink_end = ends.get(entry.partition)
        lag = uplink_end - entry.uplink_next if uplink_end is not None and entry.uplink_next is not None else None
        snapshot = entry.snapshot
        table.add_row(
            str(entry.partition),
            f"{entry.start:,}..{entry.end:,}",
            "nobody" if entry.epoch is None else entry.instance or "unreadable",
            shown(entry.epoch),
            _age(entry.claimed_ms, now_ms),
            shown(entry.uplink_next),
            shown(lag),
            shown(snapshot.offset) if snapshot else "-",
            _age(snapshot.at_ms, now_ms) if snapshot else "-",
            _size(snapshot.size_bytes) if snapshot else "-",
            _LAST[entry.is_last_void],
        )
    return table


def _age(at_ms: int | None, now_ms: int) -> str:
    return "-" if at_ms is None else f"{max(0, now_ms - at_ms) / 1000:,.1f} s"


def _size(size_bytes: int | None) -> str:
    return "-" if size_bytes is None else f"{size_bytes / 1000:,.1f} kB"


def _kept(topic: Topic) -> str:
    if topic.retention_ms <= 0:
        span = "for good"
    else:
        unit, name = next(
            entry for entry in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")) if topic.retention_ms >= entry[0]
        )
        span = f"{topic.retention_ms / unit:g} {name}"
    return f"compacted, {span}" if topic.compacted else span


async def show_topics(kafka: str, prefix: str | None, partitions: int | None) -> int:
    """Print the topics and the owners of `broadcast`'s partitions; return the exit code."""
    settings = find_kafka(kafka, prefix, partitions)
    if settings is None:
        raise UsageError("no Kafka: start `liveroom demo` or `liveroom up`, or give --kafka HOST:PORT (KAFKA_BOOTSTRAP)")
    try:
        found = await survey(AioKafka(settings))
    except (KafkaError, OSError, TimeoutError, LogReadError) as error:
        raise UsageError(f"Kafka at {settings.bootstrap} does not answer: {error!r}") from None
    console = plain_console(piped_width=_WIDTH)
    console.print(topics_table(found, settings))
    console.print(partitions_table(found, clock.unix_ms()))
    return 0
