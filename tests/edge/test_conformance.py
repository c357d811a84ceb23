"""The RFC's cases against the running edge, over TCP: the tables of test_receiver, the handshake,
and garbage.

What the edge says is read by the sans-I/O client of `websockets`, so a wrong frame of ours fails
too.
"""

import asyncio
import contextlib
import gc
import json
import random
import secrets
import socket
import tracemalloc
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from edge.receiver import Closing, Event, Fault, Ping, Pong, Text
from liveroom.closecodes import Close
from liveroom.wire import SUBPROTOCOL, BadFrameError, decode_client_frame
from tests.edge.harness import UNLIMITED, Edge, line, next_frame
from tests.edge.test_receiver import CLOSE, CONTROL, DEFLATED, FRAGMENTS, FRAMING, PING, PONG, TEXT, deflated, frame

QUIET_S = 0.03
TURNS = 40  # of garbage
AT_ONCE = 50
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


class Raw:
    """A connection on which any bytes can be sent."""

    def __init__(self, edge: Edge, *, deflates: bool = False) -> None:
        self._gateway = edge
        factory = ClientPerMessageDeflateFactory(server_no_context_takeover=True, client_no_context_takeover=True)
        self.protocol = ClientProtocol(
            parse_uri(edge.url(edge.ticket())),
            extensions=[factory] if deflates else [],
            subprotocols=[Subprotocol(SUBPROTOCOL)],
        )
        self.frames: list[Frame] = []
        self.ended = False

    @asynccontextmanager
    async def open(self, behind: bytes = b"") -> AsyncIterator["Raw"]:
        """Shake hands; `behind` is sent in one segment with the request."""
        self._reader, self._writer = await self._gateway.open()
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self.protocol.send_request(self.protocol.connect())
            self._writer.write(b"".join(self.protocol.data_to_send()) + behind)
            await self.read(lambda: len(self.frames) > 0)
            assert json.loads(bytes(self.frames.pop(0).data))["t"] == "hello"
            yield self
        finally:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()

    async def send(self, data: bytes, size: int = 1 << 20) -> None:
        """Send bytes, so many at a time."""
        with contextlib.suppress(ConnectionError):  # it may have been ended before all was sent
            for start in range(0, len(data), size):
                self._writer.write(data[start : start + size])
                await self._writer.drain()
                await asyncio.sleep(0)

    async def read(self, enough: Callable[[], bool], timeout_s: float = 5) -> None:
        """Read frames until there are enough, nothing comes for so long, or the edge has ended its
        side.
        """
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(timeout_s):
                while not self.ended and not enough():
                    data = await self._reader.read(65_536)
                    self.ended = not data
                    self.protocol.receive_data(data) if data else self.protocol.receive_eof()
                    for event in self.protocol.events_received():
                        if isinstance(event, Response):
                            assert event.status_code == 101
                            assert self.protocol.handshake_exc is None
                        elif isinstance(event, Frame):
                            self.frames.append(event)
        assert self.protocol.handshake_exc is None


def answers(events: Sequence[Event]) -> tuple[list[tuple[int, bytes]], int | None]:
    """Return the control frames that an edge answers, and the code it closes with (None: it does
    not; 0: without one).
    """
    frames: list[tuple[int, bytes]] = []
    for event in events:
        match event:
            case Ping(payload):
                frames.append((PONG, payload))
            case Pong():
                pass
            case Text(text):
                try:
                    decode_client_frame(text)
                except BadFrameError:
                    return frames, Close.BAD_FRAME
            case Closing(code):
                return frames, code or 0
            case Fault(code):
                return frames, code
    return frames, None


