"""The parts that all records share: version, ids, JSON, and why a record is unusable. Pure."""

from enum import Enum
from typing import Annotated, Final, Generic, TypeVar

import msgspec

from liveroom import users
from liveroom.nesting import UNDECODABLE

VERSION: Final = 1
_MAX_DETAIL_CHARS: Final = 200  # a detail may quote what it refuses, and goes to logs and dead letters
R = TypeVar("R", bound=msgspec.Struct)


class BadRecord(Enum):
    """Why a record cannot be used; a metric label, a dead-letter header and a log field."""

    UNDECODABLE = "undecodable"
    VERSION = "version"
    SCHEMA = "schema"
    WRONG_KEY = "wrong_key"
    TOO_LARGE = "too_large"
    TRUNCATED = "truncated"
    TOO_DEEP = "too_deep"
    WRONG_PARTITION = "wrong_partition"
    UNHANDLED = "unhandled"
    UNKNOWN_SECTION = "unknown_section"

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


ROOM_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}\Z", "a room"
USER_PATTERN: Final = users.PATTERN, "a user"
NO_USER_PATTERN: Final = rf"^({users.PATTERN[1:-2]})?\Z", "a user, or empty"
ITEM_PATTERN: Final = r"^[A-Za-z0-9_.:-]{1,64}\Z", "an interaction, unique per room and user"
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
PackageId = Annotated[str, _matched(*PACKAGE_PATTERN)]
Name = Annotated[str, msgspec.Meta(max_length=64, description="the sender's name as viewers see it")]
MAX_MILLIS: Final = 2**53
Millis = Annotated[int, msgspec.Meta(ge=0, le=MAX_MILLIS, description="milliseconds since 1970-01-01 UTC")]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Generation = Annotated[int, msgspec.Meta(ge=0, le=2**53)]  # a gateway's, in tickets too


class _Version(msgspec.Struct):
    """The version of a record that does not fit its schema: a later one may have other fields."""

    v: int = VERSION


_version_decoder: Final = msgspec.json.Decoder(_Version)
encoder: Final = msgspec.json.Encoder()


def misfit(value: bytes, error: msgspec.ValidationError) -> BadRecordError:
    """Return the error for JSON that does not fit: another version, or not our schema."""
    try:
        version = _version_decoder.decode(value).v
    except UNDECODABLE:
        version = VERSION
    return BadRecordError(BadRecord.SCHEMA, str(error)) if version == VERSION else foreign_version(version)


def foreign_version(version: int) -> BadRecordError:
    """Return the error for a version that this reader does not know."""
    return BadRecordError(BadRecord.VERSION, f"version {version}, this reader knows {VERSION}")


def encode_json(record: msgspec.Struct) -> bytes:
    """Return the value of a record of any JSON topic."""
    return encoder.encode(record)


class JsonReader(Generic[R]):
    """Reads the records of one JSON topic: `JsonReader(LoadReport).read(value)`."""

    def __init__(self, of: type[R]) -> None:
        self._decoder = msgspec.json.Decoder(of)

    def read(self, value: bytes | None) -> R:
        """Return the record, or raise BadRecordError.

        The caller must handle a tombstone (no value) first.
        """
        if value is None:
            raise BadRecordError(BadRecord.UNDECODABLE, "no value")
        try:
            record = self._decoder.decode(value)
        except msgspec.ValidationError as error:
            raise misfit(value, error) from None
        except UNDECODABLE as error:
            raise BadRecordError(BadRecord.UNDECODABLE, str(error)) from None
        if (version := getattr(record, "v", VERSION)) != VERSION:
            raise foreign_version(version)
        return record
