"""Kafka records: every one can be written and read, and whatever lies in the log is either read or
refused with a reason.
"""

import base64
import contextlib
import json
import string
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from liveroom.fencing import NOBODY, Ruling, validate
from liveroom.kinds import Kind, RecordType, Role
from liveroom.records import broadcast, control, snapshot, uplink
from liveroom.records.balance import Balance
from liveroom.records.broadcast import (
    Anchor,
    Batch,
    CardEntry,
    Claim,
    NoticeEntry,
    RoomEntry,
    RoomFlags,
    SnapshotChunk,
    Stamp,
    decode_broadcast,
)
from liveroom.records.codec import BadRecord, BadRecordError, JsonReader, JsonRecord
from liveroom.records.sections import Section, SectionType, encode_sections
from liveroom.records.snapshot import RoomSettings, Seen, Tombstone, decode_state, encode_state
from liveroom.records.uplink import Item, decode_uplink, encode_uplink
from liveroom.users import MAX_USER_ID_CHARS
from liveroom.wire import Notice, encode_frame
from tests.liveroom import golden
from tests.liveroom.golden import ANCHOR, OWNER

U8, U32, U64 = st.integers(0, 2**8 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
OWNERS = st.binary(min_size=16, max_size=16)
PERHAPS = st.none() | I64.filter(lambda offset: offset != -1)
ANCHORS = st.builds(Anchor, PERHAPS, I64, PERHAPS)
TEXTS = st.text(max_size=20)
MILLIS = st.integers(0, 2**53)
ROOMS = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=64)
IDS = st.text(string.ascii_letters + string.digits + "_.:-", min_size=1, max_size=64)
USERS = st.from_regex(r"~?[A-Za-z0-9_.:@-]{1,191}", fullmatch=True).filter(lambda user: user not in {".", ".."})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
BODIES = st.dictionaries(TEXTS, VALUES, max_size=4)
ITEMS = st.builds(Item, st.sampled_from(Kind), BODIES.map(lambda body: msgspec.Raw(msgspec.json.encode(body))))
UPLINKS = st.builds(
    uplink.Uplink,
    v=st.just(1),
    room=ROOMS,
    id=IDS,
    user=USERS,
    at_ms=MILLIS,
    items=st.lists(ITEMS, min_size=1, max_size=4),
    name=TEXTS,
    role=st.sampled_from(Role),
    level=U8,
    package=st.from_regex(r"[A-Za-z0-9_.:-]{0,64}", fullmatch=True),
    via=TEXTS,
)


def value_of(data: str = "{}", more: str = "", **changed: Any) -> bytes:
    """An uplink record as a foreign producer may write it: fields as Python values, the body as
    text.
    """
    fields = {"v": 1, "room": "r", "id": "i", "user": "u", "at_ms": 1} | changed
    head = json.dumps(fields)[1:-1]
    return f'{{{head},"items":[{{"kind":"danmaku","data":{data}}}]{more}}}'.encode()


def reason_of(decode: Callable[[], object]) -> BadRecord:
    with pytest.raises(BadRecordError) as caught:
        decode()
    return caught.value.reason


