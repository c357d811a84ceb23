"""A partition that the group gave to this instance, with all that the group's loop knows of it.

Called by `broadcaster.kafka` and `broadcaster.progress`. When the group takes the partition away,
the whole record goes.
"""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple

from broadcaster.partition import Partition
from liveroom.records.balance import Balance


class Seek(NamedTuple):
    """Fetching must continue at `offset`.

    None: the log does not show where. Then it is the committed offset, or the oldest record.
    """

    offset: int | None


class Standstill(NamedTuple):
    """Records wait at this offset, and none has been fetched since then (monotonic seconds)."""

    offset: int
    since_s: float


@dataclass(slots=True)
class Assigned:
    """One assigned partition.

    `life` is the task that runs it. `seek` is None where fetching needs no new place. `is_full`:
    fetching is paused until its inbox has space. `reported` is the balance that the metrics hold.
    `committed` is the offset that was committed last, None before the first commit.
    """

    partition: Partition
    life: asyncio.Task[None]
    seek: Seek | None = None
    is_full: bool = False
    reported: Balance = field(default_factory=Balance)
    committed: int | None = None
    standstill: Standstill | None = None
