"""A running system under load, for faults: gifts through ingress, danmaku into uplink, viewers."""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiokafka import AIOKafkaProducer

from devstack.builds import THIS, Build
from devstack.processes import Service
from devstack.system import System
from liveroom.bodies import Danmaku
from liveroom.kinds import Kind
from liveroom.records.uplink import Item, Uplink, encode_uplink
from liveroom.topics import UPLINK, partition_of
from tests.e2e.audience import Audience, knows_gateways, settled
from tests.faults.judge import Exact, judge_log
from viewer.effects import Delivered, Effect, Entered, Lost
from viewer.ledger import Ledger
from viewer.load import Crowd
from viewer.sender import Accepted, Sender, Unknown

PARTITIONS = 4
ROOMS = [f"room-{number}" for number in range(8)]
BUDGET_S = 10.0
GIVERS = 4


class Fault(NamedTuple):
    """Something that gifts may wait for longer than `BUDGET_S`, and which gifts: those under way
    between its two times.

    `viewers`: it holds up these alone. `victim`: it holds up the partitions that this broadcaster
    rules, and those that were held up already. Gifts have until `within_s` after `over_at`. One
    process that dies, or one of three brokers, is no such fault: all gifts arrive in time.
    """

    began_at: float
    over_at: float
    viewers: frozenset[str] | None = None
    victim: str = ""
    within_s: float = BUDGET_S


class Gift(NamedTuple):
    """When its 202 came, and into which room."""

    room: str
    at: float


class Sight(NamedTuple):
    """A viewer got a gift. `entered_at`: since when it had been in the room without a break."""

    viewer: str
    at: float
    entered_at: float


class Wait(NamedTuple):
    """How long a viewer waited for a gift, and how long it might have at most."""

    waited_s: float
    at_most_s: float
    gift: Gift
    sight: Sight


