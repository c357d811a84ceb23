"""Viewers who take too little: what they get, when they are ended, what is left of them. Over real sockets."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from edge.member import Member
from liveroom.closecodes import Close
from liveroom.wire import ReceivedBatch, decode_server_frame
from tests.edge.gateway import Gateway, line
from tests.edge.test_receiver import CLOSE, TEXT, frame
from viewer.load import FrameReader

BIG = "x" * 1500
MANY = 400


@dataclass(eq=False)
class Slow:
    """A viewer with a small buffer that reads when it is told to."""

    raw: socket.socket
    member: Member
    reader: FrameReader = field(default_factory=FrameReader)
    seqs: list[int] = field(default_factory=list)
    code: int | None = None

    async def read(self, enough: Callable[[], bool]) -> None:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(10):
            while not enough():
                data = await loop.sock_recv(self.raw, 65_536)
                if not data:
                    return
                for opcode, payload in self.reader.feed(data):
                    if opcode == CLOSE:
                        self.code = int.from_bytes(payload[:2], "big")
                        continue
                    told = decode_server_frame(payload)
                    if isinstance(told, ReceivedBatch):
                        self.seqs += [message.seq for message in told.messages]


@asynccontextmanager
async def slow(gateway: Gateway, user: str = "slow") -> AsyncIterator[Slow]:
    loop = asyncio.get_running_loop()
    before = set(gateway.server.members)
    with socket.socket() as raw:
        raw.setblocking(False)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(raw, ("127.0.0.1", gateway.port))
        head = (
            f"GET /v1/live?ticket={gateway.ticket(user)} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await loop.sock_sendall(raw, head.encode() + frame(TEXT, b'{"t":"join","room":"r"}'))
        got = b""
        async with asyncio.timeout(5):
            while b"\r\n\r\n" not in got or b'"joined"' not in got:
                got += await loop.sock_recv(raw, 4096)
        (member,) = set(gateway.server.members) - before
        viewer = Slow(raw, member)
        viewer.reader.feed(got.partition(b"\r\n\r\n")[2])
        yield viewer


async def push(gateway: Gateway, first: int, count: int, *, gift_every: int = 10) -> None:
    """Deliver batches with one message each, some of them reliable."""
    for seq in range(first, first + count):
        await gateway.deliver("r", [line(seq, BIG)], seq, reliable=seq % gift_every == 0)
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the edge has no such event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("gateway", [{"slow_unsent_bytes": 32_768, "max_unsent_bytes": 1_000_000}], indirect=True)
async def test_a_slow_viewer_gets_reliable_messages_only_and_everything_again_once_it_reads(gateway: Gateway) -> None:
    async with slow(gateway) as viewer:
        await push(gateway, 1, MANY)
        assert viewer.member.unsent > 32_768
        await viewer.read(lambda: MANY in viewer.seqs)
        assert viewer.seqs == sorted(viewer.seqs)
        assert set(viewer.seqs) >= {seq for seq in range(1, MANY + 1) if seq % 10 == 0}
        assert len(viewer.seqs) < MANY
        skipping = next(seq for seq in range(1, MANY) if seq not in viewer.seqs)
        assert [seq for seq in viewer.seqs if seq > skipping + 10] == [
            seq for seq in range(skipping + 11, MANY + 1) if seq % 10 == 0
        ]
        await until(lambda: viewer.member.unsent == 0)
        assert not viewer.member.blocked
        await push(gateway, MANY + 1, 20)
        await viewer.read(lambda: MANY + 20 in viewer.seqs)
        assert viewer.seqs[-20:] == list(range(MANY + 1, MANY + 21))
    assert gateway.server.unsent == 0


@pytest.mark.parametrize("gateway", [{"slow_unsent_bytes": 16_384, "max_unsent_bytes": 65_536}], indirect=True)
async def test_a_viewer_far_behind_is_ended_and_leaves_nothing(gateway: Gateway) -> None:
    async with slow(gateway) as viewer, slow(gateway, "good") as good:
        reading = asyncio.create_task(good.read(lambda: 300 in good.seqs))
        await push(gateway, 1, 300, gift_every=1)
        await reading
        assert good.seqs == list(range(1, 301))
        assert viewer.member.close_code == Close.SLOW
        assert viewer.member not in gateway.server.backlogs
        assert not viewer.member.rooms
        await until(lambda: viewer.member not in gateway.server.members)
        assert gateway.server.unsent == 0


@pytest.mark.parametrize("gateway", [{"slow_unsent_bytes": 16_384, "max_unsent_bytes": 65_536}], indirect=True)
async def test_a_viewer_that_was_ended_as_slow_is_told_so_when_it_reads(gateway: Gateway) -> None:
    async with slow(gateway) as viewer:
        await push(gateway, 1, 300, gift_every=1)
        await viewer.read(lambda: viewer.code is not None)
        assert viewer.code == Close.SLOW
        assert viewer.seqs == list(range(1, len(viewer.seqs) + 1))


@pytest.mark.parametrize("gateway", [{"max_unsent_s": 0.5}], indirect=True)
async def test_a_viewer_whose_oldest_byte_grows_old_is_ended(gateway: Gateway) -> None:
    async with slow(gateway) as viewer:
        seq = 0
        while not viewer.member.unsent:
            seq += 1
            await push(gateway, seq, 1)
        await until(lambda: viewer.member.close_code == Close.SLOW)
        await until(lambda: not gateway.server.members)
        assert (gateway.server.unsent, len(gateway.server.backlogs)) == (0, 0)


@pytest.mark.parametrize("gateway", [{"max_unsent_bytes": 10_000_000, "max_unsent_total_bytes": 400_000}], indirect=True)
async def test_when_too_much_waits_for_all_the_largest_backlogs_go_first(gateway: Gateway) -> None:
    async with slow(gateway, "a") as first:
        await push(gateway, 1, 150, gift_every=1)
        async with slow(gateway, "b") as second:
            while not first.member.close_code:
                await push(gateway, 1000, 1, gift_every=1)
            assert first.member.close_code == Close.SLOW
            assert not second.member.close_code
            assert 0 < gateway.server.unsent < 400_000


async def test_what_is_cleared_is_taken_out_of_a_slow_viewers_queue(gateway: Gateway) -> None:
    async with slow(gateway) as viewer:
        seq = 0
        while not viewer.member.unsent:
            seq += 1
            await push(gateway, seq, 1)
        begun = seq + 1
        await gateway.deliver("r", [line(begun, "rude"), line(begun + 1, "kind")], begun)
        clear = {"seq": begun + 2, "kind": "clear", "id": "c", "user": "m", "at": 1, "rseq": 1, "data": {"id": f"i{begun}"}}
        await gateway.deliver("r", [json.dumps(clear).encode()], begun + 2, reliable=True, clears=True)
        await viewer.read(lambda: begun + 2 in viewer.seqs)
        assert viewer.seqs == [*range(1, begun), begun + 1, begun + 2]
