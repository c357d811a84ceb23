"""One gateway's public port, spoken to by a client that is not ours (`websockets`)."""

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from edge.kafka import drive
from liveroom.closecodes import Close
from liveroom.records import Anchor, Batch, Order, OrderKind, RoomEntry, RoomFlags, decode_broadcast, encode_batch
from liveroom.tickets import User
from liveroom.topics import room_hash
from tests.edge.gateway import GENERATION, Gateway, ask, close_code, line, told


async def test_a_viewer_is_greeted_joins_gets_batches_and_leaves(gateway: Gateway) -> None:
    async with gateway.connect() as socket:
        hello = await told(socket)
        assert (hello["t"], hello["gateway"], hello["generation"], hello["user"]) == ("hello", "e1", GENERATION, "u1")
        assert await ask(socket, t="join", room="r") == {"t": "joined", "room": "r"}
        await gateway.deliver("r", [line(1)])
        assert (await told(socket))["seq"] == [1, 1]
        await gateway.deliver("other", [line(1)])
        assert await ask(socket, t="leave", room="r") == {"t": "left", "room": "r"}
        assert (await ask(socket, t="leave", room="r"))["code"] == "not_in_room"
        assert (await ask(socket, t="hb", rooms={}))["t"] == "hb"
    assert gateway.server.hub.watched == 0


async def test_joined_says_the_newest_numbers_of_a_room_seen_before(gateway: Gateway) -> None:
    async with gateway.connect() as first, gateway.connect(gateway.ticket("u2")) as second:
        await told(first)
        await ask(first, t="join", room="r")
        await gateway.deliver("r", [line(4), line(5)], first=4)
        await told(second)
        joined = await ask(second, t="join", room="r")
        assert (joined["epoch"], joined["seq"], joined["rseq"], joined["pos"]) == (3, 5, 0, "0.1")


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_large_batch_arrives_whole_with_and_without_compression(gateway: Gateway, compression: str | None) -> None:
    lines = [line(seq, "弾幕" * 20) for seq in range(1, 101)]
    async with gateway.connect(compression=compression) as socket:
        await told(socket)
        await ask(socket, t="join", room="r")
        await gateway.deliver("r", lines)
        assert str(await socket.recv()).encode().split(b"\n")[1:] == lines
        await gateway.deliver("r", lines, first=101)
        assert str(await socket.recv()).encode().split(b"\n")[1:] == lines


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        pytest.param({"expires_ms": 1}, 401, "ticket_expired", id="expired"),
        pytest.param({"gateways": (("e2", GENERATION),)}, 401, "ticket_invalid", id="other gateway"),
        pytest.param({"gateways": (("e1", GENERATION - 1),)}, 401, "ticket_invalid", id="before the restart"),
        pytest.param({"purpose": "other"}, 401, "ticket_invalid", id="for another purpose"),
        pytest.param({"key_id": "k9"}, 401, "ticket_invalid", id="unknown key"),
    ],
)
async def test_a_ticket_that_is_not_for_this_gateway_is_refused(
    gateway: Gateway, changes: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await gateway.connect(gateway.ticket(**changes))
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["code"] == code


async def test_an_older_key_still_verifies(gateway: Gateway) -> None:
    async with gateway.connect(gateway.ticket(key_id="k1")) as socket:
        assert (await told(socket))["t"] == "hello"


@pytest.mark.parametrize(
    ("gateway", "headers", "status", "code"),
    [
        pytest.param({"max_connections": 1}, {}, 503, "full", id="full"),
        pytest.param({"origins": ("https://a.example",)}, {"Origin": "https://b.example"}, 403, "origin", id="origin"),
    ],
    indirect=["gateway"],
)
async def test_who_may_not_come_is_told_why(gateway: Gateway, headers: dict[str, str], status: int, code: str) -> None:
    async with gateway.connect():
        with pytest.raises(InvalidStatus) as refused:
            await gateway.connect(additional_headers=headers)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["code"] == code


async def test_a_plain_request_is_told_to_upgrade(gateway: Gateway) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{gateway.port}/v1/live") as answer:
        assert answer.status == 426
        assert (await answer.json(content_type=None))["code"] == "upgrade_required"


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(b"binary", Close.UNSUPPORTED_DATA, id="binary"),
        pytest.param("not json", Close.BAD_FRAME, id="not JSON"),
        pytest.param('{"t":"fly"}', Close.BAD_FRAME, id="unknown frame"),
        pytest.param("[" * 3000, Close.BAD_FRAME, id="nested deeply"),
        pytest.param('{"t":"hb","pad":"' + "x" * 5000 + '"}', Close.TOO_BIG, id="too big"),
    ],
)
async def test_a_frame_outside_the_protocol_ends_the_connection_with_its_code(
    gateway: Gateway, frame: str | bytes, code: Close
) -> None:
    async with gateway.connect(compression=None) as socket:
        await told(socket)
        await socket.send(frame)
        assert await close_code(socket) == code
    assert gateway.server.hub.watched == 0


async def test_a_room_that_may_not_be_joined_is_refused_and_the_connection_lives(gateway: Gateway) -> None:
    async with gateway.connect(gateway.ticket(user=User("u1", rooms=tuple(f"r{i}" for i in range(12))))) as socket:
        await told(socket)
        assert (await ask(socket, t="join", room="not a room"))["code"] == "room_invalid"
        assert (await ask(socket, t="join", room="elsewhere"))["code"] == "forbidden"
        for i in range(8):
            assert (await ask(socket, t="join", room=f"r{i}"))["t"] == "joined"
        assert (await ask(socket, t="join", room="r8"))["code"] == "too_many_rooms"
        assert (await ask(socket, t="join", room="r7"))["t"] == "joined"