# ---- uplink
@given(UPLINKS)
def test_an_uplink_record_comes_back_as_it_was(record: uplink.Uplink) -> None:
    assert decode_uplink(record.room.encode(), encode_uplink(record)) == record


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(None, BadRecord.UNDECODABLE, id="no value"),
        pytest.param(b"", BadRecord.UNDECODABLE, id="empty"),
        pytest.param(b"null", BadRecord.SCHEMA, id="null"),
        pytest.param(b"\xef\xbb\xbf" + value_of(), BadRecord.UNDECODABLE, id="byte order mark"),
        pytest.param(value_of() + b"{}", BadRecord.UNDECODABLE, id="two values"),
        pytest.param(value_of('{"a":NaN}'), BadRecord.UNDECODABLE, id="NaN in a body"),
        pytest.param(value_of('{"a":Infinity}'), BadRecord.UNDECODABLE, id="Infinity in a body"),
        pytest.param(value_of('{"a":"\\ud800"}'), BadRecord.UNDECODABLE, id="lone high surrogate in a body"),
        pytest.param(value_of('{"a":"\\uDC00"}'), BadRecord.UNDECODABLE, id="lone low surrogate in a body"),
        pytest.param(value_of('{"\\ud800x":1}'), BadRecord.UNDECODABLE, id="lone surrogate in a body's key"),
        pytest.param(value_of(name="\ud800"), BadRecord.UNDECODABLE, id="lone surrogate in a field"),
        pytest.param(value_of('{"a":"?"}').replace(b"?", b"\xff"), BadRecord.UNDECODABLE, id="invalid UTF-8 in a body"),
        pytest.param(value_of('{"a":"?"}').replace(b"?", b"\xed\xa0\x80"), BadRecord.UNDECODABLE, id="surrogate as UTF-8"),
        pytest.param(value_of('{"a":"\n"}'), BadRecord.UNDECODABLE, id="line break in a text"),
        pytest.param(value_of('{"a":' + "[" * 5000 + "]" * 5000 + "}"), BadRecord.TOO_DEEP, id="deep body"),
        pytest.param(value_of('{"a":' + "[" * 32 + "]" * 32 + "}"), BadRecord.TOO_DEEP, id="a body of 33 levels"),
        pytest.param(value_of(more=',"x":' + "[" * 5000 + "]" * 5000), BadRecord.TOO_DEEP, id="deep unknown field"),
        pytest.param(value_of('{"a":"' + "x" * 65_536 + '"}'), BadRecord.TOO_LARGE, id="over 64 KiB"),
        pytest.param(value_of(v=2), BadRecord.VERSION, id="version 2"),
        pytest.param(b'{"v":2,"rooms":["r"]}', BadRecord.VERSION, id="version 2 with other fields"),
        pytest.param(value_of(v=0), BadRecord.VERSION, id="version 0"),
        pytest.param(value_of().replace(b'"v": 1', b'"v":' + b"9" * 4000), BadRecord.VERSION, id="version of 4,000 digits"),
        pytest.param(value_of(v="1"), BadRecord.SCHEMA, id="version as text"),
        pytest.param(value_of(room="s"), BadRecord.WRONG_KEY, id="key of another room"),
        pytest.param(value_of(room=""), BadRecord.SCHEMA, id="empty room"),
        pytest.param(value_of(room="r\n"), BadRecord.SCHEMA, id="room with a line break behind it"),
        pytest.param(value_of(id="a b"), BadRecord.SCHEMA, id="id with a space"),
        pytest.param(value_of(user="u" * 192), BadRecord.SCHEMA, id="user of 192 without a tilde"),
        pytest.param(value_of(name="n" * 65), BadRecord.SCHEMA, id="name of 65"),
        pytest.param(value_of(level=256), BadRecord.SCHEMA, id="level 256"),
        pytest.param(value_of(role="king"), BadRecord.UNKNOWN, id="unknown role"),
        pytest.param(value_of(at_ms=-1), BadRecord.SCHEMA, id="before 1970"),
        pytest.param(value_of(at_ms=2**53 + 1), BadRecord.SCHEMA, id="beyond what JavaScript counts"),
        pytest.param(value_of("[]"), BadRecord.SCHEMA, id="body is a list"),
        pytest.param(value_of("null"), BadRecord.SCHEMA, id="body is null"),
        pytest.param(value_of(more=',"items":[]'), BadRecord.SCHEMA, id="no items"),
        pytest.param(
            value_of(more=',"items":[' + '{"kind":"like"},' * 64 + '{"kind":"like"}]'), BadRecord.SCHEMA, id="65 items"
        ),
        pytest.param(value_of(more=',"items":[{"kind":"shout"}]'), BadRecord.UNKNOWN, id="unknown kind"),
    ],
)
def test_an_unusable_uplink_record_is_refused_with_its_reason(value: bytes | None, reason: BadRecord) -> None:
    assert reason_of(lambda: decode_uplink(b"r", value)) is reason


@pytest.mark.parametrize("key", [None, b"", b"R", b"r "])
def test_an_uplink_record_with_another_key_is_refused(key: bytes | None) -> None:
    assert reason_of(lambda: decode_uplink(key, value_of())) is BadRecord.WRONG_KEY


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value_of(more=',"mood":{"a":[1,null]}'), id="unknown field"),
        pytest.param(value_of().replace(b'"kind"', b'"lang":"de","kind"'), id="unknown field of an item"),
        pytest.param(value_of(more=',"items":[' + ",".join(['{"kind":"like"}'] * 64) + "]"), id="64 items"),
        pytest.param(value_of('{"a":"\\ud83d\\ude00"}'), id="surrogate pair"),
        pytest.param(value_of('{"a":"\\\\ud800"}'), id="a backslash and the text ud800"),
        pytest.param(value_of("{" + '"a":1,' * 100 + '"a":2}'), id="doubled key"),
    ],
)
def test_what_a_later_or_unusual_producer_writes_is_taken(value: bytes) -> None:
    assert decode_uplink(b"r", value).room == "r"


