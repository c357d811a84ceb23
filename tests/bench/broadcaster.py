"""The owner of a partition: interactions for a second of its processor, bytes on the queue, time of a take-over.

All with the real process and the real Kafka. The uplink is filled first with real danmaku, then a broadcaster drains it as
fast as it can, alone; its processor time holds everything: reading, numbering, packing, writing, snapshots.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import msgspec
import psutil
from aiokafka import AIOKafkaProducer

from liveroom import metrics
from liveroom.cli import danmaku
from liveroom.cli.localkafka import kafka_cluster
from liveroom.cli.processes import Service, System
from liveroom.kinds import Kind
from liveroom.records import Batch, Item, RoomFlags, Uplink, decode_broadcast, encode_uplink
from liveroom.topics import BROADCAST
from liveroom.wire import payload_text
from tests.bench.e2e import FILE
from tests.bench.figure import Figure
from tests.log import read_all
from tests.rates import NO_RATES

ITEMS = 150_000
ROOMS = (1, 100, 10_000)
RATE_PER_S = 1000
PACKING_S = 6.0
TAKEOVER_ROOMS = 10_000
MESSAGES_PER_ROOM = 5
NO_LIMIT = 10**9
TAKEN = f'{metrics.ITEMS.name}{{outcome="taken"}}'


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    async with kafka_cluster() as bootstrap:
        for rooms in ROOMS:
            drained, cpu_s = await _drain(bootstrap, rooms)
            yield Figure(f"broadcaster.per_cpu_s_{rooms}", drained / cpu_s, "interactions/s", f"rooms: {rooms}")
        after, before = await _packing(bootstrap)
        yield Figure("queue.bytes_per_message_json", before, "B", f"one room, {RATE_PER_S} messages/s")
        yield Figure("queue.bytes_per_message", after, "B", "whole BATCH records")
        yield Figure("queue.bytes_vs_json", after / before, "ratio")
        yield Figure("broadcaster.takeover_s", await _takeover(bootstrap), "s", f"{TAKEOVER_ROOMS} rooms, owner killed")


def _system(bootstrap: str, **settings: str) -> System:
    known = {"ROOM_LIMIT_PER_S": str(NO_LIMIT), "KAFKA__SESSION_TIMEOUT_S": "3"}
    return System(
        bootstrap, prefix=f"b{secrets.token_hex(4)}.", partitions=1, edges=1, settings=known | {"RATES": NO_RATES} | settings
    )


async def _fill(system: System, count: int, rooms: int, *, rate_per_s: float = 0.0) -> None:
    """Write real danmaku into the uplink, of so many rooms in turn; `rate_per_s` 0: as fast as it goes."""
    lines = danmaku.read_file(FILE).lines
    producer = AIOKafkaProducer(bootstrap_servers=system.kafka_bootstrap, linger_ms=5, max_batch_size=500_000)
    await producer.start()
    try:
        began = time.perf_counter()
        for number in range(count):
            line = lines[number % len(lines)]
            room = f"room-{number % rooms}"
            item = Item(Kind.DANMAKU, msgspec.Raw(msgspec.json.encode(line.body)))
            record = Uplink(1, room, secrets.token_hex(8), line.user, time.time_ns() // 10**6, [item], name=f"观众 {line.user}")
            await producer.send(f"{system.prefix}uplink", encode_uplink(record), key=room.encode())
            if rate_per_s and number % 10 == 9:
                await asyncio.sleep(max(0.0, began + number / rate_per_s - time.perf_counter()))
        await producer.flush()
    finally:
        await producer.stop()


async def _until(service: Service, metric: str, at_least: float) -> float:
    """Wait until a metric has come so far; return where it is."""
    async with asyncio.timeout(120):
        while True:
            value = (await service.metrics()).get(metric, 0.0)
            if value >= at_least:
                return value
            await asyncio.sleep(0.1)


async def _drain(bootstrap: str, rooms: int) -> tuple[float, float]:
    """Return items taken and the broadcaster's processor seconds for them."""
    async with _system(bootstrap) as system:
        owner = system.broadcasters[0]
        await owner.stop()
        await _fill(system, ITEMS, rooms)
        await owner.start_ready()
        process = psutil.Process(owner.pid)
        first = await _until(owner, TAKEN, ITEMS / 10)
        before = process.cpu_times()
        last = await _until(owner, TAKEN, ITEMS)
        after = process.cpu_times()
        return last - first, after.user + after.system - before.user - before.system


async def _packing(bootstrap: str) -> tuple[float, float]:
    """Return bytes per message in BATCH records and as JSON lines, in a room with `RATE_PER_S` messages a second."""
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


async def _takeover(bootstrap: str) -> float:
    """Return the time from an assignment to the first number, by an owner that was not there before."""
    async with _system(bootstrap, SNAPSHOT_INTERVAL_S="3") as system:
        owner = system.broadcasters[0]
        count = TAKEOVER_ROOMS * MESSAGES_PER_ROOM
        await _fill(system, count, TAKEOVER_ROOMS)
        await _until(owner, TAKEN, count)
        await _until(owner, metrics.SNAPSHOTS.name, 1)
        await _fill(system, TAKEOVER_ROOMS, TAKEOVER_ROOMS)
        await _until(owner, TAKEN, count + TAKEOVER_ROOMS)
        owner.kill()
        await owner.ended()
        await owner.start_ready()
        await _until(owner, f"{metrics.TAKEOVER_SECONDS.name}_count", 1)
        return (await owner.metrics())[f"{metrics.TAKEOVER_SECONDS.name}_sum"]
