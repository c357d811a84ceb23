"""Records of `uplink`, public JSON that external programs write too, and of `dead-letter`. Pure.

A record that cannot be read raises `BadRecordError` with a reason from `BadRecord`, never any other
error. Documented in docs/records.md.
"""

import re
from typing import Annotated, Any, Final

import msgspec

from liveroom.kinds import Kind, Role
from liveroom.nesting import MAX_DEPTH, RECORD_LEVELS, UNDECODABLE, nests_deeper
from liveroom.records.codec import (
    ITEM_PATTERN,
    PACKAGE_PATTERN,
    ROOM_PATTERN,
    USER_PATTERN,
    BadRecord,
    BadRecordError,
    ItemId,
    JsonReader,
    JsonRecord,
    Millis,
    Name,
    PackageId,
    RoomId,
    encoder,
    named,
)
from liveroom.users import NO_DOTS, UserIdError, check_user_id

MAX_PACKAGE_ITEMS: Final = 64
MAX_UPLINK_BYTES: Final = 64 * 1024


class Item(msgspec.Struct, frozen=True, gc=False):
    """One interaction: its kind and its body, a JSON object that viewers get unchanged."""

    kind: Kind
    data: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": "object"})] = msgspec.field(
        default_factory=lambda: msgspec.Raw(b"{}")
    )


# `decode_uplink` matches all ids of a record at once, faster than a pattern for each field.
class Uplink(JsonRecord, frozen=True, omit_defaults=True, gc=False):
    """An accepted interaction, or a package of up to 64 that stay together and in order.

    - `v`: version of the record.
    - `room`, `user`: the room, and the user who sends.
    - `id`: identifies the interaction. A reliable interaction with the same room, user and id
      within 10 minutes is a duplicate and is dropped.
    - `at_ms`: when the interaction was accepted.
    - `items`: the interactions, one unless this is a package.
    - `name`, `role`, `level`: the sender's name, role and level, as viewers see them.
    - `package`: the sender's own name for a package.
    - `via`: the service that wrote the record.
    """

    v: Annotated[int, msgspec.Meta(extra_json_schema={"const": JsonRecord.VERSION})]
    room: Annotated[str, named(*ROOM_PATTERN)]
    id: Annotated[str, named(*ITEM_PATTERN)]
    user: Annotated[str, named(*USER_PATTERN)]
    at_ms: Millis
    items: Annotated[list[Item], msgspec.Meta(min_length=1, max_length=MAX_PACKAGE_ITEMS)]
    name: Name = ""
    role: Role = Role.VIEWER
    level: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    package: Annotated[str, named(*PACKAGE_PATTERN)] = ""
    via: str = ""


class _Ids(msgspec.Struct):
    """The ids of an `uplink` record with their patterns, to find out which one does not match."""

    room: RoomId
    id: ItemId
    user: str
    package: PackageId = ""


_uplink_reader: Final = JsonReader(Uplink)
_ids_decoder: Final = msgspec.json.Decoder(_Ids)
# All in one: 0.2 us, where a pattern for each costs 1.0 us. None of them matches a space.
_are_ids: Final = re.compile(
    " ".join((ROOM_PATTERN[0][1:-2], ITEM_PATTERN[0][1:-2], NO_DOTS + USER_PATTERN[0][1:-2], PACKAGE_PATTERN[0][1:])),
).match
_BRACE: Final = ord("{")
_BACKSLASH: Final = ord("\\")  # searching for one byte as a number takes a quarter of the time
_LINE_FEED: Final = ord("\n")
_CARRIAGE_RETURN: Final = ord("\r")


def encode_uplink(record: Uplink) -> bytes:
    """Return the value of an `uplink` record; its key is the room's id.

    Raises BadRecordError if it exceeds `MAX_UPLINK_BYTES`.
    """
    value = encoder.encode(record)
    if len(value) > MAX_UPLINK_BYTES:
        raise BadRecordError(BadRecord.TOO_LARGE, f"{len(value)} bytes, at most {MAX_UPLINK_BYTES}")
    return value


def decode_uplink(key: bytes | None, value: bytes | None) -> Uplink:
    """Return the `uplink` record that `key` and `value` encode.

    The bytes of external producers enter here. In the result ids match their patterns, bodies are
    JSON objects in UTF-8 without line breaks that nest at most `MAX_DEPTH` levels, and the key is
    the room. Raises BadRecordError for anything else.
    """
    if value is None:
        raise BadRecordError(BadRecord.UNDECODABLE, "no value")
    if len(value) > MAX_UPLINK_BYTES:
        raise BadRecordError(BadRecord.TOO_LARGE, f"{len(value)} bytes, at most {MAX_UPLINK_BYTES}")
    if nests_deeper(value, MAX_DEPTH + RECORD_LEVELS):
        raise BadRecordError(BadRecord.TOO_DEEP, f"data nests deeper than {MAX_DEPTH} levels")
    record = _uplink_reader.read(value)
    try:
        _check_text(value)
    except UNDECODABLE as error:
        raise BadRecordError(BadRecord.UNDECODABLE, str(error)) from None
    _check_fit(record, key, value)
    if _LINE_FEED in value or _CARRIAGE_RETURN in value:
        record = msgspec.structs.replace(record, items=[Item(i.kind, _one_line(i.data)) for i in record.items])
    return record


def _check_fit(record: Uplink, key: bytes | None, value: bytes) -> None:
    """Check what the reader does not: ids, key, and that bodies are objects."""
    if not _are_ids(f"{record.room} {record.id} {record.user} {record.package}"):
        raise _bad_ids(value)
    if key != record.room.encode():
        raise BadRecordError(BadRecord.WRONG_KEY, "the key is not the room's id")
    for item in record.items:
        if memoryview(item.data)[0] != _BRACE:
            raise BadRecordError(BadRecord.SCHEMA, "data is not an object")


def _bad_ids(value: bytes) -> BadRecordError:
    """Return an error that names the id that does not match its pattern."""
    try:
        ids = _ids_decoder.decode(value)
        check_user_id(ids.user, "$.user")
    except (msgspec.ValidationError, UserIdError) as error:
        return BadRecordError(BadRecord.SCHEMA, str(error))
    raise AssertionError(f"all match: {ids}")


def _check_text(value: bytes) -> None:
    """Check what the parser skips in a body (Raw): UTF-8, and lone surrogates.

    Viewers' parsers would refuse a message with either.
    """
    value.decode()
    if _BACKSLASH in value and (b"\\ud" in value or b"\\uD" in value):
        msgspec.json.decode(value)


def _one_line(data: msgspec.Raw) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.format(bytes(data), indent=-1))


SENT_AGAIN: Final = "sent_again"


class DeadLetter(JsonRecord, frozen=True):
    """An uplink record that could not be used, or the mark that it was sent again.

    - `topic`, `partition`, `offset`: where the record is.
    - `reason`, `detail`: why it cannot be used; `detail` is for people. The reason `sent_again` is
      that of a mark: an operator sent the record of that place again, with `liveroom dead-letters`.
    - `at_ms`: when it was put aside, or sent again.
    - `key`, `value`: its bytes in base64, at most 1 KiB and 64 KiB of them; empty in a mark.
    """

    topic: str
    partition: int
    offset: int
    reason: str
    detail: str
    at_ms: Millis
    key: bytes
    value: bytes


def schemas() -> dict[str, Any]:
    """Return the JSON Schema of the `uplink` record, the source of docs/schemas/uplink.json."""
    return msgspec.json.schema(Uplink)
