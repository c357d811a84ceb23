"""One viewer's connection once the upgrade is done: a slotted protocol that writes finished frames straight to the socket.

Owns the viewer's socket: what comes is parsed and given to `Gateway`, what goes is written to the file descriptor while
nothing waits, and through the transport otherwise. There is no task and no timer for a viewer. Refuses whatever breaks
RFC 6455, with its close code, and a viewer who reads too slowly (4008).
"""

import asyncio
import os
import socket
from collections import deque
from typing import Final, Protocol, cast

from edge.frames import DEFLATED, EVENTS, Frames, as_event
from edge.receiver import Closing, Fault, Ping, Receiver, Text
from edge.room import Room
from liveroom.closecodes import TABLE, Close
from liveroom.tickets import User
from liveroom.topics import room_hash
from liveroom.wire import CLOSE, PONG, close_frame, websocket_frame

SEND_BUFFER_BYTES: Final = 64 * 1024
UNSENT_LOWAT_BYTES: Final = 16 * 1024
MAX_FRAMES_A_TURN: Final = 64
NO_FD: Final = -1
GONE: Final = -1
_NOTSENT_LOWAT: Final = getattr(socket, "TCP_NOTSENT_LOWAT", None)
_write: Final = os.write


class Gateway(Protocol):
    """What a member needs of its gateway. `backlogs`: what waits for slow viewers; `unsent`: its bytes in all."""

    backlogs: "dict[Member, Backlog]"
    unsent: int
    slow_unsent: int
    max_unsent: int

    def now_s(self) -> float:
        """Return the time."""

    def heard(self, member: "Member", text: bytes) -> None:
        """Take a whole text message."""

    def leaving(self, member: "Member") -> None:
        """Let a member take part in nothing any more: it was told to close, or does."""

    def lost(self, member: "Member") -> None:
        """Forget a member: its socket is about to be closed."""

    def overflowed(self) -> None:
        """Look whether too much waits for all slow viewers together."""


class Waiting:
    """One frame that waits for a slow viewer: a batch (`frames`, all of it or the reliable part), or bytes."""

    __slots__ = ("at_s", "data", "frames", "is_whole", "size")

    def __init__(self, data: bytes, frames: Frames | None, at_s: float, *, is_whole: bool) -> None:
        self.size = len(data)
        self.data = data if frames is None else b""
        self.frames = frames
        self.is_whole = is_whole
        self.at_s = at_s

    def make(self, form: int) -> bytes | None:
        """Return the frame as it is now: what was cleared meanwhile is not in it."""
        if self.frames is None:
            return self.data
        return self.frames.make(form) if self.is_whole else self.frames.reliable(form)


class Backlog:
    """What waits for one slow viewer. `size`: all its bytes, with what the transport holds (`rest`, since `rest_s`).

    `is_flowing`: frames are being given to the transport. With TLS it says from within `write` that it can take more.
    """

    __slots__ = ("is_flowing", "rest", "rest_s", "size", "waiting")

    def __init__(self, rest: int, now_s: float) -> None:
        self.is_flowing = False
        self.waiting: deque[Waiting] = deque()
        self.rest = self.size = rest
        self.rest_s = now_s


