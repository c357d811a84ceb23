"""A model of the pool: the real `decide` and `placement`, with modelled gateways, viewers and time.

Owns the model. Gateways warm up, take joins at a limited rate, lose viewers, and report a second
late. Viewers join, are refused, and try again. A scenario has a seed, so it gives the same result
every time. `liveroom simulate`, tests and benchmarks use it. Pure.
"""

import math
from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

from autoscaler.decide import Decision, History, Observation, ReportedGateway, decide
from autoscaler.policy import Policy
from cli.simulate.scenarios import BEGIN_S, Scenario
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


@dataclass(eq=False)
class ModelGateway:
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
    """The state at one second."""

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
class SimulationResult:
    """What a scenario led to.

    `over_limit` counts gateways above their limit, second by second. `refused` counts refused
    joins, `refused_longest_s` is the longest time in which there were any, and `moved` counts
    viewers that a gateway sent elsewhere.
    """

    moments: list[Moment] = field(default_factory=list)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    over_limit: int = 0
    refused: int = 0
    refused_longest_s: float = 0.0
    moved: int = 0

    @property
    def gateway_hours(self) -> float:
        """How long all gateways ran, added up, in hours."""
        return sum(moment.gateways for moment in self.moments) / 3600

    def fullest_vs_mean(self, at_s: float) -> float:
        """Return the fullest gateway's viewers over the mean, at a second of the scenario."""
        moment = next(moment for moment in self.moments if moment.at_s >= at_s)
        return moment.fullest / moment.mean if moment.mean else 1.0

    def turns(self) -> list[float]:
        """Return the seconds at which the pool changed from growing to shrinking, or back."""
        turns, direction = [], 0
        for at_s, decision in self.decisions:
            now = (decision.desired > decision.actual) - (decision.desired < decision.actual)
            if now and now != direction:
                if direction:
                    turns.append(at_s)
                direction = now
        return turns


class Simulation:
    """One scenario, tenth of a second by tenth of a second."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.chance = Chance(scenario.seed)
        self.now_s = 0.0
        self.gateways: dict[str, ModelGateway] = {}
        self.outcome = SimulationResult()
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

    def run(self) -> SimulationResult:
        """Play the scenario to its end and return the result."""
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
        self.gateways[name] = ModelGateway(name, self.now_s + warm_up_s)

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
        """Let viewers that lost their gateway reconnect, with full jitter."""
        back = sorted(self.now_s + self.chance.random() for _ in range(many))
        self._waiting = deque(sorted([*self._waiting, *((at_s, self.now_s) for at_s in back)]))

    def _tick(self) -> int:
        """Let a tenth of a second pass; return how many joins were refused."""
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
        """Let viewers leave, each after its own time."""
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

    def _move(self, gateway: ModelGateway) -> None:
        """Let a gateway that drains or sheds send viewers elsewhere."""
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
        """Send one viewer to a gateway; return whether it joined.

        A viewer that is refused tries again after about a second.
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

    def _report_of(self, gateway: ModelGateway) -> LoadReport:
        if gateway.draining_s < math.inf:
            state = GatewayState.DRAINING
        else:
            state = GatewayState.SERVING if gateway.ready_s <= self.now_s else GatewayState.STARTING
        report = LoadReport(
            v=LoadReport.VERSION,
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
        gateways = [ReportedGateway(report, self.now_s - at_s) for report, at_s in self._seen.values()]
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


def hindsight_hours(outcome: SimulationResult, policy: Policy) -> float:
    """Return the fewest gateway hours that would have been enough.

    They are the gateways that each second's viewers needed, started a warm-up before.
    """
    room = GATEWAY.connections * policy.targets.connections
    warm = int(policy.warm_up_s)
    viewers = [moment.viewers for moment in outcome.moments]
    needed = [max(policy.min, math.ceil(many / room)) for many in viewers]
    return sum(max(needed[second : second + warm + 1]) for second in range(len(needed))) / 3600
