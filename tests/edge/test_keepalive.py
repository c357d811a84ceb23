"""What a gateway does as time passes."""

import asyncio

from liveroom import clock
from liveroom.topics import room_hash
from tests.edge.harness import Edge, next_frame


async def test_a_snapshot_is_asked_for_until_it_comes(edge: Edge) -> None:
    gateway = edge.gateway
    async with edge.connect() as first, edge.connect(edge.ticket("u2")) as second:
        for viewer in (first, second):
            await next_frame(viewer)
            await viewer.send('{"t":"join","room":"r"}')
        for _ in range(2):  # also for the second one, who came when it had been asked a moment before
            async with asyncio.timeout(3):
                while "r" not in gateway.joins.snapshots_wanted:  # noqa: ASYNC110 - the edge has no such event
                    await asyncio.sleep(0.02)
            gateway.joins.snapshots_wanted = {}
        room = gateway.hub.rooms[room_hash("r")]
        room.take_snapshot(b'{"epoch":1,"seq":0,"rseq":0}', "0.1", 1, clock.monotonic_s())
        gateway.joins.on_snapshots([room])
        gateway.joins.snapshots_wanted = {}
        await asyncio.sleep(1.5)
        assert gateway.joins.snapshots_wanted == {}
