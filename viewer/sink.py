"""The bulk of a load test's viewers, who only count bytes: `python -m viewer.sink FD`.

One process and one epoll loop without parsing: thousands of viewers must cost the load generator
little beside what they cost the gateway. `viewer.load` and `viewer.session` judge what viewers get.
The process is steered over the socket FD with JSON lines: it reads a `Wish` at any time and writes
a `SinkState` once a second. It signs its own tickets, so it works only for a system whose ticket
key one has. A viewer whose connection the gateway closes is counted and replaced, like one that
leaves.
"""

import contextlib
import itertools
import resource
import select
import socket
import struct
import sys
from collections import deque
from typing import Final

import msgspec

from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.kinds import Role
from liveroom.tickets import ENTRY, TICKET_TTL_S, Signer, Ticket, User, sign
from liveroom.wire import Heartbeat, Join, encode_frame
from viewer.frames import masked, upgrade

TURN_S: Final = 0.05  # between two reads: a wake-up at every frame would cost the sender more than the frame
REPORT_S: Final = 1.0
HEARTBEAT_S: Final = 20.0
READ_BYTES: Final = 1 << 20
MOST_EVENTS: Final = 50_000
LATE_S: Final = 1.0
KEPT: Final = 20_000
BIND_NO_PORT: Final = 24  # IP_BIND_ADDRESS_NO_PORT of Linux
_RESET: Final = struct.pack("ii", 1, 0)


class Wish(msgspec.Struct, frozen=True):
    """The wanted number of viewers, how fast more join, and how many leave and are replaced.

    `deflate`: viewers that join from now on accept compressed frames, as browsers do.
    """

    viewers: int = 0
    joins_per_s: float = 500.0
    turnover_per_s: float = 0.0
    deflate: bool = True


class Setup(msgspec.Struct, frozen=True):
    """The first line: the gateway, the private key of its tickets (a JWK Set) and the rooms.

    `source`: the address to connect from; one address has 28,000 ports.
    """

    host: str
    port: int
    gateway: str
    generation: int
    signing_keys: str
    rooms: tuple[str, ...]
    name: str
    source: str = ""


class SinkState(msgspec.Struct, frozen=True):
    """Counts since the start, except `joined`: the viewers that are in a room now.

    `came`: joined their room; `late`: those that took longer than `LATE_S` for it. `cut`: the
    gateway closed the connection of a joined viewer. `refused`: never joined.
    """

    joined: int
    came: int
    late: int
    cut: int
    refused: int
    received_bytes: int


class _Connection:
    """One viewer's connection. `began_s` is when it started to connect."""

    __slots__ = ("began_s", "has_asked", "head", "index", "is_in", "socket")

    def __init__(self, index: int, connection: socket.socket, now_s: float) -> None:
        self.index = index
        self.socket = connection
        self.began_s = now_s
        self.has_asked = self.is_in = False
        self.head = b""


