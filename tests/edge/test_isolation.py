"""No viewer ever gets a frame of a room it has not joined: random joins, leaves, ends of every
kind, descriptors used again.
"""

import asyncio
import contextlib
import json
import random
import secrets
import socket
import ssl
import struct
from dataclasses import dataclass, field

from edge.member import Member
from tests.edge.harness import Edge, line, secured_by
from tests.edge.test_receiver import TEXT, frame
from viewer.frames import FrameReader

ROOMS = "abcd"
STEPS = 400
MOST = 30


@dataclass(eq=False)
class Client:
    """A raw viewer: what it may get, and what it got that it may not."""

    raw: socket.socket
    joined: set[str] = field(default_factory=set)
    left: set[str] = field(default_factory=set)
    strange: list[str] = field(default_factory=list)
    batches: int = 0
    reader: FrameReader | None = None
    head: bytes = b""

    def say(self, text: str) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError, ssl.SSLError):
            self.raw.send(frame(TEXT, text.encode()))

    def read(self) -> None:
        """Read what came."""
        with contextlib.suppress(OSError):
            while data := self.raw.recv(65_536):
                if self.reader is None:
                    self.head += data
                    end = self.head.find(b"\r\n\r\n")
                    if end < 0:
                        continue
                    assert self.head.startswith(b"HTTP/1.1 101"), self.head
                    self.reader, data = FrameReader(), self.head[end + 4 :]
                for opcode, payload in self.reader.feed(data):
                    if opcode == TEXT:
                        self._take(json.loads(payload.split(b"\n")[0]))

    def _take(self, came: dict[str, object]) -> None:
        room = str(came.get("room", ""))
        if came["t"] == "left":
            self.left.discard(room)
        elif came["t"] == "batch":
            self.batches += 1
            if room not in self.joined and room not in self.left:
                self.strange.append(room)

    def wander(self, room: str) -> None:
        """Leave a room, or join it."""
        if room in self.joined:
            self.joined.discard(room)
            self.left.add(room)  # until the edge says so
            self.say(f'{{"t":"leave","room":"{room}"}}')
        elif room not in self.left:
            self.joined.add(room)
            self.say(f'{{"t":"join","room":"{room}"}}')

    def end(self, chance: random.Random) -> None:
        """End by a reset, by a close, or by a half-close."""
        match chance.randrange(3):
            case 0:
                self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.raw.close()
            case 1:
                self.raw.close()
            case _:
                socket.socket.shutdown(self.raw, socket.SHUT_WR)  # of TLS the descriptor too, and no `close_notify`


async def come(edge: Edge, user: str) -> Client:
    raw = socket.socket()
    raw.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(raw, ("127.0.0.1", edge.port))
    if edge.trusting is not None:
        raw = await secured_by(edge.trusting, raw)
    raw.send(
        f"GET /v1/live?ticket={edge.ticket(user)} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return Client(raw)


async def empty(edge: Edge) -> None:
    async with asyncio.timeout(5):
        while edge.gateway.members:  # noqa: ASYNC110 - the edge has no such event
            await asyncio.sleep(0)


async def test_nobody_gets_a_frame_of_a_room_it_has_not_joined(edge: Edge) -> None:
    chance = random.Random(secrets.randbits(32))
    clients: list[Client] = []
    gone: list[Client] = []
    users: dict[int, set[Member]] = {}
    for step in range(STEPS):
        if len(clients) < MOST and chance.random() < 0.5:
            clients.append(await come(edge, f"u{step}"))
        for client in chance.sample(clients, len(clients) // 3):
            client.wander(chance.choice(ROOMS))
        if len(clients) > MOST / 2:
            gone.append(clients.pop(chance.randrange(len(clients))))
            gone[-1].end(chance)
            if chance.random() < 0.7:  # at once, before the loop has seen the end
                clients.append(await come(edge, f"again{step}"))
        for room in chance.sample(ROOMS, 2):
            await edge.deliver(room, [line(step + 1)], step + 1)
        edge.keepalive.turn()
        await asyncio.sleep(0)
        for member in edge.gateway.members:
            users.setdefault(member.fd, set()).add(member)
        for client in clients:
            client.read()
    await asyncio.sleep(0.1)
    everybody = [*clients, *gone]
    for client in everybody:
        client.read()
        client.raw.close()
    assert [client.strange for client in everybody if client.strange] == []
    assert sum(client.batches for client in everybody) > STEPS
    assert sum(len(members) > 1 for members in users.values()) > 5  # descriptors were used again


async def test_a_frame_pushed_to_a_connection_that_is_gone_reaches_nobody_else(edge: Edge) -> None:
    """The peer resets, a batch is pushed before the loop sees it, and another viewer gets the same
    descriptor.
    """
    again = 0
    for turn in range(1, 30):
        first = await come(edge, f"first{turn}")
        first.say('{"t":"join","room":"a"}')
        async with asyncio.timeout(5):
            while not any(member.rooms for member in edge.gateway.members):  # noqa: ASYNC110 - the edge has no such event
                await asyncio.sleep(0)
        (member,) = edge.gateway.members
        descriptor = member.fd
        first.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        first.raw.close()
        if turn % 2:
            await edge.deliver("a", [line(turn)], turn)
            await empty(edge)
        second = await come(edge, f"second{turn}")
        await edge.deliver("a", [line(turn)], turn)
        second.say('{"t":"join","room":"b"}')
        second.joined.add("b")
        async with asyncio.timeout(5):
            while not second.batches:
                await edge.deliver("a", [line(turn)], turn)
                await edge.deliver("b", [line(turn)], turn)
                edge.keepalive.turn()
                await asyncio.sleep(0)
                second.read()
        again += any(member.fd == descriptor for member in edge.gateway.members)
        assert second.strange == []
        second.raw.close()
        await empty(edge)
    assert again > 5
