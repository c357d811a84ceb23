"""What seeing it costs: the processor time of an ingress that measures beside one that does not.

The ingress, since its metrics are counted for each interaction; a gateway's for each batch, so for next to nothing.
"""

import json
import secrets
import statistics
import sys
from collections.abc import AsyncIterator

import psutil

from liveroom.cli.localkafka import kafka_cluster
from liveroom.cli.processes import Service, System
from tests.bench._http import cpu_s
from tests.bench.figure import Figure
from tests.bench.ingress import GENEROUS, USERS, danmaku_requests

ROUNDS = 15


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
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
    yield Figure("metrics.overhead", statistics.median(ratios), "share", f"of an ingress; aim: under 0.02; quartiles {spread}")