@given(BODIES)
def test_a_body_over_several_lines_becomes_one_line_of_the_same_meaning(body: dict[str, Any]) -> None:
    record = decode_uplink(b"r", value_of(json.dumps(body, indent=2).replace("\n", "\r\n")))
    data = bytes(record.items[0].data)
    assert b"\n" not in data
    assert b"\r" not in data
    assert json.loads(data) == body


def test_a_body_starts_at_its_brace_whatever_space_was_before() -> None:
    assert bytes(decode_uplink(b"r", value_of(' \t{"a": 1} ')).items[0].data) == b'{"a": 1}'


def test_a_refusal_quotes_no_more_than_a_line_of_what_it_refused() -> None:
    with pytest.raises(BadRecordError) as caught:
        decode_uplink(b"r", value_of(role="x" * 60_000))
    assert len(caught.value.detail) == 200
    assert len(str(caught.value)) < 220


def test_an_uplink_record_over_64_kib_is_not_written() -> None:
    body = msgspec.Raw(b'{"text":"' + b"x" * 65_536 + b'"}')
    assert reason_of(lambda: encode_uplink(golden.uplink(items=[Item(Kind.DANMAKU, body)]))) is BadRecord.TOO_LARGE


# ---- anything in the log
READERS = [
    pytest.param(golden.ALL[1].value, lambda value: decode_uplink(b"room-1", value), id="uplink"),
    *(pytest.param(sample.value, decode_broadcast, id=sample.file) for sample in golden.ALL if sample.read is decode_broadcast),
    pytest.param(b"".join(encode_state(golden.state())), lambda value: decode_state([value]), id="state"),
    *(
        pytest.param(sample.value, sample.read, id=sample.file)
        for sample in golden.ALL
        if sample.file.endswith(".json") and "uplink" not in sample.file
    ),
]
ANYTHING = [pytest.param(case.values[1], id=str(case.id)) for case in READERS]
Read = Callable[[bytes], Any]


def use(record: object) -> None:
    """Do with a record what its readers do: it must stay inside its bytes."""
    if isinstance(record, Batch):
        rooms, notices, cards = list(record.rooms()), list(record.notices()), list(record.cards())
        assert all(len(payload) == entry.size for entry, payload in rooms)
        assert all(len(text) == entry.size for entry, text in cards)
        assert sum(len(payload) for _, payload in rooms) == len(record.body)
        assert sum(len(notice.text) for notice in notices) == len(record.notice_texts)
        assert sum(len(text) for _, text in cards) == len(record.card_texts)
        for counts in ("balance", "allowances"):  # they are decoded when an owner asks for them
            with contextlib.suppress(BadRecordError):
                getattr(record, counts)


@pytest.mark.parametrize(("value", "read"), READERS)
def test_a_record_cut_anywhere_is_refused(value: bytes, read: Read) -> None:
    for size in range(len(value)):
        with pytest.raises(BadRecordError):
            read(value[:size])


@pytest.mark.parametrize(("value", "read"), READERS)
def test_a_record_with_any_bit_turned_is_read_or_refused_and_nothing_else(value: bytes, read: Read) -> None:
    for place in range(len(value)):
        for bit in range(8):
            turned = bytearray(value)
            turned[place] ^= 1 << bit
            try:
                use(read(bytes(turned)))
            except BadRecordError:
                continue


