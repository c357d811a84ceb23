"""The rooms of a gateway in which nobody ever spoke: which one makes space for another. Pure.

Whoever may watch can name any room, and a gateway cannot tell a room that somebody invented from
one that is about to begin. So a quiet room may be here as long as there is space, and makes space
where there is none: the emptiest first, and of those the one that has been so for longest. While
that one is too new, nothing makes space. A room counts for the address of the member that opened
it. `edge.hub` owns the rooms and calls it.
"""

from typing import Final

from edge.room import Room

GRACE_S: Final = 5.0  # within which an owner tells whether somebody spoke; a take-over may take so long
MAX_EVICTED: Final = 64  # members at once; a room with more is the start of a show


class _BySize:
    """Quiet rooms by their number of members."""

    __slots__ = ("_rooms", "count")

    def __init__(self) -> None:
        self._rooms: dict[int, dict[Room, None]] = {}
        self.count = 0

    def put(self, room: Room, size: int) -> None:
        """Add a room that has `size` members."""
        self._rooms.setdefault(size, {})[room] = None
        self.count += 1

    def drop(self, room: Room, size: int) -> None:
        """Take out a room that was added with `size`."""
        rooms = self._rooms[size]
        del rooms[room]
        if not rooms:
            del self._rooms[size]
        self.count -= 1

    def first(self, size: int) -> Room | None:
        """Return the room that has had `size` members for longest."""
        rooms = self._rooms.get(size)
        return next(iter(rooms)) if rooms else None

    def emptiest(self, now_s: float) -> Room | None:
        """Return the watched room to evict; None: the emptiest is too full or too new.

        No fuller room goes in its place, or invented rooms that are all new would close the others.
        """
        size = min(filter(None, self._rooms), default=None)  # few: n sizes need n * n / 2 members
        if size is None or size > MAX_EVICTED:
            return None
        room = next(iter(self._rooms[size]))
        return room if room.seq is not None or now_s - room.opened_s >= GRACE_S else None


class QuietRooms:
    """The quiet rooms of one gateway, in all and by address."""

    def __init__(self) -> None:
        self._all = _BySize()
        self._of_address: dict[str, _BySize] = {}

    def __len__(self) -> int:
        return self._all.count

    def of(self, address: str) -> int:
        """Return how many quiet rooms are watched that count for an address."""
        rooms = self._of_address.get(address)
        return rooms.count if rooms is not None else 0

    def vacant(self) -> Room | None:
        """Return the quiet room that nobody has been in for longest."""
        return self._all.first(0)

    def emptiest(self, now_s: float, address: str | None = None) -> Room | None:
        """Return the watched quiet room to evict, of those that count for an address or of all.

        None: the emptiest is too full, or so new that its owner may not have answered yet.
        """
        rooms = self._all if address is None else self._of_address.get(address)
        return rooms.emptiest(now_s) if rooms is not None else None

    def opened(self, room: Room) -> None:
        """Add a room, with the members that it has."""
        self._put(room, room.size)

    def resized(self, room: Room, size: int) -> None:
        """Note that a room had `size` members and an opener, and now has those that are in it.

        Where its opener has left, it counts for one of those who stayed.
        """
        self._drop(room, size)
        if room.opener is None or room.hash not in room.opener.rooms:
            room.opener = next(iter(room.members), None) or next(iter(room.waiting), None)
        self._put(room, room.size)

    def drop(self, room: Room) -> None:
        """Take a room out: somebody spoke in it, or it is no longer here."""
        self._drop(room, room.size)
        room.opener = None

    def _put(self, room: Room, size: int) -> None:
        self._all.put(room, size)
        if room.opener is not None:
            self._of_address.setdefault(room.opener.address, _BySize()).put(room, size)

    def _drop(self, room: Room, size: int) -> None:
        self._all.drop(room, size)
        if room.opener is not None:
            address = room.opener.address
            rooms = self._of_address[address]
            rooms.drop(room, size)
            if not rooms.count:
                del self._of_address[address]
