"""One viewer's connection after the upgrade: a protocol with slots that writes finished frames.

Theory of operation. A member has no task and no timer. What arrives goes through its `Receiver` to
the gateway (`MemberHost`). What leaves takes one of two ways. While nothing waits for the viewer, a
frame is written to the file descriptor, past the transport. Once the socket takes less than a whole
frame, the member is `blocked`: the rest goes to the transport, further frames wait in its
`SendQueue`, and the transport's `resume_writing` gives it one after the other. With TLS, `write` is
the transport's `write_now`, by which OpenSSL writes to the descriptor. Where the transport has no
socket, the descriptor is `NO_FD` and a member stays blocked for life: all its frames go through the
transport. A closing member sends its close frame, shuts down its side and waits for the viewer; the
gateway's wheel aborts it when that takes too long.

Owns the viewer's socket. Refuses whatever breaks RFC 6455, with its close code, and a viewer that
reads too slowly (4008).
"""

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol, cast

from edge.prepared_batch import Form, PreparedBatch
from edge.receiver import Closing, Fault, Ping, Receiver, Text
from edge.room import NotSent, Room
from edge.send_queue import QueuedFrame, SendQueue, SendQueues, Verdict
from edge.tls_transport import TlsTransport
from liveroom import clock
from liveroom.budgets import Caller
from liveroom.closecodes import TABLE, Close
from liveroom.tickets import User
from liveroom.topics import room_hash
from liveroom.wire import CLOSE, PONG, close_frame, websocket_frame

SEND_BUFFER_BYTES: Final = 64 * 1024
UNSENT_LOWAT_BYTES: Final = 16 * 1024
TURN_S: Final = 4.5  # between two checks of a member; twice this, and it was sent something within 10 s
MAX_FRAMES_A_TURN: Final = 64
CLOSE_TIMEOUT_S: Final = 2.0
NO_FD: Final = -1
_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", None)


class MemberHost(Protocol):
    """What a member needs of the gateway that hosts it."""

    queues: "SendQueues[Member]"

    def received(self, member: "Member", text: bytes) -> None:
        """Do what a whole text message asks."""

    def closes(self, member: "Member", code: Close, reason: str) -> None:
        """Take note that a member is about to be closed, with this code and reason."""

    def ending(self, member: "Member") -> None:
        """Take a member that is closing out of everything but the list of members."""

    def lost(self, member: "Member") -> None:
        """Forget a member: its socket is about to be closed."""

    def relieve(self) -> None:
        """Close the viewers with the largest queues: too much waits for all together."""


