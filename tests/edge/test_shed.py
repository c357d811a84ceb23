"""How a gateway with too many viewers moves some of them away."""

import asyncio

import pytest

from liveroom.closecodes import Close
from liveroom.records.control import Order, OrderKind
from tests.edge.harness import GENERATION, Edge, close_code, told


async def test_shedding_is_over_unless_it_is_said_again(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.shed.SHED_FOR_S", 0.4)
    monkeypatch.setattr("edge.shed.SHED_GRACE_S", 0.6)

    def shed() -> None:
        edge.orders.obey(Order(1, "e1", GENERATION, OrderKind.SHED, 0, "test", 50))

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