@pytest.mark.parametrize("read", ANYTHING)
@given(junk=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_nothing_else(read: Read, junk: bytes) -> None:
    with contextlib.suppress(BadRecordError):
        use(read(junk))


@pytest.mark.parametrize("kind", list(RecordType))
@given(junk=st.binary(max_size=300))
def test_any_bytes_behind_a_broadcast_head_are_read_or_refused_and_nothing_else(kind: RecordType, junk: bytes) -> None:
    with contextlib.suppress(BadRecordError):
        use(decode_broadcast(broadcast._STAMP.pack(b"LR", 1, kind, 1, OWNER, 1) + junk))


@given(st.recursive(VALUES, lambda inner: st.lists(inner, max_size=20), max_leaves=30))
def test_any_packed_value_is_no_state_or_a_state(value: object) -> None:
    with contextlib.suppress(BadRecordError):
        decode_state([state_of(msgspec.msgpack.encode(value), msgspec.msgpack.encode(value))])


# ---- broadcast
@given(U64, OWNERS, U64, I64, st.text(max_size=64))
def test_a_claim_comes_back_as_it_was(epoch: int, owner: bytes, serial: int, at_ms: int, instance: str) -> None:
    claim = Claim(epoch, owner, at_ms, instance, serial)
    value = broadcast.encode_claim(claim)
    assert decode_broadcast(value) == claim
    assert broadcast.decode_stamp(value) == Stamp(RecordType.CLAIM, epoch, owner, serial)


PAYLOADS = st.binary(max_size=60)
ROOM_PARTS = st.builds(
    lambda fields, payload: (RoomEntry._make((*fields[:6], len(payload), *fields[6:])), payload),
    st.tuples(U64, U64, U64, U64, U32, U32, U32, U32, st.integers(0, 7)),
    PAYLOADS,
)
NOTICE_PARTS = st.builds(lambda room, user, text: (NoticeEntry(room, user, len(text)), text), U64, U64, PAYLOADS)
CARD_PARTS = st.builds(lambda room, text: (CardEntry(room, len(text)), text), U64, PAYLOADS)


@given(
    st.tuples(U64, OWNERS, U64, ANCHORS, I64, I64, I64),
    st.lists(ROOM_PARTS, max_size=5),
    st.lists(NOTICE_PARTS, max_size=3),
    st.lists(CARD_PARTS, max_size=3),
)
def test_a_batch_comes_back_as_it_was(
    head: tuple[int, bytes, int, Anchor, int, int, int],
    rooms: list[tuple[RoomEntry, bytes]],
    notices: list[tuple[NoticeEntry, bytes]],
    cards: list[tuple[CardEntry, bytes]],
) -> None:
    epoch, owner, serial, anchor, pos, at_ms, oldest_ms = head
    value = broadcast.encode_batch(broadcast.BatchParts(*head, rooms, notices, cards))
    batch = decode_broadcast(value)
    assert isinstance(batch, Batch)
    assert batch[:5] == (Stamp(RecordType.BATCH, epoch, owner, serial), anchor, pos, at_ms, oldest_ms)
    assert [(entry, bytes(payload)) for entry, payload in batch.rooms()] == rooms
    assert list(batch.notices()) == [(entry.room, entry.user, text) for entry, text in notices]
    assert list(batch.cards()) == cards
    assert broadcast.decode_anchor(value) == anchor


@pytest.mark.parametrize(
    ("size", "body"),
    [
        pytest.param(5, b"four", id="names more than there is"),
        pytest.param(3, b"four", id="names less than there is"),
        pytest.param(2**32 - 1, b"four", id="names 4 GiB"),
    ],
)
def test_a_batch_whose_directory_does_not_fit_its_body_is_refused(size: int, body: bytes) -> None:
    room = RoomEntry(1, 1, 1, 0, 1, 0, size, 0, 1, RoomFlags(0))
    for parts in (
        {"rooms": [(room, body)]},
        {"rooms": [], "notices": [(NoticeEntry(1, 1, size), body)]},
        {"rooms": [], "cards": [(CardEntry(1, size), body)]},
    ):
        value = broadcast.encode_batch(broadcast.BatchParts(1, OWNER, 1, ANCHOR, 0, 0, 0, **parts))
        assert reason_of(partial(decode_broadcast, value)) is BadRecord.TRUNCATED


@given(U64, OWNERS, ANCHORS, I64, st.tuples(U64, U32, U32), st.binary(max_size=100))
def test_a_snapshot_chunk_comes_back_as_it_was(
    epoch: int, owner: bytes, anchor: Anchor, at_ms: int, place: tuple[int, int, int], data: bytes
) -> None:
    chunk = SnapshotChunk(Stamp(RecordType.SNAPSHOT, epoch, owner), anchor, at_ms, *place, data)
    assert decode_broadcast(broadcast.encode_snapshot_chunk(chunk)) == chunk


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(None, BadRecord.UNDECODABLE, id="no value"),
        pytest.param(b"", BadRecord.TRUNCATED, id="empty"),
        pytest.param(b"XX" + golden.batch()[2:], BadRecord.UNDECODABLE, id="foreign"),
        pytest.param(b"LR\x02" + golden.batch()[3:], BadRecord.VERSION, id="version 2"),
        pytest.param(b"LR\x01\x09" + golden.batch()[4:], BadRecord.UNDECODABLE, id="unknown type"),
        pytest.param(golden.batch() + b"x", BadRecord.TRUNCATED, id="a byte more"),
        pytest.param(broadcast.encode_claim(golden.CLAIM)[:-1] + b"\xff", BadRecord.TRUNCATED, id="claim not in UTF-8"),
    ],
)
def test_an_unusable_broadcast_record_is_refused_with_its_reason(value: bytes | None, reason: BadRecord) -> None:
    assert reason_of(lambda: decode_broadcast(value)) is reason


