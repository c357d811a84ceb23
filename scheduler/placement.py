"""Which gateways a viewer is sent to. Pure: takes load reports and the time, returns choices.

Owns the weights. What counts is the free share of a gateway's tightest resource, and how far it lies above `EVEN` less than
the mean of all: so a gateway that was just started takes most of those who come, and all fill evenly; the weight is that
times the viewers it can hold. Never chosen: a gateway that is stale (by when its report came, its own clock may be off),
starting, draining, full (no connection left), or that does not know its own connections. One whose processor, network or loop
is over its limit keeps a hundredth of its weight: next to nothing while others have room, yet nobody is refused because all
are busy.
"""

from bisect import bisect_right
from collections.abc import Callable
from enum import Enum
from itertools import accumulate
from typing import Final, NamedTuple

from liveroom.records import GatewayState, LoadReport

REBUILD_S: Final = 0.05
TRIES_PER_CHOICE: Final = 8
BUSY_SHARE: Final = 0.01
EVEN: Final = 0.05
BETWEEN_REPORTS_S: Final = 2.0


class Standing(Enum):
    """Why a gateway is or is not chosen."""

    OPEN = "open"
    STALE = "stale"
    STARTING = "starting"
    DRAINING = "draining"
    FULL = "full"
    UNKNOWN = "unknown"


class Choice(NamedTuple):
    """A gateway a viewer may connect to, and its weight at that moment."""

    report: LoadReport
    weight: float


class _Gateway:
    """The newest report of a gateway, and the tickets handed out that it cannot show yet.

    A ticket counts until the second report after it: the first may have been on its way when it was handed out.
    """

    __slots__ = ("earlier", "handed_out", "headroom", "level", "report", "seen_s")

    def __init__(self, report: LoadReport, now_s: float) -> None:
        self.handed_out = 0
        self.earlier = 0
        self.level = 0.0
        self.update(report, now_s)

    def update(self, report: LoadReport, now_s: float) -> None:
        self.report = report
        self.seen_s = now_s
        self.earlier, self.handed_out = self.handed_out, 0
        self.headroom = _headroom_without_connections(report)

    @property
    def free(self) -> float:
        """The free share of the tightest resource, with those counted who are on their way."""
        report = self.report
        if report.connections is None:
            return 0.0
        coming = self.handed_out + self.earlier
        free = 1.0 - (report.connections + coming) / report.limits.connections
        joins = 1.0 - coming / (report.limits.joins_per_s * BETWEEN_REPORTS_S)
        return max(0.0, min(free, max(self.headroom, BUSY_SHARE * free), max(joins, BUSY_SHARE * free)))

    @property
    def weight(self) -> float:
        """How much of those who come it is to get: by what it has free above the level, a little below it too."""
        free = self.free
        return max(free - self.level, BUSY_SHARE * free) * self.report.limits.connections


def _headroom_without_connections(report: LoadReport) -> float:
    """Return the free share of the tightest resource that is known; unknown is not zero, it does not count."""
    limits = report.limits
    pairs = (
        (report.joins_per_s, limits.joins_per_s),
        (report.cpu, limits.cpu),
        (report.loop_lag_ms, limits.loop_lag_ms),
        (report.bytes_per_s, limits.bytes_per_s),
        (report.packets_per_s, limits.packets_per_s),
    )
    return min((1.0 - used / limit for used, limit in pairs if used is not None), default=1.0)


