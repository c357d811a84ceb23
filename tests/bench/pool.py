"""The pool, in simulation with the code that runs: how even it fills, what it costs beside hindsight, how long it refuses.

And the entry: answers for a second of the scheduler's processor at 1,000 gateways, beside a bare aiohttp handler.
"""

import statistics
import time
from collections.abc import AsyncIterator

from autoscaler.decide import History, Observation, Seen, decide
from autoscaler.policy import Policy
from liveroom.cli.simulation import SCENARIOS, World, even_out, hindsight_hours
from liveroom.records import GatewayState, Limits, LoadReport
from scheduler.placement import Placement
from tests.bench.figure import Figure

ROUNDS = 9
GATEWAYS = 1000
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


def _decide_ms() -> float:
    """Return the time of one tick: a decision, 1,000 reports, 500 placements."""
    reports = [
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
