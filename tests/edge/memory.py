"""Connections to a gateway in memory, without socket or descriptor, as a simulation makes them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from edge.limits import Limit
from edge.orders import Orders
from edge.pulls import Pulls
from liveroom import metric_catalog
from liveroom.kafka_port import AioKafka
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.tickets import User
from liveroom.wire import CLOSE, inflate
from tests.edge.harness import Edge, gateway_of
from tests.edge.test_receiver import TEXT, frame
from viewer.frames import FrameReader

DEFLATED = "permessage-deflate"


class MemoryTransport(asyncio.Transport):
    """The gateway's end of a connection in memory.

    What the gateway writes goes to the peer at once while that `reads`, and waits here until it
    does. `received`: what the peer has read and not taken yet.
    """

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__({"peername": ("192.0.2.1", 50_000)})
        self._protocol = protocol
        self._unsent = bytearray()
        self._is_paused = False
        self._is_closing = False
        self.received = bytearray()
        self.reads = True
        self.has_ended = False
        protocol.connection_made(self)

    # ---- the gateway's side
    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        assert isinstance(protocol, asyncio.Protocol)
        self._protocol = protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        """Do nothing: the peer of a test sends little."""

    def resume_reading(self) -> None:
        """Do nothing."""

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert (high, low) == (0, None)

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.has_ended
        (self.received if self.reads else self._unsent).extend(data)
        if self._unsent and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.has_ended = True
        self._answer_end()

    def close(self) -> None:
        self._is_closing = True
        if not self._unsent:
            self.abort()

    def abort(self) -> None:
        self._is_closing = True
        self._unsent.clear()
        asyncio.get_running_loop().call_soon(self._lose)

    def _lose(self) -> None:
        protocol, self._protocol = self._protocol, asyncio.Protocol()
        protocol.connection_lost(None)

    # ---- the peer's side
    def send(self, data: bytes) -> None:
        """Hand the gateway what the peer sends."""
        self._protocol.data_received(data)

    def read_on(self) -> None:
        """Read what waits, and whatever comes from now on."""
        self.reads = True
        self.received += self._unsent
        self._unsent.clear()
        if self._is_paused:
            self._is_paused = False
            self._protocol.resume_writing()
        self._answer_end()

    def _answer_end(self) -> None:
        """Close, as a peer does that has read to the end."""
        if self.has_ended and self.reads:
            self.close()


class MemoryViewer:
    """A viewer over WebSocket in memory. `code`: the close code that it has been sent."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self._reader = FrameReader()
        self.code: int | None = None

    def say(self, **said: Any) -> None:
        self.transport.send(frame(TEXT, json.dumps(said).encode()))

    def frames(self) -> list[dict[str, Any]]:
        """Return what has come since the last call; of a batch its header, and the numbers in it as
        `seqs`.
        """
        came = []
        data = bytes(self.transport.received)
        self.transport.received.clear()
        for opcode, payload in self._reader.feed(data):
            if opcode == CLOSE:
                self.code = int.from_bytes(payload[:2], "big")
                continue
            head, *lines = (payload if payload[:1] == b"{" else inflate(payload)).split(b"\n")
            came.append(json.loads(head) | ({"seqs": [json.loads(line)["seq"] for line in lines]} if lines else {}))
        return came


@dataclass
class MemoryEdge(Edge):
    """A gateway that listens nowhere."""

    runner: web.AppRunner
    runtime: Runtime

    def limited(self) -> dict[str, int]:
        """Return how often each limit has refused a connection or a join."""
        counts = {limit.value: self.runtime.metrics.counter(metric_catalog.LIMITED, limit.value)._value for limit in Limit}
        return {limit: int(count.get()) for limit, count in counts.items() if count.get()}

    def connect_in_memory(self) -> MemoryTransport:
        """Connect as a listening socket would: with a protocol of the HTTP server's own."""
        assert self.runner.server is not None
        return MemoryTransport(self.runner.server())

    async def viewer(self, user: str | User = "u1", *, extensions: str = "", address: str = "") -> MemoryViewer:
        """Return a viewer that has been answered `101`."""
        transport, head = await self._upgrade(self.ticket(user), extensions, address)
        assert head.startswith(b"HTTP/1.1 101"), head
        return MemoryViewer(transport)

    async def refusal(self, user: str = "u1", *, address: str = "", ticket: str = "") -> dict[str, Any] | None:
        """Connect; return the problem with which that was refused, or None where it was not."""
        transport, head = await self._upgrade(ticket or self.ticket(user), "", address)
        if head.startswith(b"HTTP/1.1 101"):
            return None
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        async with asyncio.timeout(5):
            while len(transport.received) < length:  # noqa: ASYNC110 - a transport has no such event
                await asyncio.sleep(0)
        problem: dict[str, Any] = json.loads(transport.received[:length])
        return problem

    async def _upgrade(self, ticket: str, extensions: str, address: str) -> tuple[MemoryTransport, bytes]:
        transport = self.connect_in_memory()
        offer = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
        forwarded = f"X-Forwarded-For: {address}\r\n" if address else ""
        transport.send(
            f"GET /v1/live?ticket={ticket} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"{offer}{forwarded}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        return transport, await self._head(transport)

    async def events(self, user: str = "u1") -> MemoryTransport:
        """Return a connection over which the viewer receives events."""
        transport = self.connect_in_memory()
        transport.send(f"GET /v1/events?ticket={self.ticket(user)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await self._head(transport)
        assert head.startswith(b"HTTP/1.1 200"), head
        return transport

    async def request(self, method: str, path: str, token: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return the status and the body of the answer to a request, on a connection of its own."""
        transport = self.connect_in_memory()
        transport.send(
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n".encode()
            + body
        )
        head = await self._head(transport)
        while not transport.is_closing():  # noqa: ASYNC110 - a transport has no such event
            await asyncio.sleep(0)
        return int(head.split()[1]), bytes(transport.received)

    async def _head(self, transport: MemoryTransport) -> bytes:
        """Take the head of an answer off what came."""
        async with asyncio.timeout(5):
            while b"\r\n\r\n" not in transport.received:  # noqa: ASYNC110 - a transport has no such event
                await asyncio.sleep(0)
        head, _, rest = bytes(transport.received).partition(b"\r\n\r\n")
        transport.received[:] = rest
        return head


@asynccontextmanager
async def in_memory(settings: EdgeSettings) -> AsyncIterator[MemoryEdge]:
    """Run a gateway without a port while the block runs."""
    runtime = Runtime("edge")
    gateway, upgrades, keepalive = gateway_of(settings, runtime)
    pulls = Pulls(AioKafka(settings.kafka), gateway, upgrades, runtime, lambda _: 0)
    runner = web.AppRunner(upgrades.app, access_log=None)
    await runner.setup()
    keeper = asyncio.create_task(keepalive.run())
    edge = MemoryEdge(gateway, keepalive, Orders(gateway, runtime.chance), 0, upgrades._admission, runner, runtime)
    try:
        yield edge
    finally:
        keeper.cancel()
        await pulls.close()
        await runner.cleanup()
