"""What operators order by HTTP: no two drains empty the pool, and an order may come twice."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from autoscaler.app import App
from autoscaler.by_hand import POOL
from autoscaler.policy import Policy
from autoscaler.pool import Pool
from cli.pool_client import AGAIN_S, TRIES, PoolClient, UnsurePoolError
from liveroom import clock
from liveroom.kinds import Role
from liveroom.records.control import Order, OrderKind
from liveroom.registry import Metrics
from liveroom.service import Runtime
from liveroom.settings import AutoscalerSettings
from liveroom.tickets import User
from liveroom.tokens import Verifier, sign_user
from liveroom.web import serve
from tests.autoscaler.test_pool import Names, report

KEY = "k" * 40


class Autoscaler:
    """One autoscaler that answers, and the orders it wrote."""

    def __init__(self, *names: str, dry_run: bool = False) -> None:
        self.driver, self.orders = Names(*names), list[Order]()
        self.confirms = True
        policy = Policy(min=1, max=9, down_window_s=1, down_after_up_s=1)
        self.pool = Pool(policy, self.driver, self.send, Metrics("autoscaler"), empty_s=30, dry_run=dry_run, instance="a1")
        self.pool.is_leading = self.pool.has_read_orders = True
        self.settings = AutoscalerSettings(token_key=KEY, driver="local", dry_run=dry_run)
        for name in names:
            self.pool.take_report(report(name, 10), clock.monotonic_s())

    async def send(self, order: Order) -> bool:
        await asyncio.sleep(0)  # another request may come in between
        if order.decided is None:
            self.orders.append(order)
        return self.confirms

    @asynccontextmanager
    async def client(self) -> AsyncIterator[PoolClient]:
        app = App(self.settings, Verifier(self.settings.read_token_keys()), self.pool, self.send, Runtime("autoscaler"))
        token = sign_user(User("op", Role.OPERATOR), KEY.encode(), round(clock.unix_s()))
        async with serve(app.web, "127.0.0.1", 0) as (_, port), aiohttp.ClientSession() as http:
            yield PoolClient(http, f"http://127.0.0.1:{port}", token)

    @property
    def drained(self) -> list[str]:
        return [order.gateway for order in self.orders if order.kind is OrderKind.DRAIN]


async def refusals(*asked: Any) -> list[str]:
    return [str(one) for one in await asyncio.gather(*asked, return_exceptions=True) if isinstance(one, Exception)]


async def test_of_two_drains_at_once_one_is_refused_though_both_gateways_report_that_they_serve() -> None:
    one = Autoscaler("a", "b")
    async with one.client() as client:
        [refusal] = await refusals(client.drain("a", ""), client.drain("b", ""))
        assert "no_gateway" in refusal
        assert len(one.drained) == 1
        [left] = {"a", "b"} - set(one.drained)
        assert "no_gateway" in (await refusals(client.drain(left, "")))[0]


@pytest.mark.parametrize("by", ["", "op"], ids=["the pool", "an operator"])
async def test_a_gateway_that_another_autoscaler_drains_does_not_count(by: str) -> None:
    one = Autoscaler("a", "b")
    one.pool.apply_order(Order(1, "a", 7, OrderKind.DRAIN, 0, "", by=by))
    async with one.client() as client:
        assert "no_gateway" in (await refusals(client.drain("b", "")))[0]
    assert one.drained == []


async def test_a_gateway_that_the_driver_drains_or_whose_order_is_not_confirmed_does_not_count() -> None:
    one = Autoscaler("a", "b")
    one.driver.emptied.append("a")
    async with one.client() as client:
        assert "no_gateway" in (await refusals(client.drain("b", "")))[0]
    one = Autoscaler("a", "b")
    one.confirms = False
    async with one.client() as client:
        assert "queue_unavailable" in (await refusals(client.drain("a", "")))[0]
        assert "no_gateway" in (await refusals(client.drain("b", "")))[0]


async def test_an_order_for_an_earlier_start_of_a_gateway_does_not_hold_others_back() -> None:
    one = Autoscaler("a", "b")
    one.pool.apply_order(Order(1, "a", 6, OrderKind.DRAIN, 0, "", by="op"))
    async with one.client() as client:
        await client.drain("b", "")
    assert one.drained == ["b"]


async def test_a_dry_run_drains_and_adds_nothing() -> None:
    one = Autoscaler("a", "b", dry_run=True)
    async with one.client() as client:
        for refusal in await refusals(client.drain("a", ""), client.keep(3, 60)):
            assert "not_found" in refusal
            assert "runs dry" in refusal
    assert one.orders == []


async def test_an_order_to_add_that_comes_twice_or_beside_another_one_adds_once() -> None:
    one = Autoscaler("a", "b")
    async with one.client() as client:
        await client.keep(4, 3600)
        state = await client.keep(4, 3600)
        assert state.floor is not None
        assert state.floor.least == 4
        until_ms = state.floor.until_ms
        one.pool.apply_order(
            Order(1, "-floor", 0, OrderKind.RESUME, clock.unix_ms(), "", by="x", least=3, until_ms=until_ms - 9)
        )
        state = await client.state()
        assert state.floor is not None
        assert (state.floor.least, state.floor.until_ms) == (4, until_ms), "the lesser order came last"
        assert (await client.keep(0, 3600)).floor is None
        assert "max is 9" in (await refusals(client.keep(10, 3600)))[0]


async def test_the_client_sends_the_same_order_to_add_again_where_it_is_not_confirmed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Autoscaler("a", "b")
    one.confirms = False
    monkeypatch.setattr("cli.pool_client.AGAIN_S", AGAIN_S / 100)
    async with one.client() as client:
        with pytest.raises(UnsurePoolError, match="at least 4 gateways may arrive yet"):
            await client.keep(4, 60)
    assert [order.least for order in one.orders] == [4] * TRIES


async def test_the_end_of_a_shed_does_not_end_a_drain_that_could_not_be_marked() -> None:
    one = Autoscaler("a", "b")
    one.pool._shedding["b"] = 1.0, 0.0
    one.pool.apply_order(Order(1, "b", 7, OrderKind.DRAIN, 0, "", by="op"))
    one.driver.marks = False
    await one.pool.tick(clock.monotonic_s())
    assert [order.kind for order in one.orders if order.gateway not in {POOL, "-floor"}] == [], "no order to serve again"
