"""A model of one partition in memory: a log, an uplink, and owners that run the real take-over,
lease and rooms on it.

Everything that can go wrong between an owner and its log is a choice of the schedule: who moves
next, appends that are slow, lost, or written twice, owners that die or sleep, retention. The log
judges itself record by record as it grows; that is the truth which owners and readers are held
against.
"""

import secrets
from collections.abc import Callable, Generator
from typing import Any

import msgspec

from broadcaster.ownership import Append, Apply, Lease, Load, TakenOver, take_over
from broadcaster.rooms import NOTHING, Packed, Rooms
from liveroom.fencing import NOBODY, Read, Ruling, find_ruling, validate
from liveroom.kinds import Kind, RecordType
from liveroom.records.broadcast import (
    Anchor,
    Batch,
    BatchParts,
    Claim,
    SnapshotChunk,
    Stamp,
    decode_anchor,
    decode_broadcast,
    decode_stamp,
    encode_batch,
    encode_claim,
    encode_snapshot_chunk,
)
from liveroom.records.codec import BadRecordError
from liveroom.records.snapshot import decode_state, encode_state
from liveroom.records.uplink import Item, Uplink
from tests.log import received

ROOMS = ("a", "b", "c")
BODIES = {Kind.DANMAKU: b'{"text":"hi"}', Kind.GIFT: b'{"gift":"rose"}', Kind.LIKE: b'{"count":2}'}
KINDS = tuple(BODIES)


class FailedError(Exception):
    """An append without an ack, or records that are gone."""


class Write:
    """An owner's append, on its way."""

    def __init__(self, value: bytes) -> None:
        self.value = value


class Log:
    """The partition.

    `valid` and `rulings` are what the rule says of each record, found as it was appended.
    """

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.valid: list[bool] = []
        self.rulings: list[Ruling] = []
        self.start = 0
        self.safe_from = 0
        self.newest: Anchor | None = None

    @property
    def end(self) -> int:
        return len(self.values)

    def append(self, value: bytes) -> int:
        stamp = decode_stamp(value)
        ruling, valid = validate(self.rulings[-1] if self.rulings else NOBODY, stamp, self.end)
        self.values.append(value)
        self.valid.append(valid)
        self.rulings.append(ruling)
        if valid and stamp.type is not RecordType.CLAIM:
            self.newest = decode_anchor(value)
        return self.end - 1

    def read(self, start: int, stop: int, at_most: int = 5) -> list[tuple[int, bytes]]:
        if start < self.start:
            raise FailedError("gone")
        return [(offset, self.values[offset]) for offset in range(start, min(stop, self.end, start + at_most))]

    def cut(self) -> None:
        """Let retention take what it may: an hourly claim and snapshot are younger than a day, so
        never these.
        """
        if self.newest is not None and self.newest.snapshot_offset is not None:
            self.start = max(self.start, min(self.newest.claim_offset, self.newest.snapshot_offset))
            self.safe_from = self.end

    def ruling_before(self, stop: int) -> Ruling:
        return self.rulings[stop - 1] if stop else NOBODY


