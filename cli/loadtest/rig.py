"""One gateway under load on this machine: a whole system, the gateway on a processor core of its
own, the load on the others.

Owns what is started for a load test, and the measuring of one step. Which steps there are decides
`loadtest`.
"""

import asyncio
import json
import os
import resource
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Final, NamedTuple

import aiohttp
import msgspec
import psutil

from cli.danmaku import default_file, read_file
from cli.loadtest.knee import Measures
from devstack.processes import ServiceError, importing
from devstack.stack import Steps, run_stack
from devstack.system import TICKET_KEY_ID, System
from liveroom import clock
from liveroom.bodies import Danmaku, Gift
from liveroom.chance import Chance
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.closecodes import Close
from liveroom.errors import ExplainedError
from liveroom.kinds import Kind, Role
from liveroom.ports import HOST
from viewer.client import end_tasks
from viewer.ledger import Ledger, Verdict
from viewer.load import Crowd
from viewer.session import Delivered, Effect
from viewer.sink import Setup, State, Wish

CHECKING: Final = 8
MOST_SINKS: Final = 4
JOINS_PER_S: Final = 1000.0
SETTLE_S: Final = 1.5
COME_TIMEOUT_S: Final = 15.0
SEND_EVERY_S: Final = 0.1
MOST_AT_ONCE: Final = 900
SEND_TIMEOUT_S: Final = 5.0
LONGEST_TEXT: Final = 200
ONE_GIFT_IN: Final = 101  # no multiple of a round number of rooms: each room gets its share
STAYING: Final = 4  # of those that check: the others come anew at each step, so they stand behind the crowd
OTHER_FILES: Final = 500
_LOOK_S: Final = 0.1


BOOKS_S: Final = 20.0
# A silent gateway: it does not even answer with its metrics.
SILENT: Final = Measures(0, 1, 5000, None, 0, 0, 0, connections=0, joins_per_s=0, packets_per_s=0, bytes_per_s=0, rss_bytes=0)


class LoadError(ExplainedError):
    """This machine, or a part of the load generator, cannot carry a load test."""


class Load(NamedTuple):
    """What the gateway is to bear: viewers, how many a second come and go, what is said; `plain`:
    without compression.
    """

    viewers: int = 0
    turnover_per_s: float = 0.0
    messages_per_s: float = 100.0
    plain: bool = False


class _Moment(NamedTuple):
    """What is measured as a difference."""

    at_s: float
    cpu_s: float
    cores: tuple[tuple[float, float], ...]
    clients_s: tuple[float, ...]
    gateway: dict[str, float]
    came: int
    failed: int
    accepted: int


class Sinks:
    """The processes with the many viewers."""

    def __init__(self, controls: Sequence[socket.socket], pids: Sequence[int]) -> None:
        self.processes = [psutil.Process(pid) for pid in pids]
        self.states = [State(0, 0, 0, 0, 0, 0) for _ in controls]
        self._controls = controls

    async def wish(self, load: Load) -> None:
        """Share the viewers out among them."""
        many = len(self._controls)
        for index, control in enumerate(self._controls):
            mine = load.viewers // many + (index < load.viewers % many)
            wish = Wish(mine, JOINS_PER_S / many, load.turnover_per_s / many, not load.plain)
            await asyncio.get_running_loop().sock_sendall(control, msgspec.json.encode(wish) + b"\n")

    async def listen(self, index: int) -> None:
        """Take what one of them says, for ever."""
        rest = b""
        while data := await asyncio.get_running_loop().sock_recv(self._controls[index], 65_536):
            *lines, rest = (rest + data).split(b"\n")
            if lines:
                self.states[index] = msgspec.json.decode(lines[-1], type=State)
        raise LoadError("a process of viewers has ended")

    @property
    def joined(self) -> int:
        """Viewers that are in a room."""
        return sum(state.joined for state in self.states)

    @property
    def came(self) -> int:
        """Viewers that came into a room so far."""
        return sum(state.came for state in self.states)

    @property
    def failed(self) -> int:
        """Viewers that came late, were cut or were refused so far."""
        return sum(state.late + state.cut + state.refused for state in self.states)


