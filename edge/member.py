"""One viewer's connection once the upgrade is done: a slotted protocol that writes finished frames
straight to the socket.

Owns the viewer's socket: what comes is parsed and given to `MemberHost`, what goes is written to
the file descriptor while nothing waits, and through the transport otherwise. There is no task and
no timer for a viewer. Refuses whatever breaks RFC 6455, with its close code, and a viewer who reads
too slowly (4008).
"""

import asyncio
import os
import socket
from typing import Final, Protocol, cast

from edge.prepared_batch import Form, PreparedBatch, as_event
from edge.receiver import Closing, Fault, Ping, Receiver, Text
from edge.room import NotSent, Room
from edge.send_queue import QueuedFrame, SendQueue, SendQueues, Verdict
from liveroom import clock
from liveroom.closecodes import TABLE, Close
from liveroom.tickets import User
from liveroom.topics import room_hash
from liveroom.wire import CLOSE, PONG, close_frame, websocket_frame

SEND_BUFFER_BYTES: Final = 64 * 1024
UNSENT_LOWAT_BYTES: Final = 16 * 1024
TURN_S: Final = 4.5  # how often each is looked at; twice this, and nothing has been sent for less than 10 s
MAX_FRAMES_A_TURN: Final = 64
CLOSE_TIMEOUT_S: Final = 2.0
NO_FD: Final = -1
_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_write: Final = os.write


class MemberHost(Protocol):
    """What a member needs of the gateway that hosts it."""

    queues: "SendQueues[Member]"

    def received(self, member: "Member", text: bytes) -> None:
        """Take a whole text message."""

    def ending(self, member: "Member") -> None:
        """Let a member take part in nothing any more: it was told to close, or does."""

    def lost(self, member: "Member") -> None:
        """Forget a member: its socket is about to be closed."""

    def relieve(self) -> None:
        """Close the slowest viewers: too much waits for all of them together."""


