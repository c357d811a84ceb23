"""The pool of gateways: once a second it decides, sends orders to gateways, and uses the driver.

Owns what is known of the gateways, the last decisions, and the order of a scale-in: a gateway gets
the order to drain, and the driver stops it once it is empty or its time is over. The pool changes
nothing while it does not lead, is paused, or runs dry. The leader tells the other autoscalers what
it decides, so that each of them can answer operators. Called by `__main__`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Final, Protocol

import structlog

from autoscaler.by_hand import MAX_ASKED, ByHand
from autoscaler.decide import Decision, History, Observation, Reason, ReportedGateway, decide
from autoscaler.policy import Policy
from liveroom import clock, metric_catalog
from liveroom.records.control import DECISION, Decided, GatewayState, LoadReport, Order, OrderKind
from liveroom.registry import Metrics

FORGET_S: Final = 30.0
KEPT: Final = 600
SHED_AGAIN_S: Final = 10.0
TELL_AGAIN_S: Final = 30.0
TELL_REASON_S: Final = 10.0  # a reason may change every second, and every gateway reads what is told
log = structlog.get_logger()


class Failure(Enum):
    """Why a driver could not act. In all cases the next tick tries again."""

    SILENT = "silent"
    REFUSED = "refused"
    CONFLICT = "conflict"
    THROTTLED = "throttled"
    SERVER = "server"
    OTHER = "other"


class Driver(Protocol):
    """What starts and stops gateways."""

    can_act: bool  # whether orders can be carried out at present; `take` sets it

    async def take(self, *, may_act: bool) -> bool:
        """Read the state of the gateways; return False where another driver still holds them.

        Changes nothing unless `may_act`.
        """

    def release(self) -> None:
        """Let go of the gateways; they keep running."""

    def running(self) -> list[str]:
        """Return the gateways that were started and do not drain."""

    def leaving(self) -> list[str]:
        """Return the gateways that drain and still exist."""

    async def grow(self, count: int, why: str) -> bool:
        """Start `count` more gateways; return whether that was done. `why` goes to the log."""

    async def leave(self, name: str, why: str) -> bool:
        """Mark a gateway as draining, so that it no longer counts as running.

        Return whether the mark was written where the next leader finds it.
        """

    async def end(self, name: str, why: str) -> None:
        """Stop a gateway that is empty, or that took too long to drain."""


class Pool:
    """The gateways, and the decisions about them.

    `send` writes an order into the log and returns whether it was written. A gateway that drains
    is stopped after `empty_s` seconds at the latest. `dry_run`: decide, and do nothing. `instance`:
    the name of this autoscaler.

    `last` is its own last decision, None while it does not work; `heard` is the last one that
    another autoscaler told. `noted` has the last ones, whoever made them. `ordering` is held from
    the look at who stays until the order to drain is written: two that looked at the same time
    would empty the pool.
    """

    def __init__(
        self,
        policy: Policy,
        driver: Driver,
        send: Callable[[Order], Awaitable[bool]],
        metrics: Metrics,
        *,
        empty_s: float,
        dry_run: bool,
        instance: str,
    ) -> None:
        self.instance = instance
        self.policy = policy
        self.ordering = asyncio.Lock()
        self.is_leading = False
        self.is_working = False
        self.has_read_orders = False  # until then a pause may be in force that was not read yet
        self.by_hand = ByHand()
        self.last: Decided | None = None
        self.heard: Decided | None = None
        self.noted: deque[Decided] = deque(maxlen=KEPT)  # each differs from the one before
        self._told: tuple[Decided, float] | None = None
        self._driver = driver
        self._send = send
        self._empty_s = empty_s
        self._dry_run = dry_run
        self._seen: dict[str, tuple[LoadReport, float]] = {}
        self._leaving: dict[str, float] = {}
        self._ordered: dict[str, tuple[int, float]] = {}
        self._shedding: dict[str, tuple[float, float]] = {}
        self._history = History()
        self._metrics = metrics
        self._desired, self._actual = metrics.gauge(metric_catalog.POOL_DESIRED), metrics.gauge(metric_catalog.POOL_ACTUAL)
        metrics.exist(metric_catalog.DECISIONS, [reason.value for reason in Reason])
        metrics.exist(metric_catalog.POOL_API_FAILURES, [failure.value for failure in Failure])
        self._min, self._max = metrics.gauge(metric_catalog.POOL_MIN), metrics.gauge(metric_catalog.POOL_MAX)
        self._needed, self._paused = metrics.gauge(metric_catalog.POOL_NEEDED), metrics.gauge(metric_catalog.POOL_PAUSED)
        self._demand, self._leading = metrics.gauge(metric_catalog.POOL_DEMAND), metrics.gauge(metric_catalog.LEADING)

    def take_report(self, report: LoadReport, now_s: float) -> None:
        """Take a report, unless it is of an older start of the gateway. `now_s`: monotonic."""
        known = self._seen.get(report.gateway)
        if known is None or known[0].generation <= report.generation:
            self._seen[report.gateway] = report, now_s

    def apply_order(self, order: Order) -> None:
        """Apply an order of the log: what operators want, and what another leader decided."""
        self.by_hand.apply(order)
        self.expect(order)
        decided = order.decided
        if decided is not None and not (self._told is not None and decided.instance == self.instance):
            self.heard = decided
            self._keep(decided)

    def gateways(self, now_s: float) -> list[ReportedGateway]:
        """Return the reports of the last 30 s, without those of gateways that are gone."""
        ours = {*self._driver.running(), *self._driver.leaving()}
        for name, (_, at_s) in list(self._seen.items()):
            if (self.is_working and name not in ours) or now_s - at_s > FORGET_S:
                del self._seen[name]
        return [ReportedGateway(report, now_s - at_s) for report, at_s in self._seen.values()]

    def expect(self, order: Order) -> None:
        """Count a gateway as going from here on, where the order is to drain.

        Whoever writes such an order says so before: it may arrive even where that is not confirmed.
        The gateway's own reports tell after a while whether it has obeyed.
        """
        if order.kind is not OrderKind.DRAIN:
            return
        self._ordered.pop(order.gateway, None)
        self._ordered[order.gateway] = order.generation, clock.monotonic_s()
        if len(self._ordered) > MAX_ASKED:
            del self._ordered[next(iter(self._ordered))]

    def staying(self, now_s: float) -> set[str]:
        """Return the gateways that serve, and that nobody has ordered to drain.

        A report alone does not say that: it may be 3 s old.
        """
        leaving = self._driver.leaving()
        return {
            report.gateway
            for report in (seen.report for seen in self.gateways(now_s) if seen.is_known)
            if report.state is GatewayState.SERVING
            and report.gateway not in leaving
            and not self.by_hand.is_drained(report.gateway, report.generation)
            and not self._is_ordered(report, now_s)
        }

    def _is_ordered(self, report: LoadReport, now_s: float) -> bool:
        generation, at_s = self._ordered.get(report.gateway, (0, 0.0))
        return generation == report.generation and now_s - at_s <= FORGET_S

    async def tick(self, now_s: float) -> None:
        """Decide, and act on it. `now_s`: monotonic seconds, by the clock of `take_report`."""
        may_act = not self._dry_run and not self.by_hand.paused_by
        has_pool = self.is_leading and self.has_read_orders and await self._driver.take(may_act=may_act)
        self.is_working = has_pool and self.is_leading  # another may have begun to lead while the driver read
        self._leading.set(self.is_working and not self._dry_run)
        self._min.set(self.policy.min)
        self._max.set(self.policy.max)
        self._paused.set(bool(self.by_hand.paused_by))
        gateways = self.gateways(now_s)
        self._actual.set(sum(gateway.is_known for gateway in gateways))
        if not self.is_working:
            self._let_go()
            return
        async with self.ordering:
            decision = decide(self._observed(gateways), self._history, self.policy, now_s, clock.unix_s())
            done = may_act and self._driver.can_act and await self._do(decision, now_s)
        self.note(decision, is_done=done)
        await self._tell(now_s)
        is_change = decision.desired != decision.actual or bool(decision.drain)
        if is_change and (done or self.noted[-1] is self.last):  # not again every second
            self._metrics.counter(metric_catalog.DECISIONS, decision.reason.value).inc()
            log.info(
                "decided",
                desired=decision.desired,
                actual=decision.actual,
                reason=decision.reason.value,
                detail=decision.detail,
                done=done,
            )
        self._history = (  # what was not done opens no window
            decision.history
            if done
            else decision.history._replace(last_up_s=self._history.last_up_s, last_down_s=self._history.last_down_s)
        )

    def _observed(self, gateways: Sequence[ReportedGateway]) -> Observation:
        """Return what a decision is based on: gateways, and what operators ordered by hand."""
        floor, running = self.by_hand.floor(clock.unix_ms()), self._driver.running()
        asked = self.by_hand.drains(running, self._generation_of)
        return Observation(gateways, len(running), floor.least if floor is not None else 0, asked)

    def _let_go(self) -> None:
        """Release the gateways, and forget what only the pool that works may act on."""
        self._driver.release()
        self._history, self._leaving, self._shedding, self.last, self._told = History(), {}, {}, None, None
        for gauge in (self._desired, self._needed, self._demand):
            gauge.set(0)

    def note(self, decision: Decision, *, is_done: bool) -> None:
        """Keep a decision for operators, and set the gauges."""
        desired, actual, needed, exact, reason, detail, drain, _, _ = decision
        self.last = Decided(clock.unix_ms(), self.instance, desired, actual, needed, reason.value, detail, drain, is_done)
        self._desired.set(desired)
        self._needed.set(needed)
        self._demand.set(exact)
        self._keep(self.last)

    def _keep(self, decided: Decided) -> None:
        last = self.noted[-1] if self.noted else None
        if last is None or (last.desired, last.actual, last.reason) != (decided.desired, decided.actual, decided.reason):
            self.noted.append(decided)

    async def _tell(self, now_s: float) -> None:
        """Tell the other autoscalers the last decision: each new size, and that we lead."""
        last = self.last
        if last is None or self._dry_run:
            return
        if self._told is not None:
            told, at_s = self._told
            again_s = TELL_AGAIN_S if told.reason == last.reason else TELL_REASON_S
            if (told.desired, told.actual, told.drain) == (last.desired, last.actual, last.drain) and now_s - at_s < again_s:
                return
        if await self._send(Order(Order.VERSION, DECISION, 0, OrderKind.RESUME, last.at_ms, "", decided=last)):
            self._told = last, now_s

    def _generation_of(self, name: str) -> int | None:
        """Return when a gateway started, as its last report says; None: it is not known."""
        seen = self._seen.get(name)
        return seen[0].generation if seen is not None else None

    async def _do(self, decision: Decision, now_s: float) -> bool:
        """Carry a decision out; return whether the driver did its part."""
        done, left = True, 0
        why = f"{decision.reason.value}: {decision.detail}"
        for name in decision.drain:
            by_hand = self.by_hand.why(name)
            if not (self.is_leading and await self._driver.leave(name, by_hand or why)):
                done = False
                break  # the others would fail for the same reason
            left += 1
            self._leaving[name] = now_s
            if not by_hand:  # else it has the order already, and a second one would begin its drain anew
                await self._order(name, OrderKind.DRAIN, decision.detail)
        missing = decision.desired - (decision.actual - left)
        if missing > 0:
            done = await self._driver.grow(missing, why) and done
        self._leaving = {name: self._leaving.get(name, now_s) for name in self._driver.leaving()}
        for name, since_s in self._leaving.items():
            await self._see_out(name, since_s, now_s)
        await self._shed(decision, now_s)
        return done

    async def _see_out(self, name: str, since_s: float, now_s: float) -> None:
        """Stop a gateway that has been leaving since `since_s`, once it is empty or overdue."""
        report, at_s = self._seen.get(name, (None, 0.0))
        is_draining = report is not None and report.state is GatewayState.DRAINING
        if report is not None and not is_draining:
            await self._order(name, OrderKind.DRAIN, "draining")  # the first order was lost, or is not read yet
        is_empty = report is not None and is_draining and report.connections == 0 and at_s > since_s
        # With no reports at all nobody can tell which gateway is overdue.
        is_late = now_s - since_s > self._empty_s and any(one.is_known for one in self.gateways(now_s))
        if self.is_leading and (is_empty or is_late):
            await self._driver.end(name, "it is empty" if is_empty else f"not empty after {self._empty_s:.0f} s")

    async def _shed(self, decision: Decision, now_s: float) -> None:
        """Order gateways to shed, again after a while, and the others to stop shedding."""
        wanted = {shed.gateway: shed.rate_per_s for shed in decision.shed if shed.rate_per_s > 0}
        wanted = {name: rate for name, rate in wanted.items() if name not in self._leaving}
        for name in [name for name in self._shedding if name not in wanted]:
            del self._shedding[name]
            if name not in self._leaving and name not in decision.drain:  # it would serve again
                await self._order(name, OrderKind.RESUME, "even")
        for name, rate in wanted.items():
            before, at_s = self._shedding.get(name, (0.0, 0.0))
            if abs(rate - before) > before * 0.5 or now_s - at_s > SHED_AGAIN_S:
                self._shedding[name] = rate, now_s
                await self._order(name, OrderKind.SHED, "fuller than the others", rate)

    async def _order(self, name: str, kind: OrderKind, reason: str, rate_per_s: float = 0.0) -> None:
        known = self._seen.get(name)
        if known is None:
            return
        order = Order(Order.VERSION, name, known[0].generation, kind, clock.unix_ms(), reason, rate_per_s)
        self.expect(order)
        await self._send(order)