# ---- a partition's state
COUNTS = st.integers(0, 2**63 - 1)
OTHERS = st.lists(st.builds(Section, st.integers(0x100, 0x3FFF), st.binary(min_size=1, max_size=9)), max_size=2).map(tuple)
ROOM_STATES = st.builds(
    snapshot.RoomState,
    room=ROOMS,
    epoch=COUNTS,
    seq=COUNTS,
    rseq=COUNTS,
    settings=st.builds(RoomSettings, slow_s=st.floats(0, 1e6), allow=st.lists(TEXTS, max_size=2)),
    announcement=st.binary(max_size=20),
    tombstones=st.lists(st.builds(Tombstone, COUNTS, COUNTS, st.lists(TEXTS, max_size=2), TEXTS), max_size=2),
    seen=st.lists(st.builds(Seen, TEXTS, TEXTS, MILLIS), max_size=3),
    recent=st.lists(st.binary(max_size=20), max_size=3),
    recent_reliable=st.lists(st.binary(max_size=20), max_size=3),
    last_ms=MILLIS,
    others=OTHERS,
)
EPOCHS = st.integers(0, 2**32 - 1)
STATES = st.builds(
    snapshot.PartitionState,
    balance=st.builds(Balance, COUNTS, COUNTS, others=st.dictionaries(st.integers(100, 200), COUNTS, max_size=2)),
    clock_ms=MILLIS,
    rooms=st.lists(
        st.builds(snapshot.StoredRoom, ROOMS, MILLIS, st.binary(max_size=50), EPOCHS, st.booleans()),
        max_size=3,
    ),
    others=OTHERS,
    epoch_floor=EPOCHS,
)


@given(ROOM_STATES)
def test_a_room_packed_for_a_snapshot_comes_back_as_it_was(state: snapshot.RoomState) -> None:
    stored = snapshot.encode_room(state)
    assert (stored.room, stored.last_ms) == (state.room, state.last_ms)
    assert snapshot.decode_room(stored) == state


@given(STATES, st.integers(1, 300))
def test_a_state_cut_into_chunks_of_any_size_comes_back_as_it_was(state: snapshot.PartitionState, chunk_bytes: int) -> None:
    chunks = encode_state(state, chunk_bytes)
    assert chunks
    assert all(0 < len(chunk) <= chunk_bytes for chunk in chunks)
    assert decode_state(chunks) == state


def state_of(
    rooms: bytes = b"\x90",
    balance: bytes = b"\x80",
    clock: bytes = bytes(8),
    more: Sequence[tuple[int, bytes]] = (),
) -> bytes:
    """The bytes of a state with these sections."""
    known = (SectionType.BALANCE, balance), (SectionType.CLOCK, clock), (SectionType.STORED_ROOMS, rooms)
    return encode_sections([*known, *more])


@pytest.mark.parametrize(
    ("chunks", "reason"),
    [
        pytest.param([], BadRecord.TRUNCATED, id="no chunk"),
        pytest.param([b"junk"], BadRecord.TRUNCATED, id="junk"),
        pytest.param([state_of(b"junk")], BadRecord.UNDECODABLE, id="not msgpack"),
        pytest.param([state_of(b"\x91" * 100_000)], BadRecord.UNDECODABLE, id="deep"),
        pytest.param([state_of(clock=b"\0")], BadRecord.TRUNCATED, id="a clock of one byte"),
        pytest.param([state_of(balance=b"junk")], BadRecord.UNDECODABLE, id="a balance that is none"),
        pytest.param([state_of(balance=b"\x81\x00\xff")], BadRecord.UNDECODABLE, id="a count below 0"),
        pytest.param(
            [encode_state(golden.state())[0].replace(b"room-1", b"room-\xff")], BadRecord.UNDECODABLE, id="room not in UTF-8"
        ),
        pytest.param([state_of(more=[(0x8100, b"x")])], BadRecord.UNKNOWN_SECTION, id="a section that must be understood"),
        pytest.param([state_of(more=[(0xC100, b"x")])], BadRecord.UNKNOWN_SECTION, id="one that owners must understand"),
        pytest.param(encode_state(golden.state(), 50)[:-1], BadRecord.TRUNCATED, id="last chunk missing"),
        pytest.param([*encode_state(golden.state()), b"x"], BadRecord.TRUNCATED, id="a chunk too many"),
    ],
)
def test_an_unusable_state_is_refused_with_its_reason(chunks: list[bytes], reason: BadRecord) -> None:
    assert reason_of(lambda: decode_state(chunks)) is reason


