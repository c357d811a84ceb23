"""How a gateway moves its viewers away: at its end, and when the pool orders it."""

import asyncio
import json

import pytest
from websockets.exceptions import InvalidStatus

from liveroom.closecodes import Close
from liveroom.records.control import Order, OrderKind
from tests.edge.harness import GENERATION, Edge, close_code, told


async def test_a_draining_gateway_asks_viewers_to_move_takes_nobody_and_ends(edge: Edge) -> None:
    async with edge.connect() as socket:
        await told(socket)
        draining = asyncio.create_task(edge.drain.drain())
        assert (await told(socket))["t"] == "move"
        with pytest.raises(InvalidStatus) as refused:
            await edge.connect()
        assert json.loads(refused.value.response.body or b"")["code"] == "draining"
        assert await close_code(socket) == Close.SERVICE_RESTART
        await draining
    assert not edge.gateway.members


async def test_orders_to_this_start_of_this_gateway_are_obeyed_and_no_others(edge: Edge) -> None:
    def order(kind: OrderKind, rate_per_s: float = 0, *, name: str = "e1", generation: int = GENERATION) -> None:
        edge.drain.obey(Order(1, name, generation, kind, 0, "test", rate_per_s))

    async with edge.connect() as first, edge.connect() as second:
        hellos = [await told(first), await told(second)]
        assert [hello["t"] for hello in hellos] == ["hello", "hello"]
        order(OrderKind.DRAIN, name="e2")
        order(OrderKind.DRAIN, generation=GENERATION - 1)
        async with edge.connect() as third:
            await told(third)
        order(OrderKind.DRAIN)
        with pytest.raises(InvalidStatus):
            await edge.connect()
        order(OrderKind.RESUME)
        async with edge.connect() as third:
            await told(third)
        order(OrderKind.SHED, 50)
        for socket in (first, second):
            frame = await told(socket)
            while frame["reason"] == "drain":
                frame = await told(socket)
            assert (frame["t"], frame["reason"]) == ("move", "shed")
        edge.drain.stop()


async def test_shedding_is_over_unless_it_is_said_again(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.drain.SHED_FOR_S", 0.4)
    monkeypatch.setattr("edge.drain.SHED_GRACE_S", 0.6)

    def shed() -> None:
        edge.drain.obey(Order(1, "e1", GENERATION, OrderKind.SHED, 0, "test", 50))

    async with edge.connect() as first:
        await told(first)
        shed()
        assert (await told(first))["t"] == "move"
        await asyncio.sleep(0.3)
        shed()  # who was asked before stays asked, and is not asked again
        assert await close_code(first) == Close.SHED
    await asyncio.sleep(0.3)
    async with edge.connect() as later:
        await told(later)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await told(later)
