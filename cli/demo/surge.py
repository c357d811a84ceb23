"""`liveroom demo --surge`: a crowd joins and leaves, and the pool of gateways follows it.

Owns the play of the crowd, and what must come of it: the pool grows, viewers even out, gateways
drain and stop until the fewest are left.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cli.demo.audience import DemoAudience
from cli.pool_client import PoolClient, PoolState
from devstack.stack import Steps
from liveroom import clock

LEAST: Final = 2
MOST: Final = 8
CALM_SHARE: Final = 0.1
CALM_S: Final = 6.0
RISE_S: Final = 12.0
GROW_S: Final = 40.0
EVEN_S: Final = 20.0
EVEN: Final = 1.25
STAY_S: Final = 5.0
SHRINK_S: Final = 90.0
LOOK_S: Final = 0.5
FULL_GATEWAYS: Final = 4  # the crowd would fill as many completely, so it needs more at the target
POLICY: Final = f"""# A fast pool: its windows are seconds, where a real pool has minutes.
min = {LEAST}
max = {MOST}
step_down = 0.5
down_window_s = 6
down_after_up_s = 6
warm_up_s = 3
ahead_s = 2
shed_over = 0.1
shed_s = 5
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """The number of viewers without the crowd and with it."""

    calm: int
    crowd: int

    @property
    def max_connections(self) -> int:
        """The most connections of one gateway."""
        return max(5, self.crowd // FULL_GATEWAYS)


def plan(viewers: int) -> Plan:
    """Return the plan for a peak of `viewers`."""
    return Plan(max(1, int(viewers * CALM_SHARE)), viewers)


async def surge(audience: DemoAudience, pool_client: PoolClient, steps: Steps, wanted: Plan) -> list[str]:
    """Play the surge; return what should have happened and did not, in words."""
    wrong = []
    await clock.sleep(CALM_S)
    began_s = clock.monotonic_s()
    steps.print(f"{wanted.crowd - wanted.calm:,} more viewers join; a gateway takes {wanted.max_connections:,}")
    await audience.grow(wanted.crowd, (wanted.crowd - wanted.calm) / RISE_S)
    if not await audience.all_joined(GROW_S):
        wrong.append("not all viewers of the crowd joined")
    pool = await _until(pool_client, lambda pool: len(pool.serving) > wanted.crowd / wanted.max_connections, GROW_S)
    steps.print(f"all have joined; the pool has {len(pool.serving)} gateways after {clock.monotonic_s() - began_s:.0f} s")
    if len(pool.serving) <= LEAST:
        wrong.append("the pool did not grow")
    pool = await _until(pool_client, lambda pool: fullest_vs_mean(pool) <= EVEN, EVEN_S)
    steps.print(f"viewers are even: the fullest gateway holds {fullest_vs_mean(pool):.2f} times the mean")
    if fullest_vs_mean(pool) > EVEN:
        wrong.append(f"viewers did not even out: {[(seen.id, seen.connections) for seen in pool.serving]}")
    await clock.sleep(STAY_S)
    audience.shrink(wanted.calm)
    began_s = clock.monotonic_s()
    steps.print(f"the crowd leaves, {wanted.calm:,} viewers stay; gateways drain before they stop")
    pool = await _until(pool_client, lambda pool: len(pool.gateways) <= LEAST, SHRINK_S)
    if len(pool.gateways) > LEAST:
        wrong.append(f"the pool did not shrink: {len(pool.gateways)} gateways still run")
    elif not await audience.all_joined(GROW_S):
        wrong.append("viewers of the gateways that stopped did not reconnect")
    else:
        steps.print(f"the pool has {len(pool.gateways)} gateways again after {clock.monotonic_s() - began_s:.0f} s")
    return wrong


def fullest_vs_mean(pool: PoolState) -> float:
    """Return the fullest gateway's viewers over the mean of all that serve."""
    viewers = [seen.connections or 0 for seen in pool.serving]
    return max(viewers) * len(viewers) / sum(viewers) if any(viewers) else 1.0


async def _until(pool_client: PoolClient, holds: Callable[[PoolState], bool], timeout_s: float) -> PoolState:
    """Return the pool once `holds` is true for it, or after `timeout_s`."""
    deadline = clock.monotonic_s() + timeout_s
    while not holds(pool := await pool_client.state()) and clock.monotonic_s() < deadline:
        await clock.sleep(LOOK_S)
    return pool
