"""A viewer's connection to its rooms, free of I/O: events in, effects out. The JavaScript SDK follows the same rules.

Owns order, duplicates, holes, heartbeats and when to reconnect. The caller connects, sends and delivers as the effects say, and
calls `tick` at `wake_at` at the latest. Time is seconds of a monotonic clock; `uniform` is a random number in [0, 1).
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from liveroom.closecodes import ABNORMAL, Close, CloseRule, rule_for
from liveroom.wire import (
    VIEWER_SILENCE_S,
    BadFrameError,
    Beat,
    Error,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Message,
    Move,
    Notice,
    ReceivedBatch,
    decode_server_frame,
    encode_frame,
)

MAX_BACKOFF_S: Final = 30.0
STABLE_S: Final = 10.0


class State(Enum):
    """Where a session is."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    ENDED = "ended"


class Connect(NamedTuple):
    """Ask the scheduler and connect; then call `opened` or `failed`."""


class Send(NamedTuple):
    """Send this text."""

    text: bytes


class Disconnect(NamedTuple):
    """Close the connection with this code; then call `closed`."""

    code: Close


class Entered(NamedTuple):
    """The room is joined; numbers are None until its first batch."""

    room: str
    epoch: int | None
    seq: int | None
    rseq: int | None


class Delivered(NamedTuple):
    """A message, in order, once."""

    room: str
    epoch: int
    message: Message


class Counts(NamedTuple):
    """Totals of a room, where they changed (None: not told)."""

    room: str
    likes: int | None
    viewers: tuple[int, int] | None


class Progress(NamedTuple):
    """The newest reliable number of a room, as a batch says it. `first`: the numbers start here on this connection."""

    room: str
    epoch: int
    rseq: int
    first: bool


class Hole(NamedTuple):
    """Reliable messages after `after_rseq` up to `to_rseq` did not come: pull them. `away`: they passed while not connected."""

    room: str
    epoch: int
    after_rseq: int
    to_rseq: int
    away: bool


class Renumbered(NamedTuple):
    """The room's history was lost: numbers begin again under another epoch."""

    room: str
    epoch: int


class Told(NamedTuple):
    """Something to this user alone, or a refusal."""

    what: Notice | Error | Left


class Moved(NamedTuple):
    """The gateway asks to go elsewhere."""

    reason: str


class Ended(NamedTuple):
    """The session is over; `rule` says why."""

    rule: CloseRule


Effect = Connect | Send | Disconnect | Entered | Delivered | Counts | Progress | Hole | Renumbered | Told | Moved | Ended


class Position:
    """How far a viewer is in one room. `fresh`: nothing came of it on this connection yet."""

    __slots__ = ("epoch", "fresh", "rseq", "seq")

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.seq = 0
        self.rseq = 0
        self.fresh = True


