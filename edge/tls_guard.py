"""The end of TLS connections that keep OpenSSL busy and bring nothing.

Theory of operation. One call of OpenSSL takes every record that has come and brings no data, and
those that come meanwhile: changes of keys in TLS 1.3 (10 µs each), new handshakes in TLS 1.2, which
it refuses (5 µs), and the parts of a first message that was cut into single bytes. Nothing bounds
how many, and no option of Python's `ssl` does. OpenSSL lets other threads run, so one reads how
much processor time the loop's thread has spent in the call. Beyond the limit it ends the connection
and takes what waits in the kernel away from OpenSSL, so the call ends at its next record. Processor
time, since a busy machine must not cut anybody off.

Calls below that limit add up. What a call takes beyond `FREE_S`, less the garbage collection within
it, no data explains: it is waste of its connection and of its address. The reads of all connections
share `TURN_S` of each turn of the loop, and what is left goes on in the next one.

Owns its thread, which touches nothing but the socket, and a callback of the garbage collector.
`edge.tls_server` has one guard for all its connections.
"""

import gc
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple, ParamSpec, TypeVar

from liveroom import clock

READ_S: Final = 0.005  # a record takes 0.1 ms at most
HANDSHAKE_S: Final = 0.05  # the signature of a very large RSA key included
POLL_S: Final = 0.01
CONFIRM_S: Final = 0.005  # until the second look at a call that may take too long
LAST_S: Final = 0.001  # until the last look: a garbage collection within the call let nobody look before
GOES_ON_S: Final = 0.0005  # spent between two last looks; a thread that only waits spends next to nothing
FREE_S: Final = 0.0001  # of each call: one record takes no more
TURN_S: Final = 0.002
WASTE_S: Final = 0.25  # of a connection at once
USED_UP_S: Final = 0.005  # of a connection at once, where its address has used up what it may waste
WASTE_PER_S: Final = 0.0002  # of a connection on average: a thousand of an address must not fill the loop
_DRAINED_BYTES: Final = 256 * 1024
P = ParamSpec("P")
R = TypeVar("R")


class FloodError(ConnectionAbortedError):
    """The connection was ended: what came on it kept one call busy for too long."""


class Account:
    """The waste of one connection, in seconds of processor time. `most_s`: so much at once."""

    __slots__ = ("_paid_s", "most_s")

    def __init__(self, most_s: float) -> None:
        self.most_s = most_s
        self._paid_s = 0.0  # when there is no debt any more

    def charge(self, wasted_s: float, now_s: float) -> float:
        """Add `wasted_s` at the time `now_s`; return the debt in seconds."""
        self._paid_s = max(self._paid_s, now_s) + wasted_s / WASTE_PER_S
        return (self._paid_s - now_s) * WASTE_PER_S


class _Call(NamedTuple):
    """A call that goes on."""

    number: int
    sock: ssl.SSLSocket
    limit_s: float


class Guard:
    """Ends calls that take too long. Calls are made by the thread that made the guard.

    `on_flood` is for whoever loses a connection by `FloodError`, to call with its peer. `on_waste`
    is called with a peer and the seconds that it wasted, and returns whether its address has used
    up what it may waste. `call_soon` calls a function in the loop's next turn.
    """

    def __init__(
        self,
        on_flood: Callable[[object], None],
        on_waste: Callable[[object, float], bool],
        call_soon: Callable[[Callable[[], None]], object],
    ) -> None:
        self.on_flood = on_flood
        self._on_waste = on_waste
        self._call_soon = call_soon
        self._collected_s = 0.0  # spent on collecting garbage, by the loop's thread
        self._collects_since_s = 0.0
        self._last_s = 0.0  # spent by the last call, without that
        self._turn_s = 0.0  # spent by the reads of this turn
        self._turn_is_due = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_serving = False
        self._thread = threading.get_ident()
        self._spent_s = clock.spent_by(self._thread)
        self._call: _Call | None = None
        self._calls = 0
        self._flooded = 0  # the number of the last call that took too long
        self._is_stopped = False

    def start(self) -> None:
        """Begin to watch. It waits for its thread, so the loop must not call it."""
        gc.callbacks.append(self._on_collection)
        threading.Thread(target=self._watch, name="tls-guard", daemon=True).start()

    def stop(self) -> None:
        """Let the thread end, which it does soon."""
        self._is_stopped = True
        gc.callbacks.remove(self._on_collection)

    def _on_collection(self, phase: str, _: dict[str, int]) -> None:
        if threading.get_ident() != self._thread:
            return
        if phase == "start":
            self._collects_since_s = self._spent_s()
        else:
            self._collected_s += self._spent_s() - self._collects_since_s

    def run(self, sock: ssl.SSLSocket, limit_s: float, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, which calls OpenSSL for `sock`, and return what it returns.

        `limit_s`: of processor time. Raises what it raises, and `FloodError` where it took longer.
        """
        self._calls = number = self._calls + 1
        began_s = self._spent_s() - self._collected_s
        self._call = _Call(number, sock, limit_s)
        try:
            return function(*args, **kwargs)
        finally:
            self._call = None
            self._last_s = self._spent_s() - self._collected_s - began_s
            if self._flooded == number:
                raise FloodError

    def read(
        self, sock: ssl.SSLSocket, account: Account, peer: object, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call `function` as `run` does, and count it for the turn, its connection and its peer.

        Raises also `FloodError` where its connection has wasted too much.
        """
        try:
            return self.run(sock, READ_S, function, *args, **kwargs)
        finally:
            self._turn_s += self._last_s
            if self._turn_s > FREE_S:
                self._turn_soon()
            if self._last_s > FREE_S:
                self.settle(account, peer)

    def has_turn(self) -> bool:
        """Return whether one more read may begin in this turn."""
        return self._turn_s < TURN_S and (self._is_serving or not self._waiting)

    def wait(self, read: Callable[[], None]) -> None:
        """Call `read` in a later turn, behind those that wait already."""
        self._waiting.append(read)
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turn_is_due:
            self._turn_is_due = True
            self._call_soon(self._begin_turn)

    def _begin_turn(self) -> None:
        self._turn_s, self._turn_is_due = 0.0, False
        self._is_serving = True
        try:
            while self._waiting and self._turn_s < TURN_S:
                self._waiting.popleft()()
        finally:
            self._is_serving = False
            if self._waiting:
                self._turn_soon()

    def settle(self, account: Account, peer: object, free_s: float = FREE_S) -> None:
        """Count what the last call took beyond `free_s` as waste of its connection and its peer.

        Raises `FloodError` where that is too much. Nothing is counted where the call was ended.
        """
        wasted_s = self._last_s - free_s
        if wasted_s <= 0 or self._flooded == self._calls:
            return
        is_used_up = self._on_waste(peer, wasted_s)
        debt_s = account.charge(wasted_s, clock.monotonic_s())
        if debt_s > (USED_UP_S if is_used_up else account.most_s):
            raise FloodError

    def _watch(self) -> None:
        pause = threading.Event()  # never set: `wait` sleeps
        seen, since_s, before_s, wait_s, is_over = 0, 0.0, 0.0, POLL_S, False
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
            elif not is_over or spent_s - before_s < GOES_ON_S:
                wait_s, is_over = LAST_S, True
            else:
                self._flooded = seen
                _end(call.sock)
            before_s = spent_s
            del call  # a closed socket must not live until the next look


def _end(sock: ssl.SSLSocket) -> None:
    """End a connection below TLS, unless it is closed already; drop what it has received."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # what still comes is answered with a reset
        while socket.socket.recv(sock, _DRAINED_BYTES):
            pass