@pytest.mark.parametrize("gateway", [{"slow_unsent_bytes": 64 * 1024, "max_unsent_bytes": 256 * 1024}], indirect=True)
async def test_a_viewer_that_does_not_read_is_ended_and_the_others_go_on(gateway: Gateway) -> None:
    async with gateway.connect(compression=None) as reader:
        await told(reader)
        await ask(reader, t="join", room="r")
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=1024)
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        head = (
            f"GET /v1/live?ticket={gateway.ticket('slow')} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        )
        writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        join = b'{"t":"join","room":"r"}'
        writer.write(bytes((0x81, 0x80 | len(join), 0, 0, 0, 0)) + join)
        async with asyncio.timeout(5):
            while len(gateway.server.hub.rooms[room_hash("r")].members) < 2:  # noqa: ASYNC110 - the edge has no such event
                await asyncio.sleep(0)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        seq = 0
        async with asyncio.timeout(30):
            while len(gateway.server.members) == 2:
                await gateway.deliver("r", [line(seq + i, "x" * 150) for i in range(1, 101)], seq + 1, reliable=True)
                seq += 100
                assert (await told(reader))["seq"][1] == seq
        writer.transport.abort()


async def test_a_draining_gateway_asks_viewers_to_move_takes_nobody_and_ends(gateway: Gateway) -> None:
    async with gateway.connect() as socket:
        await told(socket)
        draining = asyncio.create_task(gateway.server.drain())
        assert (await told(socket))["t"] == "move"
        with pytest.raises(InvalidStatus) as refused:
            await gateway.connect()
        assert json.loads(refused.value.response.body or b"")["code"] == "draining"
        assert await close_code(socket) == Close.SERVICE_RESTART
        await draining
    assert not gateway.server.members


async def test_orders_to_this_start_of_this_gateway_are_obeyed_and_no_others(gateway: Gateway) -> None:
    def order(kind: OrderKind, rate_per_s: float = 0, *, name: str = "e1", generation: int = GENERATION) -> None:
        gateway.server.obey(Order(1, name, generation, kind, 0, "test", rate_per_s))

    async with gateway.connect() as first, gateway.connect() as second:
        hellos = [await told(first), await told(second)]
        assert [hello["t"] for hello in hellos] == ["hello", "hello"]
        order(OrderKind.DRAIN, name="e2")
        order(OrderKind.DRAIN, generation=GENERATION - 1)
        async with gateway.connect() as third:
            await told(third)
        order(OrderKind.DRAIN)
        with pytest.raises(InvalidStatus):
            await gateway.connect()
        order(OrderKind.RESUME)
        async with gateway.connect() as third:
            await told(third)
        order(OrderKind.SHED, 50)
        for socket in (first, second):
            frame = await told(socket)
            while frame["reason"] == "drain":
                frame = await told(socket)
            assert (frame["t"], frame["reason"]) == ("move", "shed")
        gateway.server.stop_moving()


async def test_shedding_is_over_unless_it_is_said_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.server.SHED_FOR_S", 0.4)
    monkeypatch.setattr("edge.server.SHED_GRACE_S", 0.6)

    def shed() -> None:
        gateway.server.obey(Order(1, "e1", GENERATION, OrderKind.SHED, 0, "test", 50))

    async with gateway.connect() as first:
        await told(first)
        shed()
        assert (await told(first))["t"] == "move"
        await asyncio.sleep(0.3)
        shed()  # who was asked before stays asked, and is not asked again
        assert await close_code(first) == Close.SHED
    await asyncio.sleep(0.3)
    async with gateway.connect() as later:
        await told(later)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await told(later)


async def test_a_card_is_asked_for_until_it_comes(gateway: Gateway) -> None:
    server = gateway.server
    async with gateway.connect() as first, gateway.connect(gateway.ticket("u2")) as second:
        for viewer in (first, second):
            await told(viewer)
            await viewer.send('{"t":"join","room":"r"}')
        for _ in range(2):  # also for the second one, who came when it had been asked a moment before
            async with asyncio.timeout(3):
                while "r" not in server.cards_wanted:  # noqa: ASYNC110 - the edge has no such event
                    await asyncio.sleep(0.02)
            server.cards_wanted = {}
        room = server.hub.rooms[room_hash("r")]
        room.take_card(b'{"epoch":1,"seq":0,"rseq":0}', "0.1", 1, server.now_s())
        server.carded([room])
        server.cards_wanted = {}
        await asyncio.sleep(1.5)
        assert server.cards_wanted == {}


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_a_part_that_cannot_be_read_is_left_out_of_what_a_viewer_missed(
    gateway: Gateway, compression: str | None
) -> None:
    """Who deflates is pushed it unread, so it lies in the ring when one comes for whom it must be inflated."""
    async with gateway.connect() as first, gateway.connect(compression=compression) as plain:
        await told(first)
        await ask(first, t="join", room="r")
        await gateway.deliver("r", [line(1)])
        broken = b"\xff" * 8
        entry = RoomEntry(room_hash("r"), 2, 2, 0, 1, 0, len(broken), 0, 3, int(RoomFlags.DEFLATED))
        batch = decode_broadcast(encode_batch(1, b"o" * 16, Anchor(0, 0, -1), 0, 1, 1, [(entry, broken)]))
        assert isinstance(batch, Batch)
        assert not (await drive(gateway.server.hub.deliver(batch, 0, 2, time.monotonic()))).failed
        await gateway.deliver("r", [line(3)], first=3)
        await told(plain)
        joined = await ask(plain, t="join", room="r", epoch=3, seq=1, rseq=0)
        assert (joined["t"], joined["resumed"]) == ("joined", True)
        assert (await told(plain))["seq"] == [3, 3], "the viewer sees the hole"
        assert (await ask(plain, t="hb", rooms={}))["t"] == "hb"
