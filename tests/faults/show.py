"""A running system under load, for something to go wrong in: gifts through the ingress, danmaku into the uplink, viewers."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec
from aiokafka import AIOKafkaProducer

from liveroom.bodies import Danmaku
from liveroom.cli.processes import System
from liveroom.kinds import Kind
from liveroom.records import Item, Uplink, encode_uplink
from liveroom.topics import UPLINK
from tests.e2e.audience import Audience, knows_gateways, settled
from tests.faults.judge import Exact, judge_log
from viewer.client import Accepted, Sender, Unknown
from viewer.ledger import Ledger
from viewer.load import Crowd
from viewer.session import Effect

PARTITIONS = 4
ROOMS = [f"room-{number}" for number in range(8)]
BUDGET_S = 10.0
GIVERS = 4


@dataclass
class Show:
    """A system under load, and what became of its gifts.

    `over_at`: when faults were over that are more than one process or one of three brokers (monotonic seconds): gifts
    accepted before have until `BUDGET_S` after it.
    """

    system: System
    producer: AIOKafkaProducer
    ledger: Ledger
    accepted_at: dict[str, float] = field(default_factory=dict)
    seen_at: dict[str, float] = field(default_factory=dict)
    stopping: bool = False
    over_at: float = 0.0
    exact: Exact | None = None
    crowd: Crowd | None = None

    async def give(self, http: aiohttp.ClientSession, number: int) -> None:
        """Give gifts and likes to rooms in turn until told to stop."""
        token = self.system.token(f"giver-{number}")
        sender = Sender(self.system.ingress_url, token, http, retries=200)
        once = Sender(self.system.ingress_url, token, http, retries=0)  # a like that is sent again late may count twice
        turn = number
        while not self.stopping:
            turn += 1
            room = ROOMS[turn % len(ROOMS)]
            likes = 3 if turn % 5 == 0 else 0
            outcome = await (once.like(room, likes) if likes else sender.gift(room, "rose"))
            if likes and isinstance(outcome, Unknown):
                self.ledger.unknown(room, likes=likes)
                continue
            assert isinstance(outcome, Accepted), outcome
            now = time.monotonic()
            self.ledger.accepted(room, outcome.id, now, reliable=True, likes=likes)
            if not likes:
                self.accepted_at[outcome.id] = now
            await asyncio.sleep(0.05)

    async def chat(self) -> None:
        """Write danmaku into the uplink, 200 a second."""
        number = 0
        while not self.stopping:
            for _ in range(10):
                number += 1
                room = ROOMS[number % len(ROOMS)]
                body = msgspec.Raw(msgspec.json.encode(Danmaku(f"弹幕 {number}")))
                record = Uplink(1, room, f"d{number}", f"u{number % 50}", 1, [Item(Kind.DANMAKU, body)])
                await self.write(encode_uplink(record), room)
            await asyncio.sleep(0.05)

    async def chatter(self, room: str, per_s: int) -> None:
        """Write danmaku of one room into the uplink until cancelled, with the time in them."""
        number = 0
        while True:
            for _ in range(per_s // 20):
                number += 1
                body = msgspec.Raw(msgspec.json.encode(Danmaku(f"弹幕 {number} {secrets.token_hex(40)}")))
                record = Uplink(1, room, f"c{number}", f"u{number % 50}", time.time_ns() // 10**6, [Item(Kind.DANMAKU, body)])
                await self.write(encode_uplink(record), room)
            await asyncio.sleep(0.05)

    async def write(self, value: bytes | None, room: str, partition: int | None = None) -> None:
        """Write any bytes into the uplink, as a service with credentials of its own can; also into a wrong partition."""
        await self.producer.send(f"{self.system.prefix}{UPLINK.name}", value, key=room.encode(), partition=partition)

    async def finish(self) -> Exact:
        """Let everything arrive; judge viewers and log."""
        await settled(lambda: self.ledger.verdict(time.monotonic(), settled=True).is_clean, 20)
        verdict = self.ledger.verdict(time.monotonic(), settled=True)
        assert verdict.is_clean, verdict
        exact = await judge_log(self.system.kafka_bootstrap, self.system.prefix, PARTITIONS)
        waited = [self.seen_at[id_] - max(at, min(self.over_at, self.seen_at[id_])) for id_, at in self.accepted_at.items()]
        print(f"accepted {verdict.accepted}, items {exact.items}, void {exact.void}, slowest gift {max(waited):.2f} s")
        assert max(waited) < BUDGET_S
        return exact


@asynccontextmanager
async def show(
    bootstrap: str,
    *,
    broadcasters: int = 1,
    edges: int = 2,
    crowd: int = 0,
    settings: Mapping[str, str] | None = None,
    on_effect: Callable[[str, Effect], None] = lambda *_: None,
) -> AsyncIterator[Show]:
    """Run a system under load while the block runs. Its end stops the load and judges what came of it.

    `crowd`: so many viewers more, whose effects `on_effect` gets too.
    """
    async with AsyncExitStack() as stack:
        system = System(
            bootstrap,
            prefix=f"f{secrets.token_hex(4)}.",
            partitions=PARTITIONS,
            broadcasters=broadcasters,
            edges=edges,
            settings={"KAFKA__SESSION_TIMEOUT_S": "3", "SNAPSHOT_INTERVAL_S": "2"} | dict(settings or {}),
        )
        await stack.enter_async_context(system)
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        stack.push_async_callback(producer.stop)
        await knows_gateways(system, edges)
        ledger = Ledger()
        running = Show(system, producer, ledger)
        for room in ROOMS:
            await Audience(system, room, http, ledger, on_seen=running.seen_at.setdefault).join(stack, 2)
        if crowd:
            running.crowd = await stack.enter_async_context(_crowd(running, crowd, on_effect))
        async with asyncio.TaskGroup() as tasks:
            for number in range(GIVERS):
                tasks.create_task(running.give(http, number))
            chat = tasks.create_task(running.chat())
            await asyncio.sleep(2)
            yield running
            running.stopping = True
            await chat
            await producer.flush()
        running.exact = await running.finish()


@asynccontextmanager
async def _crowd(running: Show, viewers: int, on_effect: Callable[[str, Effect], None]) -> AsyncIterator[Crowd]:
    """Have more viewers, all judged, while the block runs."""

    def observe(viewer: str, effect: Effect) -> None:
        running.ledger.observe(viewer, effect)
        on_effect(viewer, effect)

    crowd = Crowd(running.system.scheduler_url, ROOMS, viewers, joins_per_s=400, sample=1, on_effect=observe)
    try:
        await crowd.start()
        await settled(lambda: crowd.joined == viewers)
        yield crowd
    finally:
        await crowd.stop()
