"""The weight of each gateway: its part of the next viewers, by its newest load report. Pure.

A gateway's free share is that of its tightest resource. Its weight is how far that share lies
above the level, `EVEN` less than the mean of all gateways, times the connections it can hold. So a
gateway that just started takes most of the newcomers, and all gateways fill evenly. A gateway whose
processor, network or event loop is over its limit keeps `BUSY_SHARE` of its weight: it gets next to
nobody while others have room, and nobody is refused because all are busy. Called by `placement`.
"""

from itertools import accumulate
from typing import Final

from liveroom.far_times import SKEW_S
from liveroom.records.control import LoadReport

BUSY_SHARE: Final = 0.01
EVEN: Final = 0.05
BETWEEN_REPORTS_S: Final = 2.0
SKEWS: Final = 3


class GatewayLoad:
    """A gateway's newest report, the tickets handed out since that it cannot show yet, and by how
    much its clock is off.

    A ticket counts until the second report after it: the first may have been on its way when the
    ticket was handed out. `free` is the free share of the tightest resource, where viewers on their
    way count as connected. It is kept ready, because draws ask for it far more often than it
    changes.

    `skew_s`: the gateway's time less Kafka's, in seconds; None: unknown. A report that was late on
    its way shows a clock that is behind, so the highest of the last `SKEWS` counts.
    """

    __slots__ = (
        "connections",
        "each",
        "each_join",
        "earlier",
        "free",
        "handed_out",
        "headroom",
        "is_skewed",
        "report",
        "seen_s",
        "skew_s",
        "skews_ms",
        "unused",
    )

    def __init__(self, report: LoadReport, now_s: float, written_ms: int | None = None) -> None:
        self.handed_out = 0
        self.earlier = 0
        self.skews_ms: tuple[int, ...] = ()
        self.skew_s: float | None = None
        self.is_skewed = False
        self.update(report, now_s, written_ms)

    def update(self, report: LoadReport, now_s: float, written_ms: int | None = None) -> None:
        """Take a newer report of the same start of the gateway, received at `now_s`.

        `written_ms`: Kafka's time of its record; None: unknown.
        """
        if written_ms is not None:
            self.skews_ms = (*self.skews_ms[1 - SKEWS :], report.at_ms - written_ms)
            self.skew_s = max(self.skews_ms) / 1000
            self.is_skewed = abs(self.skew_s) > SKEW_S
        self.report = report
        self.seen_s = now_s
        self.earlier, self.handed_out = self.handed_out, 0
        self.headroom = _headroom_without_connections(report)
        limits = report.limits
        self.connections = limits.connections
        self.unused = 1.0 - report.connections / limits.connections if report.connections is not None else 0.0
        self.each = 1.0 / limits.connections
        self.each_join = 1.0 / (limits.joins_per_s * BETWEEN_REPORTS_S)
        self.free = self._free()

    def hand_out(self, tickets: int) -> None:
        """Count tickets that the newest report cannot show."""
        self.handed_out += tickets
        self.free = self._free()

    def _free(self) -> float:
        coming = self.handed_out + self.earlier
        free = self.unused - coming * self.each
        if free <= 0.0:
            return 0.0
        tightest = min(self.headroom, 1.0 - coming * self.each_join)
        return min(free, max(tightest, BUSY_SHARE * free))

    def weight(self, level: float) -> float:
        """Return this gateway's part of the newcomers, by its free share above `level`."""
        return self.weight_of(self.free, level)

    def weight_of(self, free: float, level: float) -> float:
        """Return the weight that this gateway has when its free share is `free`."""
        return max(free - level, BUSY_SHARE * free) * self.connections


class WeightedGateways:
    """Gateways with their weights at one moment, as running sums to draw from."""

    __slots__ = ("gateways", "level", "sums", "weights")

    def __init__(self, gateways: list[GatewayLoad]) -> None:
        shares = [(gateway.free, gateway.connections) for gateway in gateways]
        room = sum([connections for _, connections in shares])
        unused = sum([free * connections for free, connections in shares])
        level = self.level = max(0.0, unused / room - EVEN) if room else 0.0
        self.gateways = gateways
        # `weight_of`, written out: a call for each gateway would be half of what a rebuild costs
        self.weights = [max(free - level, BUSY_SHARE * free) * connections for free, connections in shares]
        self.sums = list(accumulate(self.weights))


def _headroom_without_connections(report: LoadReport) -> float:
    """Return the free share of the tightest resource whose use is known.

    An unknown use is not zero: that resource does not count.
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