class Laboratory:
    """One gateway, its load, and what is seen of it."""

    def __init__(
        self, system: System, sinks: Sinks, rooms: Sequence[str], texts: Sequence[Danmaku], cores: "Cores", chance: Chance
    ) -> None:
        self.ledger = Ledger()
        self.load = Load()
        self.working: list[asyncio.Task[None]] = []
        self.crowd: Crowd | None = None
        self._accepted = 0
        self._checked = set(rooms[:CHECKING])
        self._system = system
        self._sinks = sinks
        self._rooms = rooms
        self._texts = texts
        self._cores = cores
        self._chance = chance
        self._gateway = psutil.Process(system.edges[0].pid)
        self._delays_ms: list[float] = []

    def observe(self, viewer: str, effect: Effect) -> None:
        """Take what a viewer that checks saw."""
        self.ledger.observe(viewer, effect)
        if isinstance(effect, Delivered):
            self._delays_ms.append(clock.unix_s() * 1000 - effect.message.at)

    def now(self) -> str:
        """Return the live figures, in a line."""
        delays = sorted(self._delays_ms[-1000:])
        delay = f", delay {delays[len(delays) // 2]:.0f} ms" if delays else ""
        return f"{self._sinks.joined:,} viewers{delay}"

    async def bear(self, load: Load) -> None:
        """Let the gateway bear a load; returns when all are there, or do not come."""
        self.load = load
        before = self._sinks.joined
        await self._sinks.wish(load)
        deadline = clock.monotonic_s() + COME_TIMEOUT_S + abs(load.viewers - before) / JOINS_PER_S
        while abs(self._sinks.joined - load.viewers) > load.turnover_per_s and clock.monotonic_s() < deadline:
            await clock.sleep(_LOOK_S)
        if self.crowd is not None:
            for name in self.crowd.shrink(STAYING):
                self.ledger.left(name)
            await self.crowd.grow(CHECKING, JOINS_PER_S)
        await clock.sleep(SETTLE_S)
        self._check()

    async def books(self) -> Verdict:
        """Return what the viewers that check found, once what was on its way has come."""
        deadline = clock.monotonic_s() + BOOKS_S
        while not (books := self.ledger.verdict(clock.monotonic_s(), settled=True)).is_clean:
            if clock.monotonic_s() > deadline:
                break
            await clock.sleep(1.0)
        return books

    async def measure(self, level: float, seconds: float) -> Measures:
        """Look for a while at how the gateway bears it."""
        self._delays_ms.clear()
        try:
            before = await self._moment()
            await clock.sleep(seconds)
            after = await self._moment()
        except (aiohttp.ClientError, TimeoutError):
            self._check()
            return SILENT._replace(level=level)
        except psutil.Error as error:
            self._check()
            raise LoadError(f"a process has ended: {error}") from None
        self._check()
        return self._between(level, before, after)

    async def send(self, http: aiohttp.ClientSession) -> None:
        """Say what the load wants said, evenly, for ever; one of a hundred is a gift."""
        url = f"{self._system.ingress_url}/v1/interactions"
        token = self._system.token("loadtest", Role.SERVICE, ttl_s=86_400)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        due, number, before_s = 0.0, 0, clock.monotonic_s()
        async with asyncio.TaskGroup() as posts:
            while True:
                await clock.sleep(SEND_EVERY_S)
                now_s = clock.monotonic_s()
                due, before_s = due + (now_s - before_s) * self.load.messages_per_s, now_s
                while due >= 1:
                    many = min(int(due), MOST_AT_ONCE)
                    posts.create_task(self._post(http, url, headers, [self._item(number + each) for each in range(many)]))
                    due, number = due - many, number + many

    def _check(self) -> None:
        """Raise what ended a process or a part of the load."""
        for task in self.working:
            if task.done():
                task.result()

    def _item(self, number: int) -> dict[str, object]:
        danmaku = self._texts[number % len(self._texts)]
        if self.load.plain:  # bytes for viewers, not messages for those who number them
            danmaku = Danmaku((danmaku.text * LONGEST_TEXT)[:LONGEST_TEXT])
        is_gift = number % ONE_GIFT_IN == 0
        return {
            "room": self._rooms[number % len(self._rooms)],
            "user": f"sender-{number % 500}",
            "kind": (Kind.GIFT if is_gift else Kind.DANMAKU).value,
            "id": f"load-{self._chance.token_hex(8)}",
            "data": Gift("rose") if is_gift else danmaku,
        }

    async def _post(
        self, http: aiohttp.ClientSession, url: str, headers: dict[str, str], items: list[dict[str, object]]
    ) -> None:
        try:
            body = msgspec.json.encode({"items": items})
            async with http.post(url, data=body, headers=headers, timeout=aiohttp.ClientTimeout(SEND_TIMEOUT_S)) as answer:
                told = msgspec.json.decode(await answer.read())
                results = told["items"]
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError):
            for item in items:
                self.ledger.unknown(str(item["room"]))
            return
        now_s = clock.monotonic_s()
        for item, result in zip(items, results, strict=True):
            if "code" in result:
                self.ledger.refused()
                continue
            self._accepted += 1
            if item["room"] in self._checked:
                self.ledger.accepted(str(item["room"]), str(item["id"]), now_s, reliable=item["kind"] == Kind.GIFT.value)

    async def _moment(self) -> _Moment:
        metrics = await self._system.edges[0].metrics()
        return await asyncio.to_thread(self._look, metrics)

    def _look(self, metrics: dict[str, float]) -> _Moment:
        used = self._gateway.cpu_times()
        services = [psutil.Process(one.pid) for one in self._system.services if one.module != "edge"]
        clients = [psutil.Process(), *self._sinks.processes, *services]
        times = psutil.cpu_times(percpu=True)
        return _Moment(
            clock.monotonic_s(),
            used.user + used.system,
            tuple((sum(times[core]) - times[core].idle, sum(times[core])) for core in self._cores.load),
            tuple(sum(client.cpu_times()[:2]) for client in clients),
            metrics,
            self._sinks.came,
            self._sinks.failed,
            self._accepted,
        )

    def _between(self, level: float, before: _Moment, after: _Moment) -> Measures:
        passed = after.at_s - before.at_s

        def more(name: str) -> float:
            """Return how much more a metric of the gateway is, all labels together."""
            names = [key for key in after.gateway if key == name or key.startswith(f"{name}{{")]
            return sum(after.gateway[key] - before.gateway.get(key, 0.0) for key in names)

        pushes, delays = more("liveroom_edge_delivered_batches_total"), sorted(self._delays_ms)
        skipped = more("liveroom_edge_skipped_total") + more(f'liveroom_edge_closes_total{{code="{Close.SLOW.value}"}}')
        cores = [
            (busy - busy_before) / max(total - total_before, 1e-9)
            for (busy, total), (busy_before, total_before) in zip(after.cores, before.cores, strict=True)
        ]
        processes = [(used - used_before) / passed for used, used_before in zip(after.clients_s, before.clients_s, strict=True)]
        load = self.load
        failed, came = after.failed - before.failed, after.came - before.came
        on_their_way = min(load.turnover_per_s, load.viewers / 2)
        absent = max(0.0, load.viewers - self._sinks.joined - on_their_way)
        wanted = load.messages_per_s * passed
        delay_ms = delays[min(len(delays) - 1, len(delays) * 99 // 100)] if delays else passed * 1000 if wanted >= 1 else None
        return Measures(
            level=level,
            cpu=(after.cpu_s - before.cpu_s) / passed,
            loop_lag_ms=1000 * more("liveroom_loop_lag_seconds_sum") / max(more("liveroom_loop_lag_seconds_count"), 1.0),
            delay_ms=delay_ms,
            skipped=skipped / max(pushes + skipped, 1.0),
            missing=max(absent / max(load.viewers, 1), failed / max(came + failed, load.viewers, 1)),
            applied=(after.accepted - before.accepted) / wanted if wanted >= 1 else 1.0,
            client=max(sum(cores) / len(cores), *processes),
            connections=self._sinks.joined + CHECKING,
            joins_per_s=more("liveroom_edge_joins_total") / passed,
            packets_per_s=pushes / passed,
            bytes_per_s=more("liveroom_edge_sent_bytes_total") / passed,
            rss_bytes=self._gateway.memory_info().rss,
        )


def most_viewers() -> int:
    """Return how many viewers this machine lets a gateway have: each is an open file."""
    return max(10, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - OTHER_FILES)


class Cores(NamedTuple):
    """Who runs where."""

    load: tuple[int, ...]
    gateway: int


@contextmanager
def divided_cores() -> Iterator[Cores]:
    """Have this process and all it starts run on all cores but one, the gateway's, while the block
    runs.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise LoadError("a load test gives the gateway a core of its own, and this system has no way to do that")
    before = os.sched_getaffinity(0)
    *others, last = sorted(before)
    if not others:
        raise LoadError("a load test takes two processor cores: one for the gateway, one for the load")
    os.sched_setaffinity(0, others)
    try:
        yield Cores(tuple(others), last)
    finally:
        os.sched_setaffinity(0, before)


@asynccontextmanager
async def laboratory(steps: Steps, chance: Chance, *, rooms: int, most_viewers: int) -> AsyncIterator[Laboratory]:
    """Run Kafka, the services with one gateway, the processes of viewers, the viewers that check
    and the sender.
    """
    names = [f"load-{number}" for number in range(rooms)]
    texts = [line.body for line in (await asyncio.to_thread(read_file, default_file())).lines]
    without = str(100 * most_viewers)
    settings = {
        "RATES": json.dumps({name: {"user_per_s": 0} for name in ("danmaku", "gift")}),
        "ROOM_LIMIT_PER_S": without,
        "MAX_CONNECTIONS": without,
        "MAX_JOINS_PER_S": without,
    }
    with divided_cores() as cores:
        async with AsyncExitStack() as context:
            running = run_stack(
                "loadtest", steps, chance, rooms=names, edges=1, partitions=4, page_port=0, throwaway=True, settings=settings
            )
            system = (await context.enter_async_context(running)).system
            pid = system.edges[0].pid
            if pid is None:
                raise ServiceError("the gateway has ended")
            os.sched_setaffinity(pid, {cores.gateway})
            sinks = await _start_sinks(context, system, names, max(1, min(MOST_SINKS, len(cores.load) - 1)))
            here = Laboratory(system, sinks, names, texts, cores, chance)
            http = await context.enter_async_context(aiohttp.ClientSession())
            crowd = here.crowd = Crowd(system.scheduler_url, names, CHECKING, sample=1, on_effect=here.observe)
            context.push_async_callback(crowd.stop)
            await crowd.start()
            here.working += [asyncio.create_task(sinks.listen(index)) for index in range(len(sinks.processes))]
            here.working += [asyncio.create_task(here.send(http)), asyncio.create_task(system.watch())]
            context.push_async_callback(end_tasks, *here.working)
            yield here


async def _start_sinks(context: AsyncExitStack, system: System, rooms: Sequence[str], many: int) -> Sinks:
    edge, generation = system.edges[0], await _generation(system)
    controls, pids = [], []
    for index in range(many):
        ours, theirs = socket.socketpair()
        context.enter_context(ours)
        with theirs:
            command = [sys.executable, "-P", "-m", "viewer.sink", str(theirs.fileno())]
            process = await spawn_tethered(command, pass_fds=[theirs.fileno()], env=importing())
        context.push_async_callback(stop_process, process, grace_s=2.0)
        ours.setblocking(False)
        key = system.ticket_keys[TICKET_KEY_ID]
        setup = Setup(
            HOST, edge.port, edge.name, generation, TICKET_KEY_ID, key, tuple(rooms), f"viewer-{index}", f"127.0.0.{index + 2}"
        )
        await asyncio.get_running_loop().sock_sendall(ours, msgspec.json.encode(setup) + b"\n")
        controls.append(ours)
        pids.append(process.pid)
    return Sinks(controls, pids)


async def _generation(system: System) -> int:
    """Return the start generation of the gateway, as the scheduler knows it."""
    headers = {"Authorization": f"Bearer {system.token('operator', Role.OPERATOR)}"}
    async with aiohttp.ClientSession(headers=headers, raise_for_status=True) as http, asyncio.timeout(COME_TIMEOUT_S):
        while True:
            async with http.get(f"{system.scheduler.url}/v1/gateways") as answer:
                gateways = msgspec.json.decode(await answer.read())["gateways"]
            if gateways and gateways[0]["standing"] == "open":
                return int(gateways[0]["generation"])
            await clock.sleep(_LOOK_S)
