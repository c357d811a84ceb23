"""Who rules a partition of `broadcast` at a given place: how a reader that starts in mid-log finds
it. Pure.

Owns the walk over the log; and the rule itself, `validate`. What it needs of the log it asks for:
it is written as generators that yield `Read` and are sent the records, so the same code runs over
Kafka (`liveroom.broadcast_log`), over the model in the tests, and inside a take-over
(`broadcaster.ownership`). Refuses to guess: where the log no longer says who ruled, nobody does
until the next claim.
"""

from collections.abc import Generator, Sequence
from typing import Final, NamedTuple, TypeVar

from liveroom.kinds import RecordType
from liveroom.records.broadcast import Anchor, Stamp, decode_anchor, decode_stamp
from liveroom.records.codec import NO_OFFSET, BadRecordError

MAX_STEP: Final = 256

T = TypeVar("T")


class Ruling(NamedTuple):
    """Whose records are valid from here on: the ruling claim, and where it lies."""

    epoch: int
    owner: bytes
    offset: int


NOBODY: Final = Ruling(0, b"", NO_OFFSET)


def validate(ruling: Ruling, stamp: Stamp, offset: int) -> tuple[Ruling, bool]:
    """Apply the validity rule to one record: return who rules after it, and whether it is valid.

    A claim rules from its place on if its epoch is above the ruling one's; of two with one epoch
    the first wins; the ruling owner's own claim again (a renewal) is valid and moves the ruling's
    place forward. Any other record is valid only if its (epoch, owner) is the ruling claim's. Every
    reader uses this one function.
    """
    mine = stamp.epoch == ruling.epoch and stamp.owner == ruling.owner
    if stamp.type is not RecordType.CLAIM:
        return ruling, mine
    if stamp.epoch > ruling.epoch or mine:
        return Ruling(stamp.epoch, stamp.owner, offset), True
    return ruling, False


class Read(NamedTuple):
    """Asks for the records from `start` on and before `stop`, in order: at least one, or as many as
    are at hand.
    """

    start: int
    stop: int


Walk = Generator[Read, Sequence[tuple[int, bytes]], T]  # is sent (offset, value) for each record that it asked for


class Stamped(NamedTuple):
    """A record that can be judged: where it lies, its stamp, and its value."""

    offset: int
    stamp: Stamp
    value: bytes


class Scan:
    """Steps through a log from `start` to before `stop`.

    scan = Scan(start, stop)
    while (records := (yield from scan.more())) is not None:
        ...
    """

    def __init__(self, start: int, stop: int) -> None:
        self._next, self._stop = start, stop

    def more(self) -> Walk[list[Stamped] | None]:
        """Return the records of the next step, void ones left out; None at the end."""
        if self._next >= self._stop:
            return None
        records = yield Read(self._next, self._stop)
        self._next = records[-1][0] + 1
        return stamped(records)


def stamped(records: Sequence[tuple[int, bytes]]) -> list[Stamped]:
    """Return the records that can be judged; the others are void for everybody alike."""
    return [Stamped(offset, stamp, value) for offset, value in records if (stamp := stamp_of(value)) is not None]


class Placed(NamedTuple):
    """An anchored record (BATCH or SNAPSHOT) and where it lies."""

    offset: int
    anchor: Anchor


class Judged(NamedTuple):
    """What a stretch of the log came to: who rules behind it, and its newest valid anchored record
    (None: it has none).
    """

    ruling: Ruling
    valid: Placed | None


def stamp_of(value: bytes | None) -> Stamp | None:
    """Return a record's stamp, None where it or the anchor cannot be read: such a record is void
    for everybody alike.
    """
    if value is None:
        return None
    try:
        stamp = decode_stamp(value)
        if stamp.type is not RecordType.CLAIM:
            decode_anchor(value)
    except BadRecordError:
        return None
    return stamp


def last_anchor(start: int, stop: int) -> Walk[Placed | None]:
    """Return the last anchored record before `stop`, valid or void, whose claim is still there;
    None where there is none.

    Mostly it is the last record; after many claims in a row the steps back double. A record whose
    claim is cut away was written by somebody deposed long ago, who was paused: it tells nothing.
    """
    step = 1
    while stop > start:
        first = max(start, stop - step)
        scan, found = Scan(first, stop), None
        while (records := (yield from scan.more())) is not None:
            for offset, stamp, value in records:
                if stamp.type is RecordType.CLAIM:
                    continue
                anchor = decode_anchor(value)
                if start <= anchor.claim_offset < offset:
                    found = Placed(offset, anchor)
        if found is not None:
            return found
        stop, step = first, min(step * 2, MAX_STEP)
    return None


def judge_stretch(ruling: Ruling, start: int, stop: int) -> Walk[Judged]:
    """Judge all records from `start` to before `stop`."""
    scan, valid = Scan(start, stop), None
    while (records := (yield from scan.more())) is not None:
        for offset, stamp, value in records:
            ruling, is_valid = validate(ruling, stamp, offset)
            if is_valid and stamp.type is not RecordType.CLAIM:
                valid = Placed(offset, decode_anchor(value))
    return Judged(ruling, valid)


def judging_start(start: int, stop: int) -> Walk[int]:
    """Return where a reader must begin to judge so that it knows who rules at `stop`.

    That is the place which the last anchored record names as its writer's claim: the writer read it
    back and found it ruling. Never a snapshot, and never a claim that just lies there: both may be
    those of a deposed owner.
    """
    last = yield from last_anchor(start, stop)
    return start if last is None else last.anchor.claim_offset


def find_ruling(start: int, stop: int) -> Walk[Ruling]:
    """Return who rules just before `stop`, in a log that is kept from `start` on."""
    begin = yield from judging_start(start, stop)
    judged = yield from judge_stretch(NOBODY, begin, stop)
    return judged.ruling
