"""What a record of `dead-letter` says, as a line for people or as JSON, and which ones are wanted.
Pure.

Anybody may have written the record that a letter holds, and the topic itself may hold anything, so
nothing here is trusted: what cannot be read is shown as such. Owns whether a record can be sent
again: this version reads it as a broadcaster does.
"""

import json
from typing import Any, Final, NamedTuple

import msgspec

from broadcaster.items import BadBodyError, read_items
from cli.printable import json_line, printable, printable_user, text_in
from cli.times import shown_time
from liveroom.dead_letter_reasons import DEAD_LETTER_REASONS
from liveroom.kafka_port import Record
from liveroom.nesting import UNDECODABLE, nests_deeper
from liveroom.records.codec import BadRecord, BadRecordError, JsonReader
from liveroom.records.uplink import MAX_UPLINK_BYTES, SENT_AGAIN, DeadLetter, Uplink, decode_uplink

MAX_LEVELS: Final = 100  # of JSON that is shown as JSON; readers of it have limits too
_MOST_CHARS: Final = 200  # of a name that somebody wrote
_MISSING: Final = "-"
UNREADABLE: Final = "unreadable"  # the code of what is no letter
_read_letter: Final = JsonReader(DeadLetter).read


class Place(NamedTuple):
    """Where a record of `uplink` is. It names its letter too, of which there may be two."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{printable(self.topic[:_MOST_CHARS])}-{self.partition}@{self.offset}"


class Contents(NamedTuple):
    """What a record of `uplink` says, as far as it can be read; empty where it cannot."""

    room: str
    user: str
    id: str
    kinds: tuple[str, ...]


class Letter(NamedTuple):
    """A letter and where it lies in `dead-letter`. `at_ms`: when it was written, by Kafka's clock.

    `note` is None where the record is no letter; then `value` is what it is, and `why_not` why it
    cannot be read.
    """

    partition: int
    offset: int
    at_ms: int
    note: DeadLetter | None
    value: bytes
    contents: Contents
    why_not: str = ""

    @property
    def place(self) -> Place:
        """Where the record of `uplink` is; for what is no letter, where that is itself."""
        note = self.note
        if note is None:
            return Place("dead-letter", self.partition, self.offset)
        return Place(note.topic, note.partition, note.offset)

    @property
    def code(self) -> str:
        """The reason's code."""
        return self.note.reason if self.note is not None else UNREADABLE

    @property
    def is_mark(self) -> bool:
        """Whether it only says that the record at `place` was sent again."""
        return self.note is not None and self.note.reason == SENT_AGAIN


class Wanted(NamedTuple):
    """Which letters are wanted; an empty filter lets all pass. `partition`: of `uplink`."""

    codes: frozenset[str] = frozenset()
    rooms: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()
    partition: int | None = None

    def takes(self, letter: Letter) -> bool:
        """Return whether a letter is wanted."""
        contents = letter.contents
        return (
            (not self.codes or letter.code in self.codes)
            and (not self.rooms or contents.room in self.rooms)
            and (not self.kinds or not self.kinds.isdisjoint(contents.kinds))
            and (not self.users or contents.user in self.users)
            and (self.partition is None or letter.place.partition == self.partition)
        )


def read(record: Record) -> Letter:
    """Return the letter in a record of `dead-letter`, whatever that holds."""
    value = record.value or b""
    try:
        note = _read_letter(record.value)
    except BadRecordError as error:
        nothing = Contents("", "", "", ())
        return Letter(record.partition, record.offset, record.timestamp, None, value, nothing, str(error))
    return Letter(record.partition, record.offset, record.timestamp, note, note.value, contents_of(note.key, note.value))


def contents_of(key: bytes, value: bytes) -> Contents:
    """Return what a record of `uplink` says, as far as it can be read; the key is a room too."""
    body = _body(value)
    items = body.get("items")
    kinds = [text_in(item, "kind") for item in items if isinstance(item, dict)] if isinstance(items, list) else []
    room = text_in(body, "room") or key.decode(errors="replace")
    return Contents(room, text_in(body, "user"), text_in(body, "id"), tuple(dict.fromkeys(filter(None, kinds))))


