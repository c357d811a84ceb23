"""How a gateway with too many viewers moves some of them away."""

import asyncio

import pytest

from liveroom.closecodes import Close
from liveroom.records.control import Order, OrderKind
from tests.edge.harness import GENERATION, Edge, close_code, next_frame


async def test_shedding_ends_unless_the_order_is_repeated(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.shed.SHED_FOR_S", 0.4)
    monkeypatch.setattr("edge.shed.SHED_GRACE_S", 0.6)

    def shed() -> None:
        edge.orders.obey(Order(1, "e1", GENERATION, OrderKind.SHED, 0, "test", 50))

    async with edge.connect() as first:
        await next_frame(first)
        shed()
        assert (await next_frame(first))["t"] == "move"
        await asyncio.sleep(0.3)
        shed()  # who was asked before stays asked, and is not asked again
        assert await close_code(first) == Close.SHED
    await asyncio.sleep(0.3)
    async with edge.connect() as later:
        await next_frame(later)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await next_frame(later)
