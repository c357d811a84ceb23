"""The balance of a partition: how many items owners took, and what became of them. Pure.

In records it is a map from the code of an outcome to a count. A code is never used again. A reader
carries counts of codes that it does not know: so the sum holds while versions take turns.
"""

from collections.abc import Iterable
from typing import Annotated, Final

import msgspec

from liveroom.nesting import UNDECODABLE
from liveroom.records.codec import BadRecord, BadRecordError


class Balance(msgspec.Struct, gc=False):
    """Items that owners took from the uplink since the partition began, and their outcomes.

    `taken` always equals the sum of the outcomes (`is_exact`). `others`: counts of outcomes that
    only a later version knows, by code.
    """

    taken: int = 0
    numbered: int = 0
    folded: int = 0
    noticed: int = 0
    skipped: int = 0
    duplicate: int = 0
    dead_lettered: int = 0
    others: dict[int, int] = {}

    @property
    def off(self) -> int:
        """Items taken minus items accounted for; anything but 0 is a defect."""
        rest = self.numbered + self.folded + self.noticed + self.skipped + self.duplicate + self.dead_lettered
        return self.taken - rest - sum(self.others.values())

    def is_exact(self) -> bool:
        """Return whether every item taken is accounted for."""
        return self.off == 0


CODES: Final = dict(enumerate(Balance.__struct_fields__[:-1]))  # a field's place is its code, so a new one goes before `others`
_decoder: Final = msgspec.msgpack.Decoder(dict[int, Annotated[int, msgspec.Meta(ge=0)]])
_encode: Final = msgspec.msgpack.Encoder().encode


def encode_balance(balance: Balance) -> bytes:
    """Return a balance as a MessagePack map of codes and counts; those that are 0 are left out."""
    *own, others = msgspec.structs.astuple(balance)
    counts = {code: count for code, count in enumerate(own) if count}
    return _encode(counts | others if others else counts)


def decode_balance(data: bytes | memoryview) -> Balance:
    """Return the balance that `encode_balance` wrote. No bytes are a balance of nothing.

    Raises BadRecordError where it is damaged.
    """
    if not data:
        return Balance()
    try:
        counts = _decoder.decode(data)
    except UNDECODABLE as error:
        raise BadRecordError(BadRecord.UNDECODABLE, f"a balance: {error}") from None
    known = {name: counts.pop(code, 0) for code, name in CODES.items()}
    return Balance(**known, others=counts)


def total(balances: Iterable[Balance]) -> Balance:
    """Return the sum of several partitions' balances."""
    result = Balance()
    for balance in balances:
        for name in CODES.values():
            setattr(result, name, getattr(result, name) + getattr(balance, name))
        for code, count in balance.others.items():
            result.others[code] = result.others.get(code, 0) + count
    return result
