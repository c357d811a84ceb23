"""The owner of a partition: what an interaction costs it, bytes on the queue, time of a take-over.

All with the real process and the real Kafka. The uplink is filled with real danmaku while the
broadcaster is down; then the broadcaster drains it as fast as it can, alone. Its processor time
holds everything from Kafka to Kafka. In each round a bare loop in this process runs over the same
records, cut into batches at the same places (`_barebatches`), so that both run on the same machine
in the same state.

The bare loop gets its records from memory. "vs_bare" compares the whole broadcaster with it, as a
bound that no program on this client can reach. "vs_bare_read" adds to it what a plain client takes
to read the same records in the same round: there both sides have read them.

Both sides have all rooms open while they are measured. After a start the broadcaster opens each
room from the snapshot at its first message; "vs_bare_10000_opening" is the ratio over that first
pass, against a bare loop that opens nothing. Snapshots wait until nothing is left to take, so they
are in the take-over's figure alone.
"""

import asyncio
import itertools
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import msgspec
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from cli import danmaku
from devstack.local_kafka import kafka_cluster
from devstack.processes import Service
from devstack.system import System
from liveroom import metric_catalog
from liveroom.kinds import Kind
from liveroom.records.broadcast import Batch, RoomFlags, decode_broadcast
from liveroom.records.uplink import Item, Uplink, encode_uplink
from liveroom.topics import BROADCAST, UPLINK
from liveroom.wire import payload_text
from tests.bench._barebatches import BareBatches
from tests.bench._http import used_s
from tests.bench.e2e import FILE
from tests.bench.figure import Figure, median
from tests.log import read_all
from tests.rates import UNLIMITED

ITEMS = 40_000  # of one round
ROUNDS = 5
WARM = 0.1  # the share of a round that passes before it is measured: the owner has just started
ROOMS = (1, 100, 10_000)
RATE_PER_S = 1000
PACKING_S = 6.0
TAKEOVER_ROOMS = 10_000
MESSAGES_PER_ROOM = 5
TAKEOVERS = 5
NO_LIMIT = 10**9
TAKEN = f'{metric_catalog.ITEMS.name}{{outcome="taken"}}'


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    async with kafka_cluster() as bootstrap:
        for rooms in ROOMS:
            for figure in _compared(rooms, await _drains(bootstrap, rooms)):
                yield figure
        after, before = await _packing(bootstrap)
        yield Figure("queue.bytes_per_message_json", before, "B", f"one room, {RATE_PER_S} messages/s")
        yield Figure("queue.bytes_per_message", after, "B", "whole BATCH records")
        yield Figure("queue.bytes_vs_json", after / before, "ratio")
        takeovers, reads = await _takeovers(bootstrap)
        about = f"{TAKEOVER_ROOMS} rooms, owner killed"
        yield median("broadcaster.takeover_s", takeovers, "s", f"{about}; not a ratio: of this machine alone")
        ratios = [takeover / read for takeover, read in zip(takeovers, reads, strict=True)]
        about = f"{about}; a plain client's start and reading of the same records: {statistics.median(reads):.2f} s"
        yield median("broadcaster.takeover_vs_read", ratios, "times", about)


class _Round(NamedTuple):
    """Processor seconds for each interaction in one round: of the broadcaster, of the bare loop, of
    a plain client's reading; and both sides' of the pass that opens the rooms, None where that is
    over before the round is measured.
    """

    ours_s: float
    bare_s: float
    read_s: float
    opening: tuple[float, float] | None


def _compared(rooms: int, measured: list[_Round]) -> Iterator[Figure]:
    """Give the figures of the drains with so many rooms."""
    about = f"rooms: {rooms}; not a ratio: of this machine alone"
    yield median(f"broadcaster.per_cpu_s_{rooms}", [1 / each.ours_s for each in measured], "interactions/s", about)
    bare_us, read_us = (1e6 * statistics.median(times) for times in zip(*((e.bare_s, e.read_s) for e in measured), strict=True))
    about = f"a bare decode, number, encode and deflate: {bare_us:.1f} us; aim: at least 0.6"
    yield median(f"broadcaster.vs_bare_{rooms}", [each.bare_s / each.ours_s for each in measured], "ratio", about)
    about = f"the same behind a plain client's reading, which takes {read_us:.1f} us"
    ratios = [(each.bare_s + each.read_s) / each.ours_s for each in measured]
    yield median(f"broadcaster.vs_bare_read_{rooms}", ratios, "ratio", about)
    if openings := [each.opening for each in measured if each.opening is not None]:
        about = "the first pass after a start, which reads each room from the snapshot; the bare loop has its rooms"
        yield median(f"broadcaster.vs_bare_{rooms}_opening", [bare / ours for ours, bare in openings], "ratio", about)


