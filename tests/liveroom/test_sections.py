"""Typed sections: what is known is read, what is unknown is passed over or refused as its type
says, and whatever else lies in the table is refused with a reason.
"""

from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from liveroom.records import broadcast
from liveroom.records.broadcast import Batch, decode_broadcast
from liveroom.records.codec import BadRecord, BadRecordError
from liveroom.records.sections import MUST, OWNER, Section, SectionType, decode_sections, encode_sections
from tests.liveroom import golden

KNOWN = frozenset(map(int, SectionType))
TYPES = st.integers(0, 0xFFFF)
UNKNOWN = TYPES.filter(lambda type_: type_ not in KNOWN)
OPTIONAL = st.integers(0, 0x3FFF).filter(lambda type_: type_ not in KNOWN)
DATA = st.binary(min_size=1, max_size=30)
HEAD_BYTES = broadcast._ANCHORED + broadcast._BATCH.size


def refusal(value: bytes, *, as_owner: bool = False) -> BadRecord | None:
    """Why the sections are refused, None where they are read."""
    try:
        decode_sections(value, 0, KNOWN, as_owner=as_owner)
    except BadRecordError as error:
        return error.reason
    return None


@given(st.lists(st.tuples(st.sampled_from(SectionType), DATA), unique_by=lambda section: section[0]))
def test_known_sections_come_back_in_whatever_order_they_were_written(written: list[tuple[int, bytes]]) -> None:
    read = decode_sections(encode_sections(written), 0, KNOWN)
    assert {type_: bytes(data) for type_, data in read.known.items()} == dict(written)
    assert read.of(SectionType.CARDS) == dict(written).get(SectionType.CARDS, b"")


@given(st.lists(st.tuples(OPTIONAL, DATA), max_size=5), st.data())
def test_unknown_sections_are_passed_over_and_an_owner_keeps_them(
    unknown: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    known = [(SectionType.ROOMS, b"rooms"), (SectionType.BALANCE, b"balance")]
    written: list[tuple[int, bytes]] = data.draw(st.permutations([*known, *unknown]))
    value = encode_sections(written)
    for as_owner in (True, False):
        read = decode_sections(value, 0, KNOWN, as_owner=as_owner)
        assert read.known == dict(known)
        kept = [Section(*section) for section in written if section not in known]
        assert list(read.others) == (kept if as_owner else [])


@given(UNKNOWN)
@example(MUST | 0x100)
@example(MUST | OWNER | 0x100)
@example(OWNER | 0x100)
def test_an_unknown_section_is_refused_exactly_by_those_who_must_understand_it(type_: int) -> None:
    value = encode_sections([(SectionType.ROOMS, b"rooms"), (type_, b"new")])
    refused = BadRecord.UNKNOWN_SECTION
    assert refusal(value, as_owner=True) == (refused if type_ & MUST else None)
    assert refusal(value) == (refused if type_ & MUST and not type_ & OWNER else None)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(b"", BadRecord.TRUNCATED, id="nothing"),
        pytest.param(b"\x00", BadRecord.TRUNCATED, id="half a count"),
        pytest.param(b"\x00\x00", None, id="none"),
        pytest.param(b"\x00\x00x", BadRecord.TRUNCATED, id="none, and a byte"),
        pytest.param(b"\xff\xff", BadRecord.TRUNCATED, id="more than there are"),
        pytest.param(b"\x01\x00\x01\x80\xff\xff\xff\xffx", BadRecord.TRUNCATED, id="4 GiB"),
        pytest.param(b"\x01\x00\x01\x80\x00\x00\x00\x00", None, id="empty"),
        pytest.param(encode_sections([(SectionType.ROOMS, b"a")] * 2), BadRecord.UNDECODABLE, id="a known one twice"),
        pytest.param(encode_sections([(0x100, b"a")] * 2), None, id="an unknown one twice"),
        pytest.param(encode_sections([(MUST | 0x100, b"a")])[:-1], BadRecord.TRUNCATED, id="damaged before it is refused"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_with_its_reason(value: bytes, reason: BadRecord | None) -> None:
    assert refusal(value) is reason


def test_so_many_sections_as_a_table_can_name_are_read_in_their_order() -> None:
    many = [(0x100, b"%d" % number) for number in range(0xFFFF)]
    assert decode_sections(encode_sections(many), 0, KNOWN, as_owner=True).others == tuple(Section(*one) for one in many)


@pytest.mark.parametrize("type_", [SectionType.CHUNK, SectionType.STORED_ROOMS])
def test_a_section_of_other_records_is_as_unknown_here_as_any(type_: SectionType) -> None:
    value = broadcast.encode_claim(golden.CLAIM)
    table = encode_sections([(SectionType.INSTANCE, golden.CLAIM.instance.encode())])
    foreign = value[: -len(table)] + encode_sections([(SectionType.INSTANCE, b"x"), (type_, b"junk")])
    with pytest.raises(BadRecordError, match="must be understood"):
        decode_broadcast(foreign, as_owner=True)


def as_batch(sections: Sequence[tuple[int, bytes]]) -> bytes:
    return golden.batch()[:HEAD_BYTES] + encode_sections(sections)


@given(st.lists(st.tuples(st.sampled_from([*KNOWN, 0x100, MUST | 0x100, OWNER | 0x100]), st.binary(max_size=80)), max_size=8))
def test_a_batch_of_any_sections_is_read_within_its_bytes_or_refused(sections: list[tuple[int, bytes]]) -> None:
    try:
        batch = decode_broadcast(as_batch(sections))
    except BadRecordError:
        return
    assert isinstance(batch, Batch)
    for entry, payload in batch.rooms():
        assert len(payload) == entry.size
    for notice in batch.notices():
        assert notice.text in dict(sections)[SectionType.NOTICES]
    for _, text in batch.cards():
        assert text in dict(sections)[SectionType.CARDS]


@given(st.permutations(range(6)), st.lists(st.tuples(OPTIONAL, DATA), max_size=3))
def test_a_batch_means_the_same_with_its_sections_in_another_order_and_unknown_ones_between(
    order: Sequence[int], unknown: list[tuple[int, bytes]]
) -> None:
    whole = decode_broadcast(golden.batch())
    assert isinstance(whole, Batch)
    known = [(type_, bytes(data)) for type_, data in whole.sections.known.items()]
    moved = decode_broadcast(as_batch([*unknown, *(known[place] for place in order), *unknown]))
    assert isinstance(moved, Batch)
    assert moved[:-2] == whole[:-2]
    assert (moved.balance, moved.allowances) == (whole.balance, whole.allowances)
    assert (list(moved.rooms()), list(moved.cards())) == (list(whole.rooms()), list(whole.cards()))