async def converse(raw: Raw, stream: bytes, events: Sequence[Event], size: int = 1 << 20) -> None:
    """Send a stream, and judge what comes of it."""
    frames, code = answers(events)
    await raw.send(stream, size)
    wanted = len(frames) + (code is not None)
    await raw.read(lambda: len(raw.frames) >= wanted)
    await raw.read(lambda: False, QUIET_S if code is None else 5)
    got = [(int(one.opcode), bytes(one.data)) for one in raw.frames]
    if code is None:
        assert (got, raw.ended) == (frames, False)
        return
    assert got[:-1] == frames
    opcode, data = got[-1]
    assert opcode == CLOSE
    assert int.from_bytes(data[:2], "big") == code
    assert raw.ended


@pytest.mark.parametrize(("stream", "events"), [*FRAMING, *FRAGMENTS, *CONTROL])
async def test_a_stream_is_answered_as_rfc_6455_wants_it(edge: Edge, stream: bytes, events: list[Event]) -> None:
    async with Raw(edge).open() as raw:
        await converse(raw, stream, events)


@pytest.mark.parametrize(("stream", "events"), DEFLATED)
async def test_deflated_messages_are_answered_as_rfc_7692_wants(edge: Edge, stream: bytes, events: list[Event]) -> None:
    async with Raw(edge, deflates=True).open() as raw:
        assert raw.protocol.extensions
        await converse(raw, stream, events)


@pytest.mark.parametrize("edge", [UNLIMITED], indirect=True)
async def test_streams_may_come_one_byte_at_a_time(edge: Edge) -> None:
    short = [case.values for case in [*FRAMING, *FRAGMENTS, *CONTROL] if len(case.values[0]) < 300]  # type: ignore[arg-type]
    assert len(short) > 60
    for stream, events in short:
        async with Raw(edge).open() as raw:
            await converse(raw, stream, events, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 125])
async def test_a_ping_is_answered_with_its_payload(edge: Edge, size: int) -> None:
    async with Raw(edge).open() as raw:
        await converse(raw, frame(PING, b"p" * size), [Ping(b"p" * size)])


async def test_what_is_sent_right_behind_the_upgrade_is_not_lost(edge: Edge) -> None:
    beat = frame(TEXT, b'{"t":"hb"}')
    async with Raw(edge).open(behind=beat + frame(PING, b"x")) as raw:
        await raw.read(lambda: len(raw.frames) == 2)
        assert json.loads(bytes(raw.frames[0].data))["t"] == "hb"
        assert (raw.frames[1].opcode, raw.frames[1].data) == (Opcode.PONG, b"x")


async def test_a_frame_may_have_any_length_up_to_4_kib(edge: Edge) -> None:
    async with Raw(edge).open() as raw:
        for size in (10, 125, 126, 127, 4095, 4096):
            await raw.send(frame(TEXT, b'{"t":"hb"}'.ljust(size)))
            await raw.read(lambda: len(raw.frames) == 1)
            assert json.loads(bytes(raw.frames.pop().data))["t"] == "hb"


async def test_far_too_many_frames_end_the_connection(edge: Edge) -> None:
    async with Raw(edge).open() as raw:
        await raw.send(frame(PING) * 100)
        await raw.read(lambda: False)
        assert raw.protocol.close_rcvd is not None
        assert raw.protocol.close_rcvd.code == Close.TOO_FAST


async def test_a_bomb_ends_the_connection(edge: Edge) -> None:
    async with Raw(edge, deflates=True).open() as raw:
        await raw.send(frame(TEXT, deflated(b" " * 1_000_000), flags=0xC0))
        await raw.read(lambda: False)
        assert raw.protocol.close_rcvd is not None
        assert raw.protocol.close_rcvd.code == Close.TOO_BIG


