"""Which orders of the pool a gateway obeys."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus

from edge.orders import Orders
from liveroom.chance import SystemChance
from liveroom.records.control import Order, OrderKind
from tests.edge.harness import GENERATION, Edge, next_frame


async def test_orders_to_this_start_of_this_gateway_are_obeyed_and_no_others(edge: Edge) -> None:
    def order(kind: OrderKind, rate_per_s: float = 0, *, name: str = "e1", generation: int = GENERATION) -> None:
        edge.orders.obey(Order(1, name, generation, kind, 0, "test", rate_per_s))

    async with edge.connect() as first, edge.connect() as second:
        hellos = [await next_frame(first), await next_frame(second)]
        assert [hello["t"] for hello in hellos] == ["hello", "hello"]
        order(OrderKind.DRAIN, name="e2")
        order(OrderKind.DRAIN, generation=GENERATION - 1)
        async with edge.connect() as third:
            await next_frame(third)
        order(OrderKind.DRAIN)
        with pytest.raises(InvalidStatus):
            await edge.connect()
        order(OrderKind.RESUME)
        async with edge.connect() as third:
            await next_frame(third)
        order(OrderKind.SHED, 50)
        for socket in (first, second):
            frame = await next_frame(socket)
            while frame["reason"] == "drain":
                frame = await next_frame(socket)
            assert (frame["t"], frame["reason"]) == ("move", "shed")
        edge.orders.end()


async def test_a_gateway_that_ends_obeys_no_more_orders(edge: Edge) -> None:
    tasks: list[asyncio.Task[None]] = []

    def start(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        tasks.append(asyncio.create_task(work))
        return tasks[-1]

    def order(kind: OrderKind) -> None:
        orders.obey(Order(1, "e1", GENERATION, kind, 0, "test", 50))

    orders = Orders(edge.gateway, SystemChance(), start)
    order(OrderKind.SHED)
    orders.end()
    edge.gateway.draining = True
    for kind in OrderKind:
        order(kind)
    async with asyncio.timeout(20):
        await asyncio.wait(tasks)
    assert (len(tasks), edge.gateway.draining) == (1, True)
