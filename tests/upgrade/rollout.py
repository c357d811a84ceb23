"""A rolling upgrade of a whole system under load, and all the way back.

Owns the plan of a rollout, drawn from a seed, and what must hold at its end. By the rule of
docs/compatibility.md the processes of one service are replaced one by one, each when the one before
is ready. The order of the services is the documented one, any other, or all at once.
"""

import asyncio
import json
import secrets
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from itertools import chain, count
from random import Random
from typing import Any, Final, NamedTuple

import aiohttp

from devstack.builds import ROOT, Build
from devstack.processes import Service
from liveroom import metric_catalog
from liveroom.kinds import Role
from liveroom.records.codec import JsonReader, encode_json
from liveroom.records.control import LoadReport, Order, OrderKind
from liveroom.topics import CONTROL, DEAD_LETTER, GATEWAYS
from tests.e2e.audience import settled
from tests.faults.show import PARTITIONS, ROOMS, Show, show
from tests.log import read_all
from tests.upgrade.log import Builds, judge_builds
from tests.upgrade.next_build import EVENT, extended
from viewer.load import Crowd
from viewer.position import MAX_BACKOFF_S

NEXT: Final = Build("the next build", ROOT, launcher="tests.upgrade.next_build")
READERS_FIRST: Final = ("broadcaster", "edge", "scheduler", "ingress")
SESSION_S: Final = 3.0
PAUSE_S: Final = (SESSION_S + 0.5, SESSION_S + 1.5)  # long enough for the others to take over
BETWEEN_S: Final = (0.1, 0.8)
SERVES_S: Final = 15.0
VIEWERS: Final = 60
MOST_LEAVING: Final = 10  # at once
RETURN_S: Final = 2 * MAX_BACKOFF_S
RETURN_SHORT_S: Final = 3.0
CHURN_S: Final = 1.0
COMMAND_S: Final = 0.3
ORDER_S: Final = 1.0
HOLD_S: Final = 1.5  # with one build alone
TAKES_OVER_S: Final = 30.0  # longer than two sessions that end one after the other
RUDE: Final = "rude"
# What must stay 0, of all services
ZERO: Final = (
    metric_catalog.BAD_RECORDS,
    metric_catalog.DEAD_LETTERS,
    metric_catalog.HISTORY_LOST,
    metric_catalog.BALANCE_OFF,
)
# What the next build must have read of its own in a rollout, and what of the last release
STATES: Final = frozenset({"Batch", "RoomState", "PartitionState"})
STATES_OF_OWNERS: Final = STATES - {"Batch"}  # not sure in a short rollout: two owners of the next build must follow each other
OWN: Final = STATES | {"Uplink", "Presence", "LoadReport", "Moderation", "Order", "Ticket"}


class How(Enum):
    """How a process ends before it starts with another build."""

    TERM = "SIGTERM"
    KILL = "kill -9"
    PAUSE = "a pause, then kill -9"


class Step(NamedTuple):
    """One step of a lane: a process gets another build, after `wait_s`.

    `how` None: it is only paused for `pause_s`, so that another process takes its partitions over.
    """

    service: str
    build: Build
    how: How | None
    wait_s: float
    pause_s: float

    def __str__(self) -> str:
        if self.how is None:
            return f"{self.service} pauses for {self.pause_s:.1f} s"
        return f"{self.service} to {self.build.name} by {self.how.value}"


Lane = list[Step]


class Manner(Enum):
    """In which order the services are replaced; docs/compatibility.md allows all of them."""

    BY_READERS = "readers before writers"
    ANY = "in any order"
    AT_ONCE = "all services at once"


class Rollout(NamedTuple):
    """The plan: the lanes to the next build, and those back, which run at once.

    Each lane has the processes of one service; or there is one lane, with all of them.
    """

    manner: Manner
    there: list[Lane]
    back: list[Lane]


class Report(NamedTuple):
    """What a rollout came to. `turns`: how often a partition went from one build to the other."""

    manner: str
    took_s: float
    slowest_s: float
    accepted: int
    turns: int


def draw(chance: Random, names: Mapping[str, Sequence[str]], old: Build, *, short: bool) -> Rollout:
    """Draw a rollout of these processes, by service. `short`: see `roll`.

    In one of the two directions, partitions are handed back to the build that is leaving. In the
    other one, an owner is paused while both builds run.
    """
    hands_back = chance.random() < 0.5
    hows = [How.TERM, How.KILL] if short else list(How)
    there = [_lane(chance, service, names[service], NEXT, old, hows, hands_back=hands_back) for service in READERS_FIRST]
    back = [_lane(chance, service, names[service], old, NEXT, hows, hands_back=not hands_back) for service in READERS_FIRST]
    match manner := Manner.AT_ONCE if short else chance.choice(list(Manner)):
        case Manner.BY_READERS:
            return Rollout(manner, [list(chain(*there))], [list(chain(*reversed(back)))])
        case Manner.ANY:
            return Rollout(manner, [_merged(chance, there)], [_merged(chance, back)])
        case Manner.AT_ONCE:
            return Rollout(manner, there, back)