def room_of(*sections: tuple[int, bytes]) -> bytes:
    """A room as it is stored, with these sections."""
    return zlib.compress(encode_sections(sections))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"junk", BadRecord.UNDECODABLE, id="not zlib"),
        pytest.param(zlib.compress(b"junk"), BadRecord.TRUNCATED, id="no sections"),
        pytest.param(
            zlib.compress(encode_sections([(SectionType.ROOM_STATE, b"junk")])), BadRecord.UNDECODABLE, id="not msgpack"
        ),
        pytest.param(room_of(), BadRecord.UNDECODABLE, id="without its state"),
        pytest.param(room_of((0x8100, b"x")), BadRecord.UNKNOWN_SECTION, id="must be understood"),
        pytest.param(snapshot.encode_room(golden.room()).data[:-1], BadRecord.TRUNCATED, id="cut"),
        pytest.param(snapshot.encode_room(golden.room()).data + b"x", BadRecord.TRUNCATED, id="a byte more"),
    ],
)
def test_an_unusable_room_of_a_snapshot_is_refused_with_its_reason(data: bytes, reason: BadRecord) -> None:
    assert reason_of(lambda: snapshot.decode_room(snapshot.StoredRoom("r", 0, data))) is reason


def test_a_small_room_that_unpacks_to_gigabytes_is_refused_without_unpacking_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_ROOM_BYTES", 1024 * 1024)
    bomb = snapshot.StoredRoom("r", 0, zlib.compress(b"\xc6" + bytes(16 * 1024 * 1024), 9))
    assert reason_of(lambda: snapshot.decode_room(bomb)) is BadRecord.TRUNCATED


def test_ten_minutes_of_the_longest_ids_in_the_busiest_room_fit_into_a_snapshot() -> None:
    longest = Seen("~" + "u" * (MAX_USER_ID_CHARS - 1), "i" * 64, 2**53)
    one, many = (len(msgspec.msgpack.encode([longest] * count)) for count in (1, 1001))
    assert (many - one) / 1000 * 600 * 1000 < snapshot.MAX_ROOM_BYTES * 0.85


def test_a_state_that_could_not_be_read_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_STATE_BYTES", 10)
    assert reason_of(lambda: encode_state(golden.state())) is BadRecord.TOO_LARGE


def counted(taken: int, **outcomes: int) -> Balance:
    return Balance(taken, **outcomes)  # type: ignore[arg-type]


@pytest.mark.parametrize("outcome", ["numbered", "folded", "noticed", "skipped", "duplicate", "dead_lettered"])
def test_a_balance_is_exact_only_if_everything_taken_has_an_outcome(outcome: str) -> None:
    assert Balance().is_exact()
    assert counted(2, **{outcome: 2}).is_exact()
    assert not counted(3, **{outcome: 2}).is_exact()


# ---- JSON topics
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(None, BadRecord.UNDECODABLE, id="no value"),
        pytest.param(b"{", BadRecord.UNDECODABLE, id="no JSON"),
        pytest.param(b"[" * 100_000, BadRecord.SCHEMA, id="deep list"),
        pytest.param(b'{"x":' * 100_000, BadRecord.UNDECODABLE, id="deep object"),
        pytest.param(b'{"v":1}', BadRecord.SCHEMA, id="fields missing"),
        pytest.param(b'{"v":2}', BadRecord.VERSION, id="version 2"),
        pytest.param(golden.ALL[6].value.replace(b'"v":1', b'"v":2'), BadRecord.VERSION, id="version 2 with our fields"),
    ],
)
def test_an_unusable_json_record_is_refused_with_its_reason(value: bytes | None, reason: BadRecord) -> None:
    assert reason_of(lambda: JsonReader(control.Presence).read(value)) is reason


@pytest.mark.parametrize(
    ("known", "hostile"),
    [
        pytest.param(b'"connections":2000', b'"connections":0', id="no room at all"),
        pytest.param(b'"connections":2000', b'"connections":-1', id="less than none"),
        pytest.param(b'"cpu":0.7', b'"cpu":0', id="no processor"),
        pytest.param(b'"cpu":0.7', b'"cpu":1e308', id="beyond all measure"),
        pytest.param(b'"connections":12', b'"connections":-12', id="fewer viewers than none"),
        pytest.param(b'"generation":', b'"generation":9999999999', id="a generation that no ticket can hold"),
        pytest.param(b'"port":', b'"port":99', id="no port"),
        pytest.param(b'"gateway":"', b'"gateway":"' + b"e" * 64, id="a gateway whose tickets would be too long"),
        pytest.param(b'"gateway":"', b'"gateway":"\\u0001', id="a gateway that no settings can name"),
    ],
)
def test_a_load_report_that_others_could_not_reckon_with_is_refused(known: bytes, hostile: bytes) -> None:
    value = golden.ALL[7].value
    assert known in value
    assert reason_of(lambda: JsonReader(control.LoadReport).read(value.replace(known, hostile, 1))) is BadRecord.SCHEMA


