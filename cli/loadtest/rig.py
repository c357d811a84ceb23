"""One gateway under load on this machine.

Owns what runs during a load test: a whole system, the gateway on a processor core of its own, the
load on the others. `cli.loadtest.command` decides which loads there are.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import aiohttp
import psutil

from cli.danmaku import default_file, read_file
from cli.loadtest.cores import divided_cores
from cli.loadtest.knee import Measures
from cli.loadtest.load import GatewayLoad, LoadError
from cli.loadtest.meter import Meter
from cli.loadtest.sender import LoadSender
from cli.loadtest.sinks import JOINS_PER_S, Sinks, start_sinks
from devstack.processes import ServiceError
from devstack.stack import Steps, run_stack
from liveroom import clock
from liveroom.chance import Chance
from liveroom.tasks import end_tasks
from viewer.delays import delay_ms
from viewer.effects import Delivered, Effect
from viewer.ledger import Ledger, Verdict
from viewer.load import Crowd

CHECKING: Final = 8
STAYING: Final = 4  # of those that check: the others join again at each step, so they stand behind the crowd
MOST_SINKS: Final = 4
SETTLE_S: Final = 1.5
COME_TIMEOUT_S: Final = 15.0
LEDGER_S: Final = 20.0
_LOOK_S: Final = 0.1
_LEDGER_LOOK_S: Final = 1.0
# What a gateway measures that does not even answer for its metrics.
SILENT: Final = Measures(0, 1, 5000, None, 0, 0, 0, connections=0, joins_per_s=0, packets_per_s=0, bytes_per_s=0, rss_bytes=0)


class Rig:
    """One gateway, its load, and what is measured of it.

    `working` are the tasks without which a measurement means nothing: what ends one is raised.
    """

    def __init__(self, sinks: Sinks, sender: LoadSender, meter: Meter, ledger: Ledger) -> None:
        self.working: list[asyncio.Task[None]] = []
        self.crowd: Crowd | None = None
        self._sinks = sinks
        self._sender = sender
        self._meter = meter
        self._ledger = ledger
        self._load = GatewayLoad()
        self._delays_ms: list[float] = []

    def observe(self, viewer: str, effect: Effect) -> None:
        """Take an effect of a viewer that checks everything."""
        self._ledger.observe(viewer, effect)
        if isinstance(effect, Delivered) and (delay := delay_ms(effect.message.at)) is not None:
            self._delays_ms.append(delay)

    def status(self) -> str:
        """Return the live figures, in a line."""
        delays = sorted(self._delays_ms[-1000:])
        delay = f", delay {delays[len(delays) // 2]:.0f} ms" if delays else ""
        return f"{self._sinks.joined:,} viewers{delay}"

    async def apply(self, load: GatewayLoad) -> None:
        """Put a load on the gateway; return once all viewers are there, or do not come."""
        self._load = self._sender.load = load
        before = self._sinks.joined
        await self._sinks.share(load)
        deadline = clock.monotonic_s() + COME_TIMEOUT_S + abs(load.viewers - before) / JOINS_PER_S
        while abs(self._sinks.joined - load.viewers) > load.turnover_per_s and clock.monotonic_s() < deadline:
            await clock.sleep(_LOOK_S)
        if self.crowd is not None:
            for name in self.crowd.shrink(STAYING):
                self._ledger.left(name)
            await self.crowd.grow(CHECKING, JOINS_PER_S)
        await clock.sleep(SETTLE_S)
        self._check()

    async def settled(self) -> Verdict:
        """Return the ledger's verdict once all that is under way has arrived, or after 20 s."""
        deadline = clock.monotonic_s() + LEDGER_S
        while True:
            verdict = self._ledger.verdict(clock.monotonic_s(), settled=True)
            if verdict.is_clean or clock.monotonic_s() > deadline:
                return verdict
            await clock.sleep(_LEDGER_LOOK_S)

    async def measure(self, level: float, seconds: float) -> Measures:
        """Measure the gateway under its load for `seconds`; `level` is the step's place on a ramp.

        Raises LoadError where a process of the load has ended.
        """
        self._delays_ms.clear()
        try:
            before = await self._meter.read(self._sender.accepted)
            await clock.sleep(seconds)
            after = await self._meter.read(self._sender.accepted)
        except (aiohttp.ClientError, TimeoutError):
            self._check()
            return SILENT._replace(level=level)
        except psutil.Error as error:
            self._check()
            raise LoadError(f"a process has ended: {error}") from None
        self._check()
        return self._meter.between(before, after, level=level, load=self._load, delays_ms=self._delays_ms, checking=CHECKING)

    def _check(self) -> None:
        """Raise what ended a process or a part of the load."""
        for task in self.working:
            if task.done():
                task.result()


@asynccontextmanager
async def run_rig(steps: Steps, chance: Chance, *, rooms: int, most_viewers: int) -> AsyncIterator[Rig]:
    """Run Kafka, the services with one gateway, and the load, while the block runs.

    Raises LoadError where this machine cannot carry a load test.
    """
    names = [f"load-{number}" for number in range(rooms)]
    texts = [line.body for line in (await asyncio.to_thread(read_file, default_file())).lines]
    without = str(100 * most_viewers)
    settings = {
        "RATES": json.dumps({name: {"user_per_s": 0} for name in ("danmaku", "gift")}),
        "USER_REQUESTS_PER_S": "0",
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
            sinks = await start_sinks(context, system, names, max(1, min(MOST_SINKS, len(cores.load) - 1)))
            ledger = Ledger()
            sender = LoadSender(system, ledger, names, set(names[:CHECKING]), texts, chance)
            rig = Rig(sinks, sender, Meter(system, sinks, cores), ledger)
            http = await context.enter_async_context(aiohttp.ClientSession())
            crowd = rig.crowd = Crowd(system.scheduler_url, names, CHECKING, sample=1, on_effect=rig.observe)
            context.push_async_callback(crowd.stop)
            await crowd.start()
            rig.working += [asyncio.create_task(sinks.follow(index)) for index in range(len(sinks.processes))]
            rig.working += [asyncio.create_task(sender.run(http)), asyncio.create_task(system.watch())]
            context.push_async_callback(end_tasks, *rig.working)
            yield rig
