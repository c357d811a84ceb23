"""The parts that all records share: version, ids, JSON, and why a record is unusable. Pure.

Owns the rule of versions (`read_versions`): a reader reads the version of a format that it knows
and the one before. Each format has a version of its own, which only a change that old readers would
misread raises (docs/compatibility.md).
"""

from collections.abc import Callable, Mapping
from enum import Enum
from typing import Annotated, Any, ClassVar, Final, Generic, NamedTuple, TypeVar

import msgspec

from liveroom import users
from liveroom.nesting import UNDECODABLE

_MAX_DETAIL_CHARS: Final = 200  # a detail may quote what it refuses, and goes to logs and dead letters
_UNKNOWN_VALUE: Final = "Invalid enum value"  # how msgspec begins its message
R = TypeVar("R", bound="JsonRecord")


class BadRecord(Enum):
    """Why a record cannot be used; a metric label, a dead-letter header and a log field.

    UNKNOWN: its kind, mode or action is none that this version knows; a newer service wrote it.
    ID_REUSED: its id named another interaction of the same user in the same room shortly before.
    """

    UNDECODABLE = "undecodable"
    VERSION = "version"
    SCHEMA = "schema"
    UNKNOWN = "unknown"
    WRONG_KEY = "wrong_key"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    TOO_DEEP = "too_deep"
    WRONG_PARTITION = "wrong_partition"
    UNHANDLED = "unhandled"
    UNKNOWN_SECTION = "unknown_section"
    ID_REUSED = "id_reused"

    @property
    def is_foreign(self) -> bool:
        """Whether the record may be good, but another version wrote it.

        A reader then must not go on as if the record were not there.
        """
        return self in {BadRecord.VERSION, BadRecord.UNKNOWN_SECTION}


class BadRecordError(ValueError):
    """A record that cannot be read, with its `reason`."""

    def __init__(self, reason: BadRecord, detail: str) -> None:
        detail = detail[:_MAX_DETAIL_CHARS]
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class AnotherVersionError(BadRecordError):
    """Another version wrote a part of the log that this reader cannot go without.

    Whoever went on as if it were not there would lose or repeat what is in it.
    """


def refuse_foreign(error: Exception) -> None:
    """Raise AnotherVersionError where `error` says that another version wrote a record."""
    if isinstance(error, BadRecordError) and error.reason.is_foreign:
        raise AnotherVersionError(error.reason, error.detail) from None


def read_versions(known: int) -> range:
    """Return the versions of a format that are read by code that knows version `known`."""
    return range(max(1, known - 1), known + 1)


def check_version(version: int, known: int) -> None:
    """Raise BadRecordError unless `version` is among `read_versions(known)`."""
    read = read_versions(known)
    if version not in read:
        names = " and ".join(map(str, read))
        raise BadRecordError(BadRecord.VERSION, f"version {version}, this reader knows {names}")


ROOM_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}\Z", "a room"
USER_PATTERN: Final = users.PATTERN, "a user"
NO_USER_PATTERN: Final = rf"^({users.PATTERN[1:-2]})?\Z", "a user, or empty"
ITEM_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,64}\Z", "an interaction, unique per room and user"
GATEWAY_PATTERN: Final = r"^[A-Za-z0-9_.-]{1,64}\Z", "a gateway, by the name of its process"
PACKAGE_PATTERN: Final = r"^[A-Za-z0-9_.:-]{0,64}\Z", "a package, by the sender's own name for it"


def _matched(pattern: str, description: str) -> msgspec.Meta:
    return msgspec.Meta(pattern=pattern, description=description)


def named(pattern: str, description: str) -> msgspec.Meta:
    """Return metadata that only names a pattern, for the schema: another check enforces it."""
    return msgspec.Meta(extra_json_schema={"pattern": pattern}, description=description)


RoomId = Annotated[str, _matched(*ROOM_PATTERN)]
UserId = Annotated[str, _matched(*USER_PATTERN)]
NoUserOrId = Annotated[str, _matched(*NO_USER_PATTERN)]
ItemId = Annotated[str, _matched(*ITEM_PATTERN)]
GatewayId = Annotated[str, _matched(*GATEWAY_PATTERN)]  # tickets hold ten, and have a limit
PackageId = Annotated[str, _matched(*PACKAGE_PATTERN)]
Name = Annotated[str, msgspec.Meta(max_length=64, description="the sender's name as viewers see it")]
MAX_MILLIS: Final = 2**53
Millis = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLIS, description="milliseconds since 1970-01-01 UTC")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Generation = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # a gateway's, in tickets too


class Older(NamedTuple, Generic[R]):
    """How an older version of a record is read.

    - `of`: the struct that its JSON is decoded to.
    - `convert`: takes that struct and returns the record as it is now.
    """

    of: type[msgspec.Struct]
    convert: Callable[[Any], R]


class JsonRecord(msgspec.Struct, frozen=True):
    """A JSON record with its version, `v`.

    - `VERSION`: the version of this type that this code knows. Writers set `v` to it.
    - `OLDER`: how older versions are read, by version. A version that is read and not among them
      has today's fields.
    """

    VERSION: ClassVar[int] = 1
    OLDER: ClassVar[Mapping[int, Older[Any]]] = {}

    v: int


class _Version(msgspec.Struct):
    """The version of a record that does not fit its schema: another one may have other fields."""

    v: int


_version_decoder: Final = msgspec.json.Decoder(_Version)
encoder: Final = msgspec.json.Encoder()


def encode_json(record: JsonRecord) -> bytes:
    """Return the value of a record of any JSON topic."""
    return encoder.encode(record)


class JsonReader(Generic[R]):
    """Reads the records of one JSON topic: `JsonReader(LoadReport).read(value)`."""

    def __init__(self, of: type[R]) -> None:
        self._of = of
        self._decoder = msgspec.json.Decoder(of)

    def read(self, value: bytes | None) -> R:
        """Return the record, or raise BadRecordError.

        The caller must handle a tombstone (no value) first.
        """
        if value is None:
            raise BadRecordError(BadRecord.UNDECODABLE, "no value")
        try:
            record = self._decoder.decode(value)
        except UNDECODABLE as error:
            return self._read_older(value, self._version_of(value), _unusable(error))
        if record.v == self._of.VERSION:
            return record
        return self._read_older(value, record.v, record)

    def _version_of(self, value: bytes) -> int:
        try:
            return _version_decoder.decode(value).v
        except UNDECODABLE:
            return self._of.VERSION

    def _read_older(self, value: bytes, version: int, today: R | BadRecordError) -> R:
        """Return the record in `value`, which does not have today's version or does not fit it.

        `today`: what reading it as today's version gave. Raises BadRecordError.
        """
        check_version(version, self._of.VERSION)
        if (older := self._of.OLDER.get(version)) is not None:
            try:
                record: R = older.convert(msgspec.json.decode(value, type=older.of))
            except UNDECODABLE as error:
                raise _unusable(error) from None
            return record
        if isinstance(today, BadRecordError):
            raise today
        return today


def _unusable(error: Exception) -> BadRecordError:
    """Return the error for JSON that cannot be decoded, or does not fit its schema."""
    detail = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return BadRecordError(BadRecord.UNDECODABLE, detail)
    return BadRecordError(BadRecord.UNKNOWN if detail.startswith(_UNKNOWN_VALUE) else BadRecord.SCHEMA, detail)
