"""Viewers that measure how late batches come.

`python -m tests.bench._inside PORT KEY_ID COUNT ROOM`.

They are inside over TLS. A line's text is the time of its delivery (`time.monotonic_ns`, which all
processes share). Prints `ready`, and the delays in milliseconds, one a line, once its standard
input ends. A process of its own, so that what it costs is not measured.
"""

import select
import socket
import ssl
import sys
import time

from tests.bench.sink import come, path_of, upgrade
from viewer.frames import FrameReader

MARK = b'"text":"'


def main() -> None:
    """Join, read, report."""
    port, key_id, count, room = sys.argv[1:]
    requests = [upgrade(path_of(key_id, index), deflate=False) for index in range(int(count))]
    epoll = select.epoll()
    here: dict[int, tuple[socket.socket, FrameReader]] = {}
    for one in come("https:127.0.0.1", int(port), requests, [room]):
        here[one.fileno()] = one, FrameReader()
        epoll.register(one.fileno(), select.EPOLLIN)
    print("ready", flush=True)
    epoll.register(0, select.EPOLLIN | select.EPOLLHUP)
    delays: list[float] = []
    while True:
        for fd, _ in epoll.poll():
            if fd == 0:
                print("\n".join(f"{delay:.3f}" for delay in delays), flush=True)
                return
            one, reader = here[fd]
            try:
                data = one.recv(65_536)
            except ssl.SSLWantReadError:
                continue
            now_ns = time.monotonic_ns()
            for _, payload in reader.feed(data):
                if MARK in payload:
                    sent_ns = int(payload.partition(MARK)[2].partition(b'"')[0])
                    delays.append((now_ns - sent_ns) / 1e6)


if __name__ == "__main__":
    main()
