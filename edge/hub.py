"""Who is in which room on this gateway, and the fan-out of a batch to them.

Owns the room -> connection map. No I/O of its own: it hands finished frames to `Member.push`. A room exists here while
somebody is in it. Called by the reader of the queue (`deliver`) and the server (`join`, `leave`, `drop`).
"""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from liveroom.records import NOTICE_ENTRY, ROOM_ENTRY, Batch, RoomFlags
from liveroom.topics import room_hash
from liveroom.wire import inflate, websocket_frame

_DEFLATED: Final = int(RoomFlags.DEFLATED)


class Frames:
    """One room's batch as finished WebSocket frames, each made once and only when somebody needs it.

    `reliable` is the first part alone, for slow viewers: None where nothing in it is reliable.
    """

    __slots__ = ("_made", "_payload", "_reliable_size", "is_deflated")

    def __init__(self, payload: memoryview | bytes, reliable_size: int, *, is_deflated: bool) -> None:
        self._payload = payload
        self._reliable_size = reliable_size
        self.is_deflated = is_deflated
        self._made: dict[tuple[bool, bool], bytes] = {}

    def whole(self, *, deflate: bool) -> bytes:
        """Return the frame of everything; deflated only where the batch is and the viewer takes it."""
        return self._frame(deflate and self.is_deflated, reliable_only=False)

    def reliable(self, *, deflate: bool) -> bytes | None:
        """Return the frame of the header and the reliable messages."""
        if not self._reliable_size:
            return None
        return self._frame(deflate and self.is_deflated, reliable_only=True)

    def _frame(self, deflated: bool, *, reliable_only: bool) -> bytes:
        key = (deflated, reliable_only)
        if (frame := self._made.get(key)) is None:
            payload = self._payload[: self._reliable_size] if reliable_only else self._payload
            if self.is_deflated and not deflated:
                payload = inflate(payload)
            frame = self._made[key] = websocket_frame(payload, deflated=deflated)
        return frame


class Member(Protocol):
    """A viewer's connection, as the hub needs it."""

    user_hash: int
    rooms: dict[int, "Room"]

    def push(self, frames: Frames) -> int:
        """Send a batch, or what a slow viewer gets of it; return the bytes sent (0: skipped)."""

    def send(self, frame: bytes) -> None:
        """Send a finished frame."""


class Room:
    """A room with a viewer here, and the newest numbers this gateway has seen of it (None: none yet)."""

    __slots__ = ("epoch", "hash", "members", "name", "pos", "pushed_at", "rseq", "seq")

    def __init__(self, name: str, hash_: int, now_s: float) -> None:
        self.name = name
        self.hash = hash_
        self.members: dict[Member, None] = {}
        self.epoch: int | None = None
        self.seq: int | None = None
        self.rseq: int | None = None
        self.pos = ""
        self.pushed_at = now_s


class Delivered(NamedTuple):
    """What one BATCH was to this gateway. `wasted_bytes`: payloads of rooms without a viewer here."""

    rooms: int
    frames: int
    messages: int
    sent_bytes: int
    skipped: int
    wasted_bytes: int
    gaps: int


class Hub:
    """The rooms and users of one gateway. `changed`: rooms whose audience changed; who reports it takes it out."""

    def __init__(self) -> None:
        self.rooms: dict[int, Room] = {}
        self.changed: dict[str, None] = {}
        self._by_user: dict[int, dict[Member, int]] = {}

    @property
    def users(self) -> int:
        """Distinct users in some room."""
        return len(self._by_user)

    def audience(self, name: str) -> tuple[int, int]:
        """Return the users and the connections of a room."""
        room = self.rooms.get(room_hash(name))
        if room is None:
            return 0, 0
        return len({member.user_hash for member in room.members}), len(room.members)

    def join(self, member: Member, name: str, now_s: float) -> Room:
        """Put a member into a room; once more is the same."""
        hash_ = room_hash(name)
        room = self.rooms.get(hash_)
        if room is None:
            room = self.rooms[hash_] = Room(name, hash_, now_s)
        if hash_ not in member.rooms:
            room.members[member] = None
            member.rooms[hash_] = room
            self.changed[name] = None
            devices = self._by_user.setdefault(member.user_hash, {})
            devices[member] = devices.get(member, 0) + 1
        return room

    def leave(self, member: Member, name: str) -> bool:
        """Take a member out of a room; say whether it was in it."""
        room = member.rooms.pop(room_hash(name), None)
        if room is None:
            return False
        del room.members[member]
        self.changed[room.name] = None
        if not room.members:
            del self.rooms[room.hash]
        devices = self._by_user[member.user_hash]
        devices[member] -= 1
        if not devices[member]:
            del devices[member]
        if not devices:
            del self._by_user[member.user_hash]
        return True

    def drop(self, member: Member) -> None:
        """Take a member out of all its rooms: its connection is gone."""
        for room in list(member.rooms.values()):
            self.leave(member, room.name)

    def deliver(self, batch: Batch, pos: str, now_s: float) -> Delivered:
        """Push every local room's part of a batch to its members; pass over the others without touching their bytes."""
        local = self.rooms
        body = batch.body
        start = rooms = frames_sent = messages_sent = sent_bytes = skipped = wasted = gaps = 0
        for hash_, first, last, rseq, messages, _, size, reliable_size, epoch, flags in ROOM_ENTRY.iter_unpack(batch.entries):
            end = start + size
            room = local.get(hash_)
            if room is None:
                wasted += size
                start = end
                continue
            gaps += room.seq is not None and room.epoch == epoch and first > room.seq + 1
            room.epoch, room.seq, room.rseq, room.pos, room.pushed_at = epoch, last, rseq, pos, now_s
            frames = Frames(body[start:end], reliable_size, is_deflated=bool(flags & _DEFLATED))
            start = end
            rooms += 1
            for member in list(room.members):
                size_sent = member.push(frames)
                if size_sent:
                    sent_bytes += size_sent
                    frames_sent += 1
                    messages_sent += messages
                else:
                    skipped += 1
        if batch.notice_entries:
            self._notify(batch, start)
        return Delivered(rooms, frames_sent, messages_sent, sent_bytes, skipped, wasted, gaps)

    def _notify(self, batch: Batch, start: int) -> None:
        for room_, user, size in NOTICE_ENTRY.iter_unpack(batch.notice_entries):
            text = batch.body[start : start + size]
            start += size
            frame = websocket_frame(text)
            for member in list(self._by_user.get(user, ())):
                if room_ == 0 or room_ in member.rooms:
                    member.send(frame)


def quiet_members(rooms: Iterable[Room], since_s: float) -> Sequence[Member]:
    """Return the members to whom nothing was pushed since `since_s`."""
    quiet = {member: None for room in rooms if room.pushed_at <= since_s for member in room.members}
    return [member for member in quiet if all(room.pushed_at <= since_s for room in member.rooms.values())]
