"""The pool in a model: the same `decide` and `placement` that run, with gateways, viewers and time
made up.

Owns the model: gateways that warm up, take joins at a limited rate, lose viewers, report a second
late; viewers who come, are refused, come again. Every scenario has a fixed seed, so it gives the
same every time. Called by `liveroom simulate`, tests and benchmarks.
"""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Final, NamedTuple

from autoscaler.decide import Decision, History, Observation, Seen, decide
from autoscaler.policy import Event, Policy
from liveroom.chance import Chance
from liveroom.records.control import GatewayState, Limits, LoadReport
from scheduler.placement import Placement

GATEWAY: Final = Limits(connections=10_000, joins_per_s=500.0)
REPORT_LATE_S: Final = 1.0
TICK_S: Final = 0.1
TICKS: Final = 10
RETRY_S: Final = 1.0
STALE_S: Final = 3.0
DRAIN_S: Final = 20.0
BEGIN_S: Final = datetime(2026, 11, 24, 12, 0, tzinfo=UTC).timestamp()


@dataclass(eq=False)
class Gateway:
    """One gateway of the model."""

    name: str
    ready_s: float
    connections: int = 0
    joined: int = 0
    left: int = 0
    tokens: float = GATEWAY.joins_per_s
    draining_s: float = math.inf
    shed_per_s: float = 0.0
    owed: float = 0.0
    silent: bool = False


class Moment(NamedTuple):
    """How it stood at one second."""

    at_s: float
    viewers: int
    gateways: int
    desired: int
    needed: int
    fullest: int
    mean: float
    refused: int
    reason: str


@dataclass
class Scenario:
    """What happens.

    `joins_per_s`, `stay_s`: by second; `gateways`, `viewers`: at the start, spread evenly; `add`:
    (when, how many).
    """

    name: str
    about: str
    lasts_s: int
    joins_per_s: Callable[[float], float]
    stay_s: float = 1800.0
    gateways: int = 4
    viewers: int = 0
    policy: Policy = field(default_factory=Policy)
    scales: bool = True
    sheds: bool = True
    add: tuple[tuple[float, int], ...] = ()
    fail: tuple[tuple[float, int], ...] = ()
    silence: tuple[tuple[float, float], ...] = ()
    round_robin: bool = False
    seed: int = 1
    replicas: int = 1


@dataclass
class Outcome:
    """What came of it."""

    moments: list[Moment] = field(default_factory=list)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    over_limit: int = 0
    refused: int = 0
    refused_longest_s: float = 0.0
    moved: int = 0

    @property
    def gateway_hours(self) -> float:
        """How long all gateways ran together."""
        return sum(moment.gateways for moment in self.moments) / 3600

    def fullest_vs_mean(self, at_s: float) -> float:
        """How much fuller than the mean the fullest gateway was at a second."""
        moment = next(moment for moment in self.moments if moment.at_s >= at_s)
        return moment.fullest / moment.mean if moment.mean else 1.0

    def turns(self) -> list[float]:
        """When the pool changed its direction."""
        turns, direction = [], 0
        for at_s, decision in self.decisions:
            now = (decision.desired > decision.actual) - (decision.desired < decision.actual)
            if now and now != direction:
                if direction:
                    turns.append(at_s)
                direction = now
        return turns


