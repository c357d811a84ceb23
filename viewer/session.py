"""A viewer's connection to its rooms: events in, effects out. Pure.

Theory of operation
-------------------
A `Session` decides what a viewer does and never does it. Its caller reports events by calling
methods (`opened`, `received`, `closed`, ...). Each method returns effects (`viewer.effects`), which
the caller carries out in order: connect, send a frame, close the connection, pull messages, or show
something. The caller hands in the time (`now`, seconds of a monotonic clock) and a random number
where chance is needed (`uniform`, in [0, 1)), and calls `tick` at `wake_at` at the latest. So a
test, a bot, a load generator and a browser run the same rules: `viewer/web/sdk/session.js` has them
in JavaScript, and one table of cases runs through both.

States::

    state       event                                    next state
    IDLE        start, or a join after it                CONNECTING
    CONNECTING  opened                                   OPEN
    CONNECTING  failed                                   WAITING
    OPEN        closed, and the code allows a return     WAITING
    OPEN        closed, and the code is final            ENDED
    CONNECTING  failed: revoked, and not for the first   ENDED
                time since the last connection
    CONNECTING  failed: its last room is refused         ENDED
    OPEN        its last room refuses the viewer         ENDED
    OPEN        every room refuses it for now            WAITING, by `Disconnect`
    OPEN        join                                     CONNECTING, by `Disconnect`
    OPEN        leave of its last room                   IDLE, by `Disconnect`
    CONNECTING, leave of its last room                   IDLE
    WAITING
    IDLE        join                                     CONNECTING, before a retry is due WAITING
    WAITING     tick, once the retry is due              CONNECTING
    any         end                                      ENDED

Wishes. The application may join and leave rooms in every state. A session without a room rests: it
has no connection and asks for nothing. An attempt that is under way as the last room is left goes
on to its end, for a room that may come meanwhile; a delay that is set goes on too, so that leaving
and joining makes no attempt sooner. A connection is for the rooms that were wished when its
entry was asked for (`ask`), since a ticket names them: a room that is joined later gets a new
connection, so that no answer to an older request concerns it. After a `Disconnect` the session
takes nothing more from that connection.

Numbers. A room numbers its messages within an epoch. `seq` counts all messages. A gateway may leave
chat out for a slow viewer, so gaps in `seq` are normal and only counted (`thinned`). `rseq` counts
the reliable messages alone (gifts, notices), and they must all arrive. A batch names the newest
`rseq`, so a viewer knows what is missing even when the batch does not hold it. A batch of a lower
epoch comes from a gateway that lags behind, and the session ignores it. A higher epoch means that
the room's history was lost: numbers start over (`Renumbered`).

Delivery. No message is delivered twice. Messages are delivered in order of `seq`; one that is not
newer than the last is a duplicate, unless it fills a hole.

Holes and pulls. When `rseq` advances past messages that did not come, they are a hole (`Hole`). The
session keeps reading batches and meanwhile fetches the hole over HTTP from the gateway's history
(`Pull`): the oldest hole of each room, one pull at a time. What a pull brings is delivered late
(`Delivered.late`). Every number of a hole ends in exactly one of two ways, late delivery or `Lost`.
It is lost when the gateway has searched past it, when `MAX_GONE` answers in a row reported that the
log no longer has it (or refused it for good), when the epoch ends, or when the gateway grants no
pulls. A pull that is refused by a budget, fails, or meets a gateway that lags behind is only
delayed. `viewer.position` has these rules for one room.

Refusals. A gateway answers a join with an error, or puts the viewer out of a room with one
(`Told`). Codes in `_FOR_NOW`, and any code with `retry_after_s`, hold for now: the session joins
again after full jitter, at least `retry_after_s` later. Other codes in `_OUT` are final: the
session leaves the room, and ends where it was the last one. Where no room lets it in, it connects
again, since the scheduler may find another gateway. Any other code changes nothing.

The scheduler may refuse an entry for good (`failed`): that concerns the room that it names. A code
in `_OF_USER` concerns the user, and so all rooms that were asked for. Any other refusal without a
name (of version 0.1, or for too many rooms) may concern each of them. So the session sets the
newest one aside and asks without it. Once a smaller entry opens a connection, the room that was set
aside last is the refused one, and the others are asked for again. A single room that is refused
is the refused one.

Resume. A connection begins with a `join` for each room that carries the viewer's epoch, `seq` and
`rseq`. A gateway that still has everything since then answers `resumed` and sends it. Otherwise the
answer names the newest numbers, and the difference in `rseq` is a hole like any other.

Heartbeats. The session sends one per interval. The gateway sets the interval, and the silence after
which the session takes the connection for dead and closes it. With `battery` the interval grows
after answered heartbeats and shrinks after a connection that did not survive it.

Totals. Those of a batch at or below the position are passed over, and a snapshot that is behind it
is left out: they come from a gateway that lags behind. Likes only grow within an epoch.

Backoff. After a loss the session waits a random time between zero and a limit that doubles with
each attempt, up to `MAX_BACKOFF_S` (full jitter, so that a crowd does not come back at once). The
close code sets where the limit starts, or that the session ends. A connection that stood for
`STABLE_S` resets it. Pulls back off in the same way. A delay that a refusal asks for comes first,
the jitter on top of it; nothing makes it shorter.

Sleep. The clock of `now` may stand still while the device sleeps. The caller compares it with the
wall clock and reports the difference (`hurry`).

Revocation. Where the viewer's token was revoked, the session connects once more, for which the
caller asks its application for a new token. It does so at least `NEW_TOKEN_S` later: a token names
the second of its issue, and those of the second of the revocation are revoked too. Where that is
refused as well, the session ends.
"""

