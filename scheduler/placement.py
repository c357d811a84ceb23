"""Chooses gateways for viewers. Pure: takes load reports and the time, returns choices.

Owns which gateways may be chosen, and the draw by weight (`weights`). Never chosen is a gateway
that is stale (judged by when its report came, since its own clock may be off), starting, draining,
full (no connection left), or that does not know its own number of connections. A viewer whose zone
is known goes to a gateway there while one has room. A gateway whose clock is off is chosen only
while no other one may be: it judges tickets by Kafka's time, so it serves, and better than nobody.
Called by `app` and `load_reports`.
"""

from bisect import bisect_right
from collections.abc import Callable
from enum import Enum
from typing import Final, NamedTuple

from liveroom.records.control import GatewayState, LoadReport
from scheduler.weights import GatewayLoad, WeightedGateways

REBUILD_S: Final = 0.1
TRIES_PER_CHOICE: Final = 8


class Standing(Enum):
    """The state of a gateway by which it may or may not be chosen.

    Only OPEN ones are drawn, and SKEWED ones where there is no open one.
    """

    OPEN = "open"
    STALE = "stale"
    STARTING = "starting"
    DRAINING = "draining"
    FULL = "full"
    UNKNOWN = "unknown"
    SKEWED = "skewed"


_TAKING: Final = frozenset({Standing.OPEN, Standing.FULL, Standing.SKEWED})


class Choice(NamedTuple):
    """A gateway a viewer may connect to, and its weight when the sums were made."""

    report: LoadReport
    weight: float


class Known(NamedTuple):
    """A gateway as it is known: its newest report, that report's age, its standing and weight.

    `skew_s`: by how many seconds its clock is ahead of Kafka's; None: unknown.
    """

    report: LoadReport
    age_s: float
    standing: Standing
    weight: float
    skew_s: float | None