def _system(bootstrap: str, **settings: str) -> System:
    known = {"ROOM_LIMIT_PER_S": str(NO_LIMIT), "KAFKA__SESSION_TIMEOUT_S": "3"}
    return System(bootstrap, prefix=f"b{secrets.token_hex(4)}.", partitions=1, edges=1, settings=known | UNLIMITED | settings)


async def _fill(system: System, count: int, rooms: int, *, rate_per_s: float = 0.0) -> list[bytes]:
    """Write real danmaku into the uplink, of so many rooms in turn; `rate_per_s` 0: as fast as it
    goes. Return their values.
    """
    lines = danmaku.read_file(FILE).lines
    producer = AIOKafkaProducer(bootstrap_servers=system.kafka_bootstrap, linger_ms=5, max_batch_size=500_000)
    await producer.start()
    values = []
    try:
        began = time.perf_counter()
        for number in range(count):
            line = lines[number % len(lines)]
            room = f"room-{number % rooms}"
            item = Item(Kind.DANMAKU, msgspec.Raw(msgspec.json.encode(line.body)))
            record = Uplink(1, room, secrets.token_hex(8), line.user, time.time_ns() // 10**6, [item], name=f"观众 {line.user}")
            values.append(encode_uplink(record))
            await producer.send(f"{system.prefix}{UPLINK.name}", values[-1], key=room.encode())
            if rate_per_s and number % 10 == 9:
                await asyncio.sleep(max(0.0, began + number / rate_per_s - time.perf_counter()))
        await producer.flush()
    finally:
        await producer.stop()
    return values


async def _until(service: Service, metric: str, at_least: float) -> float:
    """Wait until a metric has come so far; return where it is."""
    async with asyncio.timeout(120):
        while True:
            value = (await service.metrics()).get(metric, 0.0)
            if value >= at_least:
                return value
            await asyncio.sleep(0.1)


async def _drains(bootstrap: str, rooms: int) -> list[_Round]:
    """Return what each round took."""
    measured = []
    bare = BareBatches(1)
    system = System(
        bootstrap,
        prefix=f"b{secrets.token_hex(4)}.",
        partitions=1,
        edges=0,
        ingresses=0,
        schedulers=0,
        settings={"ROOM_LIMIT_PER_S": str(NO_LIMIT)},
    )
    async with system:
        [owner] = system.broadcasters
        for number in range(ROUNDS + 1):
            await owner.stop()
            values = await _fill(system, ITEMS, rooms)
            marks = await _drain(system, number * ITEMS, len(values))
            warm = int(len(values) * WARM)
            opening = None
            if rooms > warm:
                ours_s, batches = _between(marks, 1, rooms)
                opening = ours_s, _loop(bare, values, batches)
            ours_s, batches = _between(marks, max(rooms, warm), len(values))
            bare_s = _loop(bare, values, batches)
            measured.append(_Round(ours_s, bare_s, await _read_one_s(system, number * ITEMS, len(values)), opening))
    return measured[1:]  # the first one warms up: it makes the rooms


class _Mark(NamedTuple):
    """What the owner had used when these batches came. Each is the number of interactions that were
    taken by its end.
    """

    used_s: float
    batches: list[int]


async def _drain(system: System, first: int, count: int) -> list[_Mark]:
    """Start the owner and watch the queue; the uplink has `count` records from offset `first` on.

    What the owner has used is read whenever batches come: asking it for its place would cost it
    something.
    """
    [owner] = system.broadcasters
    tp = TopicPartition(f"{system.prefix}{BROADCAST.name}", 0)
    async with AIOKafkaConsumer(bootstrap_servers=system.kafka_bootstrap) as queue:
        queue.assign([tp])
        await queue.seek_to_end(tp)
        await owner.start_ready()
        process = psutil.Process(owner.pid)
        marks: list[_Mark] = []
        async with asyncio.timeout(120):
            while not marks or marks[-1].batches[-1] < count:
                records = (await queue.getmany(tp, timeout_ms=500)).get(tp, [])
                used = used_s(process)
                decoded = [decode_broadcast(record.value) for record in records]
                taken = [(batch.anchor.uplink_next or 0) - first for batch in decoded if isinstance(batch, Batch)]
                if batches := [each for each in taken if each > 0]:
                    marks.append(_Mark(used, batches))
    return marks


def _between(marks: list[_Mark], start: int, stop: int) -> tuple[float, list[int]]:
    """Return what an interaction cost the owner from the first mark at `start` or behind it to the
    first at `stop` or behind it, and the ends of the batches from the one mark to the other.
    """
    [begin, *rest] = [mark for mark in marks if mark.batches[-1] >= start]
    ends = [begin.batches[-1]]
    for mark in rest:
        ends += mark.batches
        if ends[-1] >= stop:
            return (mark.used_s - begin.used_s) / (ends[-1] - ends[0]), ends
    raise ValueError(f"no batches between {start} and {stop}: too few interactions in a round")


def _loop(bare: BareBatches, values: list[bytes], batches: list[int]) -> float:
    """Return the processor seconds of the bare loop for each of those that lie between the first
    and the last of `batches`, cut into batches there.
    """
    now_ms = time.time_ns() // 10**6
    began = time.thread_time()
    for number, (start, stop) in enumerate(itertools.pairwise(batches)):
        bare.batch(values[start:stop], f"0.{number}", now_ms)
    return (time.thread_time() - began) / (batches[-1] - batches[0])


async def _read_one_s(system: System, first: int, count: int) -> float:
    """Return the processor seconds that a plain client takes to read one of `count` records of the
    uplink from offset `first` on. Nothing else runs in this process meanwhile.
    """
    tp = TopicPartition(f"{system.prefix}{UPLINK.name}", 0)
    async with AIOKafkaConsumer(bootstrap_servers=system.kafka_bootstrap) as uplink:
        uplink.assign([tp])
        uplink.seek(tp, first)
        began, read = time.thread_time(), 0
        while read < count:
            read += sum([len(records) for records in (await uplink.getmany(tp, timeout_ms=500)).values()])
        return (time.thread_time() - began) / read


async def _packing(bootstrap: str) -> tuple[float, float]:
    """Return bytes per message in BATCH records and as JSON lines, in a room with `RATE_PER_S`
    messages a second.
    """
    async with _system(bootstrap) as system:
        await _fill(system, int(RATE_PER_S * PACKING_S), 1, rate_per_s=RATE_PER_S)
        await _until(system.broadcasters[0], TAKEN, RATE_PER_S * PACKING_S)
        records = text = messages = 0
        for record in await read_all(bootstrap, f"{system.prefix}{BROADCAST.name}", [0]):
            batch = decode_broadcast(record.value)
            if not isinstance(batch, Batch):
                continue
            records += len(record.value)
            for entry, payload in batch.rooms():
                messages += entry.messages
                lines = payload_text(payload, deflated=bool(entry.flags & RoomFlags.DEFLATED))
                text += len(lines.partition(b"\n")[2])
        return records / messages, text / messages


async def _takeovers(bootstrap: str) -> tuple[list[float], list[float]]:
    """Return the times from an assignment to the first number, by owners that were not there
    before; and of reading alone.
    """
    takeovers, reads = [], []
    async with _system(bootstrap, SNAPSHOT_INTERVAL_S="3") as system:
        owner = system.broadcasters[0]
        count = TAKEOVER_ROOMS * MESSAGES_PER_ROOM
        await _fill(system, count, TAKEOVER_ROOMS)
        await _until(owner, TAKEN, count)
        await _until(owner, metric_catalog.SNAPSHOTS.name, 1)
        await _fill(system, TAKEOVER_ROOMS, TAKEOVER_ROOMS)
        await _until(owner, TAKEN, count + TAKEOVER_ROOMS)
        for _ in range(TAKEOVERS):
            owner.kill()
            await owner.ended()
            reads.append(await _read_s(bootstrap, f"{system.prefix}{BROADCAST.name}"))
            await owner.start_ready()
            await _until(owner, f"{metric_catalog.TAKEOVER_SECONDS.name}_count", 1)
            takeovers.append((await owner.metrics())[f"{metric_catalog.TAKEOVER_SECONDS.name}_sum"])
    return takeovers, reads


async def _read_s(bootstrap: str, name: str) -> float:
    """Return how long a client takes that starts and reads what the next owner will: from the
    newest snapshot to the end.
    """
    newest: int | None = None
    for record in await read_all(bootstrap, name, [0]):
        batch = decode_broadcast(record.value)
        newest = batch.anchor.snapshot_offset if isinstance(batch, Batch) else newest
    tp = TopicPartition(name, 0)
    began = time.perf_counter()
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap) as consumer:
        consumer.assign([tp])
        consumer.seek(tp, newest or 0)
        end = (await consumer.end_offsets([tp]))[tp]
        while await consumer.position(tp) < end:
            await consumer.getmany(tp, timeout_ms=500)
        return time.perf_counter() - began
