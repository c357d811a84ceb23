"""The rule for valid records of `broadcast`, and the walks that find the ruling claim. Pure.

Owns the rule (`validate`) and the walks over the log that apply it. The walks are generators: they
yield `Read` and are sent the records. So the same code runs over Kafka (`liveroom.broadcast_log`),
over the model in the tests, and inside a take-over (`broadcaster.ownership`). Nothing is guessed:
where the log no longer shows who ruled, nobody rules until the next claim. `broadcaster.ownership`
opens with the theory of operation of the whole protocol.
"""

from collections.abc import Generator, Sequence
from typing import Final, NamedTuple, TypeVar

from liveroom.kinds import RecordType
from liveroom.records.broadcast import Anchor, Stamp, check_record_version, decode_anchor, decode_stamp
from liveroom.records.codec import BadRecordError, refuse_foreign

MAX_STEP: Final = 256

T = TypeVar("T")


class Ruling(NamedTuple):
    """The claim whose records are valid from here on, its offset, and its owner's last BATCH.

    `serial`: that of the last BATCH; the next valid one has a higher serial.
    """

    epoch: int
    owner: bytes
    offset: int
    serial: int = 0

    def is_of(self, epoch: int, owner: bytes) -> bool:
        """Return whether this owner rules with this epoch."""
        return self.epoch == epoch and self.owner == owner


NOBODY: Final = Ruling(0, b"", -1)


def validate(ruling: Ruling, stamp: Stamp, offset: int) -> tuple[Ruling, bool]:
    """Apply the validity rule to one record; return who rules after it, and whether it is valid.

    A claim rules from its offset on if its epoch is above that of the ruling claim. Of two claims
    with the same epoch the first one rules. A renewal, the ruling owner's own claim written again,
    is valid and moves the ruling's offset forward. Any other record is valid only if its epoch and
    owner are those of the ruling claim. A BATCH also needs a serial above that of the last valid
    one, a renewal and a SNAPSHOT one not below it: so an append that was written twice counts once,
    and a late copy names no place that has passed. Every reader uses this one function.
    """
    mine = stamp.epoch == ruling.epoch and stamp.owner == ruling.owner
    if stamp.type is RecordType.BATCH:
        if not mine or stamp.serial <= ruling.serial:
            return ruling, False
        return Ruling(ruling.epoch, ruling.owner, ruling.offset, stamp.serial), True
    mine = mine and stamp.serial >= ruling.serial
    if stamp.type is not RecordType.CLAIM:
        return ruling, mine
    if mine or stamp.epoch > ruling.epoch:
        return Ruling(stamp.epoch, stamp.owner, offset, stamp.serial), True
    return ruling, False


class Read(NamedTuple):
    """A request for records from `start` to before `stop`, in order.

    The answer has at least one of them, and as many as the reader has at hand.
    """

    start: int
    stop: int


Walk = Generator[Read, Sequence[tuple[int, bytes]], T]  # is sent (offset, value) for each record that it asked for


class Stamped(NamedTuple):
    """A record whose stamp can be read, so that `validate` can judge it."""

    offset: int
    stamp: Stamp
    value: bytes


class Scan:
    """Steps through a log from `start` to before `stop`, by as many records as a read returns.

    Loop: `while (records := (yield from scan.more())) is not None`.
    """

    def __init__(self, start: int, stop: int) -> None:
        self._next, self._stop = start, stop

    def more(self) -> Walk[list[Stamped] | None]:
        """Return the records of the next step that can be judged; None at the end."""
        if self._next >= self._stop:
            return None
        records = yield Read(self._next, self._stop)
        self._next = records[-1][0] + 1
        return stamped(records)


def stamped(records: Sequence[tuple[int, bytes]]) -> list[Stamped]:
    """Return the records that can be judged; all others are void for every reader.

    Raises AnotherVersionError for a record of another version: a walk needs its anchor too.
    """
    judgeable = [Stamped(offset, stamp, value) for offset, value in records if (stamp := stamp_of(value)) is not None]
    for _, _, value in judgeable:
        try:
            check_record_version(value)
        except BadRecordError as error:
            refuse_foreign(error)
    return judgeable


class Placed(NamedTuple):
    """An anchored record (BATCH or SNAPSHOT) and its offset."""

    offset: int
    anchor: Anchor


class Judged(NamedTuple):
    """The result of a stretch of the log: who rules behind it, and its last valid anchored record.

    `valid` is None where it has no such record.
    """

    ruling: Ruling
    valid: Placed | None


def stamp_of(value: bytes | None) -> Stamp | None:
    """Return a record's stamp; None where the stamp or the anchor cannot be read.

    Such a record is void for every reader. The stamp of another version can be read like any other,
    so `validate` judges it too.
    """
    if value is None:
        return None
    try:
        stamp = decode_stamp(value)
        if stamp.type is not RecordType.CLAIM:
            decode_anchor(value)
    except BadRecordError as error:
        return stamp if error.reason.is_foreign else None
    return stamp


def last_anchor(start: int, stop: int) -> Walk[Placed | None]:
    """Return the last anchored record before `stop` whose claim is still in the log, valid or void.

    Returns None where there is none. Mostly it is the last record; after many claims in a row the
    steps back double. A record whose claim is cut away is ignored: an owner that was deposed long
    ago and then paused wrote it.
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
    """Return the offset at which a reader must begin to judge, to know who rules at `stop`.

    It is the claim that the last anchored record names: its writer read that claim back and found
    it ruling. Neither a snapshot nor a bare claim would do, because both may be a deposed owner's.
    """
    last = yield from last_anchor(start, stop)
    return start if last is None else last.anchor.claim_offset


def find_ruling(start: int, stop: int) -> Walk[Ruling]:
    """Return who rules just before `stop`, in a log that begins at `start`."""
    begin = yield from judging_start(start, stop)
    judged = yield from judge_stretch(NOBODY, begin, stop)
    return judged.ruling
