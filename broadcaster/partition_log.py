"""Appending to one partition of `broadcast`, and the proof after each append that we still rule.

Owns the lease while it is held. Refuses to go on once another claim rules (`DeposedError`). The
rule itself is `broadcaster.ownership`. Called by `broadcaster.partition`.
"""

from collections.abc import Sequence
from typing import Final

from broadcaster.ownership import Lease
from liveroom import topics
from liveroom.broadcast_log import LogReader
from liveroom.fencing import Walk
from liveroom.kafka import Producer
from liveroom.kafka_port import Kafka
from liveroom.records.broadcast import MAX_BROADCAST_BYTES

SEND_TIMEOUT_S: Final = 4.0
SLACK_BYTES: Final = 64 * 1024


class DeposedError(Exception):
    """Another instance rules the partition now."""


class PartitionLog:
    """One partition of `broadcast` as its owner writes it. `lease` is None while it is not ours."""

    def __init__(self, kafka: Kafka, producer: Producer, number: int) -> None:
        self.lease: Lease | None = None
        self._kafka = kafka
        self._producer = producer
        self._number = number

    @property
    def held(self) -> Lease:
        """The lease, or DeposedError where it is not held."""
        if self.lease is None:
            raise DeposedError("not taken over")
        return self.lease

    async def append(self, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> int:
        """Append a record of ours and return its offset.

        Raises DeposedError where another claim rules there, UnsentError where there is no
        acknowledgement.
        """
        offset = await self.send(value, headers)
        if not await self._drive(self.held.acked(offset)):
            raise DeposedError("another claim lies before what was just written")
        return offset

    async def send(self, value: bytes, headers: Sequence[tuple[str, bytes]] = ()) -> int:
        """Append a record without asking who rules, as a claim is; return its offset."""
        check_size(value)
        return await self._producer.send(
            topics.BROADCAST, value, partition=self._number, headers=headers, timeout_s=SEND_TIMEOUT_S
        )

    async def check(self, end: int) -> None:
        """Raise DeposedError unless we rule behind all that lies before offset `end`."""
        if end > self.held.next_offset and not await self._drive(self.held.up_to(end)):
            raise DeposedError("another claim was found in the log")

    async def _drive(self, steps: Walk[bool]) -> bool:
        """Run a walk of our lease. Nearly always nobody else wrote, and it reads nothing."""
        try:
            asked = next(steps)
        except StopIteration as done:
            return bool(done.value)
        async with LogReader(self._kafka, self._number) as reader:
            return await reader.drive(steps, asked=asked)


def check_size(value: bytes) -> None:
    """Raise RuntimeError where a record is larger than batches can become."""
    if len(value) > MAX_BROADCAST_BYTES + SLACK_BYTES:
        raise RuntimeError(f"a record of {len(value)} bytes: the bound on a batch does not hold")
