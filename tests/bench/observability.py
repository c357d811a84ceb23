"""What seeing it costs: the processor time of an ingress that measures beside one that does not.
And what a gateway carries.

The ingress, since its metrics are counted for each interaction; a gateway's for each batch, so for
next to nothing. What a gateway carries is found by `liveroom loadtest`: viewers in one busy room, 3
runs.
"""

import json
import secrets
import statistics
import sys
from collections.abc import AsyncIterator

import psutil
from rich.console import Console

from cli.choices import RampKind
from cli.loadtest.command import LoadOptions, find_limits
from cli.loadtest.knee import Inconclusive
from devstack.local_kafka import kafka_cluster
from devstack.processes import Service
from devstack.stack import Steps
from devstack.system import System
from tests.bench._http import cpu_s
from tests.bench.figure import Figure
from tests.bench.ingress import GENEROUS, USERS, danmaku_requests

ROUNDS = 15
LOAD = LoadOptions(ramps=(RampKind.VIEWERS,), runs=3, first=5000, factor=1.2)


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    yield await _overhead()
    [ramp], wrong = await find_limits(LOAD, Steps(Console(stderr=True)))
    if isinstance(ramp.result, Inconclusive):
        print(f"# loadtest: inconclusive: {ramp.result.why}", flush=True)
        return
    knee = ramp.result.median
    about = f"{knee.resource.value} breaks first, at {knee.there.cpu:.0%} of a core; {wrong or 'nothing lost'}"
    yield Figure("loadtest.knee_viewers", knee.level, "viewers", about)
    yield Figure("loadtest.knee_spread", ramp.result.spread, "share", f"of {len(ramp.result.levels)} runs")


async def _overhead() -> Figure:
    settings = {"RATES": GENEROUS, "ROOM_LIMIT_PER_S": str(10**9)}
    async with (
        kafka_cluster() as bootstrap,
        System(bootstrap, prefix=f"b{secrets.token_hex(4)}.", partitions=4, edges=1, settings=settings) as system,
    ):
        command = (sys.executable, "-m", "tests.bench._unmeasured", "ingress")
        without = Service("ingress-9", "ingress", system.folder, dict(system.ingress.environment), command)
        await without.start_ready()
        try:
            pairs = [(system.ingress, psutil.Process(system.ingress.pid)), (without, psutil.Process(without.pid))]
            requests = danmaku_requests([system.token(f"user-{number}") for number in range(USERS)])
            ratios = []
            for number in range(ROUNDS + 1):
                took = {}
                for service, process in pairs if number % 2 else pairs[::-1]:
                    took[service.name] = await cpu_s(process, service.port, requests)
                ratios.append(took[system.ingress.name] / took[without.name] - 1)
        finally:
            await without.stop()
    ratios = ratios[1:]  # the first one warms up
    spread = json.dumps([round(share, 3) for share in statistics.quantiles(ratios, n=4)])
    return Figure("metrics.overhead", statistics.median(ratios), "share", f"of an ingress; aim: under 0.02; quartiles {spread}")