@pytest.mark.parametrize(
    ("of", "gateway", "good"),
    [
        (control.Presence, "e" * 64, True),
        (control.Presence, "ingress/" + "i" * 64, True),
        (control.Presence, "e" * 65, False),
        (control.Presence, "broadcaster/b", False),
        (control.Order, "e" * 64, True),
        (control.Order, "*", True),
        (control.Order, "e" * 65, False),
        (control.Order, "", False),
        (control.LoadReport, "e" * 64, True),
        (control.LoadReport, "*", False),
    ],
)
def test_a_record_names_a_gateway_as_settings_can_name_it(of: type[JsonRecord], gateway: str, good: bool) -> None:
    fields = json.loads(next(each.value for each in golden.ALL if type(each.record) is of))
    value = json.dumps(fields | {"gateway": gateway}).encode()
    if good:
        assert JsonReader(of).read(value).gateway == gateway  # type: ignore[attr-defined]
        return
    assert reason_of(lambda: JsonReader(of).read(value)) is BadRecord.SCHEMA


def test_a_load_report_tells_unknown_from_zero() -> None:
    report = JsonReader(control.LoadReport).read(golden.ALL[7].value)
    assert (report.connections, report.loop_lag_ms) == (12, None)


def test_a_dead_letter_holds_the_bytes_as_base64() -> None:
    kept = next(each.value for each in golden.ALL if each.file == "dead-letter.json")
    assert base64.b64decode(json.loads(kept)["value"]) == b"\xff{"


# ---- the validity rule
A, B = b"a" * 16, b"b" * 16
RULING = Ruling(5, A, 100, 7)


@pytest.mark.parametrize(
    ("ruling", "stamp", "after", "valid"),
    [
        pytest.param(NOBODY, Stamp(RecordType.CLAIM, 1, A), Ruling(1, A, 200), True, id="first claim"),
        pytest.param(NOBODY, Stamp(RecordType.BATCH, 1, A), NOBODY, False, id="batch before any claim"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 6, B), Ruling(6, B, 200), True, id="claim above"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 6, A), Ruling(6, A, 200), True, id="claim above by the same owner"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 5, B), RULING, False, id="second claim of one epoch"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 4, B), RULING, False, id="claim below"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 4, A), RULING, False, id="late claim of its own past"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 5, A, 7), Ruling(5, A, 200, 7), True, id="renewal"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 5, A, 8), Ruling(5, A, 200, 8), True, id="renewal with its serial"),
        pytest.param(RULING, Stamp(RecordType.CLAIM, 5, A, 6), RULING, False, id="late copy of a renewal"),
        pytest.param(RULING, Stamp(RecordType.BATCH, 5, A, 8), Ruling(5, A, 100, 8), True, id="batch of the ruling owner"),
        pytest.param(RULING, Stamp(RecordType.BATCH, 5, A, 7), RULING, False, id="batch written twice"),
        pytest.param(RULING, Stamp(RecordType.BATCH, 5, A, 6), RULING, False, id="late copy of an earlier batch"),
        pytest.param(RULING, Stamp(RecordType.SNAPSHOT, 5, A, 7), RULING, True, id="snapshot of the ruling owner"),
        pytest.param(RULING, Stamp(RecordType.SNAPSHOT, 5, A, 6), RULING, False, id="late copy of a snapshot"),
        pytest.param(RULING, Stamp(RecordType.BATCH, 5, B), RULING, False, id="batch of the loser of one epoch"),
        pytest.param(RULING, Stamp(RecordType.BATCH, 4, A), RULING, False, id="batch of its own past"),
        pytest.param(RULING, Stamp(RecordType.BATCH, 6, B), RULING, False, id="batch above without a claim"),
        pytest.param(RULING, Stamp(RecordType.SNAPSHOT, 4, B), RULING, False, id="snapshot of a deposed owner"),
    ],
)
def test_the_validity_rule(ruling: Ruling, stamp: Stamp, after: Ruling, valid: bool) -> None:
    assert validate(ruling, stamp, 200) == (after, valid)


STAMPS = st.builds(Stamp, st.sampled_from(RecordType), st.integers(1, 4), st.sampled_from([A, B, b"c" * 16]), st.integers(0, 3))
LOGS = st.lists(STAMPS, max_size=40)


