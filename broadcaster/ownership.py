"""Owning a partition of `broadcast`: how it is taken over, and how its owner stays sure that it
rules. Pure.

A take-over and a lease are generators: they yield what they need (`Read`, `Append`, `Load`,
`Apply`), are sent the answer, and can be broken off anywhere; the only way on is then a new
take-over. Called by the partition's task (`broadcaster.partition`) and by the model in the tests,
which runs many owners against each other. Proof sketch and picture: docs/queue.md.
"""

from collections.abc import Generator
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from liveroom.fencing import NOBODY, Judged, Placed, Read, Ruling, Scan, Walk, judge_stretch, last_anchor, validate
from liveroom.kinds import RecordType
from liveroom.records.broadcast import Anchor, SnapshotChunk, decode_broadcast
from liveroom.records.codec import NO_OFFSET, BadRecordError

T = TypeVar("T")


class Lost(Enum):
    """What of a partition's history is gone; a metric label and a log field."""

    BROADCAST = "broadcast"
    SNAPSHOT = "snapshot"
    UPLINK = "uplink"
    ROOM = "room"


class Append(NamedTuple):
    """Asks to append our CLAIM of this epoch and for the offset it got."""

    epoch: int


class Load(NamedTuple):
    """Asks to start from this snapshot; the answer says whether it could be read."""

    chunks: list[bytes]


class Apply(NamedTuple):
    """Asks to apply these valid BATCH records, in order, to what was loaded (or to nothing)."""

    values: list[bytes]


Steps = Generator[Read | Append | Load | Apply, Any, T]


class TakenOver(NamedTuple):
    """A partition that is ours, with what `Load` and `Apply` brought back of it.

    `uplink_next` None: nothing says where the last owner was. `lost`: what must be told loudly;
    then nothing was loaded, or what was must be thrown away, and rooms begin again with a new
    epoch.
    """

    lease: "Lease"
    uplink_next: int | None
    lost: Lost | None


def take_over(start: int, end: int, owner: bytes, epoch_floor: int = 1) -> Steps[TakenOver]:
    """Take a partition over whose log is kept from `start` to before `end`.

    The claim gets an epoch above all that ruled before; where the log may no longer say who they
    were, `epoch_floor` at least.
    """
    anchor = yield from last_anchor(start, end)
    begin = start if anchor is None else anchor.anchor.claim_offset
    judged: Judged = yield from judge_stretch(NOBODY, begin, end)
    newest = judged.valid
    floor = epoch_floor if anchor is None else 1
    while True:
        epoch = max(judged.ruling.epoch + 1, floor)
        claimed: int = yield Append(epoch)
        judged = yield from judge_stretch(judged.ruling, end, claimed + 1)
        newest = judged.valid or newest
        end = claimed + 1
        if judged.ruling == Ruling(epoch, owner, claimed):
            break
    while newest is None and begin > start:  # all of the last stretch is void: look before it
        anchor = yield from last_anchor(start, begin)
        if anchor is None:
            break
        stop, begin = begin, anchor.anchor.claim_offset
        newest = (yield from judge_stretch(NOBODY, begin, stop)).valid
    lease = Lease(judged.ruling)
    if newest is None:
        return TakenOver(lease, None, Lost.BROADCAST if start > 0 else None)
    loaded = yield from _replay(start, claimed, newest)
    if not loaded:
        return TakenOver(lease, newest.anchor.uplink_next, Lost.SNAPSHOT)
    lease.snapshot_offset = newest.anchor.snapshot_offset
    return TakenOver(lease, newest.anchor.uplink_next, None)


def _replay(start: int, stop: int, newest: Placed) -> Steps[bool]:
    """Bring back the state behind `newest`; say whether all of it is there.

    `newest` is valid, so its writer's word for the snapshot holds: it was complete, and its own
    writer ruled there.
    """
    at = newest.anchor.snapshot_offset
    is_whole = at == NO_OFFSET and start == 0  # no snapshot was ever written, and the log has its beginning
    if not is_whole:
        if at < start:
            return False
        loaded = yield from _load(at, stop)
        if loaded is None:
            return False
        ruling, at = loaded
    else:
        ruling, at = NOBODY, 0
    scan = Scan(at, stop)
    while (records := (yield from scan.more())) is not None:
        batches: list[bytes] = []
        for offset, stamp, value in records:
            ruling, is_valid = validate(ruling, stamp, offset)
            if is_valid and stamp.type is RecordType.BATCH:
                batches.append(value)
        if batches:
            yield Apply(batches)
    return True


def _load(at: int, stop: int) -> Steps[tuple[Ruling, int] | None]:
    """Read the snapshot whose first chunk lies at `at`; return who rules behind its last chunk, and
    where that is.
    """
    ruling: Ruling | None = None
    data: list[bytes] = []
    scan, snapshot_id = Scan(at, stop), None
    while (records := (yield from scan.more())) is not None:
        for offset, stamp, value in records:
            ruling, is_valid = validate(ruling or Ruling(stamp.epoch, stamp.owner, offset), stamp, offset)
            if not is_valid or (stamp.type is RecordType.CLAIM and data):
                continue
            chunk = _chunk(value)
            if chunk is None or chunk.part > len(data) or (data and chunk.snapshot_id != snapshot_id):
                return None
            if chunk.part < len(data):
                continue  # written twice
            data.append(chunk.data)
            snapshot_id = chunk.snapshot_id
            if len(data) == chunk.parts:
                is_readable: bool = yield Load(data)
                return (ruling, offset + 1) if is_readable else None
    return None


def _chunk(value: bytes) -> SnapshotChunk | None:
    try:
        record = decode_broadcast(value)
    except BadRecordError:
        return None
    return record if isinstance(record, SnapshotChunk) else None


class Lease:
    """A ruling owner's place in the log.

    The offsets of its own appends are contiguous while nobody else writes, so it need not read its
    own log: after each ack (`acked`), and when idle with the log's end (`up_to`), it judges what
    lies between, if anything. Once it does not rule any more it never will again under this epoch,
    and what it appended last is void.
    """

    __slots__ = ("claim_offset", "next_offset", "ruling", "snapshot_offset")

    def __init__(self, ruling: Ruling) -> None:
        self.ruling = ruling
        self.claim_offset = ruling.offset
        self.next_offset = ruling.offset + 1
        self.snapshot_offset = NO_OFFSET

    @property
    def epoch(self) -> int:
        """Epoch of our claim."""
        return self.ruling.epoch

    @property
    def owner(self) -> bytes:
        """Owner of our claim."""
        return self.ruling.owner

    def anchor(self, uplink_next: int) -> Anchor:
        """Return the anchor of a record written now."""
        return Anchor(uplink_next, self.claim_offset, self.snapshot_offset)

    def acked(self, offset: int) -> Walk[bool]:
        """Say whether we still ruled at `offset`, where a record of ours was just acknowledged."""
        if offset != self.next_offset and not (yield from self.up_to(offset)):
            return False
        self.next_offset = offset + 1
        return True

    def up_to(self, stop: int) -> Walk[bool]:
        """Say whether we rule behind all that lies before `stop`.

        False too where the log got shorter: it lost records.
        """
        if stop < self.next_offset:
            return False
        mine = self.epoch, self.owner
        ruling = (yield from judge_stretch(self.ruling, self.next_offset, stop)).ruling
        self.next_offset = stop
        return mine == (ruling.epoch, ruling.owner)

    def renewed(self, offset: int) -> None:
        """Take over the place of our renewed claim, after `acked` found that it rules there."""
        self.claim_offset = offset
