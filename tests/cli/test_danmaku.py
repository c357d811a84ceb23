"""Danmaku files: the real one, a table of lines, and garbage."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.danmaku import DanmakuFileError, Flaw, Line, parse, read_file, user_of
from liveroom.bodies import Danmaku, Mode
from liveroom.users import USER_ID

REAL = Path(__file__).parents[1] / "data" / "danmaku-130614.xml"


def one(p: str, text: str = "hi") -> bytes:
    return f'<i><d p="{p}">{text}</d></i>'.encode()


def test_the_real_file_is_read_whole() -> None:
    found = read_file(REAL)
    assert len(found.lines) == 1111
    assert not found.flaws
    assert len({line.user for line in found.lines}) == 480
    assert found.lines == sorted(found.lines, key=lambda line: line.at_s)
    assert 287 < found.length_s < 288
    assert all(USER_ID.match(line.user) for line in found.lines)


@pytest.mark.parametrize(
    ("p", "line"),
    [
        pytest.param("1.5,1,25,255,0,0,ABC,9", Line(1.5, "uabc", Danmaku("hi", 255)), id="scrolling"),
        pytest.param("1,4,25,0,0,0,abc,9", Line(1, "uabc", Danmaku("hi", 0, Mode.BOTTOM)), id="bottom"),
        pytest.param("1,5,25,0,0,0,abc,9", Line(1, "uabc", Danmaku("hi", 0, Mode.TOP)), id="top"),
        pytest.param("1,6,25,0,0,0,abc,9", Line(1, "uabc", Danmaku("hi", 0, Mode.REVERSE)), id="reverse"),
        pytest.param("1,1,120,0,0,0,abc,9", Line(1, "uabc", Danmaku("hi", 0, size=64)), id="size is cut down"),
        pytest.param("1,1,3,0,0,0,abc,9", Line(1, "uabc", Danmaku("hi", 0, size=12)), id="size is raised"),
        pytest.param("1,1,25,99999999,0,0,abc,9", Line(1, "uabc", Danmaku("hi")), id="colour is cut down"),
        pytest.param("1,1,25,-5,0,0,abc,9", Line(1, "uabc", Danmaku("hi", 0)), id="colour below zero"),
        pytest.param("-3,1,25,0,0,0,abc,9", Line(0, "uabc", Danmaku("hi", 0)), id="time below zero"),
        pytest.param("1,1,25,0,0,0,abc", Line(1, "uabc", Danmaku("hi", 0)), id="without an id"),
        pytest.param("1,1,25,0,0,0,abc,9,10,more", Line(1, "uabc", Danmaku("hi", 0)), id="with newer fields"),
    ],
)
def test_a_line_is_read(p: str, line: Line) -> None:
    found = parse(one(p))
    assert found.lines == [line]
    assert not found.flaws


@pytest.mark.parametrize(
    ("content", "flaw"),
    [
        pytest.param(one(""), Flaw.ATTRIBUTES, id="no attributes"),
        pytest.param(b"<i><d>hi</d></i>", Flaw.ATTRIBUTES, id="no p"),
        pytest.param(one("1,1,25"), Flaw.ATTRIBUTES, id="too few"),
        pytest.param(one("x,1,25,0,0,0,a,1"), Flaw.ATTRIBUTES, id="time is no number"),
        pytest.param(one("nan,1,25,0,0,0,a,1"), Flaw.ATTRIBUTES, id="time is nan"),
        pytest.param(one("inf,1,25,0,0,0,a,1"), Flaw.ATTRIBUTES, id="time is infinite"),
        pytest.param(one("1e9,1,25,0,0,0,a,1"), Flaw.ATTRIBUTES, id="time is far away"),
        pytest.param(one(f"1,1,{'9' * 5000},0,0,0,a,1"), Flaw.ATTRIBUTES, id="a number too long for Python"),
        pytest.param(one("1,7,25,0,0,0,a,1"), Flaw.MODE, id="a script"),
        pytest.param(one("1,1,25,0,0,0,a,1", " \n\t "), Flaw.EMPTY, id="nothing but space"),
    ],
)
def test_a_line_that_cannot_be_used_is_skipped_and_counted(content: bytes, flaw: Flaw) -> None:
    found = parse(content)
    assert not found.lines
    assert found.flaws == {flaw: 1}


def test_a_long_text_is_cut_and_counted() -> None:
    found = parse(one("1,1,25,0,0,0,a,1", "长" * 300))
    assert found.lines[0].body.text == "长" * 200
    assert found.flaws == {Flaw.CUT: 1}


def test_line_breaks_and_bytes_that_xml_forbids_become_spaces() -> None:
    assert parse(one("1,1,25,0,0,0,a,1", "a\x08b\n\n c")).lines[0].body.text == "a b c"


def test_other_elements_and_nested_ones_are_passed_over() -> None:
    content = '<i><chatid>1</chatid><x><d p="1,1,25,0,0,0,a,1">no</d></x><d p="1,1,25,0,0,0,a,1">y<b>n</b>es</d></i>'
    assert [line.body.text for line in parse(content.encode()).lines] == ["yes"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param(b"", "not XML", id="empty"),
        pytest.param(b"\x89PNG\r\n", "not XML", id="a picture"),
        pytest.param(b"<i><d p='1'>", "not XML", id="cut off"),
        pytest.param(b"<html></html>", "not <i>", id="another document"),
        pytest.param(b'<?xml version="1.0" encoding="x-klingon"?><i/>', "not XML", id="an unknown encoding"),
        pytest.param(b"<!DOCTYPE i><i/>", "document type", id="a document type"),
        pytest.param(b'<!DOCTYPE i [<!ENTITY a "b">]><i>&a;</i>', "document type", id="an entity"),
        pytest.param(b'<!DOCTYPE i SYSTEM "file:///etc/passwd"><i/>', "document type", id="an external document type"),
        pytest.param(b"<i>&undefined;</i>", "not XML", id="an undefined entity"),
    ],
)
def test_a_file_that_is_none_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(DanmakuFileError, match=why):
        parse(content)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    with suppress(DanmakuFileError):
        parse(content)


@given(st.text(max_size=80))
def test_any_sender_becomes_a_user_id(sender: str) -> None:
    assert USER_ID.match(user_of(sender))
    assert user_of(sender) == user_of(sender)


def test_a_missing_or_huge_file_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DanmakuFileError, match=r"nowhere\.xml cannot be read: No such file"):
        read_file(tmp_path / "nowhere.xml")
    monkeypatch.setattr("cli.danmaku.MAX_FILE_BYTES", 10)
    with pytest.raises(DanmakuFileError, match="larger than"):
        read_file(REAL)
