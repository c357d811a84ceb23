"""The table of typed sections that ends every binary record, so that formats can grow. Pure.

A record names the type and the size of each of its sections. A reader passes over a type that it
does not know. So a later version adds a section and no reader must be upgraded first. A section
whose loss would change the meaning of its record has `MUST` in its type: a reader that does not
know it refuses the record (`BadRecord.UNKNOWN_SECTION`). A section with `OWNER` in its type is for
owners of a partition only, and gateways pass over it without asking.

The layout is `count`, then `type` and `size` of each section, then their bytes in the same order.
Used by `liveroom.records.broadcast` and `liveroom.records.snapshot`.
"""

from collections.abc import Collection, Iterable, Mapping
from enum import IntEnum
from struct import Struct as Layout
from struct import error as LayoutError  # noqa: N812 - beside Layout
from typing import Final, NamedTuple

from liveroom.records.codec import BadRecord, BadRecordError

MUST: Final = 0x8000  # in a type: who does not know the section must refuse the record
OWNER: Final = 0x4000  # in a type: for owners of the partition
_COUNT: Final = Layout("<H")
_ENTRY: Final = Layout("<HI")
_pack_entry: Final = _ENTRY.pack
_pack_count: Final = _COUNT.pack


class SectionType(IntEnum):
    """The types of sections, of all records. A number is never used again.

    - `ROOMS`: the directory entries of a BATCH, one for each room; `PAYLOADS`: the rooms' payloads.
    - `NOTICES`: notices to one user each; `CARDS`: room snapshots.
    - `BALANCE`: what became of the items that owners took.
    - `ALLOWANCES`: how much each room at its limit may number at once.
    - `INSTANCE`: the name of the broadcaster that wrote a CLAIM.
    - `CHUNK`: the bytes of one chunk of a snapshot.
    - `CLOCK`, `STORED_ROOMS`, `EPOCH_FLOOR`: of a partition's state; `ROOM_STATE`: of one room in
      it.
    """

    ROOMS = MUST | 1
    PAYLOADS = MUST | 2
    NOTICES = MUST | 3
    CARDS = 4
    BALANCE = MUST | OWNER | 5
    ALLOWANCES = OWNER | 6
    INSTANCE = 7
    CHUNK = MUST | OWNER | 8
    CLOCK = MUST | OWNER | 9
    STORED_ROOMS = MUST | OWNER | 10
    ROOM_STATE = MUST | OWNER | 11
    EPOCH_FLOOR = OWNER | 12


NOTHING: Final = memoryview(b"")


class Section(NamedTuple):
    """A section by its type. `data`: its bytes."""

    type: int
    data: bytes


class Sections(NamedTuple):
    """The sections of a record that was read.

    - `known`: the bytes of each known section, by type.
    - `others`: those that this version passes over, in their order.
    """

    known: Mapping[int, memoryview]
    others: tuple[Section, ...] = ()

    def of(self, type_: int) -> memoryview:
        """Return the bytes of a section, empty where the record has none of this type."""
        return self.known.get(type_, NOTHING)


def encode_sections(sections: Iterable[tuple[int, bytes]]) -> bytes:
    """Return the table and the bytes of sections; those without bytes are left out."""
    table = [b""]
    present: list[bytes] = []
    for type_, data in sections:
        if data:
            table.append(_pack_entry(type_, len(data)))
            present.append(data)
    table[0] = _pack_count(len(present))
    return b"".join(table + present)


def decode_sections(value: bytes, start: int, known: Collection[int], *, as_owner: bool = False) -> Sections:
    """Return the sections of a record whose table begins at `start`.

    `as_owner`: the reader owns the partition, so the sections for owners concern it. Raises
    BadRecordError where the sizes do not add up to the record (truncated), where a known section
    comes twice (undecodable), and for an unknown one that must be understood (unknown_section).
    """
    try:
        (count,) = _COUNT.unpack_from(value, start)
    except LayoutError:
        raise BadRecordError(BadRecord.TRUNCATED, "no table of sections") from None
    view = memoryview(value)
    at = start + _COUNT.size + count * _ENTRY.size
    if at > len(value):
        raise BadRecordError(BadRecord.TRUNCATED, f"a table of {count} sections")
    found: dict[int, memoryview] = {}
    others: list[Section] = []
    refused: int | None = None
    for type_, size in _ENTRY.iter_unpack(view[start + _COUNT.size : at]):
        end = at + size
        if type_ in known:
            if type_ in found:
                raise BadRecordError(BadRecord.UNDECODABLE, f"section {type_:#06x} comes twice")
            found[type_] = view[at:end]
        elif type_ & MUST and (as_owner or not type_ & OWNER):
            refused = type_
        elif as_owner:
            others.append(Section(type_, bytes(view[at:end])))
        at = end
    if at != len(value):
        raise BadRecordError(BadRecord.TRUNCATED, f"sections of {at - start} bytes in {len(value) - start}")
    if refused is not None:
        raise BadRecordError(
            BadRecord.UNKNOWN_SECTION, f"section {refused:#06x} must be understood, and a later version wrote it"
        )
    return Sections(found, tuple(others))
