"""How a gateway moves all its viewers away."""

import asyncio
import json

import pytest
from websockets.exceptions import InvalidStatus

from edge.drain import drain
from liveroom.closecodes import Close
from tests.edge.harness import Edge, close_code, next_frame


async def test_a_draining_gateway_asks_viewers_to_move_takes_nobody_and_ends(edge: Edge) -> None:
    async with edge.connect() as socket:
        await next_frame(socket)
        draining = asyncio.create_task(drain(edge.gateway))
        assert (await next_frame(socket))["t"] == "move"
        with pytest.raises(InvalidStatus) as refused:
            await edge.connect()
        assert json.loads(refused.value.response.body or b"")["code"] == "draining"
        assert await close_code(socket) == Close.SERVICE_RESTART
        await draining
    assert not edge.gateway.members