@dataclass
class Show:
    """A system under load, and what became of its gifts: every viewer that sees one must see it in
    time (`waits`).

    A viewer that was away is owed what it missed from its return on.
    """

    system: System
    producer: AIOKafkaProducer
    ledger: Ledger
    budget_s: float = BUDGET_S
    began_at: float = 0.0
    gifts: dict[str, Gift] = field(default_factory=dict)
    sights: dict[str, list[Sight]] = field(default_factory=lambda: defaultdict(list))
    entered_at: dict[str, float] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    audiences: list[Audience] = field(default_factory=list)
    stopping: bool = False
    exact: Exact | None = None
    slowest_s: float = 0.0
    lost: list[tuple[str, Lost]] = field(default_factory=list)
    crowd: Crowd | None = None

    def observe(self, viewer: str, effect: Effect) -> None:
        """Note when a viewer came and what it got; each is in one room."""
        match effect:
            case Entered():
                self.entered_at[viewer] = time.monotonic()
            case Delivered(message=message) if message.rseq:
                self.sights[message.id].append(Sight(viewer, time.monotonic(), self.entered_at[viewer]))
            case Lost():
                self.lost.append((viewer, effect))
            case _:
                pass

    def viewers_of(self, edge: Service) -> frozenset[str]:
        """Return who is connected to a gateway."""
        found = {
            audience.name_of(number)
            for audience in self.audiences
            for number, viewer in enumerate(audience.viewers)
            if viewer.gateway == edge.name
        }
        links = self.crowd.links if self.crowd is not None else ()
        return frozenset(found | {f"crowd-{link.index}" for link in links if urlsplit(link.url).port == edge.port})

    def befalls(self, broadcaster: Service) -> None:
        """Note that a broadcaster is killed or paused now, and that it may be before the one before
        is made good.
        """
        now = time.monotonic()
        self.faults.append(Fault(now, now, victim=broadcaster.name))

    def given(self, began_at: float, over_at: float) -> int:
        """Return how many gifts were accepted in that time."""
        return sum(began_at <= gift.at < over_at for gift in self.gifts.values())

    def waits(self, exact: Exact) -> list[Wait]:
        """Return what became of every gift at every viewer."""
        to_ms = time.time() * 1000 - time.monotonic() * 1000
        faults = sorted(self.faults, key=lambda fault: fault.began_at)
        hit = [
            frozenset(
                partition
                for partition in range(PARTITIONS)
                if not fault.victim or exact.hits(partition, fault.victim, fault.began_at * 1000 + to_ms)
            )
            for fault in faults
        ]
        found: list[Wait] = []
        for id_, gift in self.gifts.items():
            partition = partition_of(gift.room, PARTITIONS)
            mine = [fault for fault, partitions in zip(faults, hit, strict=True) if partition in partitions]
            for sight in self.sights[id_]:
                since = max(gift.at, min(sight.entered_at, sight.at))
                due = since + self.budget_s
                for fault in mine:
                    if fault.viewers is not None and sight.viewer not in fault.viewers:
                        continue
                    if fault.began_at < due and since <= fault.over_at:
                        due = max(due, fault.over_at + fault.within_s)
                found.append(Wait(sight.at - since, due - since, gift, sight))
        return found

    async def give(self, http: aiohttp.ClientSession, number: int) -> None:
        """Give gifts and likes to rooms in turn until told to stop."""
        token = self.system.token(f"giver-{number}")
        url = self.system.ingresses[number % len(self.system.ingresses)].url
        sender = Sender(url, token, http, retries=200)
        once = Sender(url, token, http, retries=0)  # a like that is sent again late may count twice
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
                self.gifts[outcome.id] = Gift(room, now)
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
        """Write any bytes into the uplink, as a service with credentials of its own can; also into
        a wrong partition.
        """
        await self.producer.send(f"{self.system.prefix}{UPLINK.name}", value, key=room.encode(), partition=partition)

    def _due(self) -> str:
        """Say what is still due, and to which viewers."""
        ledger = self.ledger
        behind = {
            viewer: (place.rseq, ledger._rooms[room].rseq, sorted(place.missing)[:5], self.entered_at.get(viewer))
            for (viewer, room), place in ledger._places.items()
            if place.missing or place.rseq < ledger._rooms[room].rseq
        }
        return f"seen by nobody: {list(ledger._awaited)[:5]}; behind (at, of, missing, since): {behind}; now {time.monotonic()}"

    async def finish(self) -> Exact:
        """Let everything arrive; judge viewers and log."""
        await settled(lambda: self.ledger.verdict(time.monotonic(), settled=True).is_clean, 20)
        verdict = self.ledger.verdict(time.monotonic(), settled=True)
        assert verdict.is_clean, f"{verdict}; given up: {self.lost[:5]}, {self._due()}"
        exact = await judge_log(self.system.kafka_bootstrap, self.system.prefix, PARTITIONS)
        waits = self.waits(exact)
        self.slowest_s = max(waits).waited_s
        print(f"accepted {verdict.accepted}, items {exact.items}, void {exact.void}, slowest gift {self.slowest_s:.2f} s")
        assert len(waits) > len(self.gifts), "every gift has several viewers"
        late = [wait for wait in waits if wait.waited_s > wait.at_most_s]
        assert not late, f"{len(late)} of {len(waits)} late, such as {max(late)}"
        if self.crowd is None:  # else gateways are the matter
            assert max(self.entered_at.values()) < self.began_at, "a viewer lost its connection, though no gateway was touched"
        return exact


@asynccontextmanager
async def show(
    bootstrap: str,
    *,
    broadcasters: int = 1,
    edges: int = 2,
    ingresses: int = 1,
    schedulers: int = 1,
    crowd: int = 0,
    settings: Mapping[str, str] | None = None,
    on_effect: Callable[[str, Effect], None] = lambda *_: None,
    build: Build = THIS,
) -> AsyncIterator[Show]:
    """Run a system under load while the block runs. Its end stops the load and judges what came of
    it.

    `crowd`: so many viewers more, whose effects `on_effect` gets too. `build`: the code that the
    services run.
    """
    async with AsyncExitStack() as stack:
        system = System(
            bootstrap,
            prefix=f"f{secrets.token_hex(4)}.",
            partitions=PARTITIONS,
            broadcasters=broadcasters,
            edges=edges,
            ingresses=ingresses,
            schedulers=schedulers,
            build=build,
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
            running.audiences.append(Audience(system, room, http, ledger, on_effect=running.observe))
            await running.audiences[-1].join(stack, 2)
        if crowd:
            running.crowd = await stack.enter_async_context(_crowd(running, crowd, on_effect))
        running.began_at = time.monotonic()
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
        running.observe(viewer, effect)
        on_effect(viewer, effect)

    crowd = Crowd(running.system.scheduler_url, ROOMS, viewers, joins_per_s=400, sample=1, on_effect=observe)
    try:
        await crowd.start()
        await settled(lambda: crowd.joined == viewers)
        yield crowd
    finally:
        await crowd.stop()
