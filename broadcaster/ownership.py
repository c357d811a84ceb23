"""The claim protocol: how an instance takes a partition of `broadcast` over, and how it stays sure
that it owns it. Pure.

Theory of operation
-------------------
Each room belongs to one partition, and one owner gives its messages their numbers. Two owners at
once would give the same number twice. The consumer group assigns each partition to one instance,
but an instance that was paused, or that lost its network, still believes in an old assignment and
may write at any moment. No lock keeps it from writing. Instead its records count for nothing: the
log itself says who owns the partition at each offset.

**Who writes what.** Only owners write to `broadcast`, and each record carries the epoch and the
owner of its writer. The owner is 16 random bytes that no other take-over has.

- A CLAIM starts an ownership. The same claim again, by the same owner, renews it.
- A BATCH holds what became of a stretch of the uplink.
- A SNAPSHOT, in chunks, holds the state of all rooms.

BATCH and SNAPSHOT also carry an anchor: the first uplink offset that they do not reflect, the
offset of their writer's claim, and the offset of the newest complete snapshot.

**What makes a record valid.** `liveroom.fencing.validate` is the whole rule. It goes through the
log in order and keeps the ruling claim:

1. A claim whose epoch is above that of the ruling claim rules from its own offset on. Of two
   claims with one epoch the first wins. A renewal moves the ruling claim's offset forward.
2. Any other record is valid only if its epoch and owner are those of the ruling claim. A record
   that is not valid is void, and every reader skips it.
3. A BATCH has a serial within its ownership, and is valid only if that is above the serial of the
   last valid BATCH. So an append that was written twice counts once. CLAIM and SNAPSHOT carry the
   last serial too: a reader that begins behind a BATCH knows which repeats are void.

The rule reads nothing but the log: no clock, no group, no broker state. So all readers agree, at
every offset and for ever.

**States of an owner.** `take_over` goes through the first three. A `Lease` is the fourth; once it
returns False the owner is deposed, and the caller drops it.

========= ============================================== =========================================
state     what it does                                   what ends it
========= ============================================== =========================================
READING   finds out who rules at the end of the log      the end is reached: CLAIMING
CLAIMING  appends a claim with an epoch above the        its claim rules: RESTORING;
          ruling one, and reads the log up to it         another claim came first: CLAIMING again
RESTORING loads the newest valid snapshot, applies the   its claim is reached: RULING
          valid batches from there to its claim
RULING    numbers, appends, writes snapshots, renews     another claim rules: DEPOSED
DEPOSED   nothing: it never rules again                  a new take-over, with a new owner: READING
========= ============================================== =========================================

Every failure (no acknowledgement in time, a read that fails) leads to DEPOSED too: the state in
memory is dropped and restored from the log. So recovery is the ordinary way in, not a rare one.
Where the log does not hold the state any more, `TakenOver.lost` names what is gone (`Lost`).

**What happens in a take-over.** Say A rules with epoch 7, is paused, and the group assigns the
partition to B.

1. B reads backwards for the last anchored record and judges the log from the claim that it names
   (`liveroom.fencing.judging_start`). Its writer had read that claim back and found it ruling.
2. B appends a claim with epoch 8 and reads the log up to it. From its offset on, whatever A writes
   is void.
3. B loads the snapshot that the newest valid record names, and applies the valid batches behind
   it. What A took from the uplink but did not validly write is in none of them.
4. B fetches the uplink from the offset that the newest valid record names, and so takes again what
   A had taken in vain. Nothing is lost and nothing is counted twice.
5. A wakes up and appends a batch. It is void. The acknowledgement has a later offset than A
   expects, so A reads what lies between, finds the claim of B, and drops its state.

**How an owner knows that it still rules.** While nobody else writes, the offsets of its own appends
are contiguous, and it reads nothing. A gap makes it read and judge what lies between. It counts a
batch as written only once that is done (`Lease.acked`). When it is idle it compares with the end of
the log in the same way (`Lease.up_to`).

**The caller's duty.** `take_over`, `Lease.acked` and `Lease.up_to` are generators: they yield what
they need (`Read`, `Append`, `Load`, `Apply`) and are sent the answer. They can be closed at any
yield; the only way on is then a new take-over. `broadcaster.partition` drives them over Kafka, and
the model in the tests drives many owners against each other. docs/queue.md has a picture of such a
log and the proof.
"""

from collections.abc import Generator
from enum import Enum
from typing import Any, NamedTuple, TypeVar

from liveroom.fencing import NOBODY, Judged, Placed, Read, Ruling, Scan, Walk, judge_stretch, last_anchor, validate
from liveroom.kinds import RecordType
from liveroom.records.broadcast import Anchor, SnapshotChunk, decode_broadcast
from liveroom.records.codec import BadRecordError, refuse_foreign

T = TypeVar("T")


class Lost(Enum):
    """Which part of a partition's history is gone; a metric label and a log field."""

    BROADCAST = "broadcast"
    SNAPSHOT = "snapshot"
    UPLINK = "uplink"
    ROOM = "room"


class Append(NamedTuple):
    """Asks to append our CLAIM with this epoch. The answer is its offset."""

    epoch: int


class Load(NamedTuple):
    """Asks to start from this snapshot. The answer is whether it could be read."""

    chunks: list[bytes]


class Apply(NamedTuple):
    """Asks to apply these valid BATCH records, in order, to what was loaded, or to no rooms."""

    values: list[bytes]


Steps = Generator[Read | Append | Load | Apply, Any, T]