import math
from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec

from liveroom.closecodes import ABNORMAL, Close, CloseRule, rule_for
from liveroom.errors import Code
from liveroom.wire import (
    HEARTBEAT_S,
    VIEWER_SILENCE_S,
    BadFrameError,
    Beat,
    Carded,
    Error,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Move,
    Notice,
    ReceivedBatch,
    ServerFrame,
    UnknownFrameError,
    decode_pulled,
    decode_server_frame,
    encode_frame,
)
from viewer.effects import Connect, Disconnect, Effect, Ended, Entered, Moved, RoomCard, Send, Told
from viewer.position import JOIN_AGAIN_S, Position, back_off
from viewer.problem import MAX_RETRY_AFTER_S

STABLE_S: Final = 10.0
HURRY_S: Final = 1.0
PROBE_S: Final = 5.0
NEW_TOKEN_S: Final = 1.0
NEW_TOKEN_SPREAD_S: Final = 5.0  # all viewers may come back at once: a revocation can be of everybody's tokens
GROW_AFTER: Final = 3  # answered heartbeats
GROW_BY: Final = 1.25
GROW_TO: Final = 2.5  # times the gateway's interval: it closes a connection that is silent for three
SHRINK_TO: Final = 0.8  # of the interval that a connection did not survive
_OUT: Final = {
    Code.BANNED.value: Close.BANNED,
    Code.KICKED.value: Close.KICKED,
    Code.ROOM_DISSOLVED.value: Close.ROOM_DISSOLVED,
    Code.FORBIDDEN.value: Close.NORMAL,
    Code.ROOM_INVALID.value: Close.NORMAL,
    Code.TOO_MANY_ROOMS.value: Close.NORMAL,
}
_OF_USER: Final = {Code.TOKEN_MISSING.value, Code.TOKEN_INVALID.value, Code.TOKEN_EXPIRED.value}
_FOR_NOW: Final = {Code.FULL.value, Code.RATE_USER.value, Code.RATE_ADDRESS.value}


class State(Enum):
    """The state of a session; the module's docstring shows the transitions."""

    IDLE = "idle"
    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    ENDED = "ended"


