"""The end of TLS connections on which one call of OpenSSL does not come to its end.

Theory of operation. One call of OpenSSL takes every record that has come and brings no data, and
those that come meanwhile: changes of keys in TLS 1.3 (10 µs each), new handshakes in TLS 1.2, which
it refuses (5 µs), and the parts of a first message that was cut into single bytes. Nothing bounds
how many, and no option of Python's `ssl` does. OpenSSL lets other threads run, so one reads how
much processor time the loop's thread has spent in the call. Beyond the limit it ends the connection
and takes what waits in the kernel away from OpenSSL, so the call ends at its next record. Processor
time, since a busy machine must not cut anybody off.

Owns its thread, which touches nothing but the socket. `edge.tls_server` has one guard for all its
connections.
"""

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, ParamSpec, TypeVar

from liveroom import clock

READ_S: Final = 0.005  # a record takes 0.1 ms at most
HANDSHAKE_S: Final = 0.05  # the signature of a very large RSA key included
POLL_S: Final = 0.01
CONFIRM_S: Final = 0.005  # until the second look at a call that may take too long
LAST_S: Final = 0.001  # until the last look: a garbage collection within the call let nobody look before
_DRAINED_BYTES: Final = 256 * 1024
P = ParamSpec("P")
R = TypeVar("R")


class FloodError(ConnectionAbortedError):
    """The connection was ended: what came on it kept one call busy for too long."""


class _Call(NamedTuple):
    """A call that goes on."""

    number: int
    sock: ssl.SSLSocket
    limit_s: float


class Guard:
    """Ends calls that take too long. Calls are made by the thread that made the guard.

    `on_flood` is for whoever loses a connection by `FloodError`, to call with its peer.
    """

    def __init__(self, on_flood: Callable[[object], None]) -> None:
        self.on_flood = on_flood
        self._spent_s = clock.spent_by(threading.get_ident())
        self._call: _Call | None = None
        self._calls = 0
        self._flooded = 0  # the number of the last call that took too long
        self._is_stopped = False

    def start(self) -> None:
        """Begin to watch. It waits for its thread, so the loop must not call it."""
        threading.Thread(target=self._watch, name="tls-guard", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end, which it does soon."""
        self._is_stopped = True

    def run(self, sock: ssl.SSLSocket, limit_s: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, which calls OpenSSL for `sock`, and return what it returns.

        `limit_s`: of processor time. Raises what it raises, and `FloodError` where it took longer.
        """
        self._calls = number = self._calls + 1
        self._call = _Call(number, sock, limit_s)
        try:
            return function(*args, **kwargs)
        finally:
            self._call = None
            if self._flooded == number:
                raise FloodError

    def _watch(self) -> None:
        pause = threading.Event()  # never set: `wait` sleeps
        seen, since_s, wait_s, is_over = 0, 0.0, POLL_S, False
        while not self._is_stopped:
            pause.wait(wait_s)
            wait_s = POLL_S
            call = self._call
            if call is None:
                continue
            spent_s = self._spent_s()
            if call.number != seen:
                seen, since_s, wait_s, is_over = call.number, spent_s, CONFIRM_S, False
            elif spent_s - since_s < call.limit_s:
                wait_s = CONFIRM_S
            elif not is_over:
                wait_s, is_over = LAST_S, True
            else:
                self._flooded = seen
                _end(call.sock)
            del call  # a closed socket must not live until the next look


def _end(sock: ssl.SSLSocket) -> None:
    """End a connection below TLS, unless it is closed already; drop what it has received."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # what still comes is answered with a reset
        while socket.socket.recv(sock, _DRAINED_BYTES):
            pass