class World:
    """A scenario under way."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.chance = Chance(scenario.seed)
        self.now_s = 0.0
        self.gateways: dict[str, Gateway] = {}
        self.outcome = Outcome()
        self._history = History()
        self._placements = [Placement(STALE_S, scenario.replicas) for _ in range(scenario.replicas)]
        self._seen: dict[str, tuple[LoadReport, float]] = {}
        self._late: deque[tuple[float, list[LoadReport]]] = deque()
        self._waiting: deque[tuple[float, float]] = deque()
        self._made = 0
        self._turn = 0
        self._coming = 0.0
        self._refusing_since: float | None = None
        for _ in range(scenario.gateways):
            self._start(0.0)
        each, more = divmod(scenario.viewers, scenario.gateways)
        for number, gateway in enumerate(self.gateways.values()):
            gateway.connections = each + (number < more)
        self._report(late_s=0.0)

    def run(self) -> Outcome:
        """Let it happen."""
        for second in range(self.scenario.lasts_s):
            self._happen(second)
            refused = 0
            for _ in range(TICKS):
                refused += self._tick()
            self._report()
            decision = self._decide()
            self._note(refused, decision)
        return self.outcome

    # ---- the world
    def _start(self, warm_up_s: float) -> None:
        self._made += 1
        name = f"edge-{self._made}"
        self.gateways[name] = Gateway(name, self.now_s + warm_up_s)

    def _happen(self, second: int) -> None:
        scenario = self.scenario
        for _ in range(sum(many for at_s, many in scenario.add if at_s == second)):
            self._start(0.0)
        failed = sum(many for at_s, many in scenario.fail if at_s == second)
        for name in self.chance.sample(sorted(self.gateways), failed):
            self._come_back(self.gateways.pop(name).connections)
        for at_s, until_s in scenario.silence:
            if second in {at_s, until_s}:
                for gateway in self.gateways.values():
                    gateway.silent = second == at_s

    def _come_back(self, many: int) -> None:
        """Let viewers who lost their gateway come back, by full jitter."""
        back = sorted(self.now_s + self.chance.random() for _ in range(many))
        self._waiting = deque(sorted([*self._waiting, *((at_s, self.now_s) for at_s in back)]))

    def _tick(self) -> int:
        """Let a tenth of a second pass; return how many were refused."""
        self.now_s = round(self.now_s + TICK_S, 3)
        for gateway in list(self.gateways.values()):
            gateway.tokens = min(GATEWAY.joins_per_s, gateway.tokens + GATEWAY.joins_per_s * TICK_S)
            self._move(gateway)
        self._leave()
        self._coming += self.scenario.joins_per_s(self.now_s) * TICK_S
        new, self._coming = int(self._coming), self._coming % 1
        refused = 0
        for _ in range(new):
            refused += not self._enter(self.now_s)
        while self._waiting and self._waiting[0][0] <= self.now_s:
            refused += not self._enter(self._waiting.popleft()[1])
        return refused

    def _leave(self) -> None:
        """Let viewers leave: each after its own time."""
        gateways = [gateway for gateway in self.gateways.values() if gateway.connections]
        total = sum(gateway.connections for gateway in gateways)
        expected = total * TICK_S / self.scenario.stay_s
        many = int(expected + self.chance.random())
        if not many:
            return
        sums = list(accumulate(gateway.connections for gateway in gateways))
        for _ in range(many):
            gateway = gateways[min(bisect_right(sums, self.chance.random() * total), len(gateways) - 1)]
            if gateway.connections:
                gateway.connections -= 1
                gateway.left += 1

    def _move(self, gateway: Gateway) -> None:
        """Let a gateway send viewers elsewhere: it is being emptied, or sheds."""
        rate = gateway.shed_per_s
        if gateway.draining_s < math.inf:
            left_s = max(TICK_S, gateway.draining_s - self.now_s)
            rate = max(gateway.connections / left_s, 1 / TICK_S)
        gateway.owed += rate * TICK_S
        many = min(int(gateway.owed), gateway.connections)
        gateway.owed -= int(gateway.owed)
        gateway.connections -= many
        gateway.left += many
        self.outcome.moved += many
        for _ in range(many):
            self._enter(self.now_s)
        if gateway.draining_s < math.inf and not gateway.connections:
            del self.gateways[gateway.name]

    def _enter(self, since_s: float) -> bool:
        """Send one viewer to a gateway; say whether it got in.

        Who does not tries again within a second or so.
        """
        for name in self._addresses():
            gateway = self.gateways.get(name)
            if gateway is None or gateway.draining_s < math.inf or gateway.ready_s > self.now_s:
                continue
            if gateway.connections >= GATEWAY.connections or gateway.tokens < 1:
                continue
            gateway.tokens -= 1
            gateway.connections += 1
            gateway.joined += 1
            return True
        again_s = self.now_s + RETRY_S * (0.5 + self.chance.random())
        self._waiting.append((again_s, since_s))  # nearly in order, which is enough
        self.outcome.refused += 1
        return False

    def _addresses(self) -> list[str]:
        if self.scenario.round_robin:
            names = [name for name, gateway in self.gateways.items() if gateway.ready_s <= self.now_s]
            self._turn += 1
            return [names[(self._turn + more) % len(names)] for more in range(min(3, len(names)))]
        self._turn += 1
        placement = self._placements[self._turn % len(self._placements)]
        return [choice.report.gateway for choice in placement.choose(3, self.now_s, self.chance.random)]

    # ---- the pool
    def _report(self, late_s: float = REPORT_LATE_S) -> None:
        reports = [self._report_of(gateway) for gateway in self.gateways.values() if not gateway.silent]
        self._late.append((self.now_s + late_s - 1e-6, reports))
        while self._late and self._late[0][0] <= self.now_s:
            _, arrived = self._late.popleft()
            for report in arrived:
                self._seen[report.gateway] = report, self.now_s
                for placement in self._placements:
                    placement.update(report, self.now_s)

    def _report_of(self, gateway: Gateway) -> LoadReport:
        if gateway.draining_s < math.inf:
            state = GatewayState.DRAINING
        else:
            state = GatewayState.SERVING if gateway.ready_s <= self.now_s else GatewayState.STARTING
        report = LoadReport(
            v=1,
            gateway=gateway.name,
            generation=1,
            state=state,
            at_ms=int((BEGIN_S + self.now_s) * 1000),
            url="",
            host="",
            ip="",
            port=0,
            limits=GATEWAY,
            connections=gateway.connections,
            joins_per_s=float(gateway.joined),
            leaves_per_s=float(gateway.left),
        )
        gateway.joined = gateway.left = 0
        return report

    def _decide(self) -> Decision:
        scenario = self.scenario
        for name in [name for name in self._seen if name not in self.gateways]:
            del self._seen[name]  # the driver knows that it is gone
        gateways = [Seen(report, self.now_s - at_s) for report, at_s in self._seen.values()]
        running = sum(gateway.draining_s == math.inf for gateway in self.gateways.values())
        decision = decide(Observation(gateways, running), self._history, scenario.policy, BEGIN_S + self.now_s)
        self._history = decision.history
        if scenario.scales:
            for _ in range(decision.desired - decision.actual):
                self._start(scenario.policy.warm_up_s)
            for name in decision.drain:
                self.gateways[name].draining_s = self.now_s + DRAIN_S
        if scenario.sheds:
            for gateway in self.gateways.values():
                gateway.shed_per_s = 0.0
            for shed in decision.shed:
                if shed.gateway in self.gateways:
                    self.gateways[shed.gateway].shed_per_s = shed.rate_per_s
        self.outcome.decisions.append((self.now_s, decision))
        return decision

    def _note(self, refused: int, decision: Decision) -> None:
        outcome = self.outcome
        serving = [g.connections for g in self.gateways.values() if g.ready_s <= self.now_s and g.draining_s == math.inf]
        viewers = sum(gateway.connections for gateway in self.gateways.values())
        outcome.over_limit += sum(gateway.connections > GATEWAY.connections for gateway in self.gateways.values())
        if refused:
            self._refusing_since = self.now_s if self._refusing_since is None else self._refusing_since
            outcome.refused_longest_s = max(outcome.refused_longest_s, self.now_s - self._refusing_since + 1)
        else:
            self._refusing_since = None
        outcome.moments.append(
            Moment(
                self.now_s,
                viewers,
                len(self.gateways),
                decision.desired,
                decision.needed,
                max(serving, default=0),
                sum(serving) / len(serving) if serving else 0.0,
                refused,
                decision.reason.value,
            )
        )


def hindsight_hours(outcome: Outcome, policy: Policy) -> float:
    """Return the fewest gateway hours that would have done: at each second what its viewers took,
    started a warm-up before.
    """
    room = GATEWAY.connections * policy.targets.connections
    warm = int(policy.warm_up_s)
    viewers = [moment.viewers for moment in outcome.moments]
    needed = [max(policy.min, math.ceil(many / room)) for many in viewers]
    return sum(max(needed[second : second + warm + 1]) for second in range(len(needed))) / 3600


# ---- what is tried
def _constant(rate: float) -> Callable[[float], float]:
    return lambda _: rate


def even_out(rate: float, *, sheds: bool, round_robin: bool = False, replicas: int = 1) -> Scenario:
    """100,000 viewers on 50 gateways, 10 more are added; so many come and go a second."""
    return Scenario(
        f"even-{rate:.0f}",
        f"100,000 viewers on 50 gateways, 10 added after 10 s; {rate:.0f}/s come and go",
        80,
        _constant(rate),
        stay_s=100_000 / rate,
        gateways=50,
        viewers=100_000,
        scales=False,
        sheds=sheds,
        add=((10, 10),),
        round_robin=round_robin,
        replicas=replicas,
    )


FLASH_S: Final = 300


def flash(*, is_announced: bool, replicas: int = 1) -> Scenario:
    """A star's room: 100,000 viewers come within 60 s."""
    at = datetime.fromtimestamp(BEGIN_S + FLASH_S, UTC)
    events = (Event("star", at, 100_000, lead_s=120.0),) if is_announced else ()
    return Scenario(
        "flash-announced" if is_announced else "flash",
        f"0 to 100,000 viewers within 60 s, {'announced 2 minutes before' if is_announced else 'unannounced'}",
        FLASH_S + 240,
        lambda now_s: 100_000 / 60 if FLASH_S < now_s <= FLASH_S + 60 else 0.0,
        stay_s=7200,
        policy=Policy(min=4, events=events),
        replicas=replicas,
    )


