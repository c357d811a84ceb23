"""The records that wait for a room's next batch: identical ones are folded, those above the limit
are thinned. Pure.

Owns which records may be folded or thinned; the order of preference is `broadcaster.thinning`.
Called by `broadcaster.room`.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from broadcaster.thinning import Candidate, choose
from liveroom.kinds import Kind, Role
from liveroom.records.uplink import Uplink

_FOLDED_ROLES: Final = frozenset({Role.VIEWER, Role.GUEST})


class WaitingRecord(msgspec.Struct, frozen=True, gc=False):
    """A record from uplink offset `offset`.

    `cost` of its items take a number. `may_go`: none of them is reliable, so it may be thinned.
    `n`: how many identical records it stands for.
    """

    offset: int
    record: Uplink
    cost: int
    may_go: bool
    n: int = 1


def fold(waiting: Sequence[WaitingRecord]) -> list[WaitingRecord]:
    """Let the first of identical danmaku stand for all.

    Those of the streamer and moderators, and packages, are not folded.
    """
    folded: dict[object, WaitingRecord] = {}
    for index, entry in enumerate(waiting):
        record = entry.record
        key: object = index  # not the offset: a ban in a package waits beside its clear, under one offset
        if (
            len(record.items) == 1
            and record.items[0].kind is Kind.DANMAKU
            and record.role in _FOLDED_ROLES
            and not record.package
        ):
            key = bytes(record.items[0].data)
        before = folded.get(key)
        folded[key] = entry if before is None else msgspec.structs.replace(before, n=before.n + 1)
    return list(folded.values())


def thin(waiting: Sequence[WaitingRecord], allowance: int) -> tuple[list[WaitingRecord], list[WaitingRecord]]:
    """Return the records that stay, in order, and those that go, so that best-effort items take at
    most `allowance` numbers.
    """
    movable = [index for index, entry in enumerate(waiting) if entry.may_go]
    stays = choose([_candidate(waiting[index]) for index in movable], allowance)
    gone = {index for index, stay in zip(movable, stays, strict=True) if not stay}
    kept = [entry for index, entry in enumerate(waiting) if index not in gone]
    return kept, [waiting[index] for index in gone]


def _candidate(entry: WaitingRecord) -> Candidate:
    record = entry.record
    return Candidate(entry.offset, record.role, record.level, record.user, entry.cost)
