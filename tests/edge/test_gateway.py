"""One gateway's public port, tried with an independent client (`websockets`)."""

from contextlib import AsyncExitStack

import pytest

from edge.fanout import drive
from edge.member import MAX_FRAMES_A_TURN
from liveroom import clock
from liveroom.closecodes import Close, rule_for
from liveroom.records.broadcast import Anchor, Batch, BatchParts, RoomEntry, RoomFlags, decode_broadcast, encode_batch
from liveroom.tickets import User
from liveroom.topics import room_hash
from tests.edge.conftest import Secured
from tests.edge.harness import GENERATION, Edge, ask, close_code, line, next_frame, running, settings_of


async def test_a_viewer_is_greeted_joins_gets_batches_and_leaves(edge: Edge) -> None:
    async with edge.connect() as socket:
        hello = await next_frame(socket)
        assert (hello["t"], hello["gateway"], hello["generation"], hello["user"]) == ("hello", "e1", GENERATION, "u1")
        assert await ask(socket, t="join", room="r") == {"t": "joined", "room": "r"}
        await edge.deliver("r", [line(1)])
        assert (await next_frame(socket))["seq"] == [1, 1]
        await edge.deliver("other", [line(1)])
        assert await ask(socket, t="leave", room="r") == {"t": "left", "room": "r"}
        assert (await ask(socket, t="leave", room="r"))["code"] == "not_in_room"
        assert (await ask(socket, t="hb", rooms={}))["t"] == "hb"
    assert edge.gateway.hub.watched == 0


async def test_frames_and_fields_of_a_newer_client_are_passed_over(edge: Edge) -> None:
    async with edge.connect() as socket:
        id_ = (await next_frame(socket))["request_id"]
        refused = await ask(socket, t="vote" * 100, room="r", choice=[1])
        detail = "unknown type " + ("vote" * 100)[:64]
        assert refused == {"t": "error", "code": "unknown_frame", "detail": detail, "request_id": id_}
        assert (await ask(socket, t="__proto__"))["code"] == "unknown_frame"
        assert await ask(socket, t="join", room="r", filters={"kinds": ["gift"]}, v=2) == {"t": "joined", "room": "r"}
        await edge.deliver("r", [line(1)])
        assert (await next_frame(socket))["seq"] == [1, 1]
        assert (await ask(socket, t="hb", battery=0.5))["t"] == "hb"
        assert await ask(socket, t="leave", room="r", why="bored") == {"t": "left", "room": "r"}


async def test_a_flood_of_unknown_frames_ends_the_connection(edge: Edge) -> None:
    async with edge.connect() as socket:
        for _ in range(MAX_FRAMES_A_TURN + 1):
            await socket.send('{"t":"vote"}')
        assert await close_code(socket) == Close.TOO_FAST


async def test_joined_carries_the_newest_numbers_of_a_room_seen_before(edge: Edge) -> None:
    async with edge.connect() as first, edge.connect(edge.ticket("u2")) as second:
        await next_frame(first)
        await ask(first, t="join", room="r")
        await edge.deliver("r", [line(4), line(5)], first=4)
        await next_frame(second)
        joined = await ask(second, t="join", room="r")
        assert (joined["epoch"], joined["seq"], joined["rseq"], joined["pos"]) == (3, 5, 0, "0.1")


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_large_batch_arrives_whole_with_and_without_compression(edge: Edge, compression: str | None) -> None:
    lines = [line(seq, "弾幕" * 20) for seq in range(1, 101)]
    async with edge.connect(compression=compression) as socket:
        await next_frame(socket)
        await ask(socket, t="join", room="r")
        await edge.deliver("r", lines)
        assert str(await socket.recv()).encode().split(b"\n")[1:] == lines
        await edge.deliver("r", lines, first=101)
        assert str(await socket.recv()).encode().split(b"\n")[1:] == lines


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(b"binary", Close.UNSUPPORTED_DATA, id="binary"),
        pytest.param("not json", Close.BAD_FRAME, id="not JSON"),
        pytest.param('{"t":7}', Close.BAD_FRAME, id="a type that is none"),
        pytest.param('{"t":"join","room":7}', Close.BAD_FRAME, id="a known frame with another field"),
        pytest.param("[" * 3000, Close.BAD_FRAME, id="nested deeply"),
        pytest.param('{"t":"hb","pad":"' + "x" * 5000 + '"}', Close.TOO_BIG, id="too big"),
    ],
)
async def test_a_frame_outside_the_protocol_ends_the_connection_with_its_code(
    edge: Edge, frame: str | bytes, code: Close
) -> None:
    async with edge.connect(compression=None) as socket:
        await next_frame(socket)
        await socket.send(frame)
        assert await close_code(socket) == code
    assert edge.gateway.hub.watched == 0