class Member(asyncio.Protocol):
    """A viewer's connection.

    `pull`: its token for pulls. `address`: that of one subscriber, under which it is counted.
    `form`: the value of its `Form`. `blocked`: nothing may be written to the descriptor.
    `close_code`: 0 until it is closing; `closing_s`: since when. `received_s`: when the viewer last
    sent something. `frames`: what it sent since its last check. `has_joined`: whether it was ever
    in a room. `issued_s`: when its token was issued (Unix time; None: unknown). `request_id`: that
    of the request that was upgraded.
    """

    __slots__ = (
        "_host",
        "_receiver",
        "address",
        "blocked",
        "close_code",
        "closing_s",
        "device",
        "device_hash",
        "fd",
        "form",
        "frames",
        "has_joined",
        "issued_s",
        "named_rooms",
        "pull",
        "received_s",
        "request_id",
        "role",
        "rooms",
        "ticket_rooms",
        "transport",
        "user",
        "user_hash",
        "write",
    )

    def __init__(
        self, host: MemberHost, user: User, pull: str, now_s: float, form: Form, address: str, request_id: str
    ) -> None:
        self._host = host
        self._receiver = Receiver(deflates=form == Form.DEFLATED)
        self.transport: asyncio.Transport | None = None
        self.fd = NO_FD
        self.write: Callable[[int, bytes], int] = os.write
        self.blocked = True
        self.form = int(form)  # the index of every push: an enum is slower there
        self.user = user.id
        self.user_hash = room_hash(user.id)
        self.device = user.device
        self.device_hash = room_hash(f"{user.id}/{user.device}") if user.device else 0
        self.issued_s = user.issued_s
        self.role = user.role
        self.ticket_rooms = user.rooms or ()  # a ticket that permits no room is refused
        self.named_rooms = self.ticket_rooms if user.names_rooms else ()
        self.pull = pull
        self.address = address
        self.request_id = request_id
        self.has_joined = False
        self.rooms: dict[int, Room] = {}
        self.received_s = now_s
        self.closing_s = 0.0
        self.frames = 0
        self.close_code = 0

    def take_over(self, transport: asyncio.Transport) -> None:
        """Become the transport's protocol.

        Where the transport has no socket, all goes through the transport.
        """
        self.transport = transport
        raw = cast("socket.socket | None", transport.get_extra_info("socket"))
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # or the kernel hides megabytes
            if _NOTSENT_LOWAT is not None:
                raw.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_LOWAT_BYTES)
            if isinstance(transport, TlsTransport):
                self.fd, self.write = raw.fileno(), transport.write_now
            elif transport.get_extra_info("sslcontext") is None:
                self.fd = raw.fileno()
        transport.set_protocol(self)
        transport.set_write_buffer_limits(0)  # `resume_writing` then says that nothing waits any more
        self.blocked = self.fd == NO_FD or transport.get_write_buffer_size() > 0

    @property
    def caller(self) -> Caller:
        """Return the keys under which its joins and its connection are counted."""
        return Caller(connection=self.pull, user=self.user, address=self.address)

    @property
    def unsent(self) -> int:
        """Return how many bytes wait for this viewer."""
        queue = self._host.queues.get(self)
        return queue.size if queue is not None else 0

    # ---- out
    def push(self, prepared: PreparedBatch) -> int:
        """Send a batch, or its reliable part to a slow viewer.

        Returns the bytes sent or queued, or `NotSent`.
        """
        if self.blocked:
            return self._push_behind(prepared)
        frame = prepared.frames[self.form] or prepared.make(self.form)
        size = len(frame)
        try:
            sent = self.write(self.fd, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return NotSent.GONE
        if sent != size:
            self._wait(frame[sent:])
        return size

    def send(self, text: bytes) -> None:
        """Send a text frame, however slow the viewer is."""
        self.send_raw(self.framed(text))

    def framed(self, text: bytes) -> bytes:
        """Return the frame of a text."""
        return websocket_frame(text)

    def send_raw(self, frame: bytes) -> None:
        """Send finished bytes, however slow the viewer is."""
        if self.close_code:
            return
        if self.blocked:
            self._queue(QueuedFrame(frame, None, clock.monotonic_s(), is_whole=True))
            return
        try:
            sent = self.write(self.fd, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return
        if sent != len(frame):
            self._wait(frame[sent:])

    def replay(self, prepared: PreparedBatch, *, is_whole: bool) -> None:
        """Send all of a batch or its reliable part, however slow the viewer is."""
        frame = prepared.make(self.form) if is_whole else prepared.reliable(self.form)
        if frame is None or self.close_code:
            return
        if self.blocked:
            self._queue(QueuedFrame(frame, prepared, clock.monotonic_s(), is_whole=is_whole))
        else:
            self.send_raw(frame)

    def _push_behind(self, prepared: PreparedBatch) -> int:
        """Push to a blocked viewer."""
        if self.close_code or self.transport is None or self.transport.is_closing():
            return NotSent.GONE
        queue = self._host.queues.get(self)
        is_whole = queue is None or not queue.is_slow
        frame = prepared.make(self.form) if is_whole else prepared.reliable(self.form)
        if frame is None:
            return NotSent.SKIPPED
        self._queue(QueuedFrame(frame, prepared, clock.monotonic_s(), is_whole=is_whole))
        return len(frame)

    def _wait(self, rest: bytes) -> None:
        """Block, and give the transport the `rest` of a frame. Called only while nothing waits."""
        transport = self.transport
        if transport is None:
            return
        self.blocked = True
        self._host.queues.open(self, len(rest), clock.monotonic_s())
        transport.write(rest)
        if not transport.get_write_buffer_size():
            self.resume_writing()

    def _queue(self, frame: QueuedFrame) -> None:
        """Queue a frame; close the viewer, or others, where that goes over a limit."""
        transport, host = self.transport, self._host
        if transport is None:
            return
        queue = host.queues.get(self)
        if queue is None:  # without a descriptor, or behind the answer to the upgrade
            queue = host.queues.open(self, transport.get_write_buffer_size(), frame.at_s)
        verdict = queue.put(frame)
        if not transport.get_write_buffer_size():
            self.resume_writing()
        elif verdict is Verdict.TOO_MUCH:
            self.close(Close.SLOW)
        elif verdict is Verdict.TOO_MUCH_IN_ALL:
            host.relieve()

    def resume_writing(self) -> None:
        """Give the transport what waits, one frame after the other: it holds nothing any more."""
        queue = self._host.queues.get(self)
        if queue is not None and (queue.is_flowing or not self._flow(queue)):
            return
        if self.fd != NO_FD and not self.close_code:
            self.blocked = False

    def _flow(self, queue: SendQueue) -> bool:
        """Give the transport frames until it holds part of one; return whether the queue is
        empty.
        """
        transport = self.transport
        if transport is None:
            return False
        queue.hold(0, queue.held_s)
        queue.is_flowing = True
        while (queued := queue.pop()) is not None:
            frame = queued.make(self.form)
            if frame is None:
                continue
            transport.write(frame)
            if rest := transport.get_write_buffer_size():
                queue.hold(rest, queued.at_s)
                queue.is_flowing = False
                return False
        self._host.queues.drop(self)
        return True

    # ---- in
    def data_received(self, data: bytes) -> None:
        """Take bytes from the viewer."""
        for event in self._receiver.feed(data):
            self.frames += 1
            if self.frames > MAX_FRAMES_A_TURN:
                self.close(Close.TOO_FAST)
                return
            match event:
                case Text(text):
                    self.received_s = clock.monotonic_s()
                    if not self.close_code:
                        self._host.received(self, text)
                case Ping(payload):
                    self.received_s = clock.monotonic_s()
                    self.send_raw(websocket_frame(payload, PONG))
                case Closing(code):
                    self._answer_close(code)
                case Fault(code, reason):
                    self.close(code, reason)
                case _:
                    self.received_s = clock.monotonic_s()

    def eof_received(self) -> bool:
        """Return False, so that the connection ends: the viewer sends nothing more."""
        return False

    # ---- the end
    def close(self, code: Close, reason: str = "") -> None:
        """Close with a code and a reason (empty: that of the code). What waits is dropped."""
        if self.transport is not None and not self.close_code:
            reason = reason or TABLE[code].reason
            self._host.closes(self, code, reason)
            self._end(code, self._goodbye(code, reason))

    def _goodbye(self, code: Close, reason: str) -> bytes:
        return close_frame(code, reason)

    def _answer_close(self, code: int | None) -> None:
        if self.transport is None:
            return
        if self.close_code:
            self.transport.close()
        else:
            self._end(code or Close.NORMAL, close_frame(code) if code else websocket_frame(b"", CLOSE))

    def _end(self, code: int, goodbye: bytes) -> None:
        """Send the goodbye and shut down our side.

        The socket closes when the viewer has closed its side, or when the wheel aborts it.
        """
        transport = self.transport
        if transport is None:
            return
        self.close_code = code
        self.blocked = True
        self.closing_s = clock.monotonic_s()
        self._host.ending(self)
        self._host.queues.drop(self)
        transport.write(goodbye)
        if transport.can_write_eof():
            transport.write_eof()  # half: to close while bytes come would take the goodbye back
        else:
            transport.close()

    def abort(self) -> None:
        """End at once; what waits is dropped."""
        self.blocked = True
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """Leave everything before the descriptor can belong to another connection."""
        self.blocked = True
        self.fd = NO_FD
        self.write = os.write  # or the transport and its protocol keep each other
        self.transport = None
        self._host.queues.drop(self)
        self._host.lost(self)
