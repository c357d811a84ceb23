"""A client that shakes hands: `python -m tests.bench._handshakes PORT COUNT full|resumed|storm`.

`full` and `resumed` connect one after the other, without and with the ticket of the connection
before, and read the byte that the server sends. `storm` opens all at once, and keeps those that are
in until its standard input ends. Prints `ready` at the end. A process of its own, so that what it
costs is not measured.
"""

import select
import socket
import ssl
import sys
from contextlib import suppress

from tests.bench.sink import trusting_all


def one_by_one(port: int, count: int, *, resumed: bool) -> None:
    """Connect, read a byte, end."""
    session: ssl.SSLSession | None = None
    for _ in range(count):
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with trusting_all().wrap_socket(raw, session=session) as one:
            if one.recv(1) != b"x":
                sys.exit("the server did not send its byte")
            if session is not None and not one.session_reused:
                sys.exit("the server did not resume")
            if resumed:
                session = one.session


def storm(port: int, count: int) -> list[ssl.SSLSocket]:
    """Open so many connections at once; return them when their handshakes are done."""
    epoll = select.epoll()
    coming: dict[int, ssl.SSLSocket] = {}
    for _ in range(count):
        raw = socket.socket()
        raw.setblocking(False)
        with suppress(BlockingIOError):
            raw.connect(("127.0.0.1", port))
        one = trusting_all().wrap_socket(raw, do_handshake_on_connect=False)
        coming[one.fileno()] = one
        epoll.register(one.fileno(), select.EPOLLOUT)
    done = []
    while coming:
        for fd, _ in epoll.poll():
            try:
                coming[fd].do_handshake()
            except ssl.SSLWantReadError:
                epoll.modify(fd, select.EPOLLIN)
            else:
                epoll.unregister(fd)
                done.append(coming.pop(fd))
    return done


def main() -> None:
    """Connect as the arguments say."""
    port, count, how = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    kept = []
    if how == "storm":
        kept = storm(port, count)
    else:
        one_by_one(port, count, resumed=how == "resumed")
    print("ready", flush=True)
    sys.stdin.read()
    del kept


if __name__ == "__main__":
    main()
