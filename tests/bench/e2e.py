"""The whole path: delay in a quiet room against one bare Kafka hop, and a crowd at an edge against
bare writes.

The delay is from the 202 as its sender reads it to the viewer's receipt, both in this process; the
hop is one record through a plain topic of the same broker, from `send` to a plain consumer's
receipt. Both alternate, so both meet the same machine.
"""

import asyncio
import json
import os
import resource
import secrets
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import NamedTuple

import aiohttp
import msgspec
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from cli import danmaku
from devstack.local_kafka import kafka_cluster
from devstack.system import System
from liveroom import metric_catalog
from liveroom.bodies import Danmaku
from liveroom.child_process import spawn_tethered
from liveroom.kafka import ensure_topics
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind
from liveroom.records.uplink import Item, Uplink, encode_uplink
from liveroom.settings import KafkaSettings
from liveroom.topics import DEAD_LETTER
from tests.bench._http import used_s
from tests.bench.figure import Figure, median
from tests.rates import UNLIMITED
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.sender import Accepted, Sender

ROUNDS = 150
PAUSE_S = 0.13  # longer than a tick: each round meets a quiet room
VIEWERS = 2000
MESSAGES_PER_S = 1000
LOAD_S = 8.0
WRITE_ROUNDS = 29
DELIVERED = (metric_catalog.DELIVERED_MESSAGES.name, metric_catalog.DELIVERED_BATCHES.name, metric_catalog.SENT_BYTES.name)
FILE = Path(__file__).parents[1] / "data" / "danmaku-130614.xml"


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    async with kafka_cluster() as bootstrap:
        prefix = f"b{secrets.token_hex(4)}."
        async with System(bootstrap, prefix=prefix, partitions=4, edges=1, settings={**UNLIMITED}) as system:
            hops, delays = await _quiet(system)
            hop = statistics.median(hops)
            yield Figure("e2e.hop_median_ms", hop * 1000, "ms", "baseline: one bare hop through the same broker")
            yield Figure("e2e.quiet_median_vs_hop", statistics.median(delays) / hop, "ratio", f"{ROUNDS} rounds")
            worst = statistics.quantiles(delays, n=100)[98] / statistics.quantiles(hops, n=100)[98]
            yield Figure("e2e.quiet_p99_vs_hop", worst, "ratio", "99th percentile over the hop's 99th percentile")
            crowded = await _crowded(system)
            about = f"{VIEWERS} viewers, {MESSAGES_PER_S}/s"
            yield Figure("edge.deliveries_per_cpu_s", crowded.messages / crowded.cpu_s, "messages/s", about)
            yield Figure("edge.cpu_share", crowded.cpu_s / crowded.passed_s, "cores", "of the edge during that run")
            size = round(crowded.sent_bytes / crowded.pushes)
            bare_us = [cost * 1e6 for cost in await _bare_writes(VIEWERS, size)]
            ours_us = crowded.cpu_s / crowded.pushes * 1e6
            about = f"{ours_us:.1f} us a push, with all else the edge does; a bare write of as much to as many sockets"
            yield median("edge.crowd_vs_writes", [ours_us / each for each in bare_us], "times", about)


async def _quiet(system: System) -> tuple[list[float], list[float]]:
    """Return the delays of bare hops and of 202 to receipt, in seconds."""
    settings = KafkaSettings(bootstrap=system.kafka_bootstrap, prefix=f"hop{secrets.token_hex(3)}.", partitions=1)
    await ensure_topics(AioKafka(settings), [DEAD_LETTER])
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


class _Crowded(NamedTuple):
    """What the edge delivered in a while, and its processor's time for it."""

    messages: float
    pushes: float
    sent_bytes: float
    cpu_s: float
    passed_s: float


async def _crowded(system: System) -> _Crowded:
    """Return what an edge with a crowd in one busy room does."""
    command = [sys.executable, "-m", "viewer.load", "--scheduler", system.scheduler_url, "--room", "crowd"]
    command += ["--viewers", str(VIEWERS), "--joins-per-s", "400", "--duration", str(VIEWERS / 400 + LOAD_S + 12)]
    crowd = await spawn_tethered(command, stdout=asyncio.subprocess.PIPE)
    assert crowd.stdout is not None
    try:
        joined = 0
        while joined < VIEWERS:
            joined = json.loads(await asyncio.wait_for(crowd.stdout.readline(), 30))["joined"]
        [edge] = system.edges
        process = psutil.Process(edge.pid)
        sending = asyncio.create_task(_send(system))
        await asyncio.sleep(1)
        before, cpu_before, began = await edge.metrics(), used_s(process), time.perf_counter()
        await asyncio.sleep(LOAD_S)
        cpu_after, after, passed_s = used_s(process), await edge.metrics(), time.perf_counter() - began
        await sending
        messages, pushes, sent_bytes = (after[name] - before[name] for name in DELIVERED)
        return _Crowded(messages, pushes, sent_bytes, cpu_after - cpu_before, passed_s)
    finally:
        crowd.terminate()
        await crowd.wait()


async def _bare_writes(count: int, size: int) -> list[float]:
    """Return the processor time of one write to each of so many TCP connections, in rounds.

    What comes is read in between.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    costs = []
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server, ExitStack() as opened:
        writers, readers = [], []
        for _ in range(count):
            readers.append(opened.enter_context(socket.create_connection(server.getsockname())))
            writers.append(opened.enter_context(server.accept()[0]))
        fds, frame = [writer.fileno() for writer in writers], secrets.token_bytes(size)
        for writer in writers:
            writer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(WRITE_ROUNDS + 1):
            began = time.thread_time()
            for fd in fds:
                os.write(fd, frame)
            costs.append((time.thread_time() - began) / count)
            for reader in readers:
                reader.recv(size, socket.MSG_WAITALL)
    return costs[1:]  # the first one warms up


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
