"""Measures a gateway under load: its metrics, its process, and how busy the load itself is.

Owns what is read, and how two readings become the measures of a step.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import psutil

from cli.figures import quantile
from cli.loadtest.cores import Cores
from cli.loadtest.knee import Measures
from cli.loadtest.load import GatewayLoad
from cli.loadtest.sinks import Sinks
from devstack.system import System
from liveroom import clock, metric_catalog
from liveroom.closecodes import Close


class Reading(NamedTuple):
    """Everything that a step measures as a difference; CPU times are seconds."""

    at_s: float
    cpu_s: float
    cores: tuple[tuple[float, float], ...]  # busy and all time of each core of the load
    clients_s: tuple[float, ...]
    metrics: dict[str, float]
    came: int
    failed: int
    accepted: int

    def total(self, name: str) -> float:
        """Return a metric of the gateway, summed over its labels."""
        return sum(value for key, value in self.metrics.items() if key == name or key.startswith(f"{name}{{"))


class Meter:
    """Reads one gateway and its load."""

    def __init__(self, system: System, sinks: Sinks, cores: Cores) -> None:
        self._system = system
        self._sinks = sinks
        self._cores = cores
        self._gateway = psutil.Process(system.edges[0].pid)

    async def read(self, accepted: int) -> Reading:
        """Read all counters; `accepted`: messages so far.

        Raises aiohttp.ClientError or TimeoutError where the gateway does not answer, and
        psutil.Error where a process has ended.
        """
        metrics = await self._system.edges[0].metrics()
        return await asyncio.to_thread(self._read, metrics, accepted)

    def _read(self, metrics: dict[str, float], accepted: int) -> Reading:
        used = self._gateway.cpu_times()
        services = [psutil.Process(one.pid) for one in self._system.services if one.module != "edge"]
        clients = [psutil.Process(), *self._sinks.processes, *services]
        times = psutil.cpu_times(percpu=True)
        return Reading(
            clock.monotonic_s(),
            used.user + used.system,
            tuple((sum(times[core]) - times[core].idle, sum(times[core])) for core in self._cores.load),
            tuple(sum(client.cpu_times()[:2]) for client in clients),
            metrics,
            self._sinks.came,
            self._sinks.failed,
            accepted,
        )

    def between(
        self, before: Reading, after: Reading, *, level: float, load: GatewayLoad, delays_ms: Sequence[float], checking: int
    ) -> Measures:
        """Return the measures of a step at `level` from the readings around it.

        `delays_ms` are what the `checking` viewers saw meanwhile.
        """
        passed_s = after.at_s - before.at_s

        def more(metric: str) -> float:
            return after.total(metric) - before.total(metric)

        pushes = more(metric_catalog.DELIVERED_BATCHES.name)
        slow = f'{metric_catalog.CLOSES.name}{{code="{Close.SLOW.value}"}}'
        skipped = more(metric_catalog.SKIPPED.name) + more(slow)
        lag = metric_catalog.LOOP_LAG.name
        wanted = load.messages_per_s * passed_s
        delay_ms = quantile(sorted(delays_ms), 0.99)
        if delay_ms is None and wanted >= 1:
            delay_ms = passed_s * 1000  # nothing came: as late as the step is long
        return Measures(
            level=level,
            cpu=(after.cpu_s - before.cpu_s) / passed_s,
            loop_lag_ms=1000 * more(f"{lag}_sum") / max(more(f"{lag}_count"), 1.0),
            delay_ms=delay_ms,
            skipped=skipped / max(pushes + skipped, 1.0),
            missing=self._missing(before, after, load),
            applied=(after.accepted - before.accepted) / wanted if wanted >= 1 else 1.0,
            client=_busy(before, after),
            connections=self._sinks.joined + checking,
            joins_per_s=more(metric_catalog.JOINS.name) / passed_s,
            packets_per_s=pushes / passed_s,
            bytes_per_s=more(metric_catalog.SENT_BYTES.name) / passed_s,
            rss_bytes=self._gateway.memory_info().rss,
        )

    def _missing(self, before: Reading, after: Reading, load: GatewayLoad) -> float:
        """Return the share of viewers that should be in a room, or have joined, and are not."""
        failed, came = after.failed - before.failed, after.came - before.came
        on_their_way = min(load.turnover_per_s, load.viewers / 2)
        absent = max(0.0, load.viewers - self._sinks.joined - on_their_way)
        return max(absent / max(load.viewers, 1), failed / max(came + failed, load.viewers, 1))


def _busy(before: Reading, after: Reading) -> float:
    """Return how busy the load was: its cores together, or its busiest process."""
    cores = [
        (busy - busy_before) / max(total - total_before, 1e-9)
        for (busy, total), (busy_before, total_before) in zip(after.cores, before.cores, strict=True)
    ]
    passed_s = after.at_s - before.at_s
    processes = [(used - used_before) / passed_s for used, used_before in zip(after.clients_s, before.clients_s, strict=True)]
    return max(sum(cores) / len(cores), *processes)
