"""A viewer's connection to its rooms, pure: events in, effects out. The JavaScript SDK follows the
same rules.

Owns order, duplicates, holes, pulls, heartbeats and when to reconnect. The caller connects, sends,
pulls and delivers as the effects say, and calls `tick` at `wake_at` at the latest. Time is seconds
of a monotonic clock; `uniform` is a random number in [0, 1).

Reliable messages that did not come are pulled while batches go on: a message that fills a hole
comes late and says so. The rest comes in order of `seq`. Each comes once, or is told as lost.
"""

import math
from collections.abc import Iterable
from enum import Enum
from typing import Final, NamedTuple

from liveroom.closecodes import ABNORMAL, Close, CloseRule, rule_for
from liveroom.errors import Code
from liveroom.wire import (
    HEARTBEAT_S,
    VIEWER_SILENCE_S,
    BadFrameError,
    Beat,
    Card,
    Carded,
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
    Pulled,
    ReceivedBatch,
    ServerFrame,
    decode_pulled,
    decode_server_frame,
    encode_frame,
)

MAX_BACKOFF_S: Final = 30.0
STABLE_S: Final = 10.0
HURRY_S: Final = 1.0
PROBE_S: Final = 5.0
PULL_AGAIN_S: Final = 0.5
MAX_PULLS: Final = 8  # in a row that brought nothing
GROW_AFTER: Final = 3  # answered beats
GROW_BY: Final = 1.25
GROW_TO: Final = 2.5  # times the gateway's interval: it ends a connection silent for three
SHRINK_TO: Final = 0.8  # of the interval that a connection did not survive


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


class Pull(NamedTuple):
    """Ask the gateway of this connection for `/v1/rooms/{room}/messages` with `params`; then call
    `pulled` or `pull_failed`.

    `token`: for `Authorization: Bearer`. A connection's pulls end with it, a room's with the next
    one.
    """

    room: str
    token: str
    params: dict[str, str]


class Entered(NamedTuple):
    """The room is joined; numbers are None until its first batch.

    `resumed`: what was missed follows.
    """

    room: str
    epoch: int | None
    seq: int | None
    rseq: int | None
    card: Card | None = None
    resumed: bool = False


class RoomCard(NamedTuple):
    """The card of a room that was entered without one."""

    room: str
    card: Card


class Delivered(NamedTuple):
    """A message, once; in order of `seq` but for those that fill a hole (`late`)."""

    room: str
    epoch: int
    message: Message
    late: bool = False


class Counts(NamedTuple):
    """Totals of a room, where they changed (None: not told)."""

    room: str
    likes: int | None
    viewers: tuple[int, int] | None


class Progress(NamedTuple):
    """The newest reliable number of a room, as the gateway says it.

    `first`: the numbers start here in this epoch.
    """

    room: str
    epoch: int
    rseq: int
    first: bool


class Hole(NamedTuple):
    """Reliable messages after `after_rseq` up to `to_rseq` did not come.

    They will come late, or be told as lost.
    """

    room: str
    epoch: int
    after_rseq: int
    to_rseq: int


class Lost(NamedTuple):
    """Reliable messages of a hole, after `after_rseq` up to `to_rseq`, will not come any more."""

    room: str
    epoch: int
    after_rseq: int
    to_rseq: int


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


Effect = (
    Connect
    | Send
    | Disconnect
    | Pull
    | Entered
    | RoomCard
    | Delivered
    | Counts
    | Progress
    | Hole
    | Lost
    | Renumbered
    | Told
    | Moved
    | Ended
)


_OUT: Final = {
    Code.BANNED.value: Close.BANNED,
    Code.KICKED.value: Close.KICKED,
    Code.ROOM_DISSOLVED.value: Close.ROOM_DISSOLVED,
    Code.FORBIDDEN.value: Close.NORMAL,
    Code.ROOM_INVALID.value: Close.NORMAL,
}


class Missing(NamedTuple):
    """Reliable messages that may still come, and the cursor from just before them."""

    after_rseq: int
    to_rseq: int
    pos: str


class Position:
    """How far a viewer is in one room.

    `pos`: cursor of what gave the numbers. `missing`: holes, oldest first. `asked`: behind which
    number the pull asks that is out. `pull_at`: not to pull before. `pulls`: how many in a row
    brought nothing.
    """

    __slots__ = ("asked", "epoch", "missing", "pos", "pull_at", "pulls", "rseq", "seq")

    def __init__(self) -> None:
        self.epoch: int | None = None
        self.seq = 0
        self.rseq = 0
        self.pos = ""
        self.missing: list[Missing] = []
        self.asked: int | None = None
        self.pull_at = 0.0
        self.pulls = 0