class Sink:
    """All viewers of this process. `signer` and `chance` are for their tickets and nonces."""

    def __init__(self, setup: Setup, signer: Signer, chance: Chance) -> None:
        self.setup = setup
        self._signer = signer
        self._chance = chance
        self.wish = Wish()
        self.came = self.late = self.cut = self.refused = self.received_bytes = self.joined = 0
        self.epoll = select.epoll()
        self._buffer = bytearray(READ_BYTES)
        self._there: dict[int, _Connection] = {}
        self._beats: deque[tuple[float, _Connection]] = deque()
        self._count = 0
        self._due = 0.0
        self._leaving = 0.0
        self._before_s = clock.monotonic_s()
        self._joins = [masked(encode_frame(Join(room))) for room in setup.rooms]
        self._beat = masked(encode_frame(Heartbeat()))

    def state(self) -> SinkState:
        """Return the counts."""
        return SinkState(self.joined, self.came, self.late, self.cut, self.refused, self.received_bytes)

    def turn(self) -> None:
        """Add and remove viewers as wished, and send the heartbeats that are due."""
        now_s = clock.monotonic_s()
        passed, self._before_s = now_s - self._before_s, now_s
        self._leaving = min(self._leaving + passed * self.wish.turnover_per_s, self.wish.turnover_per_s)
        gone = min(int(self._leaving), self.joined)
        self._leaving -= gone
        for viewer in list(itertools.islice((one for one in self._there.values() if one.is_in), gone)):
            self._end(viewer)  # the oldest first
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
        """Read from a viewer's connection."""
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
            self._admit(viewer, bytes(self._buffer[:size]))

    def _come(self, now_s: float) -> None:
        """Start to connect; the upgrade is sent as soon as the connection is open."""
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
        viewer = _Connection(self._count, connection, now_s)
        self._count += 1
        self._there[connection.fileno()] = viewer
        self.epoll.register(connection.fileno(), select.EPOLLIN | (select.EPOLLOUT if error else 0))
        if not error:
            self._greet(viewer)

    def writable(self, fd: int) -> None:
        """Send the upgrade on a connection that has opened."""
        viewer = self._there.get(fd)
        if viewer is not None:
            self.epoll.modify(fd, select.EPOLLIN)
            self._greet(viewer)

    def _greet(self, viewer: _Connection) -> None:
        setup = self.setup
        user = User(f"{setup.name}-{viewer.index}", Role.VIEWER)
        expires_ms = clock.unix_ms() + TICKET_TTL_S * 1000
        ticket = Ticket(ENTRY, user, expires_ms, self._chance.token_hex(4), ((setup.gateway, setup.generation),))
        path = f"/v1/live?ticket={sign(ticket, self._signer)}"
        self._send(viewer, upgrade(setup.host, path, deflate=self.wish.deflate))

    def _admit(self, viewer: _Connection, data: bytes) -> None:
        """Wait for the upgrade's answer and join; the next data means that the viewer is in.

        That data may be compressed, so it is not read.
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
            now_s = clock.monotonic_s()
            viewer.is_in = True
            self.joined += 1
            self.came += 1
            self.late += now_s - viewer.began_s > LATE_S
            self._beats.append((now_s + HEARTBEAT_S, viewer))

    def _send(self, viewer: _Connection, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the next read reports the end
            viewer.socket.send(data)

    def _end(self, viewer: _Connection) -> None:
        fd = viewer.socket.fileno()
        del self._there[fd]
        self.epoll.unregister(fd)
        viewer.socket.close()
        self.joined -= viewer.is_in


def run(control: socket.socket) -> None:
    """Do as `control` asks until it is closed."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    head, _, rest = control.recv(READ_BYTES).partition(b"\n")
    setup = msgspec.json.decode(head, type=Setup)
    sink = Sink(setup, _signer(setup), SystemChance())
    sink.epoll.register(control.fileno(), select.EPOLLIN)
    wishes = select.epoll()
    wishes.register(control.fileno(), select.EPOLLIN)
    report_s = clock.monotonic_s()
    while True:
        wishes.poll(TURN_S)
        sink.turn()
        for fd, event in sink.epoll.poll(0, MOST_EVENTS):
            if fd == control.fileno():
                data = control.recv(READ_BYTES)
                if not data:
                    return
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    sink.wish = msgspec.json.decode(line, type=Wish)
            elif event & select.EPOLLOUT:
                sink.writable(fd)
            else:
                sink.read(fd)
        if clock.monotonic_s() >= report_s:
            report_s += REPORT_S
            control.send(msgspec.json.encode(sink.state()) + b"\n")


def _signer(setup: Setup) -> Signer:
    """Return what signs the tickets. A load test needs the extra `server`, this module does not."""
    from liveroom.ticket_keys import read_private_keys  # noqa: PLC0415

    return read_private_keys(setup.signing_keys)[0].signer()


if __name__ == "__main__":
    run(socket.socket(fileno=int(sys.argv[1])))
