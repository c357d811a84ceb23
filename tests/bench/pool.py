"""The pool and the entry.

The pool is simulated with the code of the services: how evenly gateways fill, its cost against the
cost in hindsight, how long viewers are refused. The entry is measured on the real scheduler with
1,000 gateways: its processor time for an answer, against that of a bare aiohttp handler.
`ROUNDS=2` shortens the entry's part, which takes most of the time.
"""

import itertools
import random
import secrets
import statistics
import sys
import time
from asyncio.subprocess import Process
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import psutil

from autoscaler.decide import History, Observation, ReportedGateway, decide
from autoscaler.policy import Policy
from cli.simulate.model import Simulation, hindsight_hours
from cli.simulate.scenarios import SCENARIOS, even_out
from devstack.local_kafka import kafka_cluster
from devstack.system import System
from liveroom import topics
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.records.control import LoadReport
from scheduler.placement import Placement
from tests.bench._gateways import reports
from tests.bench._http import bare, cpu_s
from tests.bench.figure import Figure, median, rounds

ROUNDS = rounds(9)
DECIDE_ROUNDS = 29
CHOICES = 500
ADDRESSES = 3
STALE_S = 60  # what an answer costs is measured, in processor time: a machine that stands still for 3 s is no finding
GATEWAYS = 1000
KNOWN_WITHIN_S = 120
REQUESTS = 10_000
EVEN_AT_S = 70.0


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    for rate in (200, 2000):
        ours = Simulation(even_out(rate, sheds=True)).run().fullest_vs_mean(EVEN_AT_S)
        plain = Simulation(even_out(rate, sheds=False, round_robin=True)).run().fullest_vs_mean(EVEN_AT_S)
        name = "" if rate == 200 else f"_{rate}"
        yield Figure(
            f"pool.fullest_vs_mean{name}", ours, "ratio", f"60 s after 10 were added to 50, {rate} joins/s; at most 1.10"
        )
        yield Figure(f"pool.fullest_vs_mean_round_robin{name}", plain, "ratio", "the same by turns, without shedding")
    evening = Simulation(scenario := SCENARIOS["evening"]()).run()
    ratio = evening.gateway_hours / hindsight_hours(evening, scenario.policy)
    yield Figure("pool.gateway_hours_vs_hindsight", ratio, "ratio", "an evening; at most 1.25")
    flash = Simulation(SCENARIOS["flash"]()).run()
    yield Figure("pool.refused_longest_s", flash.refused_longest_s, "s", "0 to 100,000 in 60 s, unannounced; at most 20")
    announced = Simulation(SCENARIOS["flash-announced"]()).run()
    yield Figure("pool.refused_announced", announced.refused, "viewers", "the same, announced 2 minutes before; none")
    decisions, sums = _decide_ms()
    about = f"{GATEWAYS} gateways decided on, their reports taken, {CHOICES} viewers placed; a tick is 1 s"
    yield median("pool.decide_1000_ms", decisions, "ms", f"{about}; not a ratio: of this machine alone")
    ratios = [decision / once for decision, once in zip(decisions, sums, strict=True)]
    about = f"one pass of the sums over the same reports and {CHOICES} draws from them: {statistics.median(sums):.2f} ms"
    yield median("pool.decide_1000_vs_sums", ratios, "times", about)
    async for figure in _entry():
        yield figure


async def _entry() -> AsyncIterator[Figure]:
    """Compare the real scheduler, which reads 1,000 reports a second, with a bare handler.

    The bare handler gives the same answer every time: it chooses no gateway, signs no ticket and
    verifies no token.
    """
    prefix = f"b{secrets.token_hex(4)}."
    async with (
        kafka_cluster() as bootstrap,
        System(
            bootstrap, prefix=prefix, partitions=2, edges=0, broadcasters=0, ingresses=0, settings={"STALE_S": str(STALE_S)}
        ) as system,
        bare() as (bare_port, beside),
        _reporting(bootstrap, f"{prefix}{topics.GATEWAYS.name}") as gateways,
    ):
        await system.knows_gateways(GATEWAYS, KNOWN_WITHIN_S)
        scheduler = psutil.Process(system.scheduler.pid)
        users = itertools.count()
        kinds: tuple[tuple[str, Callable[[], str], str], ...] = (
            ("entry.vs_bare", lambda: "", "guests, tickets signed with Ed25519; at least 0.4"),
            ("entry.vs_bare_tokens", lambda: system.token(f"u{next(users)}"), "a token each that was never seen"),
        )
        for name, token, note in kinds:
            ratios = []
            for _ in range(ROUNDS + 1):
                requests = [_request(number, token()) for number in range(REQUESTS)]
                bare_s = await cpu_s(beside, bare_port, requests)
                ratios.append(bare_s / await cpu_s(scheduler, system.scheduler.port, requests))
                assert gateways.returncode is None, "the gateways have stopped reporting"
            yield median(name, ratios[1:], "ratio", f"{GATEWAYS} gateways, {note}")  # the first one warms up


def _request(number: int, token: str) -> bytes:
    who = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET /v1/entry?room=room-{number % 20} HTTP/1.1\r\nHost: 127.0.0.1\r\n{who}\r\n".encode()


@asynccontextmanager
async def _reporting(bootstrap: str, topic: str) -> AsyncIterator[Process]:
    """Let gateways report while the block runs."""
    process = await spawn_tethered([sys.executable, "-m", "tests.bench._gateways", bootstrap, topic, str(GATEWAYS)])
    try:
        yield process
    finally:
        await stop_process(process)


def _decide_ms() -> tuple[list[float], list[float]]:
    """Return for each round the processor time of a tick, and of the sums that every tick needs."""
    seen, rng = reports(GATEWAYS), random.Random(1)
    placement, history, policy = Placement(3.0), History(), Policy(max=2000)
    ticks, sums = [], []
    for second in range(DECIDE_ROUNDS + 1):
        began_s = time.thread_time()
        for report in seen:
            placement.update(report, second)
        history = decide(
            Observation([ReportedGateway(report, 1.0) for report in seen], GATEWAYS), history, policy, float(second)
        ).history
        for number in range(CHOICES):
            placement.choose(ADDRESSES, second + number / CHOICES, rng.random)
        between_s = time.thread_time()
        _sums(seen)
        sums.append((time.thread_time() - between_s) * 1000)
        ticks.append((between_s - began_s) * 1000)
    return ticks[1:], sums[1:]  # the first one warms up


def _sums(seen: Sequence[LoadReport]) -> tuple[float, ...]:
    """Add up use and limits, and draw gateways by their free connections."""
    connections = joins = leaves = cpu = room = most_joins = most_cpu = free = 0.0
    drawn_from = []
    for report in seen:
        limits, used = report.limits, report.connections or 0
        connections += used
        joins += report.joins_per_s or 0.0
        leaves += report.leaves_per_s or 0.0
        cpu += report.cpu or 0.0
        room += limits.connections
        most_joins += limits.joins_per_s
        most_cpu += limits.cpu
        free += limits.connections - used
        drawn_from.append(free)
    for number in range(CHOICES):
        for place in range(ADDRESSES):
            seen[bisect_right(drawn_from, free * (number + place / ADDRESSES) / CHOICES, 0, len(seen) - 1)]
    return connections, joins, leaves, cpu, room, most_joins, most_cpu