class Session:
    """One viewer: its rooms, its position in each, and the state of its connection.

    `battery`: send heartbeats as seldom as the network allows. `wake_at` is the time by which the
    caller must call `tick`, None while no call is needed. Callers read attributes and never write
    them.
    """

    def __init__(self, rooms: Iterable[str], *, battery: bool = False) -> None:
        self.state = State.IDLE
        self.rooms: dict[str, Position] = {room: Position(room) for room in rooms}
        self.wake_at: float | None = None
        self.thinned = 0
        self.duplicates = 0
        self.reconnects = 0
        self.bad_frames = 0
        self._attempts = 0
        self._is_started = False
        self._is_attempting = False
        self._suspect: Error | None = None
        self._asked: dict[str, Position] | None = None
        self._leaving: Close | None = None
        self._not_before = 0.0
        self._is_revoked = False
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
        self._is_refused = False
        self._move_at: float | None = None

    @property
    def is_in(self) -> bool:
        """Whether the gateway has let the viewer into a room, on this connection."""
        return any(position.is_in for position in self.rooms.values())

    @property
    def is_covered(self) -> bool:
        """Whether the last entry was asked for with all the rooms that are wished now."""
        asked = self._asked
        return asked is None or all(asked.get(room) is position for room, position in self._askable().items())

    # ---- events of the connection
    def start(self) -> list[Effect]:
        """Begin to connect. Call it once."""
        self._is_started = True
        return self._connect()

    def ask(self) -> list[str]:
        """Return the rooms to ask an entry for, and take note that they are asked for.

        Call it before each request. Connect only while `is_covered`; otherwise ask again.
        """
        self._asked = self._askable()
        return list(self._asked)

    def opened(self, now: float) -> list[Effect]:
        """Take note that the connection is open, and join every room."""
        if self.state is State.ENDED:
            return [Disconnect(Close.NORMAL)]
        self.state = State.OPEN
        self._leaving = None
        self._is_attempting = self._is_revoked = False
        self._opened_at = self._heard_at = now
        self._set_heartbeat(self._base_s, now)
        self._token = None
        self._move_at = None
        effects = self._convict()
        if not self.rooms or not self.is_covered:
            return effects + self._disconnect(Close.NORMAL)
        joining = [room for room, position in self.rooms.items() if position.may_join(now)]
        self._plan()
        return effects + [Send(encode_frame(self._join(room))) for room in joining]

    def failed(self, now: float, uniform: float, refusal: Error | None = None, is_final: bool = False) -> list[Effect]:
        """Take note that no connection could be made.

        `refusal`: the scheduler's answer, as a gateway would tell it; None where none came.
        `is_final`: the same request cannot succeed later.
        """
        if self.state is State.ENDED:
            return []
        self._is_attempting = False
        if refusal is not None and refusal.code == Code.REVOKED.value:
            return self._revoked(now, uniform, refusal)
        effects = self._entry_refused(refusal) if refusal is not None and is_final else []
        if not effects or not isinstance(effects[-1], Ended):
            after_s = (refusal.retry_after_s if refusal is not None else None) or 0.0
            self._not_before = now + min(max(after_s, 0.0), MAX_RETRY_AFTER_S)
            self._wait(now, uniform, ABNORMAL.after_s)
        return effects

    def closed(self, code: int | None, now: float, uniform: float) -> list[Effect]:
        """Take note that the connection has ended with this code, or without one (None)."""
        if self.state is State.ENDED:
            return []
        if self._leaving is not None:
            code = self._leaving
        rule = rule_for(code)
        if rule is ABNORMAL and self._beat_s > self._base_s:
            self._longest_s = self._beat_s * SHRINK_TO
        for position in self.rooms.values():
            position.disconnected()
        if now - self._opened_at > STABLE_S:
            self._attempts = 0
        if self._leaving is Close.NORMAL or not self.rooms:
            self._leaving = None
            return self._connect()
        self._leaving = None
        if code == Close.REVOKED:
            self.reconnects += 1
            return self._revoked(now, uniform)
        if not rule.reconnect:
            return [self._ended(rule)]
        self.reconnects += 1
        self._wait(now, uniform, max(rule.after_s, JOIN_AGAIN_S if self._is_refused else 0.0))
        return []

    def received(self, text: bytes, now: float, uniform: float = 1.0) -> list[Effect]:
        """Take a text frame.

        One of an unknown type is passed over: a newer gateway sent it. One that cannot be read is
        counted in `bad_frames`.
        """
        try:
            frame = decode_server_frame(text)
        except BadFrameError as error:
            self._heard_at = now
            self.bad_frames += not isinstance(error, UnknownFrameError)
            return []
        return self.received_frame(frame, now, uniform)

    def received_frame(self, frame: ServerFrame | ReceivedBatch, now: float, uniform: float = 1.0) -> list[Effect]:
        """Take a frame that the caller has decoded, for many viewers of one room at once."""
        if self.state is not State.OPEN or self._leaving is not None:
            return []
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
                self._carded(frame, effects)
            case Move():
                self._move_at = now + frame.delay_s
                effects.append(Moved(frame.reason))
            case Error():
                self._refused(frame, now, uniform, effects)
            case Notice() | Left():
                effects.append(Told(frame))
            case Beat():
                pass
        self._pull(now, effects)
        self._plan()
        return effects

    # ---- events of a pull
    def pulled(self, room: str, text: bytes, now: float, uniform: float) -> list[Effect]:
        """Take the body of the answer to a room's pull."""
        position = self.rooms.get(room)
        if position is None or position.epoch is None or position.asked is None:
            return []  # the pull is no longer wanted
        try:
            answer, messages = decode_pulled(text)
        except BadFrameError:
            self.bad_frames += 1
            return self.pull_failed(room, now, uniform)
        effects: list[Effect] = []
        position.pulled(answer, messages, now, uniform, effects)
        self._pull(now, effects)
        self._plan()
        return effects

    def pull_failed(self, room: str, now: float, uniform: float, retry_after_s: float | None = None) -> list[Effect]:
        """Take note that a room's pull was not answered, or refused for the moment.

        `retry_after_s`: the delay that the gateway asked for, None where it asked for none.
        """
        position = self.rooms.get(room)
        if position is None or position.asked is None:
            return []
        effects: list[Effect] = []
        position.pull_failed(now, uniform, retry_after_s or 0.0)
        self._pull(now, effects)
        self._plan()
        return effects

    def pull_refused(self, room: str, now: float, uniform: float) -> list[Effect]:
        """Take note that a room's pull was refused for a reason that waiting does not end."""
        position = self.rooms.get(room)
        if position is None or position.asked is None:
            return []
        effects: list[Effect] = []
        position.pull_refused(now, uniform, effects)
        self._pull(now, effects)
        self._plan()
        return effects

    # ---- time
    def tick(self, now: float) -> list[Effect]:
        """Do what is due: retry, close a dead connection, move, send a heartbeat, join, pull."""
        effects: list[Effect] = []
        if self.state is State.WAITING and self._retry_at is not None and now >= self._retry_at:
            effects += self._connect()
        elif self.state is State.OPEN and self._leaving is None:
            if now - self._heard_at >= self._silence_s or (self._move_at is not None and now >= self._move_at):
                effects += self._disconnect(Close.GOING_AWAY)
            else:
                if now >= self._beat_at:
                    self._beat(now, effects)
                for room, position in self.rooms.items():
                    if position.join_at is not None and now >= position.join_at:
                        position.join_at = None
                        effects.append(Send(encode_frame(self._join(room))))
                self._pull(now, effects)
        self._plan()
        return effects

    def hurry(self, now: float, uniform: float, slept_s: float = 0.0) -> list[Effect]:
        """Take note that the network came back or the device woke up.

        `slept_s`: for how long the clock of `now` stood still. A waiting session retries within
        `HURRY_S`, unless it waits for a new token or was asked to wait longer. An open one probes
        its connection.
        """
        self._not_before -= slept_s
        for position in self.rooms.values():
            position.slept(slept_s)
        if self._retry_at is not None:
            self._retry_at -= slept_s
            if not self._is_revoked:
                self._attempts = 0
                self._retry_at = min(self._retry_at, max(now, self._earliest()) + uniform * HURRY_S)
            self._plan()
        return self.probe(now)

    def probe(self, now: float) -> list[Effect]:
        """Take note that the network may be gone.

        An open session sends a heartbeat and closes the connection if no frame arrives within
        `PROBE_S`.
        """
        if self.state is not State.OPEN or self._leaving is not None:
            return []
        effects: list[Effect] = []
        self._heard_at = min(self._heard_at, now - self._silence_s + PROBE_S)
        self._beat(now, effects)
        self._plan()
        return effects

    # ---- the viewer's wishes
    def join(self, room: str) -> list[Effect]:
        """Join one more room. An open session connects again for it."""
        if room in self.rooms or self.state is State.ENDED:
            return []
        self.rooms[room] = Position(room)
        if self.state is State.IDLE and self._is_started:
            if self._is_attempting:
                self.state = State.CONNECTING  # it asks again, since this room is not covered
            elif self._retry_at is None:
                return self._connect()
            else:
                self.state = State.WAITING
                self._plan()
        if self.state is State.OPEN and self._leaving is None:
            return self._disconnect(Close.NORMAL)
        if self.state is State.WAITING and self._is_refused and self._retry_at is not None:
            self._retry_at = min(self._retry_at, self._not_before)  # the other rooms wait, this one need not
            self._plan()
        return []

    def leave(self, room: str) -> list[Effect]:
        """Leave a room. Without any the session rests until the next `join`."""
        if self.rooms.pop(room, None) is None:
            return []
        self._acquit()  # nobody knows any more whom the refusal concerned
        if self.state in {State.CONNECTING, State.WAITING} and not self.rooms:
            self.state = State.IDLE
            self._plan()
        if self.state is not State.OPEN or self._leaving is not None:
            return []
        effects: list[Effect] = [Send(encode_frame(Leave(room)))]
        effects += self._elsewhere() if self.rooms else self._disconnect(Close.NORMAL)
        self._plan()
        return effects

    def end(self) -> list[Effect]:
        """End the session for good."""
        was_open = self.state is State.OPEN and self._leaving is None
        self.state = State.ENDED
        self.wake_at = None
        return [Disconnect(Close.NORMAL)] if was_open else []

    # ---- the connection
    def _connect(self) -> list[Effect]:
        """Connect for the rooms that are wished; rest where there is none."""
        self.state = State.CONNECTING if self.rooms else State.IDLE
        self._is_attempting = bool(self.rooms)
        self._retry_at = self.wake_at = None
        self._is_refused = False
        self.ask()
        return [Connect()] if self.rooms else []

    def _disconnect(self, code: Close) -> list[Effect]:
        """Close the connection and take nothing more from it.

        NORMAL: for another wish, so that the next attempt follows at once.
        """
        self._leaving = code
        self.wake_at = None
        return [Disconnect(code)]

    def _elsewhere(self) -> list[Effect]:
        """Close a connection whose rooms all refuse the viewer for now."""
        if not all(not each.is_in and each.join_at is not None for each in self.rooms.values()):
            return []
        self._is_refused = True
        return self._disconnect(Close.GOING_AWAY)

    def _entry_refused(self, refusal: Error) -> list[Effect]:
        """Leave the rooms that a refusal for good concerns, or set the newest one aside.

        It concerns only wishes that are as old as the request; where one of its rooms was left
        meanwhile, the next request is another one.
        """
        all_asked = self._asked or {}
        refused = [name for name, position in all_asked.items() if self.rooms.get(name) is position]
        if refusal.room:
            refused = [refusal.room] if refusal.room in refused else []
        elif len(refused) < len(all_asked):
            refused = []
        elif len(refused) > 1 and refusal.code not in _OF_USER:
            self._suspect = msgspec.structs.replace(refusal, room=refused[-1])
            self.rooms[refused[-1]].is_aside = True
            return []
        effects: list[Effect] = []
        for room in refused:
            del self.rooms[room]
            refusal = msgspec.structs.replace(refusal, room=room)
            effects.append(Told(refusal))
        if not self._askable():
            self._acquit()
        if effects and not self.rooms:
            effects.append(self._ended(rule_for(_OUT.get(refusal.code, Close.NORMAL)), refusal))
        return effects

    def _askable(self) -> dict[str, Position]:
        """Return the rooms that are not set aside."""
        return {room: position for room, position in self.rooms.items() if not position.is_aside}

    def _convict(self) -> list[Effect]:
        """Leave the room without which an entry opens a connection, and take back the others."""
        suspect = self._suspect
        self._acquit()
        if suspect is None:
            return []
        del self.rooms[suspect.room]
        return [Told(suspect)]

    def _acquit(self) -> None:
        """Take back the rooms that are set aside."""
        self._suspect = None
        for position in self.rooms.values():
            position.is_aside = False

    def _ended(self, rule: CloseRule, refusal: Error | None = None) -> Ended:
        """End the session for good, and return the effect that says so."""
        self.state = State.ENDED
        self.wake_at = None
        return Ended(rule, refusal)

    def _earliest(self) -> float:
        """Return the time before which refusals forbid to connect."""
        return max(self._not_before, min((position.not_before for position in self._askable().values()), default=0.0))

    def _join(self, room: str) -> Join:
        position = self.rooms[room]
        if position.epoch is None:
            return Join(room)
        return Join(room, position.epoch, position.seq, position.rseq)

    def _revoked(self, now: float, uniform: float, refusal: Error | None = None) -> list[Effect]:
        """Connect once more, with a new token; end where that is revoked too."""
        if self._is_revoked:
            return [self._ended(rule_for(Close.REVOKED), refusal)]
        self._is_revoked = True
        self._retry(now + NEW_TOKEN_S + uniform * NEW_TOKEN_SPREAD_S)
        return []

    def _wait(self, now: float, uniform: float, base_s: float) -> None:
        """Wait before the next attempt: as long as refusals ask for, and full jitter."""
        after_s = max(0.0, self._earliest() - now)
        self._retry(back_off(now, uniform, max(base_s, 0.1), self._attempts, after_s))
        self._attempts += 1

    def _retry(self, at: float) -> None:
        """Make the next attempt at `at`, once there is a room."""
        self._retry_at = at
        self.state = State.WAITING if self.rooms else State.IDLE
        self._plan()

    def _plan(self) -> None:
        """Set `wake_at` to the earliest time at which `tick` has something to do."""
        if self.state is State.WAITING:
            self.wake_at = self._retry_at
        elif self.state is State.OPEN and self._leaving is None:
            due = min(self._beat_at, self._heard_at + self._silence_s)
            if self._move_at is not None:
                due = min(due, self._move_at)
            due = min(due, *(position.join_at for position in self.rooms.values() if position.join_at is not None), math.inf)
            if self._token is not None:
                for position in self.rooms.values():
                    if position.missing and position.asked is None:
                        due = min(due, position.pull_at)
            self.wake_at = due
        else:
            self.wake_at = None

    def _refused(self, error: Error, now: float, uniform: float, effects: list[Effect]) -> None:
        """Leave a room that does not take this user, or join it again later."""
        effects.append(Told(error))
        position = self.rooms.get(error.room)
        if position is None:
            return
        is_for_now = error.code in _FOR_NOW or error.retry_after_s is not None
        if error.code in _OUT and not is_for_now:
            del self.rooms[error.room]
            if not self.rooms:
                code = _OUT[error.code]
                effects += [Disconnect(code), self._ended(rule_for(code), error)]
                return
        elif is_for_now:
            position.join_refused(now, uniform, error.retry_after_s or 0.0)
        else:
            return
        effects += self._elsewhere()

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

    # ---- rooms
    def _joined(self, frame: Joined, effects: list[Effect]) -> None:
        position = self.rooms.get(frame.room)
        if position is not None:
            card = position.newer(frame.card)
            effects.append(Entered(frame.room, frame.epoch, frame.seq, frame.rseq, card, frame.resumed))
            position.joined(frame, effects)

    def _carded(self, frame: Carded, effects: list[Effect]) -> None:
        position = self.rooms.get(frame.room)
        if position is not None and (card := position.newer(frame.card)) is not None:
            effects.append(RoomCard(frame.room, card))

    def _batch(self, batch: ReceivedBatch, effects: list[Effect]) -> None:
        position = self.rooms.get(batch.header.room)
        if position is None:
            return  # left a moment ago
        thinned, duplicates = position.received(batch, effects)
        self.thinned += thinned
        self.duplicates += duplicates

    def _pull(self, now: float, effects: list[Effect]) -> None:
        """Start the pulls that are due. Before the gateway's `Hello` there is no token for them."""
        if self.state is State.OPEN and self._leaving is None and self._token is not None:
            for position in self.rooms.values():
                if position.missing and position.asked is None:
                    position.pull(self._token, now, effects)
