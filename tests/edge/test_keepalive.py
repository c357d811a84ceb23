"""What a gateway does as time passes: heartbeats, time-outs, snapshots that are asked for."""

from collections.abc import AsyncIterator

import pytest

from edge.hub import LINGER_S
from edge.joins import SNAPSHOT_WAIT_S
from edge.keepalive import LATE_HEARTBEATS
from edge.member import CLOSE_TIMEOUT_S
from edge.room import SNAPSHOT_ASK_S
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.topics import room_hash
from tests.edge.harness import line, settings_of
from tests.edge.memory import MemoryEdge, in_memory
from tests.manual_clock import ManualClock

HEARTBEAT_S = 20.0
HANDSHAKE_S = 5.0


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def edge(time: ManualClock) -> AsyncIterator[MemoryEdge]:
    with clock.running_on(time):
        async with in_memory(settings_of(heartbeat_s=HEARTBEAT_S, handshake_timeout_s=HANDSHAKE_S)) as made:
            yield made


async def test_a_viewer_that_misses_three_heartbeats_is_closed_and_one_that_sends_them_stays(
    edge: MemoryEdge, time: ManualClock
) -> None:
    silent, alive = await edge.viewer("silent"), await edge.viewer("alive")
    for viewer in (silent, alive):
        viewer.say(t="join", room="r")
    for _ in range(LATE_HEARTBEATS):
        await time.advance(HEARTBEAT_S)
        silent.frames()
        assert silent.code is None
        alive.say(t="hb")
    await time.advance(10)
    silent.frames()
    alive.frames()
    assert (silent.code, alive.code) == (Close.HEARTBEAT_LATE, None)
    assert len(edge.gateway.members) == 1


async def test_something_is_sent_every_ten_seconds_and_no_heartbeat_where_batches_flow(
    edge: MemoryEdge, time: ManualClock
) -> None:
    quiet, busy = await edge.viewer("quiet"), await edge.viewer("busy")
    quiet.say(t="join", room="quiet")
    busy.say(t="join", room="busy")
    await time.advance(2 * SNAPSHOT_WAIT_S)
    for viewer in (quiet, busy):
        viewer.frames()
    for seq in range(1, 5):
        for _ in range(4):
            await edge.deliver("busy", [line(seq)], seq)
            await time.advance(2.5)
        assert "hb" in {came["t"] for came in quiet.frames()}
        assert {came["t"] for came in busy.frames()} == {"batch"}
        for viewer in (quiet, busy):
            viewer.say(t="hb")
            viewer.frames()


async def test_a_viewer_that_joins_no_room_in_time_is_closed_and_then_aborted(edge: MemoryEdge, time: ManualClock) -> None:
    viewer = await edge.viewer()
    viewer.transport.reads = False
    await time.advance(HANDSHAKE_S - 0.5)
    assert not next(iter(edge.gateway.members)).close_code
    await time.advance(1)
    assert next(iter(edge.gateway.members)).close_code == Close.HANDSHAKE_LATE
    await time.advance(CLOSE_TIMEOUT_S + 0.5)
    assert not edge.gateway.members


async def test_a_snapshot_is_asked_for_until_it_comes(edge: MemoryEdge, time: ManualClock) -> None:
    joins = edge.gateway.joins
    viewers = [await edge.viewer("first"), await edge.viewer("second")]
    for viewer in viewers:
        viewer.say(t="join", room="r")
    for _ in range(2):  # the second time for the second viewer, who came when it had just been asked for
        assert "r" in joins.snapshots_wanted
        joins.snapshots_wanted = {}
        await time.advance(SNAPSHOT_ASK_S + 0.5)
    assert [came.get("card") for viewer in viewers for came in viewer.frames() if came["t"] == "joined"] == [None, None]
    room = edge.gateway.hub.rooms[room_hash("r")]
    room.take_snapshot(b'{"epoch":1,"seq":0,"rseq":0}', "0.1", 1, clock.monotonic_s())
    joins.on_snapshots([room])
    joins.snapshots_wanted = {}
    assert [[came["t"] for came in viewer.frames()] for viewer in viewers] == [["card"], ["card"]]
    await time.advance(3)
    assert joins.snapshots_wanted == {}


async def test_a_room_is_forgotten_some_time_after_its_last_viewer_left(edge: MemoryEdge, time: ManualClock) -> None:
    viewer = await edge.viewer()
    viewer.say(t="join", room="r")
    viewer.say(t="leave", room="r")
    viewer.say(t="join", room="another")
    for _ in range(int(LINGER_S / HEARTBEAT_S)):
        assert room_hash("r") in edge.gateway.hub.rooms
        viewer.say(t="hb")
        await time.advance(HEARTBEAT_S)
    await time.advance(1)
    assert room_hash("r") not in edge.gateway.hub.rooms
    assert edge.gateway.hub.watched == 1
