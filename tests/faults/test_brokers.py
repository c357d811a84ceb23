"""Brokers die, stop or restart: gifts are seen once, in order, in time; the log is exact."""

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from random import Random

import pytest
from aiokafka.admin import AIOKafkaAdminClient

from devstack.local_kafka import LocalKafka
from liveroom.topics import BROADCAST
from tests.faults.show import Fault, Show, show

pytestmark = pytest.mark.fault
HANG_S = 15.0  # 3 to 12 s, measured: clients ask a hanging broker in vain, one request at a time
REPLICATED = {"KAFKA__REPLICATION": "3", "KAFKA__MIN_INSYNC": "2"}
_LEADER = re.compile(r"In the new epoch (\d+), the leader is (\d+)\.")


@pytest.fixture
async def three() -> AsyncIterator[LocalKafka]:
    """Three brokers of this test's own."""
    async with LocalKafka(brokers=3) as kafka:
        yield kafka


async def leader_of(running: Show, kafka: LocalKafka, partition: int) -> int:
    """Return the index of the broker that leads a partition of the queue."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        (topic,) = await admin.describe_topics([f"{running.system.prefix}{BROADCAST.name}"])
    finally:
        await admin.close()
    (leader,) = [entry["leader"] for entry in topic["partitions"] if entry["partition"] == partition]
    return int(leader) - 1


async def controller_of(kafka: LocalKafka) -> int:
    """Return the index of the active controller, as the brokers' logs have it."""
    texts = [await asyncio.to_thread(path.read_text) for path in kafka.logs]
    found = [(int(epoch), int(node)) for text in texts for epoch, node in _LEADER.findall(text)]
    return max(found)[1] - 1


async def kill_and_restart(running: Show, kafka: LocalKafka, index: int, chance: Random) -> None:
    await asyncio.sleep(chance.uniform(0, 2))
    await kafka.kill_broker(index)
    await asyncio.sleep(chance.uniform(8, 12))
    await kafka.start_broker(index)
    await kafka.in_sync()
    await asyncio.sleep(2)
    for service in running.system.services:
        assert service.running, service.name


async def test_kill_9_of_the_leader_of_a_partition(three: LocalKafka, chance: Random) -> None:
    async with show(three.bootstrap, broadcasters=2, settings=REPLICATED) as running:
        await kill_and_restart(running, three, await leader_of(running, three, chance.randrange(4)), chance)


@pytest.mark.slow
async def test_kill_9_of_the_controller(three: LocalKafka, chance: Random) -> None:
    async with show(three.bootstrap, broadcasters=2, settings=REPLICATED) as running:
        await kill_and_restart(running, three, await controller_of(three), chance)


@pytest.mark.slow
async def test_a_leader_that_is_paused(three: LocalKafka, chance: Random) -> None:
    async with show(three.bootstrap, broadcasters=2, settings=REPLICATED) as running:
        running.budget_s = HANG_S
        index = await leader_of(running, three, chance.randrange(4))
        paused_at = time.monotonic()
        await three.kill_broker(index, signal.SIGSTOP)
        await asyncio.sleep(20)
        await three.kill_broker(index, signal.SIGCONT)
        assert running.given(paused_at, time.monotonic()) > 100, "what is accepted meanwhile is what is judged"
        await three.in_sync()
        await asyncio.sleep(2)


@pytest.mark.slow
async def test_a_rolling_restart(three: LocalKafka, chance: Random) -> None:
    async with show(three.bootstrap, broadcasters=2, settings=REPLICATED):
        for index in chance.sample(range(3), 3):
            await three.stop_broker(index)
            await asyncio.sleep(chance.uniform(0, 3))
            await three.start_broker(index)
            await three.in_sync()
        await asyncio.sleep(2)


@pytest.mark.slow
async def test_the_only_broker_is_away_for_20_s(chance: Random) -> None:
    async with LocalKafka() as kafka, show(kafka.bootstrap, broadcasters=2) as running:
        await asyncio.sleep(chance.uniform(0, 2))
        began_at = time.monotonic()
        await kafka.kill_broker() if chance.randrange(2) else await kafka.stop_broker()
        await asyncio.sleep(20)
        await kafka.start_broker()
        running.faults.append(Fault(began_at, time.monotonic()))
        await asyncio.sleep(12)