class Placement:
    """The gateways as their reports describe them, and the choice among them.

    `stale_s`: the age at which a report no longer counts. `replicas`: how many schedulers hand out
    tickets. None knows the tickets of the others, so each counts its own `replicas` times.
    Otherwise a crowd would be sent to gateways that the other schedulers have filled meanwhile.
    """

    def __init__(self, stale_s: float, replicas: int = 1) -> None:
        self._stale_s = stale_s
        self._replicas = replicas
        self._gateways: dict[str, GatewayLoad] = {}
        self._all = WeightedGateways([])
        self._zones: dict[str, WeightedGateways] = {}
        self._rebuild_at_s = 0.0

    def update(self, report: LoadReport, now_s: float, written_ms: int | None = None) -> None:
        """Take a report that came at `now_s`; ignore one of an earlier start of the gateway.

        `written_ms`: Kafka's time of its record, in Unix milliseconds; None: unknown. Starts are
        told apart by the gateway's clock. So a lower generation counts as a new start once the
        higher one is stale: the clock was ahead then.
        """
        known = self._gateways.get(report.gateway)
        if known is not None and known.report.generation == report.generation:
            before = known.report.state, known.is_skewed
            known.update(report, now_s, written_ms)
            if before != (report.state, known.is_skewed):
                self._rebuild_at_s = now_s
        elif known is None or known.report.generation < report.generation or now_s - known.seen_s > self._stale_s:
            self._gateways[report.gateway] = GatewayLoad(report, now_s, written_ms)
            self._rebuild_at_s = now_s

    def forget(self, gateway: str) -> None:
        """Drop a gateway that withdrew its report."""
        if self._gateways.pop(gateway, None) is not None:
            self._rebuild_at_s = 0.0

    def standing(self, gateway: str, now_s: float) -> Standing | None:
        """Return the standing of a gateway, or None where it is not known."""
        known = self._gateways.get(gateway)
        return self._standing(known, now_s) if known is not None else None

    def all(self, now_s: float) -> list[Known]:
        """Return all gateways with what is known of them, by name."""
        return [
            Known(
                gateway.report,
                now_s - gateway.seen_s,
                self._standing(gateway, now_s),
                gateway.weight(self._all.level),
                gateway.skew_s,
            )
            for _, gateway in sorted(self._gateways.items())
        ]

    def standings(self, now_s: float) -> dict[Standing, int]:
        """Return the number of gateways in each standing."""
        counts = dict.fromkeys(Standing, 0)
        for gateway in self._gateways.values():
            counts[self._standing(gateway, now_s)] += 1
        return counts

    def _standing(self, gateway: GatewayLoad, now_s: float) -> Standing:
        if now_s - gateway.seen_s > self._stale_s:
            return Standing.STALE
        if gateway.report.state is not GatewayState.SERVING:
            return Standing.STARTING if gateway.report.state is GatewayState.STARTING else Standing.DRAINING
        if gateway.report.connections is None:
            return Standing.UNKNOWN
        if gateway.is_skewed:
            return Standing.SKEWED
        return Standing.OPEN if gateway.free > 0 else Standing.FULL

    def choose(self, count: int, now_s: float, uniform: Callable[[], float], zone: str | None = None) -> list[Choice]:
        """Return up to `count` different gateways, drawn by weight, those of `zone` before others.

        The first one is reserved for this viewer. `uniform` returns random numbers in [0, 1).
        The draw uses sums at most `REBUILD_S` old and corrects by rejection for tickets handed out
        since, so it costs the same with 1,000 gateways as with 10. Empty: no gateway has room.
        """
        if now_s >= self._rebuild_at_s:
            self._rebuild(now_s)
        chosen: dict[GatewayLoad, float] = {}
        if zone is not None and (near := self._zones.get(zone)) is not None:
            self._draw(near, chosen, count, now_s, uniform)
        if len(chosen) < count:
            self._draw(self._all, chosen, count, now_s, uniform)
        if not chosen:
            chosen = self._roomiest(now_s)
        for gateway in chosen:
            gateway.hand_out(self._replicas)
            break
        return [Choice(gateway.report, weight) for gateway, weight in chosen.items()]

    def only(self, gateway: str, now_s: float) -> list[Choice]:
        """Return this gateway if it takes viewers, full or not: operators may choose theirs."""
        known = self._gateways.get(gateway)
        if known is None or self._standing(known, now_s) not in _TAKING:
            return []
        return [Choice(known.report, known.weight(self._all.level))]

    def _draw(
        self, among: WeightedGateways, chosen: dict[GatewayLoad, float], count: int, now_s: float, uniform: Callable[[], float]
    ) -> None:
        """Add to `chosen` until there are `count`.

        Only the first one is reserved, so only its weight must be the current one.
        """
        if not among.sums:
            return
        last, total, oldest_s = len(among.sums) - 1, among.sums[-1], now_s - self._stale_s
        count = min(count, len(self._all.gateways))
        for _ in range(TRIES_PER_CHOICE * count):
            index = bisect_right(among.sums, uniform() * total, 0, last)
            gateway = among.gateways[index]
            free = gateway.free
            if free <= 0 or gateway.seen_s < oldest_s or gateway in chosen:
                continue
            if not chosen and uniform() * among.weights[index] >= gateway.weight_of(free, among.level):
                continue
            chosen[gateway] = among.weights[index]
            if len(chosen) == count:
                return

    def _rebuild(self, now_s: float) -> None:
        oldest_s = now_s - self._stale_s
        opened = [
            gateway
            for gateway in self._gateways.values()
            if gateway.seen_s >= oldest_s
            and gateway.free > 0
            and gateway.report.state is GatewayState.SERVING
            and gateway.report.connections is not None
        ]
        opened = [gateway for gateway in opened if not gateway.is_skewed] or opened
        zones: dict[str, list[GatewayLoad]] = {}
        for gateway in opened:
            if gateway.report.zone:
                zones.setdefault(gateway.report.zone, []).append(gateway)
        self._all = WeightedGateways(opened)
        self._zones = {zone: WeightedGateways(gateways) for zone, gateways in zones.items()}
        self._rebuild_at_s = now_s + REBUILD_S

    def _roomiest(self, now_s: float) -> dict[GatewayLoad, float]:
        """Return the one gateway with most room.

        The draw finds none where nearly all room was handed out since the last rebuild.
        """
        by_standing: dict[Standing, list[GatewayLoad]] = {}
        for gateway in self._gateways.values():
            if gateway.free > 0:
                by_standing.setdefault(self._standing(gateway, now_s), []).append(gateway)
        left = by_standing.get(Standing.OPEN) or by_standing.get(Standing.SKEWED) or []
        weights = {gateway: gateway.weight(self._all.level) for gateway in left}
        best = max(left, key=weights.__getitem__, default=None)
        return {best: weights[best]} if best is not None else {}
