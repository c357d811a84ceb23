"""A gateway's public port without a queue: tests hand it batches, and connect with an independent
client.
"""

import asyncio
import contextlib
import json
import secrets
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosedError
from websockets.typing import Subprotocol

from edge import certificates
from edge.admission import Admission
from edge.fanout import drive
from edge.gateway import Gateway
from edge.hub import Delivered, Hub
from edge.keepalive import KeepAlive
from edge.orders import Orders
from edge.tls_server import TlsServer
from edge.upgrade import Upgrades
from liveroom import clock
from liveroom.connections import Connections
from liveroom.moderation import Rules
from liveroom.records.broadcast import (
    Anchor,
    Batch,
    BatchParts,
    NoticeEntry,
    RoomEntry,
    RoomFlags,
    decode_broadcast,
    encode_batch,
)
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.tickets import ENTRY, Ticket, User, sign
from liveroom.topics import room_hash
from liveroom.web import serve
from liveroom.wire import SUBPROTOCOL, BatchHeader, pack_payload
from tests.tickets import PUBLIC_KEYS, SIGNERS

UNLIMITED = {  # for tests in which one user at one address stands for many
    "max_user_connections": 0,
    "user_connections_per_s": 0,
    "max_per_address": 0,
    "address_connections_per_s": 0,
}
GENERATION = 77