async def test_batches_come_deflated_to_those_who_asked_and_notices_never_do(edge: Edge) -> None:
    lines = [line(seq, "弾幕" * 20) for seq in range(1, 50)]
    texts = {}
    for deflates in (True, False):
        async with Raw(edge, deflates=deflates).open() as raw:
            await raw.send(frame(TEXT, b'{"t":"join","room":"r"}'))
            await raw.read(lambda raw=raw: len(raw.frames) == 1)  # type: ignore[misc]
            seen: list[Frame] = []
            for extension in raw.protocol.extensions:
                decode = extension.decode

                def watch(one: Frame, decode: Any = decode, seen: list[Frame] = seen, **options: Any) -> Frame:
                    seen.append(one)
                    return decode(one, **options)  # type: ignore[no-any-return]

                extension.decode = watch  # type: ignore[method-assign, assignment]
            await edge.deliver("r", lines)
            await edge.notify("r", "u1", b'{"t":"notice","pad":"' + b"x" * 2000 + b'"}')
            await raw.read(lambda raw=raw: len(raw.frames) == 3)  # type: ignore[misc]
            assert [one.rsv1 for one in seen] == ([True, False] if deflates else [])
            texts[deflates] = [bytes(one.data) for one in raw.frames[1:]]
    assert texts[True] == texts[False]


UPGRADE = {
    "Host": "x",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}


@pytest.mark.parametrize(
    ("changes", "status", "answered"),
    [
        pytest.param({}, 101, {"sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="}, id="the RFC's example"),
        pytest.param({"Upgrade": "h2c, WebSocket"}, 101, {}, id="a list, any case"),
        pytest.param({"Connection": "keep-alive, Upgrade"}, 101, {}, id="as Firefox says it"),
        pytest.param({"Connection": "keep-alive"}, 426, {"upgrade": "websocket"}, id="no upgrade"),
        pytest.param({"Sec-WebSocket-Version": "8"}, 426, {"sec-websocket-version": "13"}, id="an old version"),
        pytest.param({"Sec-WebSocket-Version": None}, 426, {"sec-websocket-version": "13"}, id="no version"),
        pytest.param({"Sec-WebSocket-Key": None}, 400, {}, id="no key"),
        pytest.param({"Sec-WebSocket-Key": "c2hvcnQ="}, 400, {}, id="a short key"),
        pytest.param({"Sec-WebSocket-Key": "no base64 at all"}, 400, {}, id="no base64"),
        pytest.param({"Sec-WebSocket-Key": f"{KEY}\r\nSec-WebSocket-Key: {KEY}"}, 400, {}, id="two keys"),
        pytest.param({"Sec-WebSocket-Protocol": "other"}, 101, {"sec-websocket-protocol": None}, id="another protocol"),
        pytest.param(
            {"Sec-WebSocket-Protocol": f"other, {SUBPROTOCOL}"}, 101, {"sec-websocket-protocol": SUBPROTOCOL}, id="ours offered"
        ),
        pytest.param(
            {"Sec-WebSocket-Extensions": "permessage-deflate; client_no_context_takeover; client_max_window_bits"},
            101,
            {"sec-websocket-extensions": "permessage-deflate; server_no_context_takeover; client_no_context_takeover"},
            id="as Chrome offers it",
        ),
        pytest.param(
            {"Sec-WebSocket-Extensions": "permessage-deflate; server_max_window_bits=10"},
            101,
            {"sec-websocket-extensions": None},
            id="a window smaller than ours",
        ),
    ],
)
async def test_the_handshake(edge: Edge, changes: dict[str, str | None], status: int, answered: dict[str, str | None]) -> None:
    headers = {name: value for name, value in (UPGRADE | changes).items() if value is not None}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reader, writer = await edge.open()
    writer.write(f"GET /v1/live?ticket={edge.ticket()} HTTP/1.1\r\n{head}\r\n".encode())
    first, *rest = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)).decode().split("\r\n")
    writer.close()
    assert int(first.split()[1]) == status
    got = {name.lower(): value for name, _, value in (one.partition(": ") for one in rest)}
    assert {name: got.get(name) for name in answered} == answered