class World:
    """The log, the uplink, the owners, and the schedule that decides all chances."""

    def __init__(self, chance: Callable[[int], int], owners: int = 3) -> None:
        self.chance = chance
        self.log = Log()
        self.uplink: list[Uplink] = []
        self.late: list[bytes] = []
        self.owners: list[Generator[Any, Any, None]] = [self._life() for _ in range(owners)]
        self.pending: list[Any] = [None] * owners
        self.takeovers = 0
        self.faults = True

    # ---- what the schedule may do
    def send(self) -> None:
        """A user sends something; now and then a gift with an id that was there before."""
        number = len(self.uplink)
        kind = KINDS[self.chance(3)]
        back = number
        if kind is Kind.GIFT and number and self.chance(5) == 0:
            back = self.chance(number)
            kind = Kind.GIFT
            if self.uplink[back].items[0].kind is not Kind.GIFT:
                back = number
        record = self.uplink[back] if back != number else None
        self.uplink.append(
            record or Uplink(1, ROOMS[self.chance(3)], f"i{number}", "u", number, [Item(kind, msgspec.Raw(BODIES[kind]))])
        )

    def move(self, index: int) -> None:
        """Let one owner go on to its next wait."""
        self.pending[index] = self._answer(index, self.pending[index])

    def kill(self, index: int) -> None:
        """kill -9; a new process takes its place."""
        pending = self.pending[index]
        if isinstance(pending, Write) and self.chance(2):
            self.late.append(pending.value)
        self.owners[index].close()
        self.owners[index] = self._life()
        self.pending[index] = None

    def double(self) -> None:
        """An append that was acknowledged is written once more, at any time later."""
        if self.log.values:
            self.late.append(self.log.values[-1 - self.chance(min(8, self.log.end))])

    def arrive(self) -> None:
        """An append whose sender had given it up, or had its ack, is written after all."""
        if self.late:
            self.log.append(self.late.pop(self.chance(len(self.late))))

    def read_from_anywhere(self) -> None:
        """A gateway, a pull or a new owner that starts in mid-log agrees with the whole log."""
        first = max(self.log.safe_from, self.log.start)
        stop = first + self.chance(self.log.end - first + 1)
        found = self.run(find_ruling(self.log.start, stop))
        truth = self.log.ruling_before(stop)
        assert (found.epoch, found.owner) == (truth.epoch, truth.owner), (stop, found, truth)

    def run(self, steps: Generator[Any, Any, Any]) -> Any:
        """Run a reader to its end at once."""
        answer: Any = None
        while True:
            try:
                asked = steps.send(answer)
            except StopIteration as end:
                return end.value
            answer = self.log.read(asked.start, asked.stop)
            assert answer, asked

    def settle(self) -> None:
        """No more faults: what is late arrives, then one owner works until nothing is left."""
        while self.late:
            self.arrive()
        self.faults = False
        for index in range(1, len(self.owners)):
            self.kill(index)
        self.late.clear()
        for _ in range(10_000):
            if not self.uplink or (self.log.newest is not None and self.log.newest.uplink_next == len(self.uplink)):
                return
            self.move(0)
        raise AssertionError("the last owner does not get on")

    # ---- owners
    def _answer(self, index: int, asked: Any) -> Any:
        owner = self.owners[index]
        try:
            match asked:
                case Read():
                    return owner.send(self.log.read(asked.start, asked.stop))
                case Write():
                    return owner.send(self._append(asked.value))
                case _:
                    return next(owner)
        except FailedError as error:
            return owner.throw(error)

    def _append(self, value: bytes) -> int:
        fate = self.chance(12) if self.faults else 11
        if fate == 0:
            raise FailedError("lost")
        if fate == 1:
            self.late.append(value)
            raise FailedError("no ack, written later")
        if fate == 2:
            self.log.append(value)
            raise FailedError("no ack, but written")
        offset = self.log.append(value)
        if fate == 3:
            again = self.log.append(value)
            return again if self.chance(2) else offset
        return offset

    def _life(self) -> Generator[Any, Any, None]:
        while True:
            try:
                yield from self._rule()
            except FailedError:
                continue

    def _rule(self) -> Generator[Any, Any, None]:
        owner = secrets.token_bytes(16)
        rooms, taken = yield from self._take_over(owner)
        assert taken.lost is None, taken
        self.takeovers += 1
        lease, next_ = taken.lease, taken.uplink_next or 0
        while True:
            yield None
            match self.chance(8):
                case 0:
                    rules = yield from lease.up_to(self.log.end)
                    truth = self.log.ruling_before(lease.next_offset)
                    assert rules == ((truth.epoch, truth.owner) == (lease.epoch, lease.owner))
                case 1:
                    rules = yield from self._snapshot(lease, rooms, next_)
                case _:
                    upto = min(len(self.uplink), next_ + 1 + self.chance(4))
                    if upto == next_:
                        continue
                    for offset in range(next_, upto):
                        rooms.take(self.uplink[offset], offset, offset)
                    next_ = upto
                    rules = yield from self._flush(lease, rooms, next_)
            if not rules:
                return

    def _take_over(self, owner: bytes) -> Generator[Any, Any, tuple[Rooms, TakenOver]]:
        steps = take_over(self.log.start, self.log.end, owner)
        rooms = Rooms(limit_per_s=10**9)
        answer: Any = None
        while True:
            try:
                asked = steps.send(answer)
            except StopIteration as end:
                return rooms, end.value
            match asked:
                case Append(epoch):
                    answer = yield Write(encode_claim(Claim(epoch, owner, 0, "model")))
                case Load(chunks):
                    rooms, answer = Rooms(decode_state(chunks), limit_per_s=10**9), True
                case Apply(values):
                    for value in values:
                        batch = decode_broadcast(value)
                        assert isinstance(batch, Batch)
                        rooms.apply(batch)
                    answer = None
                case _:
                    answer = yield asked

    def _flush(self, lease: Lease, rooms: Rooms, next_: int) -> Generator[Any, Any, bool]:
        return (yield from self._write(lease, self._batch(lease, rooms, rooms.pack("", 0), next_)))

    @staticmethod
    def _batch(lease: Lease, rooms: Rooms, packed: Packed, next_: int) -> bytes:
        anchor = lease.anchor(next_)
        return encode_batch(
            BatchParts(
                lease.epoch,
                lease.owner,
                lease.next_serial(),
                anchor,
                0,
                0,
                0,
                packed.rooms,
                clock_ms=rooms.clock_ms,
                balance=rooms.balance,
            )
        )

    def _write(self, lease: Lease, value: bytes) -> Generator[Any, Any, bool]:
        offset = yield Write(value)
        rules = yield from lease.acked(offset)
        if rules:
            copies = [at for at in range(offset + 1) if self.log.values[at] == value]
            counted = sum(self.log.valid[at] for at in copies)
            assert counted, "an owner thinks that it rules and does not"
            assert counted == 1 or decode_stamp(value).type is not RecordType.BATCH, "a batch counts twice"
        return rules

    def _snapshot(self, lease: Lease, rooms: Rooms, next_: int) -> Generator[Any, Any, bool]:
        while not rooms.store(2):
            pass
        chunks = encode_state(rooms.snapshot(), 200)
        first, snapshot_id = None, len(self.log.values)
        for part, data in enumerate(chunks):
            stamp = Stamp(RecordType.SNAPSHOT, lease.epoch, lease.owner, lease.serial)
            chunk = SnapshotChunk(stamp, lease.anchor(next_), 0, snapshot_id, part, len(chunks), data)
            offset = yield Write(encode_snapshot_chunk(chunk))
            if not (yield from lease.acked(offset)):
                return False
            first = offset if part == 0 else first
        lease.snapshot_offset = first
        offset = yield Write(encode_claim(Claim(lease.epoch, lease.owner, 0, "model", lease.serial)))
        if not (yield from lease.acked(offset)):
            return False
        lease.renewed(offset)
        return (yield from self._write(lease, self._batch(lease, rooms, NOTHING, next_)))

    # ---- what must hold
    def check(self) -> None:
        """Hold the valid log against the uplink: all of it once, in order, numbers without
        holes.
        """
        expected: dict[str, list[tuple[int, int, str]]] = {room: [] for room in ROOMS}
        rseq = dict.fromkeys(ROOMS, 0)
        likes = dict.fromkeys(ROOMS, 0)
        seen: set[tuple[str, str]] = set()
        duplicates = 0
        for record in self.uplink:
            kind, room = record.items[0].kind, record.room
            if kind is Kind.GIFT and (room, record.id) in seen:
                duplicates += 1
                continue
            if kind is Kind.LIKE:
                likes[room] += 2
                continue
            seen.add((room, record.id))
            rseq[room] += kind is Kind.GIFT
            number = rseq[room] if kind is Kind.GIFT else 0
            expected[room].append((len(expected[room]) + 1, number, record.id))
        got, got_likes, last = self._delivered()
        assert got == expected
        assert got_likes == likes
        if last is not None:
            assert last.balance.is_exact()
            assert last.balance.taken == len(self.uplink)
            assert last.balance.duplicate == duplicates

    def _delivered(self) -> tuple[dict[str, list[tuple[int, int, str]]], dict[str, int], Batch | None]:
        """Read the whole log as a gateway does: its valid batches name each number once."""
        got: dict[str, list[tuple[int, int, str]]] = {room: [] for room in ROOMS}
        likes = dict.fromkeys(ROOMS, 0)
        last, next_ = None, 0
        for value, valid in zip(self.log.values, self.log.valid, strict=True):
            record = decode_broadcast(value)
            if not valid or not isinstance(record, Batch):
                continue
            assert record.anchor.uplink_next is not None
            assert record.anchor.uplink_next >= next_, "the uplink was taken backwards"
            last, next_ = record, record.anchor.uplink_next
            for frame in received(record):
                numbers = got[frame.header.room]
                likes[frame.header.room] = frame.header.likes or likes[frame.header.room]
                for message in frame.messages:
                    assert message.seq == len(numbers) + 1, "a hole, or a number twice"
                    numbers.append((message.seq, message.rseq, message.id))
        return got, likes, last


__all__ = ["BadRecordError", "World"]
