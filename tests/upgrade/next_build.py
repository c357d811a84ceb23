"""The next build: this working tree, and what a later version may add to every record and frame.

`python -m tests.upgrade.next_build MODULE` runs a service that adds an unknown field to every JSON
record, ticket and viewer frame, and a frame of an unknown type to each connection. It adds sections
of unknown types to every BATCH, one of them for owners only, to the state of each partition and to
that of each room. The state's sections count how often the next build has written them, so the log
shows whether they outlive owners of the last release. The service logs `next_build` once for each
type of record that it reads, with `own`: whether our addition was in it, so whether the next build
wrote it.

`tests.upgrade.demanding_build` adds sections that must be understood.
"""

import runpy
import sys
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, Final, TypeVar

import msgspec
import structlog

from liveroom import tickets, wire
from liveroom.records import broadcast, codec, snapshot, uplink
from liveroom.records.broadcast import Batch, BatchParts
from liveroom.records.sections import OWNER, Section
from liveroom.records.snapshot import PartitionState, RoomState, StoredRoom

FOR_ALL: Final = 0x3F01  # types that no version uses
FOR_OWNERS: Final = OWNER | 0x3F02
OF_STATE: Final = OWNER | 0x3F03
OF_ROOM: Final = OWNER | 0x3F04
NAME: Final = b'"later"'
FIELD: Final = NAME + b':{"since":"next","list":[1,2,3]}'
FRAME: Final = b'{"t":"later","list":[1,2,3]}'
HELLO: Final = b'{"t":"hello"'
EVENT: Final = "next_build"
log = structlog.get_logger()
T = TypeVar("T")
_noted: set[tuple[str, bool]] = set()


def note(record: str, *, own: bool) -> None:
    """Log the first record of each type that has our addition, and the first one that lacks it."""
    if (record, own) not in _noted:
        _noted.add((record, own))
        log.info(EVENT, record=record, own=own)


def extended(text: bytes) -> bytes:
    """Return a JSON object with the field that this version does not know, as the last one."""
    return text[:-1] + (b"," if len(text) > len(b"{}") else b"") + FIELD + b"}"


def extended_line(line: bytes) -> bytes:
    """Return a message's line with the field. It comes first: `data` is the last one of a line."""
    return b"{" + FIELD + b"," + line[1:]


class ExtendingEncoder:
    """Stands for an encoder of JSON, and adds the field to what it encodes."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode

    def encode(self, value: Any) -> bytes:
        """Return the JSON of a record, a frame or a message's line."""
        text = self._encode(value)
        return extended_line(text) if isinstance(value, wire.Message) else extended(text)


class ExtendingLines:
    """Stands for the broadcaster's encoder of lines."""

    def __init__(self, encode: Callable[[Any], bytes]) -> None:
        self._encode = encode

    def encode(self, line: Any) -> bytes:
        """Return a line."""
        return extended_line(self._encode(line))

    def encode_lines(self, lines: list[Any]) -> bytes:
        """Return lines, each with a line break."""
        return b"".join(self.encode(line) + b"\n" for line in lines)


class NotingDecoder:
    """Stands for a decoder of JSON, and notes whose records it reads."""

    def __init__(self, decode: Callable[[bytes], Any]) -> None:
        self._decode = decode

    def decode(self, text: bytes) -> Any:
        """Return the record."""
        record = self._decode(text)
        note(type(record).__name__, own=NAME in text)
        return record


def replace(where: ModuleType | type, name: str, value: object) -> None:
    """Put a later version's part in the place of this one's."""
    if not hasattr(where, name):
        raise AttributeError(f"{where.__name__} has no {name} that a later version could replace")
    setattr(where, name, value)


def noting(read: Callable[..., T]) -> Callable[..., T]:
    """Return a reader that notes whose records it reads. The value must be its last argument."""

    def reading(*arguments: Any) -> T:
        record = read(*arguments)
        note(type(record).__name__, own=NAME in arguments[-1])
        return record

    return reading