class Member(asyncio.Protocol):
    """A viewer.

    `blocked`: something waits, so nothing may be written past it. `close_code`: 0 until it is
    ending.
    """

    __slots__ = (
        "_host",
        "_receiver",
        "blocked",
        "close_code",
        "closing_s",
        "fd",
        "form",
        "frames",
        "pull",
        "received_s",
        "role",
        "rooms",
        "ticket_rooms",
        "transport",
        "user",
        "user_hash",
    )

    def __init__(self, host: MemberHost, user: User, pull: str, now_s: float, form: Form) -> None:
        self._host = host
        self._receiver = Receiver(deflates=form == Form.DEFLATED)
        self.transport: asyncio.Transport | None = None
        self.fd = NO_FD
        self.blocked = True
        self.form = int(form)  # the index of every push: an enum is slower there
        self.user = user.id
        self.user_hash = room_hash(user.id)
        self.role = user.role
        self.ticket_rooms = user.rooms
        self.pull = pull
        self.rooms: dict[int, Room] = {}
        self.received_s = now_s
        self.closing_s = 0.0
        self.frames = 0
        self.close_code = 0

    def take_over(self, transport: asyncio.Transport) -> None:
        """Become the transport's protocol.

        With TLS, and where the transport has no socket, all goes through the transport.
        """
        self.transport = transport
        raw = cast("socket.socket | None", transport.get_extra_info("socket"))
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)  # or the kernel hides megabytes
            if _NOTSENT_LOWAT is not None:
                raw.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, UNSENT_LOWAT_BYTES)
            if transport.get_extra_info("sslcontext") is None:
                self.fd = raw.fileno()
        transport.set_protocol(self)
        transport.set_write_buffer_limits(0)  # `resume_writing` then says that nothing waits any more
        self.blocked = self.fd == NO_FD or transport.get_write_buffer_size() > 0

    @property
    def unsent(self) -> int:
        """Bytes that wait for this viewer."""
        queue = self._host.queues.get(self)
        return queue.size if queue is not None else 0

    # ---- out
    def push(self, prepared: PreparedBatch) -> int:
        """Send a batch, or what a slow viewer gets of it; return the bytes taken, or `NotSent`."""
        if self.blocked:
            return self._push_behind(prepared)
        frame = prepared.frames[self.form] or prepared.make(self.form)
        size = len(frame)
        try:
            sent = _write(self.fd, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return NotSent.GONE
        if sent != size:
            self._wait(frame[sent:])
        return size

    def send(self, text: bytes) -> None:
        """Send a text that must not be left out."""
        self.send_raw(self.framed(text))

    def framed(self, text: bytes) -> bytes:
        """Return a text as it goes to this viewer."""
        return websocket_frame(text)

    def send_raw(self, frame: bytes) -> None:
        """Send finished bytes that must not be left out."""
        if self.close_code:
            return
        if self.blocked:
            self._queue(QueuedFrame(frame, None, clock.monotonic_s(), is_whole=True))
            return
        try:
            sent = _write(self.fd, frame)
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
        """Push to a viewer for whom something waits already."""
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
        """Let the transport send `rest` when the viewer takes it. Only when nothing waits yet."""
        transport = self.transport
        if transport is None:
            return
        self.blocked = True
        self._host.queues.open(self, len(rest), clock.monotonic_s())
        transport.write(rest)
        if not transport.get_write_buffer_size():
            self.resume_writing()

    def _queue(self, frame: QueuedFrame) -> None:
        """Queue a frame behind what waits; end who is too far behind."""
        transport, host = self.transport, self._host
        if transport is None:
            return
        queue = host.queues.get(self)
        if queue is None:  # with TLS, or behind the answer to the upgrade
            queue = host.queues.open(self, transport.get_write_buffer_size(), frame.at_s)
        verdict = queue.put(frame)
        if not transport.get_write_buffer_size():
            self.resume_writing()
        elif verdict is Verdict.TOO_MUCH:
            self.close(Close.SLOW)
        elif verdict is Verdict.TOO_MUCH_IN_ALL:
            host.relieve()

    def resume_writing(self) -> None:
        """The transport holds nothing any more: give it what waits, one frame after the other."""
        queue = self._host.queues.get(self)
        if queue is not None and (queue.is_flowing or not self._flow(queue)):
            return
        if self.fd != NO_FD and not self.close_code:
            self.blocked = False

    def _flow(self, queue: SendQueue) -> bool:
        """Give the transport what waits until it holds some of it; return whether nothing waits any
        more.
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
        """The viewer sends nothing more: so the connection ends."""
        return False

    # ---- the end
    def close(self, code: Close, reason: str = "") -> None:
        """Say why, and end. What waits for a slow viewer is given up."""
        if self.transport is not None and not self.close_code:
            self._end(code, self._goodbye(code, reason or TABLE[code].reason))

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
        """Take part in nothing any more; the socket is closed when the viewer has closed its side,
        or by the wheel.
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
        """End at once; what waits is given up."""
        self.blocked = True
        if self.transport is not None:
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """Leave everything before the descriptor can be somebody else's."""
        self.blocked = True
        self.fd = NO_FD
        self.transport = None
        self._host.queues.drop(self)
        self._host.lost(self)


class SseConnection(Member):
    """A viewer whose network lets no WebSocket through: it hears events over HTTP, and speaks by
    requests of their own.
    """

    __slots__ = ()

    def __init__(self, host: MemberHost, user: User, pull: str, now_s: float) -> None:
        super().__init__(host, user, pull, now_s, Form.EVENTS)

    def framed(self, text: bytes) -> bytes:
        """Return a text as it goes to this viewer."""
        return as_event(text)

    def data_received(self, _: bytes) -> None:
        """End who speaks on a stream that goes one way."""
        self.abort()

    def take(self, text: bytes) -> None:
        """Take what the viewer said in a request."""
        if self.transport is None or self.close_code:
            return
        self.frames += 1
        if self.frames > MAX_FRAMES_A_TURN:
            self.close(Close.TOO_FAST)
            return
        self.received_s = clock.monotonic_s()
        self._host.received(self, text)

    def _goodbye(self, code: Close, reason: str) -> bytes:
        return as_event(f"{code.value} {reason}".encode(), "close")
