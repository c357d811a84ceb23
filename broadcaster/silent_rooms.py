"""Rooms in which nobody ever spoke: their epochs, and since when they are vacant. Pure.

Owns all that is kept of such a room. Anybody who can watch can name one, so they are few
(`most`), small, and gone `SILENT_MS` after their last viewer. Until then a viewer that comes back
resumes under the same epoch. Refuses to give up a room that was left only a moment ago
(`VACANT_MS`). Called by `broadcaster.rooms`, which passes the time of a monotonic clock.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

SILENT_MS: Final = 600_000  # as long as a viewer may be away and then fetch what it missed
# `VACANT_MS`: each room that is forgotten may raise the floor of epochs by one second (`Rooms`).
# With at least as long in between, epochs never run ahead of the clock, however often rooms come.
VACANT_MS: Final = 1000


class SilentRooms:
    """The rooms of one partition in which nobody ever spoke, at most `most`.

    `restored`: those that the snapshot names. Their epochs are in their state.
    """

    def __init__(self, most: int, restored: Iterable[str] = ()) -> None:
        self._most = most
        self._epochs: dict[str, int] = dict.fromkeys(restored, 0)
        # When each was left, the longest vacant first; None: before anybody passed the time
        self._vacant: dict[str, int | None] = dict.fromkeys(self._epochs)
        self._now_ms: int | None = None

    def __len__(self) -> int:
        return len(self._epochs)

    def __iter__(self) -> Iterator[str]:
        return iter(self._epochs)

    def __contains__(self, name: str) -> bool:
        return name in self._epochs

    def epoch(self, name: str) -> int | None:
        """Return a room's epoch: 0 where only its state has it, None where nothing is kept."""
        return self._epochs.get(name)

    def keep(self, name: str, epoch: int, *, is_watched: bool) -> None:
        """Keep a room as it is now."""
        self._epochs[name] = epoch
        self.watch(name, is_watched=is_watched)

    def watch(self, name: str, *, is_watched: bool) -> None:
        """Note whether a room has viewers; does nothing where the room is not kept here."""
        if is_watched:
            self._vacant.pop(name, None)
        elif name in self._epochs:
            self._vacant.setdefault(name, self._now_ms)

    def drop(self, name: str) -> None:
        """Keep nothing of a room: somebody spoke in it, or it lost its history."""
        self._epochs.pop(name, None)
        self._vacant.pop(name, None)

    def pass_time(self, now_ms: int) -> None:
        """Set the time, in milliseconds of a monotonic clock."""
        if self._now_ms is None:
            self._vacant = dict.fromkeys(self._vacant, now_ms)
        self._now_ms = now_ms

    def has_space(self, besides: int) -> bool:
        """Return whether one more has space, besides so many that will come."""
        return len(self._epochs) + besides < self._most

    def places(self, at_most: int) -> int:
        """Return how many more could come, up to `at_most`, if vacant rooms made way for them."""
        vacant = sum(1 for _ in islice(self._vacant_for(VACANT_MS), at_most))
        return min(at_most, max(0, self._most - len(self._epochs) + vacant))

    def longest_vacant(self) -> str | None:
        """Return the room that has been without viewers for longest.

        None: all have viewers, or had some less than `VACANT_MS` ago.
        """
        return next(self._vacant_for(VACANT_MS), None)

    def over(self, at_most: int) -> list[str]:
        """Return up to `at_most` rooms that had no viewers for `SILENT_MS`, or that are too many.

        The caller drops them.
        """
        excess = max(0, len(self._epochs) - self._most)
        return list(islice(self._vacant_for(SILENT_MS, excess), at_most))

    def _vacant_for(self, at_least_ms: int, excess: int = 0) -> Iterator[str]:
        """Yield the rooms that have been vacant for so long, and the `excess` longest vacant."""
        if self._now_ms is None:
            return
        for nth, (name, since_ms) in enumerate(self._vacant.items()):
            if nth >= excess and (since_ms is None or self._now_ms - since_ms < at_least_ms):
                return
            yield name