async def test_a_room_that_may_not_be_joined_is_refused_and_the_connection_lives(edge: Edge) -> None:
    async with edge.connect(edge.ticket(user=User("u1", rooms=tuple(f"r{i}" for i in range(12))))) as socket:
        await next_frame(socket)
        assert (await ask(socket, t="join", room="not a room"))["code"] == "room_invalid"
        assert (await ask(socket, t="join", room="elsewhere"))["code"] == "forbidden"
        for i in range(8):
            assert (await ask(socket, t="join", room=f"r{i}"))["t"] == "joined"
        assert (await ask(socket, t="join", room="r8"))["code"] == "too_many_rooms"
        assert (await ask(socket, t="join", room="r7"))["t"] == "joined"


async def test_a_user_is_refused_further_rooms_over_all_its_connections_and_another_user_is_not(secured: Secured) -> None:
    async with running(settings_of(max_user_rooms=3, **secured.settings), secured.trusting) as edge, AsyncExitStack() as stack:
        first, second, other = [
            await stack.enter_async_context(edge.connect(edge.ticket(user=User(user)))) for user in ("u1", "u1", "u2")
        ]
        for socket in (first, second, other):
            await next_frame(socket)
        for room, socket in (("a", first), ("b", second), ("c", first)):
            assert (await ask(socket, t="join", room=room))["t"] == "joined"
        refusal = await ask(second, t="join", room="d")
        assert (refusal["code"], refusal["retry_after_s"]) == ("too_many_rooms", 1.0), "for now"
        assert (await ask(second, t="join", room="a"))["t"] == "joined"
        assert (await ask(other, t="join", room="d"))["t"] == "joined"


async def test_beyond_the_cap_of_rooms_only_those_that_are_here_may_be_joined(secured: Secured) -> None:
    settings = settings_of(max_local_rooms=2, **secured.settings)
    async with running(settings, secured.trusting) as edge, edge.connect() as guest, edge.connect() as honest:
        for socket in (guest, honest):
            await next_frame(socket)
        assert (await ask(guest, t="join", room="x1"))["t"] == "joined"
        assert (await ask(guest, t="join", room="x2"))["t"] == "joined"
        assert (await ask(honest, t="join", room="show"))["code"] == "full"
        assert (await ask(honest, t="join", room="x1"))["t"] == "joined"
        assert (await ask(guest, t="leave", room="x2"))["t"] == "left"
        assert (await ask(honest, t="join", room="show"))["t"] == "joined"
        assert {room.name for room in edge.gateway.hub.rooms.values()} == {"x1", "show"}


async def test_a_viewer_whose_only_room_has_no_place_here_is_closed_soon_and_looks_for_another_gateway(
    secured: Secured,
) -> None:
    settings = settings_of(max_local_rooms=1, handshake_timeout_s=2, **secured.settings)
    async with running(settings, secured.trusting) as edge, edge.connect() as guest, edge.connect() as honest:
        for socket in (guest, honest):
            await next_frame(socket)
        assert (await ask(guest, t="join", room="x"))["t"] == "joined"
        assert (await ask(honest, t="join", room="show"))["code"] == "full"
        assert await close_code(honest) == Close.HANDSHAKE_LATE
        assert rule_for(Close.HANDSHAKE_LATE).reconnect


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_part_that_cannot_be_read_is_left_out_of_what_a_viewer_missed(edge: Edge, compression: str | None) -> None:
    """Who deflates is pushed it unread, so it lies in the ring when one comes for whom it must be
    inflated.
    """
    async with edge.connect() as first, edge.connect(compression=compression) as plain:
        await next_frame(first)
        await ask(first, t="join", room="r")
        await edge.deliver("r", [line(1)])
        broken = b"\xff" * 8
        entry = RoomEntry(room_hash("r"), 2, 2, 0, 1, 0, len(broken), 0, 3, int(RoomFlags.DEFLATED))
        batch = decode_broadcast(encode_batch(BatchParts(1, b"o" * 16, 1, Anchor(0, 0, None), 0, 1, 1, [(entry, broken)])))
        assert isinstance(batch, Batch)
        assert not (await drive(edge.gateway.hub.deliver(batch, 0, 2, clock.monotonic_s()))).failed
        await edge.deliver("r", [line(3)], first=3)
        await next_frame(plain)
        joined = await ask(plain, t="join", room="r", epoch=3, seq=1, rseq=0)
        assert (joined["t"], joined["resumed"]) == ("joined", True)
        assert (await next_frame(plain))["seq"] == [3, 3], "the viewer sees the hole"
        assert (await ask(plain, t="hb", rooms={}))["t"] == "hb"
