"""Which gateways a viewer is sent to. Pure: takes load reports and the time, returns choices.

Owns the weights. What counts is the free share of a gateway's tightest resource, and how far it
lies above `EVEN` less than the mean of all: so a gateway that was just started takes most of those
who come, and all fill evenly; the weight is that times the viewers it can hold. Never chosen: a
gateway that is stale (by when its report came, its own clock may be off), starting, draining, full
(no connection left), or that does not know its own connections. One whose processor, network or
loop is over its limit keeps a hundredth of its weight: next to nothing while others have room, yet
nobody is refused because all are busy. A viewer whose zone is known goes to a gateway there while
one has room.
"""

from bisect import bisect_right
from collections.abc import Callable
from enum import Enum
from itertools import accumulate
from typing import Final, NamedTuple

from liveroom.records.control import GatewayState, LoadReport

REBUILD_S: Final = 0.1
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
    """A gateway a viewer may connect to, and its weight when the sums were made."""

    report: LoadReport
    weight: float


class Known(NamedTuple):
    """A gateway as it is known: its newest report, how old that is, how it stands, its weight."""

    report: LoadReport
    age_s: float
    standing: Standing
    weight: float


class _Gateway:
    """The newest report of a gateway, and the tickets handed out that it cannot show yet.

    A ticket counts until the second report after it: the first may have been on its way when it was
    handed out. What a report says once is kept as numbers: the free share is asked for far more
    often than reports come.
    """

    __slots__ = ("connections", "each", "each_join", "earlier", "handed_out", "headroom", "report", "seen_s", "unused")

    def __init__(self, report: LoadReport, now_s: float) -> None:
        self.handed_out = 0
        self.earlier = 0
        self.update(report, now_s)

    def update(self, report: LoadReport, now_s: float) -> None:
        self.report = report
        self.seen_s = now_s
        self.earlier, self.handed_out = self.handed_out, 0
        self.headroom = _headroom_without_connections(report)
        limits = report.limits
        self.connections = limits.connections
        self.unused = 1.0 - report.connections / limits.connections if report.connections is not None else 0.0
        self.each = 1.0 / limits.connections
        self.each_join = 1.0 / (limits.joins_per_s * BETWEEN_REPORTS_S)

    @property
    def free(self) -> float:
        """The free share of the tightest resource, with those counted who are on their way."""
        coming = self.handed_out + self.earlier
        free = self.unused - coming * self.each
        if free <= 0.0:
            return 0.0
        tightest = min(self.headroom, 1.0 - coming * self.each_join)
        return min(free, max(tightest, BUSY_SHARE * free))

    def weight(self, level: float) -> float:
        """Return how much of those who come it is to get: by what it has free above the level, a
        little below it too.
        """
        return self.weighed(self.free, level)

    def weighed(self, free: float, level: float) -> float:
        """Return the weight of a gateway with so much free."""
        return max(free - level, BUSY_SHARE * free) * self.connections


class _Urn:
    """Gateways to draw from, with their weights at one moment."""

    __slots__ = ("gateways", "level", "sums", "weights")

    def __init__(self, gateways: list[_Gateway]) -> None:
        free = [gateway.free for gateway in gateways]
        room = sum(gateway.connections for gateway in gateways)
        unused = sum(gateway.connections * share for gateway, share in zip(gateways, free, strict=True))
        self.gateways = gateways
        self.level = max(0.0, unused / room - EVEN) if room else 0.0
        self.weights = [gateway.weighed(share, self.level) for gateway, share in zip(gateways, free, strict=True)]
        self.sums = list(accumulate(self.weights))


