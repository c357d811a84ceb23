"""The whole path: delay in a quiet room against one bare Kafka hop, and deliveries for a second of the edge's processor.

The delay is from the 202 as its sender reads it to the viewer's receipt, both in this process; the hop is one record through a
plain topic of the same broker, from `send` to a plain consumer's receipt. Both alternate, so both meet the same machine.
"""

import asyncio
import json
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import msgspec
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from liveroom.bodies import Danmaku
from liveroom.cli import danmaku
from liveroom.cli.localkafka import kafka_cluster
from liveroom.cli.processes import System
from liveroom.kafka import ensure_topics
from liveroom.kinds import Kind
from liveroom.records import Item, Uplink, encode_uplink
from liveroom.settings import KafkaSettings
from liveroom.tether import spawn_tethered
from liveroom.topics import DEAD_LETTER
from tests.bench.figure import Figure
from tests.rates import NO_RATES
from viewer.client import Accepted, Sender, Viewer
from viewer.session import Delivered, Effect

ROUNDS = 150
PAUSE_S = 0.13  # longer than a tick: each round meets a quiet room
VIEWERS = 2000
MESSAGES_PER_S = 1000
LOAD_S = 8.0
FILE = Path(__file__).parents[1] / "data" / "danmaku-130614.xml"


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    async with kafka_cluster() as bootstrap:
        prefix = f"b{secrets.token_hex(4)}."
        async with System(bootstrap, prefix=prefix, partitions=4, edges=1, settings={"RATES": NO_RATES}) as system:
            hops, delays = await _quiet(system)
            hop = statistics.median(hops)
            yield Figure("e2e.hop_median_ms", hop * 1000, "ms", "baseline: one bare hop through the same broker")
            yield Figure("e2e.quiet_median_vs_hop", statistics.median(delays) / hop, "ratio", f"{ROUNDS} rounds")
            worst = statistics.quantiles(delays, n=100)[98] / statistics.quantiles(hops, n=100)[98]
            yield Figure("e2e.quiet_p99_vs_hop", worst, "ratio", "99th percentile over the hop's 99th percentile")
            deliveries, cpu_s, share = await _crowded(system)
            yield Figure(
                "edge.deliveries_per_cpu_s", deliveries / cpu_s, "messages/s", f"{VIEWERS} viewers, {MESSAGES_PER_S}/s"
            )
            yield Figure("edge.cpu_share", share, "cores", "of the edge during that run")


async def _quiet(system: System) -> tuple[list[float], list[float]]:
    """Return the delays of bare hops and of 202 to receipt, in seconds."""
    settings = KafkaSettings(bootstrap=system.kafka_bootstrap, prefix=f"hop{secrets.token_hex(3)}.", partitions=1)
    await ensure_topics(settings, [DEAD_LETTER])
    topic = f"{settings.prefix}{DEAD_LETTER.name}"
    seen: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    def on_effect(effect: Effect) -> None:
        if isinstance(effect, Delivered):
            seen.put_nowait((effect.message.id, time.perf_counter()))

    hops: list[float] = []
    delays: list[float] = []
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        producer = AIOKafkaProducer(bootstrap_servers=system.kafka_bootstrap, acks="all", enable_idempotence=True)
        consumer = AIOKafkaConsumer(topic, bootstrap_servers=system.kafka_bootstrap, auto_offset_reset="earliest")
        for client in (producer, consumer):
            await client.start()
            stack.push_async_callback(client.stop)
        viewer = Viewer(system.scheduler_url, ["quiet"], http=http, on_effect=on_effect)
        await stack.enter_async_context(viewer)
        await viewer.joined()
        sender = Sender(system.ingress_url, system.token("bench"), http)
        for number in range(ROUNDS + 10):
            await asyncio.sleep(PAUSE_S)
            began = time.perf_counter()
            await producer.send(topic, b"x" * 200)
            await consumer.getone()
            hop = time.perf_counter() - began
            await asyncio.sleep(PAUSE_S)
            outcome = await sender.danmaku("quiet", "hello")
            accepted = time.perf_counter()
            assert isinstance(outcome, Accepted), outcome
            id_, at = await asyncio.wait_for(seen.get(), 10)
            assert id_ == outcome.id
            if number >= 10:  # the first ones warm caches
                hops.append(hop)
                delays.append(max(0.0, at - accepted))
    return hops, delays


async def _crowded(system: System) -> tuple[float, float, float]:
    """Return deliveries, the edge's processor seconds for them, and its share of a core."""
    command = [sys.executable, "-m", "viewer.load", "--scheduler", system.scheduler_url, "--room", "crowd"]
    command += ["--viewers", str(VIEWERS), "--joins-per-s", "400", "--duration", str(VIEWERS / 400 + LOAD_S + 12)]
    crowd = await spawn_tethered(command, stdout=asyncio.subprocess.PIPE)
    assert crowd.stdout is not None
    try:
        joined = 0
        while joined < VIEWERS:
            joined = json.loads(await asyncio.wait_for(crowd.stdout.readline(), 30))["joined"]
        edge = psutil.Process(system.edges[0].pid)
        sending = asyncio.create_task(_send(system))
        await asyncio.sleep(1)
        before, cpu_before, began = await _delivered(system), edge.cpu_times(), time.perf_counter()
        await asyncio.sleep(LOAD_S)
        after, cpu_after, passed = await _delivered(system), edge.cpu_times(), time.perf_counter() - began
        await sending
        cpu_s = cpu_after.user + cpu_after.system - cpu_before.user - cpu_before.system
        return after - before, cpu_s, cpu_s / passed
    finally:
        crowd.terminate()
        await crowd.wait()


async def _delivered(system: System) -> float:
    return (await system.edges[0].metrics())["liveroom_edge_delivered_messages_total"]


async def _send(system: System) -> None:
    """Write real danmaku straight to `uplink`, evenly, for a little longer than is measured."""
    texts = [line.body for line in danmaku.read_file(FILE).lines]
    producer = AIOKafkaProducer(bootstrap_servers=system.kafka_bootstrap)
    await producer.start()
    try:
        began = time.perf_counter()
        for number in range(int(MESSAGES_PER_S * (LOAD_S + 2))):
            body = msgspec.json.encode(texts[number % len(texts)])
            assert isinstance(texts[0], Danmaku)
            item = Item(Kind.DANMAKU, msgspec.Raw(body))
            record = Uplink(1, "crowd", f"i{number}", f"u{number % 480}", int(time.time() * 1000), [item], name="观众")
            await producer.send(f"{system.prefix}uplink", encode_uplink(record), key=b"crowd")
            if number % 10 == 9:
                await asyncio.sleep(max(0.0, began + number / MESSAGES_PER_S - time.perf_counter()))
        await producer.flush()
    finally:
        await producer.stop()