class Member(asyncio.Protocol):
    """A viewer. `blocked`: something waits, so nothing may be written past it. `close_code`: 0 until it is ending."""

    __slots__ = (
        "_gateway",
        "_receiver",
        "blocked",
        "close_code",
        "closing_s",
        "fd",
        "form",
        "frames",
        "heard_s",
        "pull",
        "role",
        "rooms",
        "ticket_rooms",
        "transport",
        "user",
        "user_hash",
    )

    def __init__(self, gateway: Gateway, user: User, pull: str, now_s: float, form: int) -> None:
        self._gateway = gateway
        self._receiver = Receiver(deflates=form == DEFLATED)
        self.transport: asyncio.Transport | None = None
        self.fd = NO_FD
        self.blocked = True
        self.form = form
        self.user = user.id
        self.user_hash = room_hash(user.id)
        self.role = user.role
        self.ticket_rooms = user.rooms
        self.pull = pull
        self.rooms: dict[int, Room] = {}
        self.heard_s = now_s
        self.closing_s = 0.0
        self.frames = 0
        self.close_code = 0

    def take_over(self, transport: asyncio.Transport) -> None:
        """Become the transport's protocol. With TLS nothing can be written past it."""
        self.transport = transport
        raw = cast("socket.socket", transport.get_extra_info("socket"))
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
        backlog = self._gateway.backlogs.get(self)
        return backlog.size if backlog is not None else 0

    # ---- out
    def push(self, frames: Frames) -> int:
        """Send a batch, or what a slow viewer gets of it; return the bytes taken (0: skipped, below: it is gone)."""
        if self.blocked:
            return self._push_behind(frames)
        frame = frames.made[self.form] or frames.make(self.form)
        size = len(frame)
        try:
            sent = _write(self.fd, frame)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.abort()
            return GONE
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
            self._queue(Waiting(frame, None, self._gateway.now_s(), is_whole=True))
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

    def replay(self, frames: Frames, *, is_whole: bool) -> None:
        """Send all of a batch or its reliable part, however slow the viewer is."""
        frame = frames.make(self.form) if is_whole else frames.reliable(self.form)
        if frame is None or self.close_code:
            return
        if self.blocked:
            self._queue(Waiting(frame, frames, self._gateway.now_s(), is_whole=is_whole))
        else:
            self.send_raw(frame)

    def _push_behind(self, frames: Frames) -> int:
        """Push to a viewer for whom something waits already."""
        if self.close_code or self.transport is None or self.transport.is_closing():
            return GONE
        backlog = self._gateway.backlogs.get(self)
        is_whole = backlog is None or backlog.size <= self._gateway.slow_unsent
        frame = frames.make(self.form) if is_whole else frames.reliable(self.form)
        if frame is None:
            return 0
        self._queue(Waiting(frame, frames, self._gateway.now_s(), is_whole=is_whole))
        return len(frame)

    def _wait(self, rest: bytes) -> None:
        """Let the transport send `rest` when the viewer takes it. Only when nothing waits yet."""
        transport = self.transport
        if transport is None:
            return
        self.blocked = True
        gateway = self._gateway
        gateway.backlogs[self] = Backlog(len(rest), gateway.now_s())
        gateway.unsent += len(rest)
        transport.write(rest)
        if not transport.get_write_buffer_size():
            self.resume_writing()

    def _queue(self, waiting: Waiting) -> None:
        """Queue a frame behind what waits; end who is too far behind."""
        transport, gateway = self.transport, self._gateway
        if transport is None:
            return
        backlog = gateway.backlogs.get(self)
        if backlog is None:  # with TLS, or behind the answer to the upgrade
            backlog = gateway.backlogs[self] = Backlog(transport.get_write_buffer_size(), waiting.at_s)
            gateway.unsent += backlog.size
        backlog.waiting.append(waiting)
        backlog.size += waiting.size
        gateway.unsent += waiting.size
        if not transport.get_write_buffer_size():
            self.resume_writing()
        elif backlog.size > gateway.max_unsent:
            self.close(Close.SLOW)
        else:
            gateway.overflowed()

    def waits_since(self) -> float | None:
        """Return since when the oldest unsent byte waits; None where none does."""
        backlog = self._gateway.backlogs.get(self)
        if backlog is None:
            return None
        return backlog.rest_s if backlog.rest or not backlog.waiting else backlog.waiting[0].at_s

    def resume_writing(self) -> None:
        """The transport holds nothing any more: give it what waits, one frame after the other."""
        backlog = self._gateway.backlogs.get(self)
        if backlog is not None and (backlog.is_flowing or not self._flow(backlog)):
            return
        if self.fd != NO_FD and not self.close_code:
            self.blocked = False

    def _flow(self, backlog: Backlog) -> bool:
        """Give the transport what waits until it holds some of it; return whether nothing waits any more."""
        gateway, transport = self._gateway, self.transport
        if transport is None:
            return False
        gateway.unsent -= backlog.rest
        backlog.size -= backlog.rest
        backlog.rest = 0
        backlog.is_flowing = True
        while backlog.waiting:
            waiting = backlog.waiting.popleft()
            gateway.unsent -= waiting.size
            backlog.size -= waiting.size
            frame = waiting.make(self.form)
            if frame is None:
                continue
            transport.write(frame)
            if rest := transport.get_write_buffer_size():
                backlog.rest = rest
                backlog.rest_s = waiting.at_s
                backlog.size += rest
                gateway.unsent += rest
                backlog.is_flowing = False
                return False
        del gateway.backlogs[self]
        return True

    def _give_up(self) -> None:
        """Drop what waits."""
        backlog = self._gateway.backlogs.pop(self, None)
        if backlog is not None:
            self._gateway.unsent -= backlog.size

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
                    self.heard_s = self._gateway.now_s()
                    if not self.close_code:
                        self._gateway.heard(self, text)
                case Ping(payload):
                    self.heard_s = self._gateway.now_s()
                    self.send_raw(websocket_frame(payload, PONG))
                case Closing(code):
                    self._answer_close(code)
                case Fault(code, reason):
                    self.close(code, reason)
                case _:
                    self.heard_s = self._gateway.now_s()

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
        """Take part in nothing any more; the socket is closed when the viewer has closed its side, or by the wheel."""
        transport = self.transport
        if transport is None:
            return
        self.close_code = code
        self.blocked = True
        self.closing_s = self._gateway.now_s()
        self._gateway.leaving(self)
        self._give_up()
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
        self._give_up()
        self._gateway.lost(self)


class Listener(Member):
    """A viewer whose network lets no WebSocket through: it hears events over HTTP, and speaks by requests of their own."""

    __slots__ = ()

    def __init__(self, gateway: Gateway, user: User, pull: str, now_s: float) -> None:
        super().__init__(gateway, user, pull, now_s, EVENTS)

    def framed(self, text: bytes) -> bytes:
        """Return a text as it goes to this viewer."""
        return as_event(text)

    def data_received(self, _: bytes) -> None:
        """End who speaks on a stream that goes one way."""
        self.abort()

    def spoke(self, text: bytes) -> None:
        """Take what the viewer said in a request."""
        if self.transport is None or self.close_code:
            return
        self.frames += 1
        if self.frames > MAX_FRAMES_A_TURN:
            self.close(Close.TOO_FAST)
            return
        self.heard_s = self._gateway.now_s()
        self._gateway.heard(self, text)

    def _goodbye(self, code: Close, reason: str) -> bytes:
        return as_event(f"{code.value} {reason}".encode(), "close")