class Session:
    """One viewer: its rooms, its place in each, its connection's state."""

    def __init__(self, rooms: Iterable[str]) -> None:
        self.state = State.IDLE
        self.rooms: dict[str, Position] = {room: Position() for room in rooms}
        self.wake_at: float | None = None
        self.thinned = 0
        self.duplicates = 0
        self.reconnects = 0
        self.bad_frames = 0
        self._attempts = 0
        self._opened_at = 0.0
        self._heard_at = 0.0
        self._beat_s = 20.0
        self._silence_s = VIEWER_SILENCE_S
        self._beat_at = 0.0
        self._retry_at: float | None = None
        self._move_at: float | None = None

    # ---- what happens
    def start(self) -> list[Effect]:
        """Begin."""
        self.state = State.CONNECTING
        return [Connect()]

    def opened(self, now: float) -> list[Effect]:
        """The connection stands."""
        self.state = State.OPEN
        self._opened_at = self._heard_at = now
        self._beat_at = now + self._beat_s
        self._move_at = None
        for position in self.rooms.values():
            position.fresh = True
        self._plan()
        return [Send(encode_frame(self._join(room))) for room in self.rooms]

    def failed(self, now: float, uniform: float, retry_after_s: float | None = None) -> list[Effect]:
        """The connection could not be made, or the scheduler had no gateway (`retry_after_s`: what it asked for)."""
        self._wait(now, uniform, max(ABNORMAL.after_s, retry_after_s or 0.0))
        return []

    def closed(self, code: int | None, now: float, uniform: float) -> list[Effect]:
        """The connection ended, with this code (None: without one)."""
        if self.state is State.ENDED:
            return []
        rule = rule_for(code)
        if not rule.reconnect:
            self.state = State.ENDED
            self.wake_at = None
            return [Ended(rule)]
        if now - self._opened_at > STABLE_S:
            self._attempts = 0
        self.reconnects += 1
        self._wait(now, uniform, rule.after_s)
        return []

    def received(self, text: bytes, now: float) -> list[Effect]:
        """Take a text frame."""
        self._heard_at = now
        try:
            frame = decode_server_frame(text)
        except BadFrameError:
            self.bad_frames += 1
            return []
        effects: list[Effect] = []
        match frame:
            case ReceivedBatch():
                self._batch(frame, effects)
            case Hello():
                self._beat_s, self._silence_s = frame.heartbeat_s, frame.silence_s
                self._beat_at = now + self._beat_s
            case Joined():
                self._joined(frame, effects)
            case Move():
                self._move_at = now + frame.delay_s
                effects.append(Moved(frame.reason))
            case Notice() | Error() | Left():
                effects.append(Told(frame))
            case Beat():
                pass
        self._plan()
        return effects

    def tick(self, now: float) -> list[Effect]:
        """Do what is due."""
        effects: list[Effect] = []
        if self.state is State.WAITING and self._retry_at is not None and now >= self._retry_at:
            self.state = State.CONNECTING
            self._retry_at = None
            effects.append(Connect())
        elif self.state is State.OPEN:
            if now - self._heard_at >= self._silence_s or (self._move_at is not None and now >= self._move_at):
                self._move_at = None
                effects.append(Disconnect(Close.GOING_AWAY))
            elif now >= self._beat_at:
                self._beat_at = now + self._beat_s
                at = {
                    name: (position.seq, position.rseq) for name, position in self.rooms.items() if position.epoch is not None
                }
                effects.append(Send(encode_frame(Heartbeat(at))))
        self._plan()
        return effects

    def join(self, room: str) -> list[Effect]:
        """Enter one more room."""
        if room in self.rooms:
            return []
        self.rooms[room] = Position()
        return [Send(encode_frame(self._join(room)))] if self.state is State.OPEN else []

    def leave(self, room: str) -> list[Effect]:
        """Leave a room."""
        if self.rooms.pop(room, None) is None or self.state is not State.OPEN:
            return []
        return [Send(encode_frame(Leave(room)))]

    def end(self) -> list[Effect]:
        """Stop for good."""
        was_open = self.state is State.OPEN
        self.state = State.ENDED
        self.wake_at = None
        return [Disconnect(Close.NORMAL)] if was_open else []

    # ---- rules
    def _join(self, room: str) -> Join:
        position = self.rooms[room]
        if position.epoch is None:
            return Join(room)
        return Join(room, position.epoch, position.seq, position.rseq)

    def _wait(self, now: float, uniform: float, base_s: float) -> None:
        """Full jitter: anywhere between nothing and the doubled base, so that a crowd does not come back as one."""
        limit = min(MAX_BACKOFF_S, max(base_s, 0.1) * 2**self._attempts)
        self._attempts = min(self._attempts + 1, 16)
        self.state = State.WAITING
        self._retry_at = now + uniform * limit
        self._plan()

    def _plan(self) -> None:
        if self.state is State.WAITING:
            self.wake_at = self._retry_at
        elif self.state is State.OPEN:
            due = min(self._beat_at, self._heard_at + self._silence_s)
            self.wake_at = due if self._move_at is None else min(due, self._move_at)
        else:
            self.wake_at = None

    def _joined(self, frame: Joined, effects: list[Effect]) -> None:
        position = self.rooms.get(frame.room)
        if position is None:
            return
        effects.append(Entered(frame.room, frame.epoch, frame.seq, frame.rseq))
        if frame.epoch is None or frame.seq is None or frame.rseq is None or frame.resumed:
            return
        if position.epoch is None or position.epoch != frame.epoch:
            if position.epoch is not None:
                effects.append(Renumbered(frame.room, frame.epoch))
        elif frame.rseq > position.rseq:
            effects.append(Hole(frame.room, frame.epoch, position.rseq, frame.rseq, away=True))
        position.epoch, position.seq, position.rseq, position.fresh = frame.epoch, frame.seq, frame.rseq, False
        effects.append(Progress(frame.room, frame.epoch, frame.rseq, first=True))

    def _batch(self, batch: ReceivedBatch, effects: list[Effect]) -> None:
        header = batch.header
        room, epoch, (first, last) = header.room, header.epoch, header.seq
        position = self.rooms.get(room)
        if position is None:
            return  # left a moment ago
        reliable = sum(message.rseq > 0 for message in batch.messages)
        away = position.fresh and position.epoch == epoch
        if position.epoch != epoch:
            if position.epoch is not None:
                effects.append(Renumbered(room, epoch))
            position.epoch, position.seq, position.rseq, position.fresh = epoch, first - 1, header.rseq - reliable, True
        if position.fresh:
            position.fresh = False
            effects.append(Progress(room, epoch, header.rseq - reliable, first=True))
        unseen = max(0, last - max(position.seq, first - 1))
        before = self.duplicates
        self._deliver(batch, position, away, effects)
        self.thinned += max(0, unseen - (len(batch.messages) - (self.duplicates - before)))
        position.seq = max(position.seq, last)
        if header.rseq > position.rseq:
            effects.append(Hole(room, epoch, position.rseq, header.rseq, away))
            position.rseq = header.rseq
        effects.append(Progress(room, epoch, header.rseq, first=False))
        if header.likes is not None or header.viewers is not None:
            effects.append(Counts(room, header.likes, header.viewers))

    def _deliver(self, batch: ReceivedBatch, position: Position, away: bool, effects: list[Effect]) -> None:
        room, epoch = batch.header.room, batch.header.epoch
        for message in batch.messages:
            if message.seq <= position.seq:
                self.duplicates += 1
                continue
            position.seq = message.seq
            if message.rseq:
                if message.rseq > position.rseq + 1:
                    effects.append(Hole(room, epoch, position.rseq, message.rseq - 1, away))
                position.rseq = message.rseq
            effects.append(Delivered(room, epoch, message))