def _merged(chance: Random, lanes: Sequence[Lane]) -> Lane:
    """Return one lane with the steps of all, each lane's in their order."""
    turns = [steps for lane in lanes for steps in [iter(lane)] * len(lane)]
    chance.shuffle(turns)
    return [next(lane) for lane in turns]


def _lane(
    chance: Random, service: str, names: Sequence[str], to: Build, of: Build, hows: Sequence[How], *, hands_back: bool
) -> Lane:
    def step(name: str, build: Build) -> Step:
        return Step(name, build, chance.choice(hows), chance.uniform(*BETWEEN_S), chance.uniform(*PAUSE_S))

    first, *others = chance.sample(names, len(names))
    lane = [step(first, to)]
    if service == "broadcaster" and hands_back:
        lane += [step(first, of), step(first, to)]
    elif service == "broadcaster":
        lane.append(step(chance.choice(names), to)._replace(how=None))
    return lane + [step(name, to) for name in others]


async def roll(bootstrap: str, seed: int, old: Build, *, short: bool = False) -> Report:
    """Run a system of `old`, upgrade it and go back, under load; raise AssertionError for a defect.

    There are two broadcasters and gateways, and two ingresses and schedulers unless it is `short`:
    then all services are upgraded at once, no process is paused before it is killed, and viewers
    that take long to come back are not waited for.
    """
    began_s = time.monotonic()
    async with show(
        bootstrap,
        broadcasters=2,
        edges=2,
        ingresses=1 if short else 2,
        schedulers=1 if short else 2,
        crowd=VIEWERS,
        settings={"KAFKA__SESSION_TIMEOUT_S": str(int(SESSION_S))},
        build=old,
    ) as running:
        chance = Random(seed)
        names: dict[str, list[str]] = {}
        for service in running.system.services:
            names.setdefault(service.module, []).append(service.name)
        plan = draw(chance, names, old, short=short)
        own = OWN - STATES_OF_OWNERS if short else OWN
        print(f"  {plan.manner.value}", flush=True)
        upgrade = _Upgrade(running)
        async with upgrade.traffic(chance, RETURN_SHORT_S if short else RETURN_S):
            await upgrade.walk(plan.there)
            await upgrade.has_read_its_own(own)
            await upgrade.check_rules()
            await asyncio.sleep(HOLD_S)
            await upgrade.walk(plan.back)
            builds = await upgrade.is_back()
            await upgrade.check_rules()
            await asyncio.sleep(HOLD_S)
        for service in running.system.services:
            await upgrade.check_metrics(service)
        await asyncio.to_thread(_check_logs, running.system.services, own)
        await _check_dead_letters(running)
    return Report(plan.manner.value, time.monotonic() - began_s, running.slowest_s, len(running.gifts), builds.turns)


