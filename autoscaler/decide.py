"""Decides how many gateways there should be, which ones drain, and which ones shed. Pure.

Owns the arithmetic: an observation, the history, the policy and the time go in, one decision comes
out. The size follows the tightest resource at its target, the growth of the last seconds, and
events that are known in advance. The pool grows fast and shrinks slowly, and never shrinks while
anything is unknown: missing is not zero. Every decision has one reason. The leader calls it once a
second, and so does the simulator.
"""

import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

from autoscaler.policy import Policy
from liveroom.records.control import GatewayState, Limits, LoadReport

STALE_S: Final = 3.0
TREND_S: Final = 5.0  # over which growth is measured
_USUAL_LIMITS: Final = Limits()
_Totals = tuple[tuple[float, Mapping[str, int]], ...]


class Reason(Enum):
    """Why a decision is as it is."""

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
    OPERATOR = "operator"
    PAUSED = "paused"


class ReportedGateway(NamedTuple):
    """A gateway's newest report, and its age in seconds."""

    report: LoadReport
    age_s: float

    @property
    def is_known(self) -> bool:
        """Whether the report is fresh and has the number of connections."""
        return self.age_s <= STALE_S and self.report.connections is not None


class Observation(NamedTuple):
    """What the decision is based on.

    `running`: how many gateways the driver has started and does not drain, whether warm or not.
    `least`: how many an operator wants at least. `asked`: which of those that run an operator wants
    drained; others take their place.
    """

    gateways: Sequence[ReportedGateway]
    running: int
    least: int = 0
    asked: tuple[str, ...] = ()


class History(NamedTuple):
    """What earlier decisions leave for later ones. All times are monotonic seconds.

    `since_s`: when the first decision was made. `wishes`: (when, how many were needed) within the
    window for shrinking. `totals`: (when, viewers by gateway) of the last seconds. `before_event`:
    how many viewers there were before each event that is under way.
    """

    since_s: float | None = None
    last_up_s: float = -math.inf
    last_down_s: float = -math.inf
    totals: _Totals = ()
    wishes: tuple[tuple[float, int], ...] = ()
    before_event: tuple[tuple[str, int], ...] = ()


class Shed(NamedTuple):
    """A gateway that should send `rate_per_s` viewers a second elsewhere."""

    gateway: str
    rate_per_s: float


