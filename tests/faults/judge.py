"""Reads the whole log by the validity rule and judges the queue.

It is exact if each accepted item is there once, in order, with contiguous numbers.
"""

import asyncio
import bisect
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from aiokafka import ConsumerRecord

from liveroom.fencing import NOBODY, stamp_of, validate
from liveroom.kinds import CLASS_OF, Class
from liveroom.records.balance import Balance, total
from liveroom.records.broadcast import Batch, Claim, decode_broadcast
from liveroom.records.codec import BadRecordError
from liveroom.records.uplink import Uplink, decode_uplink
from liveroom.topics import partition_of
from tests.log import read_all, received

POISON = "poison"  # id of records whose body is not of its kind
SILENT_MS = 1000  # under load a partition has a batch ten times a second


def message_id(uplink: Uplink, index: int) -> str:
    """Return the id of the message of item `index`."""
    return uplink.id if len(uplink.items) == 1 else f"{uplink.id}#{index}"


def is_reliable(uplink: Uplink) -> bool:
    """Return whether any item must arrive."""
    return any(CLASS_OF[item.kind] is not Class.BEST_EFFORT for item in uplink.items)


class Reign(NamedTuple):
    """One owner's rule of a partition, by the times its records name; `batch_ms` 0: it never wrote
    a batch.
    """

    partition: int
    instance: str
    claim_ms: int
    batch_ms: int


class Exact(NamedTuple):
    """What a log came to.

    `reigns` in their order in each partition; `batches_ms`: when each wrote its batches.
    """

    items: int
    void: int
    balance: Balance
    reigns: list[Reign]
    batches_ms: list[list[int]]

    def hits(self, partition: int, victim: str, at_ms: float) -> bool:
        """Say whether what befell `victim` then held up a partition: it ruled it, or nobody did
        since the fault before.
        """
        rulers = [reign.instance for reign in self.reigns if reign.partition == partition and reign.claim_ms <= at_ms]
        batches = self.batches_ms[partition]
        newest = bisect.bisect_right(batches, at_ms)
        return victim in rulers[-1:] or newest == 0 or batches[newest - 1] < at_ms - SILENT_MS

    def take_overs(self, victim: str, at_ms: int) -> list[float]:
        """Return how long after `at_ms` each partition that `victim` ruled then had its next batch,
        in seconds.
        """
        pairs = zip(self.reigns, self.reigns[1:], strict=False)
        return [
            (after.batch_ms - at_ms) / 1000
            for before, after in pairs
            if before.partition == after.partition and before.instance == victim and before.claim_ms <= at_ms < after.claim_ms
        ]


async def judge_log(bootstrap: str, prefix: str, partitions: int, settle_s: float = 20.0) -> Exact:
    """Read `uplink` and `broadcast` to their ends; assert that they agree, at the latest after
    `settle_s`.
    """
    end = time.monotonic() + settle_s
    while True:
        try:
            return await _judge(bootstrap, prefix, partitions)
        except AssertionError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.5)  # the last danmaku may be on their way


async def _judge(bootstrap: str, prefix: str, partitions: int) -> Exact:
    results = [await _judge_partition(bootstrap, prefix, partition, partitions) for partition in range(partitions)]
    balance = total(result.balance for result in results)
    reigns = [reign for result in results for reign in result.reigns]
    batches_ms = [times for result in results for times in result.batches_ms]
    return Exact(sum(r.items for r in results), sum(r.void for r in results), balance, reigns, batches_ms)


