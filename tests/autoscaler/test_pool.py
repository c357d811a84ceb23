"""How the pool carries decisions out: the order of a scale-in, sheds, pauses.

The driver here keeps names and starts nothing.
"""

import itertools
from typing import Any

import pytest

from autoscaler.by_hand import POOL
from autoscaler.policy import Policy
from autoscaler.pool import SHED_AGAIN_S, Pool
from liveroom import clock
from liveroom.records.control import FLOOR, GatewayState, Limits, LoadReport, Order, OrderKind
from liveroom.registry import Metrics

BEGIN_S = 1_000_000


class Names:
    """A driver of gateways that are names."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.numbers = itertools.count(len(names))
        self.emptied: list[str] = []
        self.ended: list[str] = []
        self.mine = self.can_act = self.marks = True
        self.may_act = False

    async def take(self, *, may_act: bool) -> bool:
        self.may_act = may_act
        return self.mine

    def release(self) -> None:
        pass

    def running(self) -> list[str]:
        return [name for name in self.names if name not in self.emptied]

    def leaving(self) -> list[str]:
        return [name for name in self.emptied if name in self.names]

    async def grow(self, count: int, why: str) -> bool:  # noqa: ARG002
        if self.marks:
            self.names += [f"n{next(self.numbers)}" for _ in range(count)]
        return self.marks

    async def leave(self, name: str, why: str) -> bool:  # noqa: ARG002
        if self.marks:
            self.emptied.append(name)
        return self.marks

    async def end(self, name: str, why: str) -> None:  # noqa: ARG002
        self.ended.append(name)
        self.names.remove(name)


class World:
    """A pool, its gateways, and the clock they live by."""

    def __init__(self, *names: str, policy: Policy | None = None, dry_run: bool = False) -> None:
        self.driver = Names(*names)
        self.orders: list[tuple[str, str, int]] = []
        self.told: list[Order] = []
        quick = Policy(min=1, max=9, down_window_s=2, down_after_up_s=2, step_down=0.5, up_window_s=1)
        self.pool = Pool(
            policy or quick, self.driver, self.send, Metrics("autoscaler"), empty_s=30, dry_run=dry_run, instance="a1"
        )
        self.pool.is_leading = self.pool.has_read_orders = True
        self.now_s = 100.0
        self.connections = dict.fromkeys(names, 0)
        self.states: dict[str, GatewayState] = {}
        self.delivers = True

    async def send(self, order: Order) -> bool:
        if order.decided is not None:
            self.told.append(order)
            return True
        self.orders.append((order.gateway, order.kind.value, order.generation))
        if self.delivers and order.kind is OrderKind.DRAIN:
            self.states[order.gateway] = GatewayState.DRAINING
        return True

    async def second(self, count: int = 1) -> None:
        for _ in range(count):
            self.now_s += 1
            for name in self.driver.names:
                state = self.states.get(name, GatewayState.SERVING)
                self.pool.take_report(report(name, self.connections.get(name, 0), state), self.now_s)
            with clock.running_on(self):
                await self.pool.tick(self.now_s)

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_ns(self) -> int:
        return int((BEGIN_S + self.now_s) * 1e9)

    async def sleep(self, delay_s: float) -> None:
        self.now_s += delay_s


def report(name: str, connections: int, state: GatewayState = GatewayState.SERVING, **more: Any) -> LoadReport:
    limits = Limits(connections=100, joins_per_s=50)
    return LoadReport(1, name, 7, state, 0, "", "", "", 0, connections=connections, limits=limits, **more)


async def test_it_grows_at_once() -> None:
    world = World("a")
    world.connections["a"] = 100
    await world.second()
    assert len(world.driver.names) == 2


async def test_one_that_leaves_is_told_until_it_drains_and_stopped_once_it_is_empty() -> None:
    world = World("a", "b")
    world.connections |= {"a": 5, "b": 1}
    world.delivers = False
    await world.second(4)
    assert world.driver.emptied == ["b"], "the emptiest"
    assert world.orders.count(("b", "drain", 7)) >= 2, "the first order was lost"
    world.delivers = True
    await world.second(2)
    assert world.driver.ended == []
    world.connections |= {"a": 6, "b": 0}
    await world.second(2)
    assert world.driver.ended == ["b"]
    sent = len(world.orders)
    await world.second(3)
    assert len(world.orders) == sent, "nobody is told anything any more"


async def test_one_that_does_not_get_empty_is_stopped_when_its_time_is_over() -> None:
    world = World("a", "b")
    world.connections |= {"a": 5, "b": 1}
    await world.second(30)
    assert (world.driver.emptied, world.driver.ended) == (["b"], [])
    await world.second(10)
    assert world.driver.ended == ["b"]


async def test_the_full_ones_shed_until_all_are_even() -> None:
    world = World("a", "b", policy=Policy(min=2, max=2))
    world.connections |= {"a": 60, "b": 10}
    await world.second(2)
    assert world.orders == [("a", "shed", 7)]
    await world.second(int(SHED_AGAIN_S) + 1)
    assert world.orders == [("a", "shed", 7)] * 2, "said again: it may have been lost"
    world.connections |= {"a": 35, "b": 35}
    await world.second(2)
    assert world.orders[2:] == [("a", "resume", 7)]


async def test_a_pause_and_a_dry_run_decide_and_do_nothing() -> None:
    for world in (World("a"), World("a", dry_run=True)):
        if not world.pool._dry_run:
            world.pool.apply_order(Order(1, POOL, 0, OrderKind.PAUSE, 0, "op"))
            assert world.pool.by_hand.paused_by == "op"
        world.connections["a"] = 100
        await world.second(3)
        assert world.driver.names == ["a"]
        assert world.pool.last is not None
        assert (world.pool.last.desired, world.pool.last.done) == (2, False)
        assert not world.driver.may_act, "what is under way waits too"
        world.pool.apply_order(Order(1, "a", 7, OrderKind.RESUME, 0, "even"))
        assert world.pool.by_hand.paused_by in {"", "op"}, "orders to gateways are not for the pool"
    world = World("a")
    world.pool.apply_order(Order(1, POOL, 0, OrderKind.PAUSE, 0, "op"))
    world.connections["a"] = 100
    await world.second()
    world.pool.apply_order(Order(1, POOL, 0, OrderKind.RESUME, 0, "op"))
    await world.second()
    assert len(world.driver.names) == 2, "at once: what was decided in the pause opened no window"


async def test_while_nobody_is_heard_nobody_is_late() -> None:
    world = World("a", "b")
    world.connections |= {"a": 5, "b": 6}
    await world.second(5)
    assert world.driver.emptied == ["a"]
    for _ in range(100):
        world.now_s += 1
        await world.pool.tick(world.now_s)
    assert world.driver.ended == []
    await world.second()
    assert world.driver.ended == ["a"], "when others are heard again, it is"


async def test_who_does_not_lead_or_whose_driver_is_taken_does_nothing() -> None:
    for change in ("is_leading", "has_read_orders", "mine"):
        world = World("a")
        world.connections["a"] = 100
        if change == "mine":
            world.driver.mine = False
        else:
            setattr(world.pool, change, False)
        await world.second(3)
        assert (world.driver.names, world.pool.last) == (["a"], None)
        assert len(world.pool.gateways(world.now_s)) == 1, "but it knows the gateways"


async def test_who_stops_leading_while_its_driver_reads_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World("a")
    world.connections["a"] = 100

    async def take(*, may_act: bool) -> bool:
        world.pool.is_leading = False
        return may_act

    monkeypatch.setattr(world.driver, "take", take)
    await world.second()
    assert (world.driver.names, world.pool.last, world.pool.is_working) == (["a"], None, False)


async def test_while_its_driver_cannot_act_it_decides_and_says_so_and_does_nothing() -> None:
    world = World("a")
    world.driver.can_act = False
    world.connections["a"] = 100_000
    await world.second(3)
    assert world.pool.last is not None
    assert (world.pool.last.desired > 1, world.pool.last.done) == (True, False)
    assert (world.driver.names, world.orders) == (["a"], [])
    world.driver.can_act = True
    await world.second()
    assert len(world.driver.names) > 1, "at once: what was decided meanwhile opened no window"


async def test_a_growth_that_failed_is_tried_at_the_next_look() -> None:
    world = World("a")
    world.driver.marks = False
    world.connections["a"] = 100_000
    await world.second()
    assert world.pool.last is not None
    assert (world.driver.names, world.pool.last.done) == (["a"], False)
    world.driver.marks = True
    await world.second()
    assert len(world.driver.names) > 1, "no window was opened"


async def test_nobody_is_drained_who_could_not_be_marked() -> None:
    world = World("a", "b")
    world.driver.marks = False
    await world.second(5)
    assert (world.driver.emptied, world.orders) == ([], [])
    world.driver.marks = True
    await world.second(5)
    assert [order[:2] for order in world.orders][:1] == [(world.driver.emptied[0], "drain")]


async def test_gateways_that_are_not_its_own_are_not_its_business() -> None:
    world = World("a")
    world.pool.take_report(report("foreign", 100), world.now_s + 1)
    await world.second(2)
    assert [seen.report.gateway for seen in world.pool.gateways(world.now_s)] == ["a"]
    assert world.driver.names == ["a"]


def test_a_report_of_an_older_start_is_ignored() -> None:
    world = World("a")
    world.pool.take_report(report("a", 1), 1)
    world.pool.take_report(report("a", 9).__class__(1, "a", 6, GatewayState.SERVING, 0, "", "", "", 0, connections=9), 2)
    assert [seen.report.connections for seen in world.pool.gateways(2)] == [1]


def by_hand(name: str, generation: int = 7) -> Order:
    return Order(1, name, generation, OrderKind.DRAIN, 0, "its node is to go", by="op")


async def test_one_that_an_operator_drains_goes_and_another_takes_its_place_at_once() -> None:
    world = World("a", "b", policy=Policy(min=1, max=9))
    world.connections |= {"a": 30, "b": 40}
    world.pool.apply_order(by_hand("b"))
    world.states["b"] = GatewayState.DRAINING  # it reads the same order
    await world.second()
    assert (world.driver.emptied, world.driver.names) == (["b"], ["a", "b", "n2"])
    assert world.orders == [], "it has its order, and a second one would begin its drain anew"
    assert [(each.reason, each.desired, each.actual, each.drain) for each in world.pool.noted] == [("operator", 2, 2, ("b",))]
    world.connections["b"] = 0
    await world.second(3)
    assert (world.driver.ended, sorted(world.driver.names)) == (["b"], ["a", "n2"]), "and no third one"


async def test_a_drain_that_could_not_be_marked_is_tried_again_and_starts_one_in_all() -> None:
    world = World("a", "b", policy=Policy(min=1, max=9))
    world.connections |= {"a": 30, "b": 40}
    world.pool.apply_order(by_hand("b"))
    world.driver.marks = False
    await world.second(3)
    assert (world.driver.emptied, world.driver.names) == ([], ["a", "b"])
    world.driver.marks = True
    await world.second(3)
    assert (world.driver.emptied, world.driver.names) == (["b"], ["a", "b", "n2"])


async def test_a_drain_that_is_over_holds_for_no_later_start_of_the_gateway() -> None:
    world = World("a", "b", policy=Policy(min=2, max=9))
    world.pool.apply_order(by_hand("b", generation=6))
    world.pool.apply_order(by_hand("gone"))
    await world.second(2)
    assert (world.driver.emptied, world.driver.names) == ([], ["a", "b"])


async def test_a_paused_pool_replaces_what_is_drained_once_it_is_resumed() -> None:
    world = World("a", "b", policy=Policy(min=2, max=9))
    world.pool.apply_order(Order(1, POOL, 0, OrderKind.PAUSE, 0, "op"))
    world.pool.apply_order(by_hand("b"))
    await world.second(2)
    assert (world.driver.emptied, world.driver.names) == ([], ["a", "b"])
    world.pool.apply_order(Order(1, POOL, 0, OrderKind.RESUME, 0, "op"))
    await world.second()
    assert (world.driver.emptied, world.driver.names) == (["b"], ["a", "b", "n2"])


async def test_a_floor_holds_until_its_time_is_over_or_an_operator_ends_it() -> None:
    def floor(least: int) -> Order:
        return Order(
            1, FLOOR, 0, OrderKind.RESUME, 0, "", by="op", least=least, until_ms=int((BEGIN_S + world.now_s + 20) * 1000)
        )

    world = World("a")
    world.pool.apply_order(floor(3))
    await world.second()
    assert len(world.driver.names) == 3
    assert world.pool.last is not None
    assert (world.pool.last.reason, world.pool.last.desired) == ("operator", 3)
    await world.second(15)
    assert len(world.driver.running()) == 3, "though one would do"
    await world.second(15)
    assert len(world.driver.running()) == 1
    world.pool.apply_order(floor(99))
    await world.second()
    assert len(world.driver.running()) == 9, "the policy's most"
    world.pool.apply_order(floor(0))
    await world.second(30)
    assert len(world.driver.running()) == 1


async def test_every_autoscaler_knows_what_the_leader_decided() -> None:
    leader, other = World("a"), World("a")
    other.pool.is_leading, other.pool.instance = False, "a2"
    leader.connections["a"] = 100
    await leader.second(3)
    assert len(leader.told) == 2, "a new size at once, the same one not again"
    for order in leader.told:
        other.pool.apply_order(order)
        leader.pool.apply_order(order)
    await other.second()
    assert other.pool.last is None
    assert (other.pool.heard, list(other.pool.noted)) == (leader.told[-1].decided, list(leader.pool.noted))
    assert leader.pool.heard is None, "its own word"
    await leader.second(40)
    assert 3 <= len(leader.told) <= 6, "that it leads still"
