"""How many gateways there should be, which ones to empty, who should shed. Pure: what was seen and
the time in, one decision out.

Owns the arithmetic. Sizes by the tightest resource at its target, by the trend of joins and by
events that are known before; up fast, down slowly, and never down while anything is unknown:
missing is not zero. Every decision has one reason. Called once a second by the leader and by the
simulator.
"""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

from autoscaler.policy import Policy
from liveroom.records.control import GatewayState, Limits, LoadReport

STALE_S: Final = 3.0
TREND_S: Final = 5.0  # over which the growth is taken
_USUAL_LIMITS: Final = Limits()


class Reason(Enum):
    """Why it was decided so."""

    STEADY = "steady"
    WITHIN_TOLERANCE = "within_tolerance"
    CONNECTIONS = "connections"
    JOINS = "joins"
    CPU = "cpu"
    BYTES = "bytes"
    PACKETS = "packets"
    TREND = "trend"
    EVENT = "event"
    MINIMUM = "minimum"
    MAXIMUM = "maximum"
    WINDOW = "window"
    UNKNOWN = "unknown"
    DRAINING = "draining"
    FEWER = "fewer"
    PAUSED = "paused"


class Seen(NamedTuple):
    """One gateway's newest report, and how old it is."""

    report: LoadReport
    age_s: float

    @property
    def is_known(self) -> bool:
        """Whether the report can be counted with."""
        return self.age_s <= STALE_S and self.report.connections is not None


class Observation(NamedTuple):
    """What there is.

    `running`: gateways that the driver has started and that are not on their way out, warm or not.
    """

    gateways: Sequence[Seen]
    running: int


class History(NamedTuple):
    """What earlier decisions leave behind.

    `since_s`: of the first one. `wishes`: (when, how many were needed) within the window for going
    down. `totals`: (when, viewers by gateway) of the last seconds. `before_event`: viewers there
    were before each event that is on.
    """

    since_s: float | None = None
    last_up_s: float = -math.inf
    last_down_s: float = -math.inf
    totals: tuple[tuple[float, Mapping[str, int]], ...] = ()
    wishes: tuple[tuple[float, int], ...] = ()
    before_event: tuple[tuple[str, int], ...] = ()


class Shed(NamedTuple):
    """A gateway that is to send so many viewers a second elsewhere."""

    gateway: str
    rate_per_s: float


class Decision(NamedTuple):
    """What is to be done.

    `needed`: how many it takes, before limits and windows; `exact`: the same, not rounded; `drain`:
    whom to empty, the emptiest first.
    """

    desired: int
    actual: int
    needed: int
    exact: float
    reason: Reason
    detail: str
    drain: tuple[str, ...]
    shed: tuple[Shed, ...]
    history: History


class _Need(NamedTuple):
    """So many gateways, not rounded, and what for."""

    exact: float
    reason: Reason
    detail: str

    @property
    def gateways(self) -> int:
        return math.ceil(self.exact - 1e-9)


def decide(seen: Observation, history: History, policy: Policy, now_s: float) -> Decision:
    """Decide. `now_s`: seconds since 1970: events are told by the clock."""
    known = [gateway.report for gateway in seen.gateways if gateway.is_known]
    serving = [report for report in known if report.state is GatewayState.SERVING]
    # Who does not report still has its viewers, as far as anybody knows; who is gone has none. So
    # viewers who change their gateway are no growth.
    total = {gateway.report.gateway: gateway.report.connections or 0 for gateway in seen.gateways}
    totals = (*((at_s, many) for at_s, many in history.totals if at_s > now_s - TREND_S - 0.5), (now_s, total))
    # What a gateway has when it is heard for the first time has not just come: it is we who come,
    # or it was not heard for long.
    first = {name: many for _, many_by_name in reversed(totals) for name, many in many_by_name.items()}
    growth = (sum(total.values()) - sum(first.values())) / max(now_s - totals[0][0], TREND_S)
    need, before_event = _need(known, growth, history, policy, now_s)
    wishes = (*((at_s, many) for at_s, many in history.wishes if at_s > now_s - policy.down_window_s), (now_s, need.gateways))
    since_s = now_s if history.since_s is None else history.since_s
    history = history._replace(since_s=since_s, totals=totals, wishes=wishes, before_event=before_event)
    desired, reason, detail = _step(seen, need, history, policy, now_s)
    actual = seen.running
    drain: tuple[str, ...] = ()
    if desired > actual:
        history = history._replace(last_up_s=now_s)
    elif desired < actual:
        history = history._replace(last_down_s=now_s)
        emptiest = sorted(serving, key=lambda report: (report.connections or 0, report.gateway))
        drain = tuple(report.gateway for report in emptiest[: actual - desired])
    shed = _shed([report for report in serving if report.gateway not in drain], policy)
    return Decision(desired, actual, need.gateways, need.exact, reason, detail, drain, shed, history)


