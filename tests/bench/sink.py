"""Viewers for benchmarks: `python -m tests.bench.sink HOST PORT COUNT PATH [ROOM]` opens
connections, joins, reads what comes.

Prints `ready` when all are in; ends when its standard input does. A process of its own, so that
what it costs is not measured.
"""

import resource
import select
import socket
import sys
import time

from liveroom.wire import Join, encode_frame
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


def come(host: str, port: int, path: str, rooms: list[str], count: int) -> list[socket.socket]:
    """Return so many upgraded connections."""
    request = upgrade(path)
    coming = [socket.create_connection((host, port)) for _ in range(count)]
    for one in coming:
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


def main() -> None:
    """Come, join, read."""
    host, port, count, path, *rooms = sys.argv[1:]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    epoll = select.epoll()
    here: dict[int, socket.socket] = {}
    while left := int(count) - len(here):
        for one in come(host, int(port), path, rooms, min(AT_ONCE, left)):
            here[one.fileno()] = one
            epoll.register(one.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    epoll.register(0, select.EPOLLIN | select.EPOLLHUP)
    while True:
        time.sleep(PAUSE_S)
        for fd, _ in epoll.poll(-1, MOST_EVENTS):
            if fd == 0:
                return
            if not here[fd].recv(262_144):
                epoll.unregister(fd)


if __name__ == "__main__":
    main()
