"""The way in over TLS: an accept loop and the handshakes of all connections that are not in yet.

Theory of operation. The listening sockets and all unfinished handshakes are in a selector of their
own, whose one descriptor the event loop watches. Each turn works for `BUDGET_S` at most: a
handshake costs about a millisecond, and those who are inside wait for their messages meanwhile.
Handshakes that can go on come first. New connections are accepted only when no handshake can, so a
wave of viewers waits in the kernel's queue, and what is pending here waits for its client.

A handshake ends in `timeout_s`. Where too many are pending, of one address or in all, the one that
has waited longest for its client gives way: to refuse the newest would let a few silent connections
lock everybody out. A connection on which one call of OpenSSL does not come to its end is ended by
`edge.tls_guard`, and so is one whose calls waste too much in sum. An address with too many of them
is refused when it connects, and its open connections may waste next to nothing, so that no caller
holds the loop again and again.

Where a proxy announces callers, its PROXY header comes in the clear before the handshake. Until it
is whole the connection counts for nobody, and then for the caller that it names.

Owns connections until their handshake is done; then a `TlsTransport` and a protocol of the HTTP
server do. `edge.__main__` starts it through `liveroom.web.serve`.
"""

import asyncio
import errno
import selectors
import socket
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import islice
from typing import Any, Final

import structlog

from edge.tls_guard import FREE_S, HANDSHAKE_S, Account, FloodError, Guard
from edge.tls_transport import TlsTransport
from liveroom import clock, metric_catalog
from liveroom.connection_table import END_AT_ONCE, ConnectionTable
from liveroom.connections import End
from liveroom.limits import Buckets
from liveroom.networks import plain_address, subscriber
from liveroom.proxy_protocol import MAX_HEADER_BYTES, Peer, ProxyHeaderError, read_header
from liveroom.registry import Metrics

BUDGET_S: Final = 0.005
MAX_PENDING: Final = 2000
MAX_PENDING_BY_ADDRESS: Final = 1000
SWEEP_S: Final = 0.25
FLOODS_PER_S: Final = 1.0  # of an address: each holds the loop for 5 to 60 ms
FLOOD_S: Final = 0.05  # so much wasted processor time counts as one
FLOODS_BURST: Final = 10.0
SIGNATURE_S: Final = 0.025  # of the step that has the whole first message: a signature is no waste
PAUSE_S: Final = 1.0  # without accepting, where the process has no descriptors left
_NO_RESOURCES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
log = structlog.get_logger()


class Outcome(Enum):
    """How a handshake ended: the label of its metric."""

    FULL = "full"
    RESUMED = "resumed"
    FAILED = "failed"  # no TLS, no version or cipher in common, or the client refuses the certificate
    GONE = "gone"  # the client closed its connection
    LATE = "late"
    CROWDED_OUT = "crowded_out"  # too many were pending
    FLOOD = "flood"  # it kept one call busy for too long
    REFUSED = "refused"  # too many connections of its address were floods, or the PROXY header is none


class _Pending:
    """A connection whose handshake is not done."""

    __slots__ = ("account", "header", "is_over", "key", "peer", "sock", "until_s", "waits_for")

    def __init__(self, sock: ssl.SSLSocket, peer: Any, key: str | None, until_s: float, header: bytes | None) -> None:
        self.sock = sock
        self.account = Account(HANDSHAKE_S)
        self.peer = peer
        self.key = key
        self.until_s = until_s
        self.waits_for = 0  # the selector's event; 0: it is not in the selector
        self.is_over = False
        self.header = header  # what has come of the PROXY header; None: it is whole, or none comes