@pytest.mark.parametrize("method", ["POST", "PUT", "HEAD"])
async def test_only_get_upgrades(edge: Edge, method: str) -> None:
    reader, writer = await edge.open()
    head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
    writer.write(f"{method} /v1/live?ticket={edge.ticket()} HTTP/1.1\r\nContent-Length: 0\r\n{head}\r\n".encode())
    assert b" 405 " in await asyncio.wait_for(reader.readline(), 5)
    writer.close()


@pytest.mark.parametrize("edge", [{"handshake_timeout_s": 0.5}], indirect=True)
@pytest.mark.parametrize(
    "begun", [b"", b"GET /v1/li", b"GET /v1/live HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "a line", "a head"]
)
async def test_a_handshake_that_does_not_come_ends_the_connection(edge: Edge, begun: bytes) -> None:
    reader, writer = await edge.open()
    writer.write(begun)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("edge", [{"handshake_timeout_s": 0.5}], indirect=True)
async def test_a_viewer_that_joins_nothing_is_closed(edge: Edge) -> None:
    async with Raw(edge).open() as raw:
        await raw.read(lambda: False)
        assert raw.protocol.close_rcvd is not None
        assert raw.protocol.close_rcvd.code == Close.HANDSHAKE_LATE


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def garbage(chance: random.Random) -> bytes:
    """Return random bytes, or valid frames that were damaged."""
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(1, 300))
    data = bytearray()
    for _ in range(chance.randrange(1, 6)):
        opcode = chance.choice((TEXT, TEXT, PING, PONG, CLOSE, 0, 2))
        text = chance.choice((b'{"t":"join","room":"r"}', b'{"t":"hb"}', chance.randbytes(chance.randrange(60))))
        data += frame(opcode, text, flags=chance.choice((0x80, 0x80, 0x80, 0, 0xC0)))
    for _ in range(chance.randrange(4)):
        place = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                data[place:place] = chance.randbytes(3)
            case _:
                del data[place : place + 3]
        data = data or bytearray(b"\x00")
    return bytes(data)


@pytest.mark.parametrize("edge", [UNLIMITED], indirect=True)
async def test_garbage_from_thousands_leaves_nothing_behind_and_disturbs_nobody(edge: Edge) -> None:
    chance = random.Random(secrets.randbits(32))

    async def size() -> int:
        """Return what the process holds once all others are gone, on both sides, and but for what
        was logged.
        """
        async with asyncio.timeout(30):
            while len(edge.gateway.members) > 1 or open_descriptors() > before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.05)
        assert [entry for entry in logs if entry["log_level"] in {"error", "critical"}] == []
        logs.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async def one() -> None:
        reader, writer = await edge.open()
        head = "".join(f"{name}: {value}\r\n" for name, value in UPGRADE.items())
        if chance.random() < 0.9:
            writer.write(f"GET /v1/live?ticket={edge.ticket()} HTTP/1.1\r\n{head}\r\n".encode())
        writer.write(garbage(chance))
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(0.05):
                await reader.read()
        writer.transport.abort() if chance.random() < 0.5 else writer.close()

    with capture_logs() as logs:
        async with edge.connect() as viewer:
            await next_frame(viewer)
            await viewer.send('{"t":"join","room":"r"}')
            assert (await next_frame(viewer))["t"] == "joined"
            before = open_descriptors()
            tracemalloc.start()
            for turn in range(TURNS):
                await asyncio.gather(*(one() for _ in range(AT_ONCE)))
                await edge.deliver("r", [line(turn + 1)], turn + 1)
                assert (await next_frame(viewer))["seq"] == [turn + 1, turn + 1]
                if turn == TURNS // 2:
                    half = await size()
            whole = await size()
    tracemalloc.stop()
    assert (len(edge.gateway.queues), edge.gateway.queues.size) == (0, 0)
    # Some 850 bytes each are left: the pull rights that last 5 minutes, the spent ticket, and the
    # member until its turn in the wheel of the keep-alives. A connection that stayed would be 2.4
    # KiB more.
    assert whole - half < TURNS // 2 * AT_ONCE * 1200
