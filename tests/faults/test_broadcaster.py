"""Broadcasters that die, pause, come and go: gifts are seen once, in order, in time; the log is exact."""

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from liveroom.bodies import Danmaku
from liveroom.cli.processes import System
from liveroom.kinds import Kind
from liveroom.records import Item, Uplink, encode_uplink
from tests.e2e.audience import Audience, knows_gateways, settled
from tests.faults.judge import Exact, judge_log
from viewer.client import Accepted, Sender
from viewer.ledger import Ledger

pytestmark = pytest.mark.fault
PARTITIONS = 4
ROOMS = [f"room-{number}" for number in range(8)]
BUDGET_S = 10.0


@dataclass
class Show:
    """A running system under load: gifts through the ingress, danmaku straight into the uplink, viewers in every room."""

    system: System
    ledger: Ledger
    audiences: dict[str, Audience]
    accepted_at: dict[str, float] = field(default_factory=dict)
    seen_at: dict[str, float] = field(default_factory=dict)
    stopping: bool = False

    async def give(self, http: aiohttp.ClientSession, number: int) -> None:
        """Give gifts and likes to rooms in turn until told to stop."""
        sender = Sender(self.system.ingress_url, self.system.token(f"giver-{number}"), http, retries=40)
        turn = number
        while not self.stopping:
            turn += 1
            room = ROOMS[turn % len(ROOMS)]
            likes = 3 if turn % 5 == 0 else 0
            outcome = await (sender.like(room, likes) if likes else sender.gift(room, "rose"))
            assert isinstance(outcome, Accepted), outcome
            now = time.monotonic()
            self.ledger.accepted(room, outcome.id, now, reliable=True, likes=likes)
            if not likes:
                self.accepted_at[outcome.id] = now
            await asyncio.sleep(0.05)

    async def chat(self, producer: AIOKafkaProducer) -> None:
        """Write danmaku into the uplink, 200 a second."""
        number = 0
        while not self.stopping:
            for _ in range(10):
                number += 1
                room = ROOMS[number % len(ROOMS)]
                body = msgspec.Raw(msgspec.json.encode(Danmaku(f"弹幕 {number}")))
                record = Uplink(1, room, f"d{number}", f"u{number % 50}", 1, [Item(Kind.DANMAKU, body)])
                await producer.send(f"{self.system.prefix}uplink", encode_uplink(record), key=room.encode())
            await asyncio.sleep(0.05)

    async def finish(self) -> Exact:
        """Let everything arrive; judge viewers and log."""
        await settled(lambda: self.ledger.verdict(time.monotonic(), settled=True).is_clean, 20)
        verdict = self.ledger.verdict(time.monotonic(), settled=True)
        assert verdict.is_clean, verdict
        exact = await judge_log(self.system.kafka_bootstrap, self.system.prefix, PARTITIONS)
        worst = max(self.seen_at[id_] - at for id_, at in self.accepted_at.items())
        print(f"accepted {verdict.accepted}, log {exact}, slowest gift {worst:.2f} s")
        assert worst < BUDGET_S
        return exact


@asynccontextmanager
async def show(bootstrap: str, *, broadcasters: int = 1) -> AsyncIterator[Show]:
    """Run a system under load while the block runs; its end stops the load."""
    async with AsyncExitStack() as stack:
        settings = {"KAFKA__SESSION_TIMEOUT_S": "3", "SNAPSHOT_INTERVAL_S": "2"}
        prefix = f"f{secrets.token_hex(4)}."
        system = System(bootstrap, prefix=prefix, partitions=PARTITIONS, settings=settings, broadcasters=broadcasters)
        await stack.enter_async_context(system)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        stack.push_async_callback(producer.stop)
        await knows_gateways(system, 2)
        ledger = Ledger()
        running = Show(system, ledger, {})
        for room in ROOMS:
            audience = running.audiences[room] = Audience(system, room, http, ledger, on_seen=running.seen_at.setdefault)
            await audience.join(stack, 2)
        async with asyncio.TaskGroup() as tasks:
            for number in range(4):
                tasks.create_task(running.give(http, number))
            chat = tasks.create_task(running.chat(producer))
            await asyncio.sleep(2)
            yield running
            running.stopping = True
            await chat
            await producer.flush()
        await running.finish()


async def test_kill_9_of_the_owner_under_load(kafka_bootstrap: str) -> None:
    async with show(kafka_bootstrap, broadcasters=2) as running:
        running.system.broadcasters[0].kill()
        await asyncio.sleep(8)
        await running.system.broadcasters[0].start_ready()
        await asyncio.sleep(3)


async def test_an_owner_that_was_paused_writes_and_nobody_sees_it(kafka_bootstrap: str) -> None:
    async with show(kafka_bootstrap, broadcasters=2) as running:
        zombie = running.system.broadcasters[0]
        zombie.kill(signal.SIGSTOP)
        await asyncio.sleep(15)
        zombie.kill(signal.SIGCONT)
        await asyncio.sleep(5)


async def test_one_broadcaster_becomes_four_and_one_again(kafka_bootstrap: str) -> None:
    async with show(kafka_bootstrap) as running:
        system = running.system
        await asyncio.gather(*(system.add_broadcaster() for _ in range(3)))
        await asyncio.sleep(3)
        for service in system.broadcasters[:3]:
            assert await service.stop() == 0
            await asyncio.sleep(1)
        await asyncio.sleep(3)