class Session:
    """One viewer: its rooms, its place in each, its connection's state.

    `battery`: beat as seldom as the network bears.
    """

    def __init__(self, rooms: Iterable[str], *, battery: bool = False) -> None:
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
        self._token: str | None = None
        self._battery = battery
        self._base_s = self._beat_s = HEARTBEAT_S
        self._longest_s = math.inf
        self._answered = 0
        self._beaten_at: float | None = None
        self._beat_at = 0.0
        self._silence_s = VIEWER_SILENCE_S
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
        self._set_heartbeat(self._base_s, now)
        self._token = None
        self._move_at = None
        self._plan()
        return [Send(encode_frame(self._join(room))) for room in self.rooms]

    def failed(self, now: float, uniform: float, retry_after_s: float | None = None) -> list[Effect]:
        """The connection could not be made, or the scheduler had no gateway (`retry_after_s`: what
        it asked for).
        """
        self._wait(now, uniform, max(ABNORMAL.after_s, retry_after_s or 0.0))
        return []

    def closed(self, code: int | None, now: float, uniform: float) -> list[Effect]:
        """The connection ended, with this code (None: without one)."""
        if self.state is State.ENDED:
            return []
        rule = rule_for(code)
        if rule is ABNORMAL and self._beat_s > self._base_s:
            self._longest_s = self._beat_s * SHRINK_TO
        for position in self.rooms.values():
            position.asked, position.pull_at, position.pulls = None, 0.0, 0
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
        try:
            frame = decode_server_frame(text)
        except BadFrameError:
            self._heard_at = now
            self.bad_frames += 1
            return []
        return self.received_frame(frame, now)

    def received_frame(self, frame: ServerFrame | ReceivedBatch, now: float) -> list[Effect]:
        """Take a frame that somebody has decoded already."""
        self._heard_at = now
        effects: list[Effect] = []
        match frame:
            case ReceivedBatch():
                self._batch(frame, effects)
            case Hello():
                self._silence_s, self._token = frame.silence_s, frame.pull
                self._set_heartbeat(frame.heartbeat_s, now)
            case Joined():
                self._joined(frame, effects)
            case Carded():
                if frame.room in self.rooms:
                    effects.append(RoomCard(frame.room, frame.card))
            case Move():
                self._move_at = now + frame.delay_s
                effects.append(Moved(frame.reason))
            case Error():
                self._refused(frame, effects)
            case Notice() | Left():
                effects.append(Told(frame))
            case Beat():
                pass
        self._pull(now, effects)
        self._plan()
        return effects

    def pulled(self, room: str, text: bytes, now: float, uniform: float) -> list[Effect]:
        """A pull was answered with this body."""
        position = self.rooms.get(room)
        if position is None or position.epoch is None or position.asked is None:
            return []  # forgotten
        try:
            answer, messages = decode_pulled(text)
        except BadFrameError:
            self.bad_frames += 1
            return self.pull_failed(room, now, uniform)
        if answer.epoch is None or answer.epoch < position.epoch:
            return self.pull_failed(room, now, uniform)  # the gateway is behind
        effects: list[Effect] = []
        asked, position.asked = position.asked, None
        if answer.epoch > position.epoch:
            self._lose(room, position, position.rseq, effects)
        else:
            epoch = answer.epoch
            effects += [Delivered(room, epoch, told, late=True) for told in messages if self._fill(position, told.rseq)]
            self._lose(room, position, answer.rseq, effects)  # searched up to there: what is still missing never comes
            moved = self._move_on(position, asked, answer)
            brought = bool(effects) or (answer.more and moved)
            if not brought:
                self._fruitless(room, position, now, uniform, 0.0, effects)
            else:
                position.pulls = 0
                position.pull_at = now if answer.more else now + uniform * PULL_AGAIN_S
        self._pull(now, effects)
        self._plan()
        return effects

    def pull_failed(self, room: str, now: float, uniform: float, retry_after_s: float | None = None) -> list[Effect]:
        """A pull was not answered, or refused (`retry_after_s`: what was asked for)."""
        position = self.rooms.get(room)
        if position is None or position.asked is None:
            return []
        effects: list[Effect] = []
        position.asked = None
        self._fruitless(room, position, now, uniform, retry_after_s or 0.0, effects)
        self._pull(now, effects)
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
            else:
                if now >= self._beat_at:
                    self._beat(now, effects)
                self._pull(now, effects)
        self._plan()
        return effects

    def hurry(self, now: float, uniform: float) -> list[Effect]:
        """The network came back, or the device woke up: wait no longer, and trust the connection
        only if it answers soon.
        """
        effects: list[Effect] = []
        if self.state is State.WAITING and self._retry_at is not None:
            self._attempts = 0
            self._retry_at = min(self._retry_at, now + uniform * HURRY_S)
        elif self.state is State.OPEN:
            self._heard_at = min(self._heard_at, now - self._silence_s + PROBE_S)
            self._beat(now, effects)
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
        self._plan()
        return [Send(encode_frame(Leave(room)))]

    def end(self) -> list[Effect]:
        """Stop for good."""
        was_open = self.state is State.OPEN
        self.state = State.ENDED
        self.wake_at = None
        return [Disconnect(Close.NORMAL)] if was_open else []

    # ---- the connection
    def _join(self, room: str) -> Join:
        position = self.rooms[room]
        if position.epoch is None:
            return Join(room)
        return Join(room, position.epoch, position.seq, position.rseq)

    def _wait(self, now: float, uniform: float, base_s: float) -> None:
        """Full jitter: anywhere between nothing and the doubled base, so that a crowd does not come
        back as one.
        """
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
            if self._move_at is not None:
                due = min(due, self._move_at)
            if self._token is not None:
                for position in self.rooms.values():
                    if position.missing and position.asked is None:
                        due = min(due, position.pull_at)
            self.wake_at = due
        else:
            self.wake_at = None

    def _refused(self, error: Error, effects: list[Effect]) -> None:
        """Do not ask again for a room that does not take this user; without any room there is
        nothing to stay for.
        """
        effects.append(Told(error))
        code = _OUT.get(error.code)
        if code is None or self.rooms.pop(error.room, None) is None:
            return
        if not self.rooms:
            self.state = State.ENDED
            effects += [Disconnect(code), Ended(rule_for(code))]

    def _set_heartbeat(self, interval_s: float, now: float) -> None:
        self._base_s = self._beat_s = interval_s
        self._beat_at = now + interval_s
        self._beaten_at = None
        self._answered = 0

    def _beat(self, now: float, effects: list[Effect]) -> None:
        if self._battery and self._beaten_at is not None and self._heard_at > self._beaten_at:
            self._answered += 1
            if self._answered == GROW_AFTER:
                self._answered = 0
                limit = min(self._base_s * GROW_TO, self._longest_s)
                self._beat_s = max(self._base_s, min(self._beat_s * GROW_BY, limit))
        self._beaten_at = now
        self._beat_at = now + self._beat_s
        effects.append(Send(encode_frame(Heartbeat())))

    # ---- numbers
    def _joined(self, frame: Joined, effects: list[Effect]) -> None:
        room = frame.room
        position = self.rooms.get(room)
        if position is None:
            return
        effects.append(Entered(room, frame.epoch, frame.seq, frame.rseq, frame.card, frame.resumed))
        if frame.epoch is None or frame.seq is None or frame.rseq is None or frame.resumed:
            return
        if position.epoch is not None and frame.epoch < position.epoch:
            return  # the gateway is behind
        if position.epoch != frame.epoch:
            self._begin(room, position, frame.epoch, frame.seq, frame.rseq, effects)
        else:
            self._skip(room, position, frame.rseq, effects)
            effects.append(Progress(room, frame.epoch, frame.rseq, first=False))
        if frame.seq >= position.seq:
            position.seq, position.pos = frame.seq, frame.pos or position.pos

    def _batch(self, batch: ReceivedBatch, effects: list[Effect]) -> None:
        header = batch.header
        room, epoch, (first, last) = header.room, header.epoch, header.seq
        position = self.rooms.get(room)
        if position is None or (position.epoch is not None and epoch < position.epoch):
            return  # left a moment ago, or the gateway is behind
        if position.epoch != epoch:
            reliable = sum(message.rseq > 0 for message in batch.messages)
            self._begin(room, position, epoch, first - 1, header.rseq - reliable, effects)
        before = position.seq
        came = self._deliver(batch, position, effects)
        self._skip(room, position, header.rseq, effects)
        if last >= before:
            self.thinned += max(0, last - max(before, first - 1) - came)
            position.seq, position.pos = last, header.pos or position.pos
        effects.append(Progress(room, epoch, header.rseq, first=False))
        if header.likes is not None or header.viewers is not None:
            effects.append(Counts(room, header.likes, header.viewers))

    def _deliver(self, batch: ReceivedBatch, position: Position, effects: list[Effect]) -> int:
        """Deliver what is new; return how many came in order."""
        room, epoch = batch.header.room, batch.header.epoch
        came = 0
        for message in batch.messages:
            if position.missing and self._fill(position, message.rseq):
                effects.append(Delivered(room, epoch, message, late=True))
            elif message.seq <= position.seq or 0 < message.rseq <= position.rseq:
                self.duplicates += 1
            else:
                position.seq = message.seq
                if message.rseq:
                    self._skip(room, position, message.rseq - 1, effects)
                    position.rseq = message.rseq
                effects.append(Delivered(room, epoch, message))
                came += 1
        return came

    def _begin(self, room: str, position: Position, epoch: int, seq: int, rseq: int, effects: list[Effect]) -> None:
        """Begin the numbers of an epoch."""
        if position.epoch is not None:
            self._lose(room, position, position.rseq, effects)
            effects.append(Renumbered(room, epoch))
        position.epoch, position.seq, position.rseq, position.pos, position.asked = epoch, seq, rseq, "", None
        effects.append(Progress(room, epoch, rseq, first=True))

    def _skip(self, room: str, position: Position, to_rseq: int, effects: list[Effect]) -> None:
        """Go on to `to_rseq`; what lies between did not come."""
        if position.epoch is None or to_rseq <= position.rseq:
            return
        if not position.missing:
            position.pull_at, position.pulls = 0.0, 0
        position.missing.append(Missing(position.rseq, to_rseq, position.pos))
        effects.append(Hole(room, position.epoch, position.rseq, to_rseq))
        position.rseq = to_rseq

    # ---- what is missing
    def _pull(self, now: float, effects: list[Effect]) -> None:
        """Ask for the oldest hole of each room, one pull at a time; no token: this gateway cannot
        be asked.
        """
        if self.state is not State.OPEN or self._token is None:
            return
        for room, position in self.rooms.items():
            if not position.missing or position.asked is not None:
                continue
            if not self._token:
                self._lose(room, position, position.rseq, effects)
            elif now >= position.pull_at:
                after_rseq, _, pos = position.missing[0]
                position.asked = after_rseq
                params = {"epoch": str(position.epoch), "after_rseq": str(after_rseq)}
                effects.append(Pull(room, self._token, {"pos": pos} | params if pos else params))

    def _move_on(self, position: Position, asked: int, answer: Pulled) -> bool:
        """Let the next pull begin where this one ended, unless it asks for a later hole, which has
        a nearer cursor.
        """
        if not position.missing or not answer.pos:
            return False
        oldest = position.missing[0]
        if oldest.pos == answer.pos or oldest.after_rseq > max(asked, answer.rseq):
            return False
        position.missing[0] = oldest._replace(pos=answer.pos)
        return True

    def _fruitless(
        self, room: str, position: Position, now: float, uniform: float, after_s: float, effects: list[Effect]
    ) -> None:
        """A pull brought nothing: again after full jitter, or give the oldest hole up."""
        position.pull_at = now + after_s + uniform * min(MAX_BACKOFF_S, PULL_AGAIN_S * 2**position.pulls)
        position.pulls += 1
        if position.pulls == MAX_PULLS:
            position.pulls, position.pull_at = 0, now
            if position.missing:
                self._lose(room, position, position.missing[0].to_rseq, effects)

    def _fill(self, position: Position, rseq: int) -> bool:
        """Take a number out of the holes; say whether it was in one."""
        for index, (after_rseq, to_rseq, pos) in enumerate(position.missing):
            if after_rseq < rseq <= to_rseq:
                parts = [Missing(after_rseq, rseq - 1, pos), Missing(rseq, to_rseq, pos)]
                position.missing[index : index + 1] = [part for part in parts if part.to_rseq > part.after_rseq]
                return True
        return False

    def _lose(self, room: str, position: Position, to_rseq: int, effects: list[Effect]) -> None:
        """Give up what is missing up to `to_rseq`."""
        if position.epoch is None:
            return
        left: list[Missing] = []
        for hole in position.missing:
            if hole.after_rseq < to_rseq:
                effects.append(Lost(room, position.epoch, hole.after_rseq, min(hole.to_rseq, to_rseq)))
            if hole.to_rseq > to_rseq:
                left.append(hole._replace(after_rseq=max(hole.after_rseq, to_rseq)))
        position.missing = left
