"""Viewers for benchmarks: `python -m tests.bench.sink HOST PORT COUNT KEY_ID [ROOM]` opens
connections, joins, reads what comes. `https:` before the host: over TLS.

Each viewer is a user of its own, with a ticket that this key of `tests.tickets` signs; an empty id
is for a server without tickets. Prints `ready` when all are in; ends when its standard input does.
A process of its own, so that what it costs is not measured.
"""

import os
import resource
import select
import socket
import ssl
import sys
import time
from functools import cache

from liveroom.tickets import ENTRY, Ticket, User, sign
from liveroom.wire import Join, encode_frame
from tests.tickets import SIGNERS
from viewer import frames

AT_ONCE = 100
PAUSE_S = 0.03  # seldom asleep on the sockets: a wake-up at every frame would cost the sender more than the frame
MOST_EVENTS = 20_000


def upgrade(path: str, *, deflate: bool = True) -> bytes:
    """Return a viewer's upgrade."""
    return frames.upgrade("bench", path, deflate=deflate)


def join(room: str) -> bytes:
    """Return a masked `join`."""
    return frames.masked(encode_frame(Join(room)))


def path_of(key_id: str, index: int) -> str:
    """Return the path of a viewer's upgrade."""
    if not key_id:
        return "/"
    user = User(f"u{index}", device=f"{index:064}")
    ticket = Ticket(ENTRY, user, int(time.time() * 1000) + 60_000, f"{os.getpid()}.{index}", (("e1", 1),))
    return f"/v1/live?ticket={sign(ticket, SIGNERS[key_id])}"


def come(host: str, port: int, requests: list[bytes], rooms: list[str]) -> list[socket.socket]:
    """Return upgraded connections, one for each request."""
    scheme, _, name = host.rpartition(":")
    coming: list[socket.socket] = [socket.create_connection((name, port)) for _ in requests]
    if scheme:
        coming = [trusting_all().wrap_socket(one) for one in coming]
    for one, request in zip(coming, requests, strict=True):
        one.sendall(request)
    for one in coming:
        head = b""
        while b"\r\n\r\n" not in head:
            head += one.recv(4096)
        if not head.startswith(b"HTTP/1.1 101"):
            sys.exit(head.decode())
        for room in rooms:
            one.sendall(join(room))
        one.setblocking(False)
    return coming


@cache
def trusting_all() -> ssl.SSLContext:
    """Return a client's context that takes any certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def main() -> None:
    """Come, join, read."""
    host, port, count, key_id, *rooms = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    epoll = select.epoll()
    here: dict[int, socket.socket] = {}
    while left := int(count) - len(here):
        first = len(here)
        requests = [upgrade(path_of(key_id, first + number)) for number in range(min(AT_ONCE, left))]
        for one in come(host, int(port), requests, rooms):
            here[one.fileno()] = one
            epoll.register(one.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    epoll.register(0, select.EPOLLIN | select.EPOLLHUP)
    while True:
        time.sleep(PAUSE_S)
        for fd, _ in epoll.poll(-1, MOST_EVENTS):
            if fd == 0:
                return
            if not socket.socket.recv(here[fd], 262_144):  # with TLS what comes stays encrypted: to decrypt it would take time
                epoll.unregister(fd)


if __name__ == "__main__":
    main()
