"""Rooms in which nobody ever spoke: their epochs, and when their viewers left. Pure.

Owns all that is kept of such a room. Anybody who can watch can name one, so they are few
(`most`), small, and gone `SILENT_MS` after their last viewer; until then a viewer that comes back
resumes under the same epoch. Refuses a new one where all that are kept have viewers. Called by
`broadcaster.rooms`.
"""

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from liveroom.audience import Viewers

SILENT_MS: Final = 600_000  # as long as a viewer may be away and then fetch what it missed


class SilentRoom(NamedTuple):
    """What is kept of a room. `epoch` is None where only the snapshot has it."""

    epoch: int | None
    viewers: Viewers | None


class SilentRooms:
    """The rooms of one partition in which nobody ever spoke, at most `most`.

    `restored`: those that the snapshot names. Whether they have viewers is not known at first.
    """

    def __init__(self, most: int, restored: Iterable[str] = ()) -> None:
        self._most = most
        self._rooms: dict[str, SilentRoom] = dict.fromkeys(restored, SilentRoom(None, None))
        # By when they were left, the first one first; None: since before anybody asked for the time
        self._vacant: dict[str, int | None] = dict.fromkeys(self._rooms)

    def __len__(self) -> int:
        return len(self._rooms)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rooms)

    def __contains__(self, name: str) -> bool:
        return name in self._rooms

    def get(self, name: str) -> SilentRoom | None:
        """Return what is kept of a room; None: nothing."""
        return self._rooms.get(name)

    def keep(self, name: str, epoch: int, viewers: Viewers | None, now_ms: int | None) -> None:
        """Keep a room as it is now. `now_ms` is Unix time; None where it is not known."""
        self._rooms[name] = SilentRoom(epoch, viewers)
        if viewers is not None and viewers.connections:
            self._vacant.pop(name, None)
        else:
            self._vacant.setdefault(name, now_ms)

    def drop(self, name: str) -> None:
        """Keep nothing of a room: somebody spoke in it, or it lost its history."""
        self._rooms.pop(name, None)
        self._vacant.pop(name, None)

    def has_space(self, besides: int) -> bool:
        """Return whether one more has space, besides so many that will come."""
        return len(self._rooms) + besides < self._most

    def longest_vacant(self) -> str | None:
        """Return the room that has been without viewers for longest; None: all have viewers."""
        return next(iter(self._vacant), None)

    def left_before(self, now_ms: int, at_most: int) -> list[str]:
        """Return up to `at_most` rooms that had no viewers for `SILENT_MS`, or that are too many.

        `now_ms` is Unix time. The caller drops them.
        """
        gone: list[str] = []
        for name, since_ms in self._vacant.items():
            if since_ms is None:
                self._vacant[name] = now_ms
            if len(self._rooms) - len(gone) > self._most or now_ms - (since_ms or now_ms) >= SILENT_MS:
                gone.append(name)
                if len(gone) == at_most:
                    break
            elif since_ms is not None:
                break
        return gone