class TlsServer:
    """Accepts TLS connections. `context`: of the connections that come from now on.

    `timeout_s`: how long a handshake may take. `key_of` returns what a peer's address is counted
    for; None for a proxy of ours. `takes_header`: whether connections begin with a PROXY header,
    and only proxies of ours connect. `on_refused` is called for those refused for its sake.
    `max_pending`, `max_by_address`: how many may be unfinished in all, and of one such key.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        metrics: Metrics,
        timeout_s: float,
        *,
        key_of: Callable[[str], str | None] = subscriber,
        takes_header: bool = False,
        on_refused: Callable[[End], None] = lambda _: None,
        max_pending: int = MAX_PENDING,
        max_by_address: int = MAX_PENDING_BY_ADDRESS,
    ) -> None:
        self.context = context
        self._timeout_s = timeout_s
        self._key_of = key_of
        self._takes_header = takes_header
        self._on_refused = on_refused
        self._ended = {outcome: metrics.counter(metric_catalog.TLS_HANDSHAKES, outcome.value) for outcome in Outcome}
        metrics.follow(metric_catalog.TLS_PENDING, self.pending)
        self._flooded = metrics.counter(metric_catalog.TLS_FLOODS)
        self._floods = Buckets(FLOODS_PER_S, FLOODS_BURST)
        metrics.follow(metric_catalog.NAMES, self._floods.__len__, "floods")
        self._listening: Sequence[socket.socket] = ()
        crowded = Outcome.CROWDED_OUT
        self._pending = ConnectionTable[_Pending, Outcome](max_pending, max_by_address, crowded, crowded)
        self._ready: deque[_Pending] = deque()

    def pending(self) -> int:
        """Return how many handshakes are not done."""
        return len(self._pending.all)

    def use(self, context: ssl.SSLContext) -> None:
        """Use another context, with other certificates, for connections that come from now on."""
        self.context = context

    async def start(self, protocol: Callable[[], asyncio.Protocol], listening: Sequence[socket.socket]) -> None:
        """Accept connections from the `listening` sockets, until `stop`. `protocol` makes one."""
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._guard = Guard(self._on_flood, self._on_waste, self._loop.call_soon)
        await asyncio.to_thread(self._guard.start)
        self._selector = selectors.DefaultSelector()
        self._listening = listening
        for one in listening:
            one.settimeout(0)
        self._listen()
        self._sweeper: asyncio.TimerHandle | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._selector.fileno(), self._turn)

    def stop(self) -> None:
        """Close the listening sockets and every connection whose handshake is not done."""
        self._guard.stop()
        self._loop.remove_reader(self._selector.fileno())
        for timer in (self._sweeper, self._resting):
            if timer is not None:
                timer.cancel()
        for pending in list(self._pending.all):
            self._end(pending, Outcome.GONE)
        for one in self._listening:
            one.close()
        self._selector.close()

    # ---- a turn
    def _turn(self) -> None:
        """Go on with handshakes and accept connections, for `BUDGET_S` at most."""
        until_s = clock.monotonic_s() + BUDGET_S
        ready = self._ready
        accepting: list[socket.socket] = []
        if not ready:
            for key, _ in self._selector.select(0):
                if key.data is None:
                    accepting.append(key.fileobj)  # type: ignore[arg-type]  # a listening socket
                else:
                    ready.append(key.data)
        while ready:
            self._go_on(ready.popleft())
            if clock.monotonic_s() >= until_s:
                return
        while accepting and clock.monotonic_s() < until_s:
            one = accepting.pop(0)
            if self._accept(one):
                accepting.append(one)

    def _accept(self, listening: socket.socket) -> bool:
        """Accept one connection; return whether there may be more."""
        try:
            raw, peer = listening.accept()
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _NO_RESOURCES:
                log.error("no_descriptors", error=str(error), then=f"nobody is accepted for {PAUSE_S} s")  # noqa: TRY400
                self._rest()
                return False
            return True  # that connection is gone already
        self._admit(raw, peer)
        return True

    def _admit(self, raw: socket.socket, peer: Any) -> None:
        key = self._key_of(plain_address(str(peer[0])))
        if self._takes_header and key is not None:
            raw.close()
            self._ended[Outcome.REFUSED].inc()
            self._on_refused(End.PROXY_UNTRUSTED)
            return
        if self._is_flooding(key):
            raw.close()
            self._ended[Outcome.REFUSED].inc()
            return
        self._make_place(key)
        try:
            raw.settimeout(0)
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock = self.context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        except OSError:
            raw.close()
            self._ended[Outcome.GONE].inc()
            return
        header = b"" if self._takes_header else None
        pending = _Pending(sock, peer, key, clock.monotonic_s() + self._timeout_s, header)
        self._pending.add(pending)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        self._wait(pending, selectors.EVENT_READ)  # the client speaks first, seldom as early as this

    def _make_place(self, key: str | None) -> None:
        """End whoever waits longest, where one more of this key would be too many."""
        while (full := self._pending.full(key)) is not None:
            outcome, candidates = full
            self._end(next(iter(candidates)), outcome)

    def _is_flooding(self, key: str | None) -> bool:
        return key is not None and self._floods.wait_s(key, clock.monotonic_s()) > 0

    def _go_on(self, pending: _Pending) -> None:
        """Take one step of a handshake."""
        if pending.is_over:
            return
        try:
            if pending.header is not None and not self._take_header(pending, pending.header):
                return
            self._shake(pending)
        except ssl.SSLWantReadError:
            self._wait(pending, selectors.EVENT_READ)
        except ssl.SSLWantWriteError:
            self._wait(pending, selectors.EVENT_WRITE)
        except FloodError:
            self._on_flood(pending.peer)
            self._end(pending, Outcome.FLOOD)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError):
            self._end(pending, Outcome.GONE)
        except (ssl.SSLError, ValueError):  # a name that is no name is a ValueError
            self._end(pending, Outcome.FAILED)
        except OSError:
            self._end(pending, Outcome.GONE)
        else:
            self._let_in(pending)

    def _shake(self, pending: _Pending) -> None:
        """Let OpenSSL go on with a handshake. Raises what it raises, and `FloodError`."""
        try:
            self._guard.run(pending.sock, HANDSHAKE_S, pending.sock.do_handshake)
        finally:  # there is a cipher once the first message is whole
            self._guard.settle(pending.account, pending.peer, FREE_S if pending.sock.cipher() is None else SIGNATURE_S)

    def _take_header(self, pending: _Pending, begun: bytes) -> bool:
        """Take the PROXY header, and no byte of what follows it; return whether it is whole.

        Raises OSError.
        """
        try:
            came = socket.socket.recv(pending.sock, MAX_HEADER_BYTES, socket.MSG_PEEK)
        except BlockingIOError:
            self._wait(pending, selectors.EVENT_READ)
            return False
        if not came:
            self._end(pending, Outcome.GONE)
            return False
        try:
            header = read_header(begun + came)
        except ProxyHeaderError:
            self._on_refused(End.PROXY_HEADER)
            self._end(pending, Outcome.REFUSED)
            return False
        socket.socket.recv(pending.sock, len(came) if header is None else header.size - len(begun))
        if header is None:
            pending.header = begun + came
            self._wait(pending, selectors.EVENT_READ)
            return False
        pending.header = None
        return header.source is None or self._announce(pending, header.source)

    def _announce(self, pending: _Pending, source: Peer) -> bool:
        """Count a connection for the caller that its proxy names; return whether it may go on."""
        pending.peer = source
        key = self._key_of(plain_address(source.address))
        if self._is_flooding(key):
            self._end(pending, Outcome.REFUSED)
            return False
        self._pending.remove(pending)
        self._make_place(key)
        pending.key = key
        pending.until_s = clock.monotonic_s() + self._timeout_s  # they are in the order of their ends
        self._pending.add(pending)
        return True

    def _wait(self, pending: _Pending, event: int) -> None:
        if not pending.waits_for:
            self._selector.register(pending.sock, event, pending)
        elif pending.waits_for != event:
            self._selector.modify(pending.sock, event, pending)
        pending.waits_for = event

    def _let_in(self, pending: _Pending) -> None:
        """Give a connection to the HTTP server."""
        self._forget(pending, Outcome.RESUMED if pending.sock.session_reused else Outcome.FULL)
        TlsTransport(self._loop, pending.sock, pending.peer, self._protocol(), self._guard).start()

    # ---- what ends
    def _on_flood(self, peer: Any) -> None:
        self._flooded.inc()
        self._charge(peer, 1.0)

    def _on_waste(self, peer: Any, wasted_s: float) -> bool:
        """Count wasted processor time; return whether the address has used up its floods."""
        return self._charge(peer, wasted_s / FLOOD_S)

    def _charge(self, peer: Any, floods: float) -> bool:
        """Charge the address of a peer; return whether it has used up its floods."""
        key = self._key_of(plain_address(str(peer[0])))
        if key is None:
            return False
        now_s = clock.monotonic_s()
        if self._floods.wait_s(key, now_s) < FLOODS_BURST / FLOODS_PER_S:  # debt has an end: others share the address
            self._floods.charge(key, now_s, floods)
        return self._is_flooding(key)

    def _end(self, pending: _Pending, outcome: Outcome) -> None:
        self._forget(pending, outcome)
        pending.sock.close()

    def _forget(self, pending: _Pending, outcome: Outcome) -> None:
        pending.is_over = True
        self._ended[outcome].inc()
        if pending.waits_for:
            self._selector.unregister(pending.sock)
        self._pending.remove(pending)

    def _sweep(self) -> None:
        """End the handshakes that have taken too long, so many in one turn; they are in the order
        of their age.
        """
        self._sweeper = None
        now_s, wait_s = clock.monotonic_s(), 0.0
        for pending in list(islice(self._pending.all, END_AT_ONCE)):
            if pending.until_s > now_s:
                wait_s = SWEEP_S
                break
            self._end(pending, Outcome.LATE)
        if self._pending.all:
            self._sweeper = self._loop.call_later(wait_s, self._sweep)

    # ---- without descriptors
    def _listen(self) -> None:
        self._resting = None
        for one in self._listening:
            self._selector.register(one, selectors.EVENT_READ, None)

    def _rest(self) -> None:
        """Accept nobody for a while: the listening sockets stay readable, and would be tried in
        every turn.
        """
        if self._resting is None:
            for one in self._listening:
                self._selector.unregister(one)
            self._resting = self._loop.call_later(PAUSE_S, self._listen)