class _Wanted:
    """What the uplink holds, so what the queue must hold: (message id, reliable?) by room, in
    order.
    """

    def __init__(self, records: Sequence[ConsumerRecord], partitions: int) -> None:
        self.messages: dict[str, list[tuple[str, bool]]] = defaultdict(list)
        self.taken = self.items = 0
        seen: set[tuple[str, str, str]] = set()
        for record in records:
            try:
                uplink = decode_uplink(record.key, record.value)
            except BadRecordError:
                self.taken += 1
                continue
            if uplink.id == POISON or partition_of(uplink.room, partitions) != record.partition:
                self.taken += 1
                continue
            self.taken += len(uplink.items)
            key = (uplink.room, uplink.user, uplink.id)
            if is_reliable(uplink) and key in seen:
                continue
            seen.add(key)
            self.items += len(uplink.items)
            for index, item in enumerate(uplink.items):
                if CLASS_OF[item.kind] in {Class.RELIABLE, Class.BEST_EFFORT}:
                    self.messages[uplink.room].append((message_id(uplink, index), CLASS_OF[item.kind] is Class.RELIABLE))


class _Found:
    """What the valid batches hold, read as a viewer reads: numbers seen before are passed over, and
    must be the same.
    """

    def __init__(self) -> None:
        self.messages: dict[str, list[tuple[str, bool]]] = defaultdict(list)
        self.room_epochs: dict[str, set[int]] = defaultdict(set)
        self._rseqs: dict[str, int] = defaultdict(int)

    def take(self, batch: Batch) -> None:
        for frame in received(batch):
            room = frame.header.room
            found = self.messages[room]
            self.room_epochs[room].add(frame.header.epoch)
            for message in frame.messages:
                if message.seq <= len(found):
                    assert found[message.seq - 1][0] == message.id, "one number, two messages"
                    continue
                assert message.seq == len(found) + 1, f"{room}: a hole before {message.seq}"
                self._rseqs[room] += message.rseq > 0
                assert message.rseq in {0, self._rseqs[room]}
                found.append((message.id, message.rseq > 0))


async def _judge_partition(bootstrap: str, prefix: str, partition: int, partitions: int) -> Exact:
    wanted = _Wanted(await read_all(bootstrap, f"{prefix}uplink", [partition]), partitions)
    found, ruling, void, last = _Found(), NOBODY, 0, None
    reigns: list[Reign] = []
    batches_ms: list[int] = []
    for record in await read_all(bootstrap, f"{prefix}broadcast", [partition]):
        stamp = stamp_of(record.value)
        assert stamp is not None, "a record that nobody can read"
        before = ruling
        ruling, valid = validate(ruling, stamp, record.offset)
        void += not valid
        if not valid:
            continue
        batch = decode_broadcast(record.value)
        if isinstance(batch, Claim) and (ruling.epoch, ruling.owner) != (before.epoch, before.owner):
            reigns.append(Reign(partition, batch.instance, batch.at_ms, 0))
        if not isinstance(batch, Batch):
            continue
        if not reigns[-1].batch_ms:
            reigns[-1] = reigns[-1]._replace(batch_ms=batch.at_ms)
        batches_ms.append(batch.at_ms)
        assert batch.balance.is_exact(), batch.balance
        if last is not None and batch.anchor.uplink_next == last.anchor.uplink_next:
            assert batch.balance == last.balance, "something was counted though nothing was taken"
        last = batch
        found.take(batch)
    for room, expected in wanted.messages.items():
        _same(room, found.messages[room], expected)
    assert all(len(epochs_of_room) == 1 for epochs_of_room in found.room_epochs.values()), "history was lost"
    balance = last.balance if last is not None else Balance()
    assert balance.taken == wanted.taken, f"{balance} of {wanted.taken} items"
    return Exact(wanted.items, void, balance, reigns, [sorted(batches_ms)])


def _same(room: str, numbered: list[tuple[str, bool]], accepted: list[tuple[str, bool]]) -> None:
    if numbered != accepted:
        at = next((i for i, (a, b) in enumerate(zip(numbered, accepted, strict=False)) if a != b), -1)
        missing = set(accepted) - set(numbered)
        raise AssertionError(
            f"{room}: {len(numbered)} numbered, {len(accepted)} accepted; first differs at {at}: "
            f"{numbered[at : at + 3]} for {accepted[at : at + 3]}; missing {sorted(missing)[:5]} of {len(missing)}"
        )
