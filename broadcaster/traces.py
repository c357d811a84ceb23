"""Which interactions of a batch are traced, and what the traces get of the broadcaster.

Owns the sample of the batch that is being made. Called by `broadcaster.partition`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from liveroom import clock
from liveroom.records.broadcast import MAX_TRACED, Traced
from liveroom.records.uplink import Uplink
from liveroom.topics import room_hash

if TYPE_CHECKING:
    from liveroom.tracing import Tracing  # an extra


class BatchTraces:
    """The traced interactions of one partition's next batch, with the time each was taken."""

    def __init__(self, tracing: "Tracing | None", partition: int) -> None:
        self.is_on = tracing is not None
        self._tracing = tracing
        self._partition = partition
        self._taken: list[tuple[Traced, int]] = []

    def sample(self, uplink: Uplink) -> None:
        """Note an interaction that was taken, if it is traced."""
        if self._tracing is None or len(self._taken) >= MAX_TRACED:
            return
        if (trace := self._tracing.trace_of(uplink.room, uplink.id)) is not None:
            self._taken.append((Traced(trace, room_hash(uplink.room)), clock.unix_ns()))

    def cut(self) -> Sequence[tuple[Traced, int]]:
        """Return what was noted since the last call, for the batch that holds it."""
        taken, self._taken = self._taken, []
        return taken

    def report(self, written: Sequence[tuple[Traced, int]]) -> None:
        """Give each trace the time from the taking to the acknowledgement of its batch."""
        if self._tracing is not None:
            for (trace, _), taken_ns in written:
                name = "broadcaster number and write"
                self._tracing.go_on(trace, name, taken_ns, clock.unix_ns(), partition=self._partition)
