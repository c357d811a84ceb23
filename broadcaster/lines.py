"""The lines of messages, as viewers get them, and which of them a room keeps for its card. Pure.

Owns the bounds of what is kept. Called by `broadcaster.room`, which gives the numbers.
"""

from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from liveroom.bodies import Clear
from liveroom.kinds import Kind, Role
from liveroom.records.uplink import Item, Uplink
from liveroom.wire import split_message

RECENT_MESSAGES: Final = 20
RECENT_BYTES: Final = 16 * 1024

_encoder: Final = msgspec.json.Encoder()
encode_line: Final = _encoder.encode


class Line(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A message as viewers get it (`wire.Message`), its numbers first.

    `rseq` and `n` are unset where `wire.Message` would have their defaults. So every field can be
    passed by position, which takes a third of the time that names take.
    """

    seq: int
    rseq: int | UnsetType
    n: int | UnsetType
    kind: Kind
    id: str
    user: str
    at: int
    name: str = ""
    role: Role = Role.VIEWER
    level: int = 0
    package: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


def line_of(record: Uplink, index: int, item: Item, seq: int, rseq: int | UnsetType = UNSET, n: int = 1) -> Line:
    """Return the line of item `index` of a record. `n`: how many identical items it stands for."""
    return Line(
        seq,
        rseq,
        UNSET if n == 1 else n,
        item.kind,
        record.id if len(record.items) == 1 else f"{record.id}#{index}",
        record.user,
        record.at_ms,
        record.name,
        record.role,
        record.level,
        record.package,
        item.data,
    )


def encode_lines(lines: list[Line]) -> bytes:
    """Return lines as one text, line breaks between them: half the time of one call for each."""
    return _encoder.encode_lines(lines)[:-1]


def remember(recent: list[bytes], line: bytes) -> None:
    """Keep a line among a room's newest. One too large for a card is in the history alone."""
    if len(line) <= RECENT_BYTES:
        recent.append(line)
        if len(recent) > RECENT_MESSAGES:
            del recent[0]


def remember_all(recent: list[bytes], text: bytes) -> None:
    """Keep the newest lines of a text of many."""
    lines = text.rsplit(b"\n", RECENT_MESSAGES)[-RECENT_MESSAGES:]
    if len(text) > RECENT_BYTES and max(map(len, lines)) > RECENT_BYTES:  # it is not kept, so an older one is
        lines = [line for line in text.split(b"\n") if len(line) <= RECENT_BYTES]
    recent += lines
    del recent[:-RECENT_MESSAGES]


def newest(recent: list[bytes]) -> list[bytes]:
    """Return the newest lines that fit into `RECENT_BYTES`, and forget the others."""
    size, gone = sum(map(len, recent)), 0
    while size > RECENT_BYTES:
        size -= len(recent[gone])
        gone += 1
    del recent[:gone]
    return recent[:]


def is_cleared(line: bytes, clear: Clear) -> bool:
    """Return whether `clear` takes this line away."""
    head, _ = split_message(line)
    return clear.takes(head.kind, head.id, head.user)
