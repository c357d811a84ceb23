"""Many viewers that read without looking: `python -m viewer.sink FD`, the bulk of a load test's
viewers.

One process, one epoll loop, no parsing: what thousands of viewers cost the load generator must be
little beside what they cost the gateway. What they get is judged by others (`viewer.load`,
`viewer.session`). Told what to do, and tells how it is, in JSON lines over the socket FD: `Wish`
in, `State` out, once a second. Makes its own tickets, so it is only for systems whose keys one has.
Who is cut is counted, and replaced like who leaves.
"""

import contextlib
import itertools
import resource
import secrets
import select
import socket
import struct
import sys
import time
from collections import deque
from typing import Final

import msgspec

from liveroom.kinds import Role
from liveroom.tickets import ENTRY, TICKET_TTL_S, Ticket, User, sign
from liveroom.wire import SUBPROTOCOL, Heartbeat, Join, encode_frame

TURN_S: Final = 0.05  # seldom asleep on the sockets: a wake-up at every frame would cost the sender more than the frame
TELL_S: Final = 1.0
HEARTBEAT_S: Final = 20.0
READ_BYTES: Final = 1 << 20
MOST_EVENTS: Final = 50_000
LATE_S: Final = 1.0
KEPT: Final = 20_000
BIND_NO_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT of Linux
_RESET: Final = struct.pack("ii", 1, 0)


class Wish(msgspec.Struct, frozen=True):
    """How many viewers there are to be, how fast more come, and how many a second leave and are
    replaced.

    `deflate`: who comes takes compressed frames, as browsers do.
    """

    viewers: int = 0
    joins_per_s: float = 500.0
    turnover_per_s: float = 0.0
    deflate: bool = True


class Setup(msgspec.Struct, frozen=True):
    """The first line: where to, with which key, into which rooms.

    `source`: address to come from; one has 28,000 ports.
    """

    host: str
    port: int
    gateway: str
    generation: int
    key_id: str
    key: str
    rooms: tuple[str, ...]
    name: str
    source: str = ""


class State(msgspec.Struct, frozen=True):
    """How it is; all but `joined` (those who are in a room now) counts from the beginning.

    `late`: came into their room later than a second after they knocked. `cut`: were in and were
    cut. `refused`: did not get in.
    """

    joined: int
    came: int
    late: int
    cut: int
    refused: int
    received_bytes: int


def upgrade(host: str, path: str, *, deflate: bool = True) -> bytes:
    """Return a viewer's upgrade."""
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if deflate else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n{extension}\r\n"
    ).encode()


def masked(text: bytes) -> bytes:
    """Return a small text frame (mask of zeros: it hides nothing from a test)."""
    return bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text


class _Viewer:
    """One connection. `knocked_s`: when it began, until it is in its room."""

    __slots__ = ("has_asked", "head", "index", "is_in", "knocked_s", "socket")

    def __init__(self, index: int, connection: socket.socket, now_s: float) -> None:
        self.index = index
        self.socket = connection
        self.knocked_s = now_s
        self.has_asked = self.is_in = False
        self.head = b""