def _body(value: bytes) -> dict[str, Any]:
    """Return a JSON object, an empty one where `value` is none; its numbers are not looked at."""
    try:
        body = {} if nests_deeper(value, MAX_LEVELS) else json.loads(value, parse_int=float)
    except ValueError:
        body = {}
    return body if isinstance(body, dict) else {}


def checked(value: bytes) -> Uplink:
    """Return the record as a broadcaster of this version would take it, under its room's key.

    Raises BadRecordError or BadBodyError where it would become a dead letter.
    """
    room = contents_of(b"", value).room
    record = decode_uplink(room.encode(errors="replace"), value)
    read_items(record.items)
    return record


def why_not_again(letter: Letter) -> str:
    """Return why the record of a letter cannot be sent again as it is; empty: it can."""
    if letter.note is None:
        return "this is no dead letter"
    if letter.code == BadRecord.ID_REUSED.value:
        return "another record with its id stands already; give it an id of its own"
    try:
        checked(letter.value)
    except (BadRecordError, BadBodyError) as error:
        return str(error)
    return ""


def reason_of(letter: Letter) -> tuple[str, str]:
    """Return what is wrong with a record, and what to do about it, in words.

    The second one is empty for what is no letter. Both are where a later version wrote it.
    """
    try:
        reason = DEAD_LETTER_REASONS[BadRecord(letter.code)]
    except (ValueError, KeyError):
        return letter.why_not, ""
    return reason.meaning, reason.remedy


def line_of(letter: Letter, *, is_sent_again: bool = False) -> str:
    """Return a letter as a line for people. What others wrote moves no cursor and turns nothing."""
    room, user, id_, kinds = letter.contents
    cells = [
        shown_time(letter.at_ms),
        str(letter.place),
        _cell(letter.code),
        _cell(room),
        _cell(", ".join(kinds)),
        printable_user(user[:_MOST_CHARS]) if user else _MISSING,
        _cell(id_),
        f"{len(letter.value):,} bytes",
        printable(reason_of(letter)[0]),
    ]
    detail = letter.note.detail if letter.note is not None else ""
    line = "  ".join(cells) + (f" ({printable(detail)})" if detail else "")
    return f"{line}  -- sent again" if is_sent_again else line


def _cell(text: str) -> str:
    if not text:
        return _MISSING
    return printable(text if len(text) <= _MOST_CHARS else f"{text[: _MOST_CHARS - 1]}…")


def json_of(letter: Letter, encoding: str, *, is_sent_again: bool) -> str:
    """Return a letter as a line of JSON, with the record as JSON where it is some, else as bytes.

    `encoding`: that of the output.
    """
    room, user, id_, kinds = letter.contents
    place, note, why_not = letter.place, letter.note, why_not_again(letter)
    meaning, remedy = reason_of(letter)
    shown: dict[str, Any] = {
        "at_ms": letter.at_ms,
        "topic": place.topic,
        "partition": place.partition,
        "offset": place.offset,
        "letter": {"partition": letter.partition, "offset": letter.offset},
        "code": letter.code,
        "meaning": meaning,
        "remedy": remedy,
        "detail": note.detail if note is not None else letter.why_not,
        "room": room,
        "kinds": kinds,
        "user": user,
        "id": id_,
        "size_bytes": len(letter.value),
        "key": note.key.decode(errors="replace") if note is not None else "",
        "is_sent_again": is_sent_again,
        "why_not_again": why_not,
    }
    record = _as_json(letter.value)
    shown |= {"record": record} if record is not None else {"value_base64": letter.value}
    return json_line(msgspec.json.encode(shown).decode(errors="replace"), encoding)


def _as_json(value: bytes) -> msgspec.Raw | None:
    """Return JSON in one line and otherwise as it is; None where it is none."""
    if len(value) > MAX_UPLINK_BYTES or nests_deeper(value, MAX_LEVELS):
        return None
    try:
        value.decode()
        msgspec.json.decode(value)
        return msgspec.Raw(msgspec.json.format(value, indent=-1))
    except UNDECODABLE:
        return None
