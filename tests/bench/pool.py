"""The pool, in simulation with the code that runs: how even it fills, what it costs beside hindsight, how long it refuses.

And the entry: answers for a second of the scheduler's processor at 1,000 gateways, beside a bare aiohttp handler.
"""

import asyncio
import itertools
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Callable

import psutil
from aiokafka import AIOKafkaProducer

from autoscaler.decide import History, Observation, Seen, decide
from autoscaler.policy import Policy
from liveroom import topics
from liveroom.cli.localkafka import kafka_cluster
from liveroom.cli.processes import System
from liveroom.cli.simulation import SCENARIOS, World, even_out, hindsight_hours
from liveroom.records import GatewayState, Limits, LoadReport, encode_json
from scheduler.placement import Placement
from tests.bench._http import bare, cpu_s
from tests.bench.figure import Figure

ROUNDS = 9
GATEWAYS = 1000
REQUESTS = 10_000
EVEN_AT_S = 70.0


async def measure() -> AsyncIterator[Figure]:
    """Give the figures of this group."""
    for rate in (200, 2000):
        ours = World(even_out(rate, sheds=True)).run().fullest_vs_mean(EVEN_AT_S)
        plain = World(even_out(rate, sheds=False, round_robin=True)).run().fullest_vs_mean(EVEN_AT_S)
        name = "" if rate == 200 else f"_{rate}"
        yield Figure(
            f"pool.fullest_vs_mean{name}", ours, "ratio", f"60 s after 10 were added to 50, {rate} joins/s; at most 1.10"
        )
        yield Figure(f"pool.fullest_vs_mean_round_robin{name}", plain, "ratio", "the same by turns, without shedding")
    evening = World(scenario := SCENARIOS["evening"]()).run()
    ratio = evening.gateway_hours / hindsight_hours(evening, scenario.policy)
    yield Figure("pool.gateway_hours_vs_hindsight", ratio, "ratio", "an evening; at most 1.25")
    flash = World(SCENARIOS["flash"]()).run()
    yield Figure("pool.refused_longest_s", flash.refused_longest_s, "s", "0 to 100,000 in 60 s, unannounced; at most 20")
    announced = World(SCENARIOS["flash-announced"]()).run()
    yield Figure("pool.refused_announced", announced.refused, "viewers", "the same, announced 2 minutes before; none")
    yield Figure(
        "pool.decide_1000_ms", _decide_ms(), "ms", f"{GATEWAYS} gateways decided on and their reports placed; a tick is 1 s"
    )
    async for figure in _entry():
        yield figure


async def _entry() -> AsyncIterator[Figure]:
    """Compare the real scheduler, hearing of 1,000 gateways each second from the real Kafka, with a bare handler.

    That one gives the same answer every time: no gateway is chosen, nothing signed, nobody verified.
    """
    prefix = f"b{secrets.token_hex(4)}."
    async with (
        kafka_cluster() as bootstrap,
        System(bootstrap, prefix=prefix, partitions=2, edges=0, broadcasters=0, ingresses=0) as system,
        bare() as (bare_port, beside),
        AIOKafkaProducer(bootstrap_servers=bootstrap, linger_ms=20) as producer,
    ):
        reporting = asyncio.create_task(_report(producer, f"{prefix}{topics.GATEWAYS.name}"))
        while (await system.scheduler.metrics()).get('liveroom_scheduler_gateways{state="open"}', 0) < GATEWAYS:  # noqa: ASYNC110 - its metrics are all there is to ask
            await asyncio.sleep(0.2)
        scheduler = psutil.Process(system.scheduler.pid)
        users = itertools.count()
        kinds: tuple[tuple[str, Callable[[], str], str], ...] = (
            ("entry.vs_bare", lambda: "", "guests; aim: at least 0.6"),
            ("entry.vs_bare_tokens", lambda: system.token(f"u{next(users)}"), "a token each that was never seen"),
        )
        for name, token, note in kinds:
            ratios = []
            for _ in range(ROUNDS + 1):
                requests = [_request(number, token()) for number in range(REQUESTS)]
                bare_s = await cpu_s(beside, bare_port, requests)
                ratios.append(bare_s / await cpu_s(scheduler, system.scheduler.port, requests))
            ratios = ratios[1:]  # the first one warms up
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}, median of {ROUNDS}"
            yield Figure(name, statistics.median(ratios), "ratio", f"{GATEWAYS} gateways, {note}; {spread}")
        reporting.cancel()


def _request(number: int, token: str) -> bytes:
    who = f"Authorization: Bearer {token}\r\n" if token else ""
    return f"GET /v1/entry?room=room-{number % 20} HTTP/1.1\r\nHost: 127.0.0.1\r\n{who}\r\n".encode()


async def _report(producer: AIOKafkaProducer, topic: str) -> None:
    while True:
        for number, report in enumerate(_reports()):
            await producer.send(topic, encode_json(report), key=report.gateway.encode())
            if number % 50 == 0:
                await asyncio.sleep(1 / (GATEWAYS / 50))


def _reports() -> list[LoadReport]:
    return [
        LoadReport(
            1,
            f"e{number}",
            1,
            GatewayState.SERVING,
            0,
            "",
            "",
            "",
            0,
            limits=Limits(),
            connections=number * 7,
            joins_per_s=5.0,
            leaves_per_s=4.0,
            cpu=0.3,
        )
        for number in range(GATEWAYS)
    ]


def _decide_ms() -> float:
    """Return the time of one tick: a decision, 1,000 reports, 500 placements."""
    reports = _reports()
    placement, history, policy, took = Placement(3.0), History(), Policy(max=2000), []
    for second in range(ROUNDS):
        began_s = time.perf_counter()
        for report in reports:
            placement.update(report, second)
        history = decide(
            Observation([Seen(report, 1.0) for report in reports], GATEWAYS), history, policy, float(second)
        ).history
        for number in range(500):
            placement.choose(3, second + number / 500, lambda: 0.5)
        took.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(took)
