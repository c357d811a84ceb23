"""The snapshots of one partition: when one is due, and its writing.

Owns the time of the last one. A state that is too large is logged and not written: the log since
the last snapshot still has it all. Called by `broadcaster.partition`.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from broadcaster.partition_log import PartitionLog
from broadcaster.rooms import Rooms
from liveroom import clock, metric_catalog
from liveroom.kinds import RecordType
from liveroom.records.broadcast import Claim, SnapshotChunk, Stamp, encode_claim, encode_snapshot_chunk
from liveroom.records.codec import BadRecordError
from liveroom.records.snapshot import encode_state
from liveroom.service import Runtime
from liveroom.settings import BroadcasterSettings

AT_LEAST_S: Final = 3600.0
STORE_STEP: Final = 200
log = structlog.get_logger()


class Snapshots:
    """Writes the snapshots of partition `number` to its log."""

    def __init__(self, partition_log: PartitionLog, number: int, settings: BroadcasterSettings, runtime: Runtime) -> None:
        self._log = partition_log
        self._number = number
        self._settings = settings
        self._chance = runtime.chance
        self._written = runtime.metrics.counter(metric_catalog.SNAPSHOTS)
        self._last_s: float | None = None

    def taken_over(self) -> None:
        """Begin with a partition that was taken over: its lease names the newest snapshot."""
        self._last_s = clock.monotonic_s() if self._log.held.snapshot_offset is not None else None

    def is_due(self, *, has_changed: bool, is_settling: bool) -> bool:
        """Return whether a snapshot is due. `has_changed`: it would differ from the last one.

        `is_settling`: the owner is about to leave.
        """
        if self._last_s is None:
            return True
        passed_s = clock.monotonic_s() - self._last_s
        if not has_changed:
            return passed_s > AT_LEAST_S
        return is_settling or passed_s > self._settings.snapshot_interval_s

    async def write(self, rooms: Rooms, uplink_next: int | None, empty: Callable[[], bytes]) -> None:
        """Write the state of `rooms`, renew the claim behind it, and name both in an empty batch.

        No reader then needs what lies before them, so retention never deletes what one starts from.
        `empty` returns the empty batch. `uplink_next` is the first uplink offset that the state
        does not reflect. Raises what `PartitionLog.append` raises.
        """
        lease = self._log.held
        while not rooms.store(STORE_STEP):
            await clock.sleep(0)
        state = rooms.snapshot()
        try:
            parts = await asyncio.to_thread(encode_state, state)
        except BadRecordError as error:  # absurdly many rooms
            log.error("snapshot_too_large", partition=self._number, error=str(error))  # noqa: TRY400
            self._last_s = clock.monotonic_s()
            return
        anchor, at_ms, snapshot_id = lease.anchor(uplink_next), clock.unix_ms(), self._chance.getrandbits(63)
        stamp = Stamp(RecordType.SNAPSHOT, lease.epoch, lease.owner, lease.serial)
        first = None
        for part, data in enumerate(parts):
            chunk = SnapshotChunk(stamp, anchor, at_ms, snapshot_id, part, len(parts), data)
            offset = await self._log.append(encode_snapshot_chunk(chunk))
            first = offset if part == 0 else first
        lease.snapshot_offset = first
        renewal = Claim(lease.epoch, lease.owner, clock.unix_ms(), self._settings.instance, lease.serial)
        lease.renewed(await self._log.append(encode_claim(renewal)))
        await self._log.append(empty())
        self._last_s = clock.monotonic_s()
        self._written.inc()