class TakenOver(NamedTuple):
    """A partition that is ours, once `Load` and `Apply` restored it.

    `uplink_next` is the uplink offset to fetch from; None: not known.
    `lost` says which history is gone, None where all is there. The caller then drops what was
    loaded, logs the loss as an error, and lets rooms begin again with a new epoch.
    """

    lease: "Lease"
    uplink_next: int | None
    lost: Lost | None


def take_over(start: int, end: int, owner: bytes, epoch_floor: int = 1) -> Steps[TakenOver]:
    """Take over a partition whose log is kept from offset `start` to before `end`.

    `owner` must be new for each take-over. The claim gets an epoch above all that ruled before, and
    at least `epoch_floor` where the log may no longer say who they were.
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
        if judged.ruling.is_of(epoch, owner):
            break
    while newest is None and begin > start:  # all of the last stretch is void: read what lies before it
        anchor = yield from last_anchor(start, begin)
        if anchor is None:
            break
        stop, begin = begin, anchor.anchor.claim_offset
        newest = (yield from judge_stretch(NOBODY, begin, stop)).valid
    lease = Lease(judged.ruling)
    if newest is None:
        return TakenOver(lease, None, Lost.BROADCAST if start > 0 else None)
    uplink_next = newest.anchor.uplink_next
    loaded = yield from _replay(start, claimed, newest)
    if not loaded:
        return TakenOver(lease, uplink_next, Lost.SNAPSHOT)
    lease.snapshot_offset = newest.anchor.snapshot_offset
    return TakenOver(lease, uplink_next, None)


def _replay(start: int, stop: int, newest: Placed) -> Steps[bool]:
    """Restore the state behind `newest`; return whether all of it is there.

    `newest` is valid, so the snapshot that it names is complete, and its writer ruled there.
    """
    at = newest.anchor.snapshot_offset
    if at is None:
        if start > 0:
            return False
        ruling, at = NOBODY, 0  # no snapshot was ever written, and the log has its beginning
    elif at < start or (loaded := (yield from _load(at, stop))) is None:
        return False
    else:
        ruling, at = loaded
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
    """Read the snapshot whose first chunk lies at offset `at`.

    Return who rules behind its last chunk, and the offset behind it; None where it cannot be read.
    """
    ruling: Ruling | None = None
    scan, chunks = Scan(at, stop), _Chunks()
    while (records := (yield from scan.more())) is not None:
        for offset, stamp, value in records:
            ruling, is_valid = validate(ruling or Ruling(stamp.epoch, stamp.owner, offset, stamp.serial), stamp, offset)
            if not is_valid or (stamp.type is RecordType.CLAIM and chunks.data):
                continue
            if not chunks.take(_chunk(value)):
                return None
            if chunks.are_whole:
                is_readable: bool = yield Load(chunks.data)
                return (ruling, offset + 1) if is_readable else None
    return None


class _Chunks:
    """The chunks of one snapshot, as far as they were read."""

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.are_whole = False
        self._snapshot_id = 0

    def take(self, chunk: SnapshotChunk | None) -> bool:
        """Take the next valid record; return whether the snapshot can still be read.

        A chunk that was written twice is passed over, of an earlier snapshot too.
        """
        if chunk is None:
            return False
        if not self.data:
            self._snapshot_id = chunk.snapshot_id
        elif chunk.snapshot_id != self._snapshot_id or chunk.part < len(self.data):
            return True
        if chunk.part != len(self.data):
            return False
        self.data.append(chunk.data)
        self.are_whole = len(self.data) == chunk.parts
        return True


def _chunk(value: bytes) -> SnapshotChunk | None:
    try:
        record = decode_broadcast(value, as_owner=True)
    except BadRecordError as error:
        refuse_foreign(error)
        return None
    return record if isinstance(record, SnapshotChunk) else None


class Lease:
    """The place of a ruling owner in the log.

    The caller asks `acked` after each acknowledged append, and `up_to` with the log's end when it
    is idle. Once either returns False this owner never rules again, and its last append is void.
    `serial` counts the BATCHes that it has begun to write (`next_serial`). `snapshot_offset` is
    None until a snapshot is known.
    """

    __slots__ = ("claim_offset", "next_offset", "ruling", "serial", "snapshot_offset")

    def __init__(self, ruling: Ruling) -> None:
        self.ruling = ruling
        self.claim_offset = ruling.offset
        self.next_offset = ruling.offset + 1
        self.serial = 0
        self.snapshot_offset: int | None = None

    @property
    def epoch(self) -> int:
        """Epoch of our claim."""
        return self.ruling.epoch

    @property
    def owner(self) -> bytes:
        """Owner of our claim."""
        return self.ruling.owner

    def anchor(self, uplink_next: int | None) -> Anchor:
        """Return the anchor of a record written now.

        `uplink_next` is the first uplink offset that it does not reflect; None: not known.
        """
        return Anchor(uplink_next, self.claim_offset, self.snapshot_offset)

    def next_serial(self) -> int:
        """Return the serial of the BATCH that is written next."""
        self.serial += 1
        return self.serial

    def acked(self, offset: int) -> Walk[bool]:
        """Return whether we ruled at `offset`, where a record of ours was just acknowledged."""
        if offset != self.next_offset and not (yield from self.up_to(offset)):
            return False
        self.next_offset = offset + 1
        return True

    def up_to(self, stop: int) -> Walk[bool]:
        """Return whether we rule behind all that lies before offset `stop`.

        Also False where the log is shorter than it was: it lost records.
        """
        if stop < self.next_offset:
            return False
        ruling = (yield from judge_stretch(self.ruling, self.next_offset, stop)).ruling
        self.next_offset = stop
        return ruling.is_of(self.epoch, self.owner)

    def renewed(self, offset: int) -> None:
        """Set the offset of our renewed claim, after `acked` returned that we ruled there."""
        self.claim_offset = offset