def extend_json() -> None:
    """Add the field to JSON records, tickets and viewer frames."""
    encoder = ExtendingEncoder(codec.encoder.encode)
    replace(codec, "encoder", encoder)
    replace(uplink, "encoder", encoder)
    replace(codec.JsonReader, "read", noting(codec.JsonReader.read))
    replace(uplink, "decode_uplink", noting(uplink.decode_uplink))
    replace(tickets, "_encoder", ExtendingEncoder(tickets._encoder.encode))
    replace(tickets, "_decoder", NotingDecoder(tickets._decoder.decode))
    replace(wire, "_encoder", ExtendingEncoder(wire._encoder.encode))


def extend_lines() -> None:
    """Add the field to the lines of messages. For the broadcaster alone, which makes them."""
    from broadcaster import lines

    encoder = ExtendingLines(lines._encoder.encode)
    replace(lines, "_encoder", encoder)
    replace(lines, "encode_line", encoder.encode)


def extend_frames() -> None:
    """Send a frame of an unknown type behind each connection's first one. For gateways alone."""
    from edge.member import Member

    framed = Member.framed

    def framing(self: Member, text: bytes) -> bytes:
        return framed(self, text) + (framed(self, FRAME) if text.startswith(HELLO) else b"")

    replace(Member, "framed", framing)


class Count(msgspec.Struct, array_like=True):
    """Our section in a state: what it belongs to, and how often the next build has written it."""

    name: str
    writes: int


def count_of(others: Iterable[Section], type_: int) -> Count | None:
    """Return our section of a state; None where the state has none."""
    return next((msgspec.msgpack.decode(data, type=Count) for found, data in others if found == type_), None)


def counted(others: tuple[Section, ...], type_: int, name: str) -> tuple[Section, ...]:
    """Return the sections of a state with ours, which is counted up."""
    known = count_of(others, type_) or Count(name, 0)
    if known.name != name:
        raise ValueError(f"the section of {known.name} is in the state of {name}")
    ours = Section(type_, msgspec.msgpack.encode(Count(name, known.writes + 1)))
    return (*(section for section in others if section.type != type_), ours)


def extend_sections() -> None:
    """Add the sections to BATCHes, and to the states of partitions and rooms."""
    encode_batch, decode_broadcast = broadcast.encode_batch, broadcast.decode_broadcast
    encode_room, decode_room = snapshot.encode_room, snapshot.decode_room
    encode_state, decode_state = snapshot.encode_state, snapshot.decode_state

    def encoding_batch(batch: BatchParts) -> bytes:
        return encode_batch(batch._replace(others=(*batch.others, Section(FOR_ALL, b"all"), Section(FOR_OWNERS, b"owners"))))

    def decoding_broadcast(value: bytes | None, *, as_owner: bool = False) -> Any:
        record = decode_broadcast(value, as_owner=as_owner)
        if isinstance(record, Batch) and as_owner:
            note("Batch", own={FOR_ALL, FOR_OWNERS} <= {section.type for section in record.sections.others})
        return record

    def encoding_room(state: RoomState) -> StoredRoom:
        return encode_room(msgspec.structs.replace(state, others=counted(state.others, OF_ROOM, state.room)))

    def decoding_room(stored: StoredRoom) -> RoomState:
        state = decode_room(stored)
        note("RoomState", own=count_of(state.others, OF_ROOM) is not None)
        return state

    def encoding_state(state: PartitionState, *arguments: Any) -> list[bytes]:
        return encode_state(msgspec.structs.replace(state, others=counted(state.others, OF_STATE, "state")), *arguments)

    def decoding_state(chunks: Sequence[bytes]) -> PartitionState:
        state = decode_state(chunks)
        note("PartitionState", own=count_of(state.others, OF_STATE) is not None)
        return state

    replace(broadcast, "encode_batch", encoding_batch)
    replace(broadcast, "decode_broadcast", decoding_broadcast)
    replace(snapshot, "encode_room", encoding_room)
    replace(snapshot, "decode_room", decoding_room)
    replace(snapshot, "encode_state", encoding_state)
    replace(snapshot, "decode_state", decoding_state)


def run(module: str) -> None:
    """Run a service's module as the next build."""
    extend_json()
    extend_sections()
    if module == "broadcaster":
        extend_lines()
    if module == "edge":
        extend_frames()
    sys.argv[:] = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run(sys.argv[1])