class Decision(NamedTuple):
    """What should happen to the pool.

    `needed`: how many gateways the load needs, before limits and windows. `exact`: the same, not
    rounded. `drain`: which gateways to drain: those that an operator asked for, then the emptiest.
    They are among the `actual` ones; where fewer than `desired` stay, others start.
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
    """How many gateways are needed, not rounded, and for what."""

    exact: float
    reason: Reason
    detail: str

    @property
    def gateways(self) -> int:
        return math.ceil(self.exact - 1e-9)


def decide(seen: Observation, history: History, policy: Policy, now_s: float, unix_s: float | None = None) -> Decision:
    """Return the decision.

    `now_s`: monotonic seconds, in which windows pass whatever the machine's clock does. `unix_s`:
    Unix time, since events have a date; None: the same as `now_s`.
    """
    known = [gateway.report for gateway in seen.gateways if gateway.is_known]
    serving = [report for report in known if report.state is GatewayState.SERVING]
    totals = _totals(seen, history, now_s)
    growth = _growth_per_s(totals)
    need, before_event = _need(known, growth, history, policy, now_s if unix_s is None else unix_s)
    wishes = (*((at_s, many) for at_s, many in history.wishes if at_s > now_s - policy.down_window_s), (now_s, need.gateways))
    since_s = now_s if history.since_s is None else history.since_s
    history = history._replace(since_s=since_s, totals=totals, wishes=wishes, before_event=before_event)
    desired, reason, detail = _step(seen, need, history, policy, now_s)
    actual = seen.running
    drain = _drained(seen.asked, serving, actual - desired)
    if desired > actual:
        history = history._replace(last_up_s=now_s)
    elif desired < actual:
        history = history._replace(last_down_s=now_s)
    elif drain:
        reason, detail = Reason.OPERATOR, "by hand"
    shed = _shed([report for report in serving if report.gateway not in drain], policy)
    return Decision(desired, actual, need.gateways, need.exact, reason, detail, drain, shed, history)


def _totals(seen: Observation, history: History, now_s: float) -> _Totals:
    """Return the viewers by gateway over the last `TREND_S`, the newest last.

    A gateway that does not report still counts with its last viewers, and one that is gone counts
    none. So viewers who change their gateway are no growth.
    """
    total = {gateway.report.gateway: gateway.report.connections or 0 for gateway in seen.gateways}
    return (*((at_s, many) for at_s, many in history.totals if at_s > now_s - TREND_S - 0.5), (now_s, total))


def _growth_per_s(totals: _Totals) -> float:
    """Return by how many viewers a second the pool grew.

    The viewers in a gateway's first report have not just joined: this process has just started, or
    the gateway did not report for long.
    """
    first = {name: many for _, many_by_name in reversed(totals) for name, many in many_by_name.items()}
    since_s, now_s = totals[0][0], totals[-1][0]
    return (sum(totals[-1][1].values()) - sum(first.values())) / max(now_s - since_s, TREND_S)


def _drained(asked: tuple[str, ...], serving: Sequence[LoadReport], fewer: int) -> tuple[str, ...]:
    """Return which gateways drain where there should be `fewer`: those that an operator asked for,
    then those with the fewest viewers, the emptiest first.
    """
    others = [report for report in serving if report.gateway not in asked]
    emptiest = sorted(others, key=lambda report: (report.connections or 0, report.gateway))
    return (*asked, *(report.gateway for report in emptiest[: max(0, fewer - len(asked))]))


def _need(
    known: Sequence[LoadReport], growth_per_s: float, history: History, policy: Policy, unix_s: float
) -> tuple[_Need, tuple[tuple[str, int], ...]]:
    """Return the need, and how many viewers there were before each event that is under way."""
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
    # Smaller growth is not worth a step, and viewers who change their gateway look like growth for
    # a moment.
    if soon > connections * (1 + policy.tolerance):
        needs.append(_Need(soon / room, Reason.TREND, f"{soon:.0f} viewers in {ahead_s:.0f} s"))
    earlier = dict(history.before_event)
    before: dict[str, int] = {}
    for event in policy.events:
        at_s = event.at.timestamp()
        if at_s - event.lead_s <= unix_s <= at_s + event.hold_s:
            # A leader that starts in the middle of an event already counts its crowd.
            unseen = connections if unix_s < at_s else max(0, connections - event.viewers)
            before[event.name] = earlier.get(event.name, unseen)
            wanted = before[event.name] + event.viewers
            needs.append(_Need(wanted / room, Reason.EVENT, f"{event.name}: {event.viewers} viewers"))
    return max(needs, key=lambda need: need.exact), tuple(before.items())


def _resource(known: Sequence[LoadReport], name: str, reason: Reason, target: float) -> _Need:
    """Return the need for a resource: the mean of those that report it, times all gateways."""
    used = [(value, getattr(report.limits, name)) for report in known if (value := getattr(report, name)) is not None]
    if not used:
        return _Need(0, reason, "")
    share = sum(value / limit for value, limit in used) / len(used)
    return _Need(share * len(known) / target, reason, f"{reason.value} at {share:.0%} of the limit")


def _step(seen: Observation, need: _Need, history: History, policy: Policy, now_s: float) -> tuple[int, Reason, str]:
    """Return how many there should be after this decision, and why."""
    actual = seen.running
    least = min(max(policy.min, seen.least), policy.max)
    wanted = min(max(need.gateways, least), policy.max)
    if actual < least:
        return least, Reason.OPERATOR if least > policy.min else Reason.MINIMUM, f"{actual} run"
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
    return _step_down(seen, history, policy, least, now_s)


def _step_down(seen: Observation, history: History, policy: Policy, least: int, now_s: float) -> tuple[int, Reason, str]:
    actual = seen.running
    counted = [gateway for gateway in seen.gateways if gateway.report.state is not GatewayState.DRAINING]
    unknown = sum(not gateway.is_known for gateway in counted) + max(0, actual - len(counted))
    if unknown:
        return actual, Reason.UNKNOWN, f"gateways that do not report: {unknown}"
    if len(counted) < len(seen.gateways):
        return actual, Reason.DRAINING, f"gateways that drain: {len(seen.gateways) - len(counted)}"
    most = max(least, *(many for _, many in history.wishes))
    if (
        now_s - (now_s if history.since_s is None else history.since_s) < policy.down_window_s
        or now_s - history.last_down_s < policy.down_window_s
        or now_s - history.last_up_s < policy.down_after_up_s
    ):
        return actual, Reason.WINDOW, f"{most} would do"
    if most >= actual * (1 - policy.tolerance):
        return actual, Reason.WITHIN_TOLERANCE, f"{most} would do"
    one_step = actual - max(1, math.floor(actual * policy.step_down))
    return max(most, one_step), Reason.FEWER, f"{most} would do for {policy.down_window_s:.0f} s"


def _shed(serving: Sequence[LoadReport], policy: Policy) -> tuple[Shed, ...]:
    """Return which gateways shed, and how fast.

    All should hold equally many viewers in `shed_s`, but no faster than the others can take joins.
    """
    if len(serving) < 2:  # noqa: PLR2004 - there is nowhere to send viewers
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