class Sink:
    """All of them."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.wish = Wish()
        self.came = self.late = self.cut = self.refused = self.received_bytes = self.joined = 0
        self.epoll = select.epoll()
        self._buffer = bytearray(READ_BYTES)
        self._there: dict[int, _Viewer] = {}
        self._beats: deque[tuple[float, _Viewer]] = deque()
        self._count = 0
        self._due = 0.0
        self._leaving = 0.0
        self._before_s = time.monotonic()
        self._joins = [masked(encode_frame(Join(room))) for room in setup.rooms]
        self._beat = masked(encode_frame(Heartbeat()))

    def state(self) -> State:
        """Return how it is."""
        return State(self.joined, self.came, self.late, self.cut, self.refused, self.received_bytes)

    def turn(self) -> None:
        """Let some come, some go; read what there is; beat where it is due."""
        now_s = time.monotonic()
        passed, self._before_s = now_s - self._before_s, now_s
        self._leaving = min(self._leaving + passed * self.wish.turnover_per_s, self.wish.turnover_per_s)
        gone = min(int(self._leaving), self.joined)
        self._leaving -= gone
        for viewer in list(itertools.islice((one for one in self._there.values() if one.is_in), gone)):
            self._end(viewer)  # who is there longest
        rate = self.wish.joins_per_s + self.wish.turnover_per_s
        self._due = min(self._due + passed * rate, rate)
        for _ in range(min(int(self._due), max(0, self.wish.viewers - len(self._there)))):
            self._due -= 1
            self._come(now_s)
        while len(self._there) > self.wish.viewers:
            self._end(next(reversed(self._there.values())))
        while self._beats and self._beats[0][0] <= now_s:
            _, viewer = self._beats.popleft()
            if self._there.get(viewer.socket.fileno()) is viewer:
                self._send(viewer, self._beat)
                self._beats.append((now_s + HEARTBEAT_S, viewer))

    def read(self, fd: int) -> None:
        """Take what a viewer got."""
        viewer = self._there.get(fd)
        if viewer is None:
            return
        try:
            size = viewer.socket.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            size = 0
        if not size:
            self.cut += viewer.is_in
            self.refused += not viewer.is_in
            self._end(viewer)
            return
        self.received_bytes += size
        if not viewer.is_in:
            self._knock(viewer, bytes(self._buffer[:size]))

    def _come(self, now_s: float) -> None:
        """Begin to connect; the upgrade is written as soon as that is possible."""
        try:
            connection = socket.socket()
        except OSError:  # no more files
            self.refused += 1
            return
        if self.setup.source:
            connection.setsockopt(socket.IPPROTO_IP, BIND_NO_PORT, 1)  # the port is chosen by where to: many more fit
            connection.bind((self.setup.source, 0))
        connection.setblocking(False)  # noqa: FBT003
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # leaves no address behind that is not free yet
        error = connection.connect_ex((self.setup.host, self.setup.port))
        viewer = _Viewer(self._count, connection, now_s)
        self._count += 1
        self._there[connection.fileno()] = viewer
        self.epoll.register(connection.fileno(), select.EPOLLIN | (select.EPOLLOUT if error else 0))
        if not error:
            self._greet(viewer)

    def writable(self, fd: int) -> None:
        """Go on with who is connected now."""
        viewer = self._there.get(fd)
        if viewer is not None:
            self.epoll.modify(fd, select.EPOLLIN)
            self._greet(viewer)

    def _greet(self, viewer: _Viewer) -> None:
        setup = self.setup
        user = User(f"{setup.name}-{viewer.index}", Role.VIEWER)
        expires_ms = int(time.time() * 1000) + TICKET_TTL_S * 1000
        ticket = Ticket(ENTRY, user, expires_ms, secrets.token_hex(4), ((setup.gateway, setup.generation),))
        path = f"/v1/live?ticket={sign(ticket, setup.key_id, setup.key.encode())}"
        self._send(viewer, upgrade(setup.host, path, deflate=self.wish.deflate))

    def _knock(self, viewer: _Viewer, data: bytes) -> None:
        """Wait for the upgrade's answer, join, and be in the room with what comes after that (it
        may be compressed).
        """
        if not viewer.has_asked:
            viewer.head += data
            if not viewer.head.startswith(b"HTTP/1.1 101"[: len(viewer.head)]):
                self.refused += 1
                self._end(viewer)
            elif b'"t":"hello"' in viewer.head:
                viewer.has_asked, viewer.head = True, b""
                self._send(viewer, self._joins[viewer.index % len(self._joins)])
        elif b'"t":"error"' in data:
            self.refused += 1
            self._end(viewer)
        else:
            now_s = time.monotonic()
            viewer.is_in = True
            self.joined += 1
            self.came += 1
            self.late += now_s - viewer.knocked_s > LATE_S
            self._beats.append((now_s + HEARTBEAT_S, viewer))

    def _send(self, viewer: _Viewer, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it is read as an end next
            viewer.socket.send(data)

    def _end(self, viewer: _Viewer) -> None:
        fd = viewer.socket.fileno()
        del self._there[fd]
        self.epoll.unregister(fd)
        viewer.socket.close()
        self.joined -= viewer.is_in


def run(control: socket.socket) -> None:
    """Do what is asked over `control` until it is closed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    head, _, rest = control.recv(READ_BYTES).partition(b"\n")
    sink = Sink(msgspec.json.decode(head, type=Setup))
    sink.epoll.register(control.fileno(), select.EPOLLIN)
    tell_s = time.monotonic()
    while True:
        time.sleep(TURN_S)
        sink.turn()
        for fd, event in sink.epoll.poll(0, MOST_EVENTS):
            if fd == control.fileno():
                told = control.recv(READ_BYTES)
                if not told:
                    return
                *whole, rest = (rest + told).split(b"\n")
                for line in whole:
                    sink.wish = msgspec.json.decode(line, type=Wish)
            elif event & select.EPOLLOUT:
                sink.writable(fd)
            else:
                sink.read(fd)
        if time.monotonic() >= tell_s:
            tell_s += TELL_S
            control.send(msgspec.json.encode(sink.state()) + b"\n")


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])))