def _need(
    known: Sequence[LoadReport], growth_per_s: float, history: History, policy: Policy, now_s: float
) -> tuple[_Need, tuple[tuple[str, int], ...]]:
    """Return how many gateways it takes, and what there was before the events that are on."""
    targets = policy.targets
    connections = sum(report.connections or 0 for report in known)
    limits = [report.limits for report in known] or [_USUAL_LIMITS]
    room = sum(limit.connections for limit in limits) / len(limits) * targets.connections
    needs = [
        _Need(connections / room, Reason.CONNECTIONS, f"{connections} viewers"),
        *(
            _resource(known, name, reason, target)
            for name, reason, target in (
                ("joins_per_s", Reason.JOINS, targets.joins),
                ("cpu", Reason.CPU, targets.cpu),
                ("bytes_per_s", Reason.BYTES, targets.bytes),
                ("packets_per_s", Reason.PACKETS, targets.packets),
            )
        ),
    ]
    ahead_s = policy.warm_up_s + policy.ahead_s
    soon = connections + growth_per_s * ahead_s
    # Less growth is not worth a step, and viewers who change their gateway look like it for a
    # moment.
    if soon > connections * (1 + policy.tolerance):
        needs.append(_Need(soon / room, Reason.TREND, f"{soon:.0f} viewers in {ahead_s:.0f} s"))
    earlier = dict(history.before_event)
    before: dict[str, int] = {}
    for event in policy.events:
        at_s = event.at.timestamp()
        if at_s - event.lead_s <= now_s <= at_s + event.hold_s:
            # Who begins to look in the middle of it sees its crowd among the viewers already.
            unseen = connections if now_s < at_s else max(0, connections - event.viewers)
            before[event.name] = earlier.get(event.name, unseen)
            wanted = before[event.name] + event.viewers
            needs.append(_Need(wanted / room, Reason.EVENT, f"{event.name}: {event.viewers} viewers"))
    return max(needs, key=lambda need: need.exact), tuple(before.items())


def _resource(known: Sequence[LoadReport], name: str, reason: Reason, target: float) -> _Need:
    """Return how many gateways a resource takes: of those that know it, at their mean, for all."""
    used = [(value, getattr(report.limits, name)) for report in known if (value := getattr(report, name)) is not None]
    if not used:
        return _Need(0, reason, "")
    share = sum(value / limit for value, limit in used) / len(used)
    return _Need(share * len(known) / target, reason, f"{reason.value} at {share:.0%} of the limit")


def _step(seen: Observation, need: _Need, history: History, policy: Policy, now_s: float) -> tuple[int, Reason, str]:
    """Return how many there should be after this decision, and why."""
    actual = seen.running
    wanted = min(max(need.gateways, policy.min), policy.max)
    if actual < policy.min:
        return policy.min, Reason.MINIMUM, f"{actual} run"
    if actual > policy.max:
        return policy.max, Reason.MAXIMUM, f"{actual} run"
    if wanted > actual:
        if need.reason is not Reason.EVENT and wanted <= actual * (1 + policy.tolerance):
            return actual, Reason.WITHIN_TOLERANCE, need.detail
        if now_s - history.last_up_s < policy.up_window_s:
            return actual, Reason.WINDOW, need.detail
        most = max(math.floor(actual * policy.step_up), actual + policy.step_up_least)
        return min(wanted, most), need.reason, need.detail
    if need.gateways > policy.max:
        return actual, Reason.MAXIMUM, need.detail
    if wanted == actual:
        return actual, Reason.STEADY, need.detail
    return _step_down(seen, history, policy, now_s)


def _step_down(seen: Observation, history: History, policy: Policy, now_s: float) -> tuple[int, Reason, str]:
    actual = seen.running
    counted = [gateway for gateway in seen.gateways if gateway.report.state is not GatewayState.DRAINING]
    unknown = sum(not gateway.is_known for gateway in counted) + max(0, actual - len(counted))
    if unknown:
        return actual, Reason.UNKNOWN, f"{unknown} gateways do not say how they are"
    if len(counted) < len(seen.gateways):
        return actual, Reason.DRAINING, f"{len(seen.gateways) - len(counted)} are being emptied"
    most = max(policy.min, *(many for _, many in history.wishes))
    if (
        now_s - (history.since_s or now_s) < policy.down_window_s
        or now_s - history.last_down_s < policy.down_window_s
        or now_s - history.last_up_s < policy.down_after_up_s
    ):
        return actual, Reason.WINDOW, f"{most} would do"
    if most >= actual * (1 - policy.tolerance):
        return actual, Reason.WITHIN_TOLERANCE, f"{most} would do"
    least = actual - max(1, math.floor(actual * policy.step_down))
    return max(most, least), Reason.FEWER, f"{most} would do for {policy.down_window_s:.0f} s"


def _shed(serving: Sequence[LoadReport], policy: Policy) -> tuple[Shed, ...]:
    """Return who is to shed, and how fast: until all are even in `shed_s`, no faster than the
    others can take joins.
    """
    if len(serving) < 2:  # noqa: PLR2004 - nobody else is there
        return ()
    mean = sum(report.connections or 0 for report in serving) / len(serving)
    over = [(report, (report.connections or 0) - mean) for report in serving]
    hot = [(report.gateway, excess) for report, excess in over if excess > max(mean * policy.shed_over, 1)]
    room = sum(
        max(0.0, report.limits.joins_per_s * policy.shed_joins - (report.joins_per_s or 0.0))
        for report, excess in over
        if excess < 0
    )
    wanted = sum(excess for _, excess in hot) / policy.shed_s
    if not hot or room <= 0:
        return ()
    pace = min(1.0, room / wanted) / policy.shed_s
    return tuple(Shed(gateway, round(excess * pace, 2)) for gateway, excess in hot)
