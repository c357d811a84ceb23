"""A long run with churn, to see whether any process grows: `python -m tests.soak --minutes 30`.

Viewers join and leave all the time, some by a cut connection, and danmaku, gifts and likes are
sent. Every 10 s the memory and the open files of every process are read. In the first five minutes
viewers join and leave as fast as possible, since a gateway's allocator reaches its level only after
some 100,000 joins. Rooms, caches and the allocator fill in that time; windows of time are short
enough for it.

Prints, for each process, the fitted slope of its memory after these minutes, in percent per 10
minutes, and how many more files it has at the end (a gateway's viewers aside). Exit code 1 if a
slope is above 1%, or if files grow.
"""

import argparse
import asyncio
import random
import secrets
import statistics
import sys
import time
from collections import defaultdict
from contextlib import AsyncExitStack

import aiohttp
import psutil
import uvloop

from devstack.local_kafka import kafka_cluster
from devstack.processes import Service
from devstack.system import System
from liveroom import metric_catalog
from tests.e2e.audience import knows_gateways
from tests.rates import UNLIMITED
from viewer.load import Crowd
from viewer.sender import Sender

ROOMS = 200
VIEWERS = 600
CHURN_S = 2.0
LEAVING = (60, 240)
FIRST_LEAVING = (300, 500)
SENDS_PER_S = 100
READ_S = 10.0
TOKEN_S = 100
DEDUPE_S = 120
PULL_FOR_S = 30
WARM_S = 300.0
MOST_PERCENT = 1.0
MOST_FILES = 20


async def churn(crowd: Crowd, rng: random.Random, warm_s: float) -> None:
    """Let viewers leave and others come, and cut some connections; until it is warm as fast as it
    goes.
    """
    began_s = time.monotonic()
    while True:
        is_warm = time.monotonic() - began_s > warm_s
        await asyncio.sleep(CHURN_S if is_warm else 0)
        crowd.shrink(VIEWERS - rng.randint(*(LEAVING if is_warm else FIRST_LEAVING)))
        await crowd.grow(VIEWERS, 500)
        for link in rng.sample(list(crowd.links), min(5, len(crowd.links))):
            if link.transport is not None:
                link.transport.abort()


async def send(system: System, http: aiohttp.ClientSession, rng: random.Random) -> None:
    """Send a little of everything, of ever new users, into rooms at random."""
    for number in range(sys.maxsize):
        sender = Sender(system.ingress_url, system.token(f"user-{number // 20}", ttl_s=TOKEN_S), http)
        room = f"room-{rng.randrange(ROOMS)}"
        match number % 3:
            case 0:
                await sender.danmaku(room, f"hello {number}")
            case 1:
                await sender.gift(room, "rose")
            case _:
                await sender.like(room, 3)
        await asyncio.sleep(1 / SENDS_PER_S)


def slope_percent(samples: list[tuple[float, int]]) -> float:
    """Return the fitted growth in percent of the mean for 10 minutes."""
    if len(samples) < 3:
        return 0.0
    line = statistics.linear_regression([at for at, _ in samples], [size for _, size in samples])
    return line.slope * 600 / statistics.mean(size for _, size in samples) * 100


async def soak(minutes: float) -> int:
    """Run it; return the exit code."""
    rng = random.Random(1)
    memory: dict[str, list[tuple[float, int]]] = defaultdict(list)
    files: dict[str, list[int]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        bootstrap = await stack.enter_async_context(kafka_cluster())
        system = System(
            bootstrap,
            prefix=f"s{secrets.token_hex(4)}.",
            partitions=4,
            edges=2,
            canaries=1,
            settings={**UNLIMITED, "DEDUPE_S": str(DEDUPE_S), "ADDRESS_PER_S": "0", "PULL_FOR_S": str(PULL_FOR_S)},
        )
        await stack.enter_async_context(system)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        await knows_gateways(system, 2)
        crowd = Crowd(system.scheduler_url, [f"room-{number}" for number in range(ROOMS)], VIEWERS, joins_per_s=300, sample=20)
        await crowd.start()
        warm_s = min(WARM_S, minutes * 60 / 3)
        working = [
            asyncio.create_task(churn(crowd, rng, warm_s)),
            asyncio.create_task(send(system, http, rng)),
            asyncio.create_task(system.watch()),
        ]
        began = time.monotonic()
        while (passed := time.monotonic() - began) < minutes * 60:
            await asyncio.sleep(READ_S)
            for task in working:
                if task.done():
                    task.result()
            if passed < warm_s:
                continue
            for service in system.services:
                size, count = await asyncio.to_thread(_read, service)
                if service.module == "edge":  # its viewers' sockets are no leak, and go from one gateway to the other
                    count -= int((await service.metrics())[metric_catalog.CONNECTIONS.name])
                memory[service.name].append((passed, size))
                files[service.name].append(count)
            if len(files[system.edges[0].name]) % 30 == 0:
                print(
                    f"{passed / 60:4.0f} min",
                    *(f"{name} {read[-1][1] / 1e6:.1f} MB" for name, read in memory.items()),
                    flush=True,
                )
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        await crowd.stop()
    return _tell(memory, files)


def _read(service: Service) -> tuple[int, int]:
    process = psutil.Process(service.pid)
    return process.memory_info().rss, process.num_fds()


def _tell(memory: dict[str, list[tuple[float, int]]], files: dict[str, list[int]]) -> int:
    wrong = int(not memory)
    for name, samples in memory.items():
        percent = slope_percent(samples)
        third = max(1, len(files[name]) // 3)
        more = round(statistics.mean(files[name][-third:]) - statistics.mean(files[name][:third]))
        is_wrong = percent > MOST_PERCENT or more > MOST_FILES
        wrong += is_wrong
        size_mb = samples[-1][1] / 1e6
        print(f"{name:<14} {size_mb:7.1f} MB  {percent:+6.2f}% per 10 min  {more:+4d} files {'GROWS' if is_wrong else ''}")
    return 1 if wrong else 0


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="length of the run (default: 30)")
    sys.exit(uvloop.run(soak(parser.parse_args().minutes)))


if __name__ == "__main__":
    main()