class _Upgrade:
    """Walks through the lanes of a rollout."""

    def __init__(self, running: Show) -> None:
        self._running = running
        self._began_s = time.monotonic()
        self._services = {service.name: service for service in running.system.services}

    async def walk(self, lanes: Sequence[Lane]) -> None:
        """Go through all steps of one direction."""
        async with asyncio.TaskGroup() as tasks:
            for lane in lanes:
                tasks.create_task(self._walk_lane(lane))

    async def _walk_lane(self, lane: Lane) -> None:
        for step in lane:
            await asyncio.sleep(step.wait_s)
            print(f"  {time.monotonic() - self._began_s:4.1f} s  {step}", flush=True)
            service = self._services[step.service]
            await self.check_metrics(service)
            if step.how in {None, How.PAUSE}:
                await self._pause(service, step.pause_s)
            if step.how is not None:
                await self._end(service, step.how)
                service.build = step.build
                await service.start_ready()
                await self._serves(service)

    async def _pause(self, service: Service, pause_s: float) -> None:
        if service.module == "broadcaster":
            self._running.befalls(service)
        service.kill(signal.SIGSTOP)
        await asyncio.sleep(pause_s)
        service.kill(signal.SIGCONT)

    async def _end(self, service: Service, how: How) -> None:
        if how is How.TERM:
            assert await service.stop() == 0, service.name
            return
        if service.module == "broadcaster":
            self._running.befalls(service)
        service.kill()
        await service.ended()

    async def _serves(self, service: Service) -> None:
        """Wait until a gateway has viewers: by the rule it serves before the next one ends."""
        end = time.monotonic() + SERVES_S
        while service.module == "edge" and not (await service.metrics())[metric_catalog.CONNECTIONS.name]:
            assert time.monotonic() < end, f"{service.name} got no viewers"
            await asyncio.sleep(0.1)

    async def has_read_its_own(self, wanted: frozenset[str]) -> None:
        """Wait until processes of the next build have read these records of the next build.

        After kill -9 of two owners in a row, a partition has an owner again only when the sessions
        of both are over. What does not come is left to `_check_logs`.
        """
        services, end = list(self._services.values()), time.monotonic() + TAKES_OVER_S
        while time.monotonic() < end:
            if await asyncio.to_thread(_records_read, services, own=True) >= wanted:
                return
            await asyncio.sleep(0.2)

    async def is_back(self) -> Builds:
        """Wait until owners of the last release have written what the next build left to them."""
        system, end = self._running.system, time.monotonic() + TAKES_OVER_S
        while True:
            builds = await judge_builds(system.kafka_bootstrap, system.prefix, PARTITIONS)
            if builds.turns >= 2 and builds.kept and builds.kept_rooms:
                return builds
            assert time.monotonic() < end, (
                f"{builds}: no partition went there and back, or no owner of the last release wrote the state of a"
                " partition, or of a room, of the next build again"
            )
            await asyncio.sleep(0.5)

    async def check_metrics(self, service: Service) -> None:
        """Assert that a process met no record that it could not read, and lost nothing."""
        measured = await service.metrics()
        bad = {name: value for name, value in measured.items() if name.startswith(tuple(m.name for m in ZERO)) and value}
        assert not bad, f"{service.name}: {bad}"

    async def check_rules(self) -> None:
        """Assert that the mute of the beginning holds at every ingress."""
        async with aiohttp.ClientSession() as http:
            for ingress in self._running.system.ingresses:
                headers = {"Authorization": f"Bearer {self._running.system.token(RUDE)}"}
                url = f"{ingress.url}/v1/rooms/{ROOMS[0]}/danmaku"
                async with http.post(url, json={"text": "rude"}, headers=headers) as answer:
                    assert (answer.status, (await answer.json())["code"]) == (403, "muted"), ingress.name

    @asynccontextmanager
    async def traffic(self, chance: Random, return_s: float) -> AsyncIterator[None]:
        """Have hosts act and viewers come and go while the block runs.

        A viewer that is still away `return_s` after it has left for good: after losses in a row one
        waits for up to half a minute.
        """
        crowd = self._running.crowd
        assert crowd is not None
        async with aiohttp.ClientSession() as http:
            await self._command(http, 0, "POST", f"rooms/{ROOMS[0]}/mutes", {"user": RUDE, "why": "for good"})
            working = [
                asyncio.create_task(self._host(http)),
                asyncio.create_task(self._churn(crowd, chance)),
                asyncio.create_task(self._pool()),
            ]
            try:
                yield
            finally:
                for task in working:
                    task.cancel()
                ended = await asyncio.gather(*working, return_exceptions=True)
        await settled(lambda: not self._away(crowd), return_s)
        away = self._away(crowd)
        for viewer in away:
            self._running.ledger.left(viewer)
        assert len(away) < VIEWERS / 2, f"away: {away}"
        failed = [error for error in ended if not isinstance(error, asyncio.CancelledError)]
        assert not failed, failed

    def _away(self, crowd: Crowd) -> list[str]:
        """Return the viewers that are in no room at present."""
        here = {link.index for link in crowd.links if link.joined}
        away = [f"crowd-{index}" for index in range(VIEWERS) if index not in here]
        for audience in self._running.audiences:
            away += [audience.name_of(number) for number, viewer in enumerate(audience.viewers) if not viewer.is_open]
        return away

    async def _host(self, http: aiohttp.ClientSession) -> None:
        """Give every kind of command in turn, each to the next ingress."""
        for number in count():
            room = ROOMS[number // 6 % len(ROOMS)]
            commands: list[tuple[str, str, dict[str, Any]]] = [
                ("POST", f"rooms/{room}/announcements", {"text": f"公告 {number}"}),
                ("PATCH", f"rooms/{room}/modes", {"hidden": number % 4 < 2}),
                ("POST", f"rooms/{room}/mutes", {"user": f"user-{number}", "for_s": 60}),
                ("DELETE", f"rooms/{room}/mutes/user-{number - 1}", {}),
                ("PUT", f"rooms/{room}/words/word{number}", {"action": "mask"}),
                ("POST", f"rooms/{room}/clears", {"user": f"user-{number}"}),
            ]
            await self._command(http, number, *commands[number % len(commands)])
            await asyncio.sleep(COMMAND_S)

    async def _command(self, http: aiohttp.ClientSession, number: int, method: str, path: str, body: dict[str, Any]) -> None:
        """Give a command to one ingress after the other, under one id, until one accepts it."""
        ingresses = self._running.system.ingresses
        headers = {
            "Authorization": f"Bearer {self._running.system.token('host', Role.OPERATOR)}",
            "Idempotency-Key": secrets.token_hex(8),
        }
        for attempt in count(number):
            url = f"{ingresses[attempt % len(ingresses)].url}/v1/{path}"
            try:
                async with http.request(
                    method, url, json=body or None, headers=headers, timeout=aiohttp.ClientTimeout(5)
                ) as answer:
                    if answer.status in {200, 202} or (method == "DELETE" and answer.status == 404):
                        return  # this ingress may not know the rule yet, and then there is nothing to lift
                    assert answer.status == 503, (path, answer.status, await answer.text())
            except (aiohttp.ClientError, TimeoutError):
                pass  # it is being replaced
            await asyncio.sleep(0.2)

    async def _churn(self, crowd: Crowd, chance: Random) -> None:
        """Let viewers leave and others come, and cut connections, whose viewers resume.

        Those that stay are cut once at most, so that they are seldom away for long.
        """
        uncut = chance.sample(range(VIEWERS - MOST_LEAVING), VIEWERS - MOST_LEAVING)
        while True:
            await asyncio.sleep(CHURN_S)
            for name in crowd.shrink(VIEWERS - chance.randint(2, MOST_LEAVING)):
                self._running.ledger.left(name)
            await crowd.grow(VIEWERS, 200)
            index = uncut.pop() if uncut else None
            for link in crowd.links:
                if link.index == index and link.transport is not None:
                    link.transport.abort()

    async def _pool(self) -> None:
        """Order gateways to shed a viewer now and then, as the next build's autoscaler does."""
        system = self._running.system
        reports = JsonReader(LoadReport)
        while True:
            await asyncio.sleep(ORDER_S)
            generations: dict[str, int] = {}
            for record in await read_all(system.kafka_bootstrap, f"{system.prefix}{GATEWAYS.name}", [0]):
                if record.value is not None:
                    report = reports.read(record.value)
                    generations[report.gateway] = report.generation
            for gateway, generation in generations.items():
                order = Order(Order.VERSION, gateway, generation, OrderKind.SHED, time.time_ns() // 10**6, "an upgrade", 0.5)
                name, value = f"{system.prefix}{CONTROL.name}", extended(encode_json(order))
                await self._running.producer.send(name, value, key=gateway.encode())


async def _check_dead_letters(running: Show) -> None:
    letters = await read_all(running.system.kafka_bootstrap, f"{running.system.prefix}{DEAD_LETTER.name}", range(PARTITIONS))
    assert not letters, [letter.value for letter in letters[:3]]


def _is_of_client(entry: dict[str, Any]) -> bool:
    """Return whether the Kafka client logged it, or asyncio did for it: it leaves tasks alone, and
    connections that came about while it was being closed.
    """
    logger, event = entry.get("logger", ""), entry["event"]
    return logger.startswith("aiokafka") or (logger == "asyncio" and ("/aiokafka/" in event or "Unclosed AIOKafka" in event))


def _entries(service: Service) -> Iterator[dict[str, Any]]:
    """Yield what a service logged; a line that is no entry of its log is an error."""
    for line in service.log.read_text().splitlines(keepends=True):
        if line.endswith("\n"):  # else it is being written
            yield json.loads(line) if line.startswith("{") else {"level": "error", "event": line.rstrip()}


def _records_read(services: Sequence[Service], *, own: bool) -> frozenset[str]:
    """Return the records that the next build has read: its own, or the last release's."""
    entries = chain.from_iterable(map(_entries, services))
    return frozenset(entry["record"] for entry in entries if entry["event"] == EVENT and entry["own"] is own)


def _check_logs(services: Sequence[Service], wanted: frozenset[str]) -> None:
    """Assert that no service logged an error, and that the next build read what it had written.

    `wanted`: the records of its own that it must have read.

    What the Kafka client logs is left out: it calls every lost connection an error.
    """
    errors: list[str] = []
    ordered: set[str] = set()
    for service in services:
        for entry in _entries(service):
            if entry["event"] == "ordered":
                ordered.add(service.name)
            if entry["level"] in {"error", "critical"} and not _is_of_client(entry):
                errors.append(f"{service.log}: {entry}")
    assert not errors, "\n".join(errors[:10])
    assert ordered == {service.name for service in services if service.module == "edge"}, "a gateway obeyed no order"
    own, foreign = _records_read(services, own=True), _records_read(services, own=False)
    assert own >= wanted, f"the next build never read its own {wanted - own}"
    assert foreign >= STATES, f"the next build never read the last release's {STATES - foreign}"
