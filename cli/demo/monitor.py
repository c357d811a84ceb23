"""Reads the counters of a running demo, and makes rates and delays of them for the screen.

Owns what is measured, and over how long.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

import aiohttp

from cli.demo.audience import DemoAudience
from cli.demo.killer import GatewayKiller
from cli.demo.screen import KEYS, KEYS_OF_SURGE, GatewayRow, Screen
from cli.demo.senders import Senders
from cli.figures import quantile
from cli.pool_client import PoolClient, PoolError
from devstack.processes import Service
from devstack.system import System
from liveroom import clock, metric_catalog
from viewer.ledger import Ledger

WINDOW: Final = 10  # readings that rates and delays are taken over
SILENT_S: Final = 3.0
_TIMEOUT_S: Final = 1.0


class _Reading(NamedTuple):
    """The counters at one moment; `edges` has connections and deliveries of those that answered."""

    at_s: float
    sent: int
    delivered: int
    delays_ms: list[float]
    edges: dict[str, tuple[int, float]]


class Monitor:
    """Reads everything that the screen shows.

    `pool` asks the autoscaler, where there is one: then it decides which gateways there are.
    """

    def __init__(
        self,
        system: System,
        rooms: Sequence[str],
        audience: DemoAudience,
        senders: Senders,
        killer: GatewayKiller,
        ledger: Ledger,
        pool: PoolClient | None,
    ) -> None:
        self._system = system
        self._rooms = rooms
        self._audience = audience
        self._senders = senders
        self._killer = killer
        self._ledger = ledger
        self._pool = pool
        self._began_s = clock.monotonic_s()
        self._readings: deque[_Reading] = deque(maxlen=WINDOW)

    async def read(self) -> Screen:
        """Read all counters and return the screen."""
        edges = self._system.edges
        answers = await asyncio.gather(*(self._read_edge(edge) for edge in edges))
        gateways, pool = await self._read_pool()
        figures = self._audience.figures()
        answered = {edge.name: counters for edge, counters in zip(edges, answers, strict=True) if counters is not None}
        observations = self._audience.observations
        delays = observations.take_delays_ms()
        self._readings.append(_Reading(clock.monotonic_s(), self._senders.sent, figures.messages, delays, answered))
        first, last = self._readings[0], self._readings[-1]
        span_s = max(last.at_s - first.at_s, 1e-9)
        ordered = sorted(delay for reading in self._readings for delay in reading.delays_ms)
        return Screen(
            elapsed_s=last.at_s - self._began_s,
            rooms=len(self._rooms),
            viewers=figures.joined,
            wanted=figures.wanted,
            interactions_per_s=(last.sent - first.sent) / span_s,
            deliveries_per_s=(last.delivered - first.delivered) / span_s,
            delay_p50_ms=quantile(ordered, 0.5),
            delay_p99_ms=quantile(ordered, 0.99),
            gateways=gateways or [self._row(edge, first, last, span_s) for edge in edges],
            verdict=self._ledger.verdict(clock.monotonic_s()),
            deaths=[f"{death.service} {death.why}" for death in self._system.deaths],
            last=list(observations.last),
            pool=pool,
            keys=KEYS if self._pool is None else KEYS_OF_SURGE,
        )

    async def _read_edge(self, edge: Service) -> tuple[int, float] | None:
        """Return a gateway's connections and deliveries so far; None if it does not answer."""
        if not edge.running or self._killer.left_s(edge.name) is not None:
            return None
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                metrics = await edge.metrics()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return int(metrics.get(metric_catalog.CONNECTIONS.name, 0)), metrics.get(metric_catalog.DELIVERED_MESSAGES.name, 0.0)

    async def _read_pool(self) -> tuple[list[GatewayRow], str]:
        """Return the gateways as the autoscaler knows them, and its last decision."""
        if self._pool is None:
            return [], ""
        try:
            state = await self._pool.state()
        except PoolError as error:
            return [], str(error)
        gateways = [
            GatewayRow(
                each.id,
                each.state if each.age_s < SILENT_S else f"no report for {each.age_s:.0f} s",
                each.connections,
                is_well=each.state == "serving",
            )
            for each in state.gateways
        ]
        return gateways, f"pool: {state.last}" if state.last is not None else ""

    def _row(self, edge: Service, first: _Reading, last: _Reading, span_s: float) -> GatewayRow:
        state = self._state(edge, last)
        now = last.edges.get(edge.name)
        if now is None:
            return GatewayRow(edge.name, state, is_well=False)
        before = first.edges.get(edge.name)
        rate = (now[1] - before[1]) / span_s if before is not None and now[1] >= before[1] else None
        return GatewayRow(edge.name, state, now[0], rate, is_well=state == "serving")

    def _state(self, edge: Service, last: _Reading) -> str:
        if (left_s := self._killer.left_s(edge.name)) is not None:
            return f"killed, starts again in {left_s:.0f} s" if left_s > 0 else "starting again"
        if not edge.running:
            return f"died, exit code {edge.returncode}"
        return "serving" if edge.name in last.edges else "does not answer"
