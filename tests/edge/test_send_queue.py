"""Viewers who take too little: what they get, when they are ended, what is left of them.

Over real sockets.
"""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from edge.member import Member
from edge.send_queue import QueuedFrame, SendQueues, Verdict
from liveroom.closecodes import Close
from liveroom.topics import room_hash
from liveroom.wire import ReceivedBatch, decode_server_frame
from tests.edge.harness import Edge, ask, line, next_frame, received, secured_by
from tests.edge.test_receiver import CLOSE, TEXT, frame
from viewer.frames import FrameReader

BIG = "x" * 1500
MANY = 400


@dataclass(eq=False)
class Slow:
    """A viewer with a small buffer that reads only when the test asks."""

    raw: socket.socket
    member: Member
    reader: FrameReader = field(default_factory=FrameReader)
    seqs: list[int] = field(default_factory=list)
    code: int | None = None

    async def read(self, enough: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not enough():
                data = await received(self.raw, 65_536)
                if not data:
                    return
                for opcode, payload in self.reader.feed(data):
                    if opcode == CLOSE:
                        self.code = int.from_bytes(payload[:2], "big")
                        continue
                    came = decode_server_frame(payload)
                    if isinstance(came, ReceivedBatch):
                        self.seqs += [message.seq for message in came.messages]


@asynccontextmanager
async def slow(edge: Edge, user: str = "slow") -> AsyncIterator[Slow]:
    before = set(edge.gateway.members)
    raw = socket.socket()
    raw.setblocking(False)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", edge.port))
    with raw if edge.trusting is None else await secured_by(edge.trusting, raw) as raw:
        head = (
            f"GET /v1/live?ticket={edge.ticket(user)} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        raw.sendall(head.encode() + frame(TEXT, b'{"t":"join","room":"r"}'))
        got = b""
        async with asyncio.timeout(5):
            while b"\r\n\r\n" not in got or b'"joined"' not in got:
                got += await received(raw, 4096)
        (member,) = set(edge.gateway.members) - before
        viewer = Slow(raw, member)
        viewer.reader.feed(got.partition(b"\r\n\r\n")[2])
        yield viewer


async def push(edge: Edge, first: int, count: int, *, gift_every: int = 10) -> None:
    """Deliver batches with one message each, some of them reliable."""
    for seq in range(first, first + count):
        await edge.deliver("r", [line(seq, BIG)], seq, reliable=seq % gift_every == 0)
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - the edge has no such event
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("edge", [{"slow_unsent_bytes": 32_768, "max_unsent_bytes": 1_000_000}], indirect=True)
async def test_a_slow_viewer_gets_reliable_messages_only_and_everything_again_once_it_reads(edge: Edge) -> None:
    async with slow(edge) as viewer:
        await push(edge, 1, MANY)
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
        await push(edge, MANY + 1, 20)
        await viewer.read(lambda: MANY + 20 in viewer.seqs)
        assert viewer.seqs[-20:] == list(range(MANY + 1, MANY + 21))
    assert edge.gateway.queues.size == 0


@pytest.mark.parametrize("edge", [{"slow_unsent_bytes": 16_384, "max_unsent_bytes": 65_536}], indirect=True)
async def test_a_viewer_far_behind_is_ended_and_leaves_nothing(edge: Edge) -> None:
    async with slow(edge) as viewer, slow(edge, "good") as good:
        reading = asyncio.create_task(good.read(lambda: 300 in good.seqs))
        await push(edge, 1, 300, gift_every=1)
        await reading
        assert good.seqs == list(range(1, 301))
        assert viewer.member.close_code == Close.SLOW
        assert viewer.member not in edge.gateway.queues
        assert not viewer.member.rooms
        await until(lambda: viewer.member not in edge.gateway.members)
        assert edge.gateway.queues.size == 0


@pytest.mark.parametrize("edge", [{"slow_unsent_bytes": 16_384, "max_unsent_bytes": 65_536}], indirect=True)
async def test_a_viewer_that_was_closed_as_slow_gets_the_code_when_it_reads(edge: Edge) -> None:
    async with slow(edge) as viewer:
        await push(edge, 1, 300, gift_every=1)
        await viewer.read(lambda: viewer.code is not None)
        assert viewer.code == Close.SLOW
        assert viewer.seqs == list(range(1, len(viewer.seqs) + 1))


@pytest.mark.parametrize("edge", [{"max_unsent_s": 0.5}], indirect=True)
async def test_a_viewer_whose_oldest_byte_grows_old_is_ended(edge: Edge) -> None:
    async with slow(edge) as viewer:
        seq = 0
        while not viewer.member.unsent:
            seq += 1
            await push(edge, seq, 1)
        await until(lambda: viewer.member.close_code == Close.SLOW)
        await until(lambda: not edge.gateway.members)
        assert (edge.gateway.queues.size, len(edge.gateway.queues)) == (0, 0)


@pytest.mark.parametrize("edge", [{"max_unsent_bytes": 10_000_000, "max_unsent_total_bytes": 400_000}], indirect=True)
async def test_when_too_much_waits_for_all_the_largest_backlogs_go_first(edge: Edge) -> None:
    async with slow(edge, "a") as first:
        await push(edge, 1, 150, gift_every=1)
        async with slow(edge, "b") as second:
            while not first.member.close_code:
                await push(edge, 1000, 1, gift_every=1)
            assert first.member.close_code == Close.SLOW
            assert not second.member.close_code
            assert 0 < edge.gateway.queues.size < 400_000


async def test_what_is_cleared_is_taken_out_of_a_slow_viewers_queue(edge: Edge) -> None:
    async with slow(edge) as viewer:
        seq = 0
        while not viewer.member.unsent:
            seq += 1
            await push(edge, seq, 1)
        begun = seq + 1
        await edge.deliver("r", [line(begun, "rude"), line(begun + 1, "kind")], begun)
        clear = {"seq": begun + 2, "kind": "clear", "id": "c", "user": "m", "at": 1, "rseq": 1, "data": {"id": f"i{begun}"}}
        await edge.deliver("r", [json.dumps(clear).encode()], begun + 2, reliable=True, clears=True)
        await viewer.read(lambda: begun + 2 in viewer.seqs)
        assert viewer.seqs == [*range(1, begun), begun + 1, begun + 2]


@pytest.mark.parametrize("edge", [{"slow_unsent_bytes": 64 * 1024, "max_unsent_bytes": 256 * 1024}], indirect=True)
async def test_a_viewer_that_does_not_read_is_ended_and_the_others_go_on(edge: Edge) -> None:
    async with edge.connect(compression=None) as reader:
        await next_frame(reader)
        await ask(reader, t="join", room="r")
        _, writer = await edge.open(limit=1024)
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        head = f"GET /v1/live?ticket={edge.ticket('slow')} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
        join = b'{"t":"join","room":"r"}'
        writer.write(bytes((0x81, 0x80 | len(join), 0, 0, 0, 0)) + join)
        async with asyncio.timeout(5):
            while len(edge.gateway.hub.rooms[room_hash("r")].members) < 2:  # noqa: ASYNC110 - the edge has no such event
                await asyncio.sleep(0)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        seq = 0
        async with asyncio.timeout(30):
            while len(edge.gateway.members) == 2:
                await edge.deliver("r", [line(seq + i, "x" * 150) for i in range(1, 101)], seq + 1, reliable=True)
                seq += 100
                assert (await next_frame(reader))["seq"][1] == seq
        writer.transport.abort()


def queued(size: int, at_s: float = 0) -> QueuedFrame:
    return QueuedFrame(b"x" * size, None, at_s, is_whole=True)


def test_a_frame_over_a_limit_is_taken_and_the_verdict_names_the_limit() -> None:
    queues: SendQueues[str] = SendQueues(slow_bytes=10, max_bytes=30, max_total_bytes=50, max_age_s=5)
    first, second = queues.open("first", 5, now_s=0), queues.open("second", 25, now_s=0)
    assert (first.put(queued(5)), first.is_slow) == (Verdict.TAKEN, False)
    assert (first.put(queued(15)), first.is_slow) == (Verdict.TAKEN, True)
    assert second.put(queued(1)) is Verdict.TOO_MUCH_IN_ALL
    assert second.put(queued(5)) is Verdict.TOO_MUCH
    assert (first.size, second.size, queues.size) == (25, 31, 56)


def test_the_largest_queues_go_until_there_is_room_again() -> None:
    queues: SendQueues[int] = SendQueues(slow_bytes=10, max_bytes=1000, max_total_bytes=100, max_age_s=5)
    for held in (20, 40, 10, 30):
        queues.open(held, held, now_s=0)
    assert list(queues.in_the_way()) == []
    queues.open(5, 5, now_s=0)
    gone = []
    for viewer in queues.in_the_way():
        queues.drop(viewer)
        gone.append(viewer)
    assert (gone, queues.size, len(queues)) == ([40], 65, 4)


def test_the_age_of_a_queue_is_that_of_its_oldest_byte_wherever_that_waits() -> None:
    queues: SendQueues[str] = SendQueues(slow_bytes=10, max_bytes=1000, max_total_bytes=1000, max_age_s=5)
    queue = queues.open("slow", 7, now_s=1)
    queue.put(queued(1, at_s=3))
    assert (queue.waits_since(), queues.too_old(6), queues.too_old(6.1)) == (1, [], ["slow"])
    queue.hold(0, 1)  # the transport has sent what it held
    assert (queue.waits_since(), queues.too_old(8), queues.too_old(8.1)) == (3, [], ["slow"])
    assert [queue.pop() is None for _ in range(2)] == [False, True]
    assert (queue.size, queues.size) == (0, 0)