@dataclass
class Edge:
    """A running gateway without a queue: tests hand it batches."""

    gateway: Gateway
    keepalive: KeepAlive
    orders: Orders
    port: int
    admission: Admission
    trusting: ssl.SSLContext | None = field(default=None, kw_only=True)

    def ticket(self, user: str | User = "u1", *, key_id: str = "k2", **changes: Any) -> str:
        fields: dict[str, Any] = {
            "purpose": ENTRY,
            "user": user if isinstance(user, User) else User(user),
            "expires_ms": clock.unix_ms() + 60_000,
            "nonce": secrets.token_hex(9),
            "gateways": (("e1", GENERATION),),
        }
        return sign(Ticket(**fields | changes), SIGNERS[key_id])

    def url(self, ticket: str) -> str:
        return f"{'wss' if self.trusting else 'ws'}://127.0.0.1:{self.port}/v1/live?ticket={ticket}"

    @property
    def http(self) -> str:
        """The gateway's address for requests."""
        return f"{'https' if self.trusting else 'http'}://127.0.0.1:{self.port}"

    async def open(self, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection on which nothing has been sent."""
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.trusting, **options)

    def connect(self, ticket: str | None = None, **options: Any) -> connect:
        return connect(
            self.url(self.ticket() if ticket is None else ticket),
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            ssl=self.trusting,
            **options,
        )

    async def notify(self, room: str, user: str, text: bytes) -> Delivered:
        """Deliver a notice to one user."""
        notice = NoticeEntry(room_hash(room), room_hash(user), len(text)), text
        batch = decode_broadcast(encode_batch(BatchParts(1, b"o" * 16, 1, Anchor(0, 0, None), 0, 1, 1, [], [notice])))
        assert isinstance(batch, Batch)
        return await drive(self.gateway.hub.deliver(batch, 0, 1, clock.monotonic_s()))

    async def deliver(
        self, room: str, lines: list[bytes], first: int = 1, *, reliable: bool = False, clears: bool = False
    ) -> None:
        """Deliver a batch of one room; `clears`: there is a `clear` in it."""
        last = first + len(lines) - 1
        payload = pack_payload(
            BatchHeader(room, 3, (first, last), 0, at=1), lines if reliable else [], [] if reliable else lines
        )
        flags = (RoomFlags.DEFLATED if payload.deflated else 0) | (RoomFlags.CLEAR if clears else 0)
        entry = RoomEntry(room_hash(room), first, last, 0, len(lines), 0, len(payload.data), payload.reliable_size, 3, flags)
        batch = decode_broadcast(
            encode_batch(BatchParts(1, b"o" * 16, 1, Anchor(0, 0, None), 0, 1, 1, [(entry, payload.data)]))
        )
        assert isinstance(batch, Batch)
        delivered = await drive(self.gateway.hub.deliver(batch, 0, 1, clock.monotonic_s()))
        self.gateway.joins.on_snapshots(delivered.with_snapshot)


def settings_of(**changes: Any) -> EdgeSettings:
    return EdgeSettings(instance="e1", ticket_public_keys=PUBLIC_KEYS, drain_s=1, **changes)


def gateway_of(settings: EdgeSettings, runtime: Runtime) -> tuple[Gateway, Upgrades, KeepAlive]:
    """Return the parts of a gateway that make a whole one but for Kafka."""
    gateway = Gateway(
        settings, Hub(settings.max_local_rooms, settings.max_address_quiet_rooms), Rules(), runtime.metrics, GENERATION
    )
    admission = Admission(gateway, runtime)
    admission.use(settings.read_ticket_keys())
    upgrades = Upgrades(gateway, admission, runtime)
    return gateway, upgrades, KeepAlive(gateway)


async def tls_of(settings: EdgeSettings, runtime: Runtime, connections: Connections) -> TlsServer | None:
    """Return what accepts connections where the settings name a certificate."""
    read = await asyncio.to_thread(certificates.load, settings)
    if read is None:
        return None
    return TlsServer(
        read.context,
        runtime.metrics,
        settings.handshake_timeout_s,
        key_of=connections.key_of,
        takes_header=settings.http.proxy_protocol,
        on_refused=connections.count,
    )


@asynccontextmanager
async def running(settings: EdgeSettings, trusting: ssl.SSLContext | None = None) -> AsyncIterator[Edge]:
    """Serve while the block runs: over TLS where the settings name a certificate, which viewers
    with the context `trusting` trust.
    """
    runtime = Runtime("edge")
    gateway, upgrades, keepalive = gateway_of(settings, runtime)
    tls = await tls_of(settings, runtime, upgrades.connections)
    async with serve(upgrades.app, "127.0.0.1", 0, shutdown_timeout_s=0.2, accepting=tls, connections=upgrades.connections) as (
        _,
        port,
    ):
        keeper = asyncio.create_task(keepalive.run())
        yield Edge(gateway, keepalive, Orders(gateway, runtime.chance), port, upgrades._admission, trusting=trusting)
        keeper.cancel()
        for member in list(gateway.members):
            member.abort()


async def secured_by(trusting: ssl.SSLContext, raw: socket.socket) -> ssl.SSLSocket:
    """Return the connection, which does not block, once its TLS handshake is done."""
    sock = trusting.wrap_socket(raw, server_hostname="127.0.0.1", do_handshake_on_connect=False)
    async with asyncio.timeout(5):
        while True:
            try:
                sock.do_handshake()
            except ssl.SSLWantReadError:
                await readable(sock)
            else:
                return sock


async def received(sock: socket.socket, size: int) -> bytes:
    """Return what comes next on a socket that does not block, plain or TLS."""
    while True:
        try:
            return sock.recv(size)
        except (BlockingIOError, ssl.SSLWantReadError):
            await readable(sock)


async def readable(sock: socket.socket) -> None:
    """Wait until bytes come."""
    loop = asyncio.get_running_loop()
    come = asyncio.Event()
    loop.add_reader(sock.fileno(), come.set)
    try:
        await come.wait()
    finally:
        loop.remove_reader(sock.fileno())


def line(seq: int, text: str = "hi") -> bytes:
    return json.dumps({"seq": seq, "kind": "danmaku", "id": f"i{seq}", "user": "u", "at": 1, "data": {"text": text}}).encode()


async def ask(viewer: ClientConnection, **frame: Any) -> dict[str, Any]:
    """Send a frame and return the answer; a heartbeat may come before it in a slow test."""
    await viewer.send(json.dumps(frame))
    while (answer := await next_frame(viewer))["t"] == "hb" != frame["t"]:
        pass
    return answer


async def next_frame(viewer: ClientConnection) -> dict[str, Any]:
    text = await asyncio.wait_for(viewer.recv(), 20)
    frame: dict[str, Any] = json.loads(str(text).split("\n")[0])
    return frame


async def close_code(viewer: ClientConnection) -> int | None:
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionClosedError):
            async for _ in viewer:
                pass
        await viewer.wait_closed()
    return viewer.close_code