class Placement:
    """The gateways as their reports tell, and the choice among them.

    `replicas`: how many schedulers hand out tickets. None knows of the others', so each counts its own so many times: else a
    crowd would be sent to gateways that the others have filled meanwhile.
    """

    def __init__(self, stale_s: float, replicas: int = 1) -> None:
        self._stale_s = stale_s
        self._replicas = replicas
        self._gateways: dict[str, _Gateway] = {}
        self._open: list[_Gateway] = []
        self._sums: list[float] = []
        self._weights: list[float] = []
        self._rebuild_at_s = 0.0

    def update(self, report: LoadReport, now_s: float) -> None:
        """Take a report. One of an older start of the gateway is ignored: it was overtaken on its way."""
        known = self._gateways.get(report.gateway)
        if known is None or known.report.generation < report.generation:
            self._gateways[report.gateway] = _Gateway(report, now_s)
            self._rebuild_at_s = now_s
        elif known.report.generation == report.generation:
            if known.report.state is not report.state:
                self._rebuild_at_s = now_s
            known.update(report, now_s)

    def forget(self, gateway: str) -> None:
        """Drop a gateway whose report was taken back."""
        if self._gateways.pop(gateway, None) is not None:
            self._rebuild_at_s = 0.0

    def standing(self, gateway: str, now_s: float) -> Standing | None:
        """Return how a gateway stands, None where it is not known."""
        known = self._gateways.get(gateway)
        return self._standing(known, now_s) if known is not None else None

    def standings(self, now_s: float) -> dict[Standing, int]:
        """Return how many gateways stand how."""
        counts = dict.fromkeys(Standing, 0)
        for gateway in self._gateways.values():
            counts[self._standing(gateway, now_s)] += 1
        return counts

    def _standing(self, gateway: _Gateway, now_s: float) -> Standing:
        if now_s - gateway.seen_s > self._stale_s:
            return Standing.STALE
        if gateway.report.state is not GatewayState.SERVING:
            return Standing.STARTING if gateway.report.state is GatewayState.STARTING else Standing.DRAINING
        if gateway.report.connections is None:
            return Standing.UNKNOWN
        return Standing.OPEN if gateway.weight > 0 else Standing.FULL

    def choose(self, count: int, now_s: float, uniform: Callable[[], float]) -> list[Choice]:
        """Return up to `count` different gateways, drawn by weight, the first one reserved for the asker.

        `uniform` gives random numbers in [0, 1). Draws from sums at most 50 ms old and corrects by rejection for what was
        handed out since, so an answer costs the same with 1,000 gateways as with 10.
        """
        if now_s >= self._rebuild_at_s:
            self._rebuild(now_s)
        chosen: dict[str, Choice] = {}
        if self._sums:
            for _ in range(TRIES_PER_CHOICE * count):
                index = min(bisect_right(self._sums, uniform() * self._sums[-1]), len(self._sums) - 1)
                gateway, weight = self._open[index], self._weights[index]
                now = gateway.weight
                fits = now > 0 and gateway.report.gateway not in chosen and uniform() * weight < now
                if fits and self._standing(gateway, now_s) is Standing.OPEN:
                    chosen[gateway.report.gateway] = Choice(gateway.report, now)
                    if len(chosen) == min(count, len(self._open)):
                        break
        if not chosen:
            chosen = self._roomiest(now_s)
        for name in chosen:
            self._gateways[name].handed_out += self._replicas
            break
        return list(chosen.values())

    def _rebuild(self, now_s: float) -> None:
        self._open = [gateway for gateway in self._gateways.values() if self._standing(gateway, now_s) is Standing.OPEN]
        room = sum(gateway.report.limits.connections for gateway in self._open)
        free = sum(gateway.free * gateway.report.limits.connections for gateway in self._open)
        level = free / room - EVEN if room else 0.0
        for gateway in self._open:
            gateway.level = max(0.0, level)
        self._weights = [gateway.weight for gateway in self._open]
        self._sums = list(accumulate(self._weights))
        self._rebuild_at_s = now_s + REBUILD_S

    def _roomiest(self, now_s: float) -> dict[str, Choice]:
        """Return the one gateway with most room: drawing found none because nearly all of it was handed out."""
        left = [gateway for gateway in self._gateways.values() if self._standing(gateway, now_s) is Standing.OPEN]
        best = max(left, key=lambda gateway: gateway.weight, default=None)
        return {best.report.gateway: Choice(best.report, best.weight)} if best is not None else {}