def _headroom_without_connections(report: LoadReport) -> float:
    """Return the free share of the tightest resource that is known; unknown is not zero, it does
    not count.
    """
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

    `replicas`: how many schedulers hand out tickets. None knows of the others', so each counts its
    own so many times: else a crowd would be sent to gateways that the others have filled meanwhile.
    """

    def __init__(self, stale_s: float, replicas: int = 1) -> None:
        self._stale_s = stale_s
        self._replicas = replicas
        self._gateways: dict[str, _Gateway] = {}
        self._all = _Urn([])
        self._zones: dict[str, _Urn] = {}
        self._rebuild_at_s = 0.0

    def update(self, report: LoadReport, now_s: float) -> None:
        """Take a report.

        One of an older start of the gateway is ignored: it was overtaken on its way.
        """
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

    def all(self, now_s: float) -> list[Known]:
        """Return all gateways with what is known of them, by name."""
        return [
            Known(gateway.report, now_s - gateway.seen_s, self._standing(gateway, now_s), gateway.weight(self._all.level))
            for _, gateway in sorted(self._gateways.items())
        ]

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
        return Standing.OPEN if gateway.free > 0 else Standing.FULL

    def choose(self, count: int, now_s: float, uniform: Callable[[], float], zone: str | None = None) -> list[Choice]:
        """Return up to `count` different gateways, drawn by weight, those of `zone` before all
        others.

        The first one is reserved for the asker. `uniform` gives random numbers in [0, 1). Draws
        from sums of the last 100 ms and corrects by rejection for what was handed out since, so an
        answer costs the same with 1,000 gateways as with 10.
        """
        if now_s >= self._rebuild_at_s:
            self._rebuild(now_s)
        chosen: dict[_Gateway, float] = {}
        if zone is not None and (near := self._zones.get(zone)) is not None:
            self._draw(near, chosen, count, now_s, uniform)
        if len(chosen) < count:
            self._draw(self._all, chosen, count, now_s, uniform)
        if not chosen:
            chosen = self._roomiest(now_s)
        for gateway in chosen:
            gateway.handed_out += self._replicas
            break
        return [Choice(gateway.report, weight) for gateway, weight in chosen.items()]

    def only(self, gateway: str, now_s: float) -> list[Choice]:
        """Return this gateway if it takes viewers, full or not: for operators who look at it."""
        known = self._gateways.get(gateway)
        if known is None or self._standing(known, now_s) not in {Standing.OPEN, Standing.FULL}:
            return []
        return [Choice(known.report, known.weight(self._all.level))]

    def _draw(self, urn: _Urn, chosen: dict[_Gateway, float], count: int, now_s: float, uniform: Callable[[], float]) -> None:
        """Add to `chosen` until there are `count`.

        Only the first one is reserved, so only its weight is that of now.
        """
        if not urn.sums:
            return
        last, total, oldest_s = len(urn.sums) - 1, urn.sums[-1], now_s - self._stale_s
        count = min(count, len(self._all.gateways))
        for _ in range(TRIES_PER_CHOICE * count):
            index = bisect_right(urn.sums, uniform() * total, 0, last)
            gateway = urn.gateways[index]
            free = gateway.free
            if free <= 0 or gateway.seen_s < oldest_s or gateway in chosen:
                continue
            if not chosen and uniform() * urn.weights[index] >= gateway.weighed(free, urn.level):
                continue
            chosen[gateway] = urn.weights[index]
            if len(chosen) == count:
                return

    def _rebuild(self, now_s: float) -> None:
        opened = [gateway for gateway in self._gateways.values() if self._standing(gateway, now_s) is Standing.OPEN]
        zones: dict[str, list[_Gateway]] = {}
        for gateway in opened:
            if gateway.report.zone:
                zones.setdefault(gateway.report.zone, []).append(gateway)
        self._all = _Urn(opened)
        self._zones = {zone: _Urn(gateways) for zone, gateways in zones.items()}
        self._rebuild_at_s = now_s + REBUILD_S

    def _roomiest(self, now_s: float) -> dict[_Gateway, float]:
        """Return the one gateway with most room: drawing found none because nearly all of it was
        handed out.
        """
        left = [gateway for gateway in self._gateways.values() if self._standing(gateway, now_s) is Standing.OPEN]
        weights = {gateway: gateway.weight(self._all.level) for gateway in left}
        best = max(left, key=weights.__getitem__, default=None)
        return {best: weights[best]} if best is not None else {}