def judged(log: list[Stamp], start: int = 0) -> list[tuple[Ruling, bool]]:
    """Who rules after each record, and which are valid, to a reader that begins at `start`."""
    ruling, said = NOBODY, []
    for offset, stamp in enumerate(log[start:], start):
        ruling, valid = validate(ruling, stamp, offset)
        said.append((ruling, valid))
    return said


@given(LOGS)
@example([Stamp(RecordType.CLAIM, 1, A), Stamp(RecordType.CLAIM, 2, B), Stamp(RecordType.CLAIM, 1, A)])
def test_a_reader_that_starts_at_any_ruling_claim_agrees_with_one_that_read_everything(log: list[Stamp]) -> None:
    whole = judged(log)
    for start, (stamp, (_, valid)) in enumerate(zip(log, whole, strict=True)):
        if stamp.type is RecordType.CLAIM and valid:
            assert judged(log, start) == whole[start:]


@given(LOGS)
def test_epochs_of_those_who_rule_never_fall_and_an_epoch_has_one_owner(log: list[Stamp]) -> None:
    rulings = [ruling for ruling, _ in judged(log)]
    assert all(before.epoch <= after.epoch for before, after in pairwise(rulings))
    owners: dict[int, set[bytes]] = {}
    for ruling in rulings:
        owners.setdefault(ruling.epoch, set()).add(ruling.owner)
    assert all(len(found) == 1 for found in owners.values())


class Writer:
    """An owner as the protocol has it: claims, reads back, and writes while it believes that it
    rules.
    """

    def __init__(self, epoch: int, owner: bytes) -> None:
        self.stamp = Stamp(RecordType.CLAIM, epoch, owner)
        self.claimed = -1
        self.anchor = -1

    def batch(self) -> Stamp:
        """The stamp of its next batch."""
        self.stamp = self.stamp._replace(serial=self.stamp.serial + 1)
        return self.stamp._replace(type=RecordType.BATCH)


@given(st.lists(st.tuples(st.sampled_from(["new", "read_back", "write", "renew"]), st.integers(0, 7)), max_size=60))
def test_a_reader_in_mid_log_that_begins_at_the_anchor_before_it_agrees_with_one_that_read_everything(
    steps: list[tuple[str, int]],
) -> None:
    """Owners overlap, pause and resume as they like; each writes only after it has read back its
    claim and found it ruling.
    """
    log: list[tuple[Stamp, int]] = []  # (stamp, claim_offset)
    writers: list[Writer] = []
    for step, which in steps:
        if step == "new" or not writers:
            highest = max((stamp.epoch for stamp, _ in log), default=0)
            writers.append(writer := Writer(highest + which % 2, bytes([len(writers)]) * 16))  # % 2: a race for one epoch
            if writer.stamp.epoch == 0:
                writers.pop()
                continue
            writer.claimed = len(log)
            log.append((writer.stamp, -1))
            continue
        writer = writers[which % len(writers)]
        if step == "read_back":
            ruling = judged([stamp for stamp, _ in log])[-1][0]
            if ruling.is_of(writer.stamp.epoch, writer.stamp.owner):
                writer.anchor = ruling.offset
        elif writer.anchor >= 0:
            if step == "renew":
                log.append((writer.stamp, writer.anchor))
            else:
                log.append((writer.batch(), writer.anchor))
    stamps = [stamp for stamp, _ in log]
    whole = judged(stamps)
    for place, (stamp, anchor) in enumerate(log):
        if stamp.type is not RecordType.CLAIM:  # the record before a reader's start
            assert judged(stamps, anchor)[place - anchor :] == whole[place:]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (encode_frame(Notice("r", Kind.KICK, "i", 1, 0, "")), Kind.KICK),
        (encode_frame(Notice("r", Kind.MUTE, "i", 1, 0, '"kind":"kick"')), Kind.MUTE),
        (b'{"t":"notice","kind":"of a later version"}', None),
        (b'{"t":"notice"', None),
    ],
)
def test_a_notice_in_a_batch_knows_its_kind(text: bytes, kind: Kind | None) -> None:
    parts = broadcast.BatchParts(1, OWNER, 1, ANCHOR, 0, 0, 0, [], [(NoticeEntry(1, 2, len(text)), text)])
    batch = decode_broadcast(broadcast.encode_batch(parts))
    assert isinstance(batch, Batch)
    (notice,) = batch.notices()
    assert (notice.room, notice.user) == (1, 2)
    assert (notice.head.kind if notice.head is not None else None) is kind