def evening() -> Scenario:
    """A slow evening of four hours, up to some 60,000 viewers."""

    def joins(now_s: float) -> float:
        return 3.0 + 32.0 * math.sin(math.pi * now_s / 14_400) ** 2

    return Scenario(
        "evening", "four hours, up to some 60,000 viewers", 14_400, joins, stay_s=1800, policy=Policy(min=4), viewers=5400
    )


def failures() -> Scenario:
    """Gateways fail, one after the other, at 70% use."""
    return Scenario(
        "failures",
        "70,000 viewers on 12 gateways, of which 1, then 2 fail",
        300,
        _constant(70_000 / 1800),
        gateways=12,
        viewers=70_000,
        policy=Policy(min=4),
        fail=((60, 1), (150, 2)),
    )


def silence() -> Scenario:
    """All reports stop for a minute while the crowd shrinks."""
    return Scenario(
        "silence",
        "all reports stop for a minute while the crowd shrinks",
        1500,
        _constant(2.0),
        stay_s=600,
        gateways=12,
        viewers=60_000,
        policy=Policy(min=4, down_after_up_s=0),
        silence=((600, 660),),
    )


SCENARIOS: Final[dict[str, Callable[[], Scenario]]] = {
    "even-200": lambda: even_out(200, sheds=True),
    "even-2000": lambda: even_out(2000, sheds=True),
    "flash-announced": lambda: flash(is_announced=True),
    "flash": lambda: flash(is_announced=False),
    "evening": evening,
    "failures": failures,
    "silence": silence,
}
