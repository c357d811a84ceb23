"""The rooms of a partition as its log holds them, brought back during a take-over.

Owns the answers to what `broadcaster.ownership.take_over` asks for: it appends the claim, loads the
snapshot and applies the batches after it. Refuses a history that cannot
be read: the caller then begins with new rooms. What another version wrote is never given up
(`AnotherVersionError`). Called by `broadcaster.partition`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import structlog

from broadcaster.ownership import Append, Apply, Load, TakenOver, take_over
from broadcaster.partition_log import PartitionLog
from broadcaster.rooms import Rooms
from liveroom import clock
from liveroom.broadcast_log import LogReader
from liveroom.nesting import UNDECODABLE
from liveroom.records.broadcast import Batch, Claim, decode_broadcast, encode_claim
from liveroom.records.codec import BadRecordError, refuse_foreign
from liveroom.records.snapshot import PartitionState, decode_state

log = structlog.get_logger()


class RestoredRooms:
    """The rooms that one take-over brings back, by `owner`, an id that no other take-over has.

    `new_rooms` makes the rooms of the partition, from a snapshot's state or with no state.
    """

    def __init__(
        self,
        partition_log: PartitionLog,
        number: int,
        instance: str,
        owner: bytes,
        new_rooms: Callable[[PartitionState | None], Rooms],
    ) -> None:
        self._log = partition_log
        self._number = number
        self._instance = instance
        self._owner = owner
        self._new_rooms = new_rooms
        self._rooms = new_rooms(None)
        self._is_readable = True

    async def run(self, reader: LogReader) -> tuple[TakenOver, Rooms | None]:
        """Take the partition over; return the rooms too, None where their history is lost.

        A second take-over would find no more of it.
        """
        start, end = await reader.bounds()
        # Where the log no longer says who ruled, an epoch from the clock is above all that were
        # counted up from 1.
        floor = clock.unix_ms() // 1000 if start > 0 else 1
        taken: TakenOver = await reader.drive(take_over(start, end, self._owner, floor), self._answer)
        return taken, self._rooms if taken.lost is None and self._is_readable else None

    @property
    def epoch_above_all(self) -> int:
        """An epoch above all of the rooms that were brought back, even if their history is lost."""
        return self._rooms.epoch_above_all

    async def _answer(self, asked: Append | Load | Apply) -> Any:
        match asked:
            case Append(epoch):
                claim = Claim(epoch, self._owner, clock.unix_ms(), self._instance)
                return await self._log.send(encode_claim(claim))
            case Load(chunks):
                return self._load(chunks)
            case Apply(values):
                return self._apply(values)

    def _load(self, chunks: list[bytes]) -> bool:
        try:
            self._rooms = self._new_rooms(decode_state(chunks))
        except BadRecordError as error:
            refuse_foreign(error)
            log.error("snapshot_unreadable", partition=self._number, error=str(error))  # noqa: TRY400
            return False
        return True

    def _apply(self, values: Sequence[bytes]) -> None:
        """Apply all that can be read, so that at least the epochs in it are known."""
        for value in values:
            try:
                batch = decode_broadcast(value, as_owner=True)
                if isinstance(batch, Batch):
                    self._rooms.apply(batch)
            except (ValueError, *UNDECODABLE) as error:
                refuse_foreign(error)
                if self._is_readable:
                    log.error("history_unreadable", partition=self._number, error=str(error))  # noqa: TRY400
                self._is_readable = False
