"""Danmaku files: the real one, tables of lines, other encodings and formats, and garbage."""

import gzip
import zlib
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
        pytest.param("1, 1, 25, 0, 0, 0, abc, 9", Line(1, "uabc", Danmaku("hi", 0)), id="with spaces"),
        pytest.param("26515942,0,1500,4,25,255,0,abc", Line(1.5, "uabc", Danmaku("hi", 255, Mode.BOTTOM)), id="the id first"),
        pytest.param("36217812893597699,1,1500,1,25,5,0,abc,0", Line(1.5, "uabc", Danmaku("hi", 5)), id="a long id first"),
        pytest.param("7,0,1500,5,25,255,0", Line(1.5, "u7", Danmaku("hi", 255, Mode.TOP)), id="a short id first"),
        pytest.param("238,1,120,1,0,1,abc,9", Line(238, "uabc", Danmaku("hi", 1, size=64)), id="a colour like a mode"),
        pytest.param("1,1," + "9" * 4000 + ",0,0,0,abc", Line(1, "uabc", Danmaku("hi", 0, size=64)), id="a huge size"),
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
        pytest.param(one("1e999,1,25,0,0,0,a,1"), Flaw.ATTRIBUTES, id="time is beyond all numbers"),
        pytest.param(one("9,0,9" + "9" * 400 + ",1,25,0,0,a"), Flaw.ATTRIBUTES, id="milliseconds are beyond all numbers"),
        pytest.param(one("1e9,1,25,0,0,0,a,1"), Flaw.ATTRIBUTES, id="time is far away"),
        pytest.param(one(f"1,1,{'9' * 5000},0,0,0,a,1"), Flaw.ATTRIBUTES, id="a number too long for Python"),
        pytest.param(one("1,7,25,0,0,0,a,1"), Flaw.MODE, id="a script"),
        pytest.param(one("1,1,25,0,0,0,a,1", " \n\t "), Flaw.EMPTY, id="nothing but space"),
        pytest.param(one("1,1,25,0,0,0,a,1", "\u3164"), Flaw.EMPTY, id="a filler"),
        pytest.param(one("1,1,25,0,0,0,a,1", "\u200b \u2800"), Flaw.EMPTY, id="nothing that a font draws"),
        pytest.param(one("1,1,25,0,0,0,a,1", "\u3164" * 200 + "a"), Flaw.EMPTY, id="a letter behind the cut"),
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
        pytest.param(b"<i><chatid>1</chat", "not XML", id="cut off before the first danmaku"),
        pytest.param(b"<html></html>", "not <i>", id="another document"),
        pytest.param(b"<i>" * 200_000, "nest deeper", id="elements within elements"),
        pytest.param(b"<packet><chat vpos='1'>hi</chat></packet>", "Niconico", id="another site's"),
        pytest.param("[Script Info]\r\nTitle: x".encode("utf-16"), r"subtitle file \(ASS\)", id="subtitles"),
        pytest.param(b"[V4+ Styles]\nFormat: Name", r"subtitle file \(ASS\)", id="subtitles without a head"),
        pytest.param(b"[00:01.00]hi", r"lyrics \(LRC\)", id="lyrics"),
        pytest.param(b"[ti:x]\n[00:01.00]hi", r"lyrics \(LRC\)", id="lyrics with a title"),
        pytest.param(b"1\n00:00:01,000 --> 00:00:02,000\nhi", r"subtitle file \(SRT\)", id="other subtitles"),
        pytest.param(b"WEBVTT\n\n", r"subtitle file \(WebVTT\)", id="subtitles of the web"),
        pytest.param(gzip.compress(REAL.read_bytes()), r"compressed \(gzip\); unpack", id="gzip"),
        pytest.param(zlib.compress(b"<i>" * 1000), r"compressed \(zlib\); unpack", id="zlib"),
        pytest.param(b"PK\x03\x04", r"compressed \(zip\); unpack", id="zip"),
        pytest.param(b"FLV\x01\x05", r"video \(FLV\)", id="a video"),
        pytest.param(b'{"a":1}', "no layout of danmaku", id="JSON of another program"),
        pytest.param(b'[[1,0,0,"a","hi"]]', "an export of DPlayer", id="arrays of DPlayer"),
        pytest.param(b'{"code": 0, "data": [\n[1.5, 0, 255, "a", "hi"]]}', "an export of DPlayer", id="an answer of DPlayer"),
        pytest.param(b"[" * 100_000, "no layout of danmaku", id="arrays within arrays"),
        pytest.param(b'{"a":' * 100_000, "no layout of danmaku", id="objects within objects"),
        pytest.param(b"time,text\n1.5,hi", "no format that is known, not XML", id="a table"),
        pytest.param(b"<!DOCTYPE i><i/>", "document type", id="a document type"),
        pytest.param(b'<!DOCTYPE i [<!ENTITY a "b">]><i>&a;</i>', "document type", id="an entity"),
        pytest.param(b'<!DOCTYPE i SYSTEM "file:///etc/passwd"><i/>', "document type", id="an external document type"),
        pytest.param(b"<i>&undefined;</i>", "not XML", id="an undefined entity"),
    ],
)
def test_a_file_that_is_none_is_refused(content: bytes, why: str) -> None:
    with pytest.raises(DanmakuFileError, match=why):
        parse(content)


# ---- one bad line costs one line
THREE = '<i>\n<d p="1,1,25,0,0,0,a,1">first</d>\n{}\n<d p="3,1,25,0,0,0,a,3">last</d>\n</i>'


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('<d p="2,1,25,0,0,0,a,2">a&#8;b</d>', id="a backspace as a reference"),
        pytest.param('<d p="2,1,25,0,0,0,a,2">salt & pepper</d>', id="a raw ampersand"),
        pytest.param('<d p="2,1,25,0,0,0,a,2">I <3 you</d>', id="a raw less-than sign"),
        pytest.param('<d p="2,1,25,0,0,0,a,2">&nbsp;</d>', id="an entity of HTML"),
        pytest.param('<d p="2,1,25,0,0,0,a,2">no end', id="no end"),
        pytest.param('<d p="2,1,25,0,0,0,a,2>no quote</d>', id="no quotation mark"),
        pytest.param("<d p=2,1,25,0,0,0,a,2>no quotes</d>", id="no quotation marks"),
        pytest.param('<d p="2,1,25,0,0,0,a,2">&#xD800;</d>', id="half a character as a reference"),
        pytest.param('<d p="2,1,25,0,0,0,a,2"><b>bold</d>', id="an element that does not end"),
        pytest.param('<d p="2,1,25,0,0,0,a,2">' + "<b>" * 50_000 + "</d>", id="elements within elements"),
        pytest.param('<d p="2,1,25,0,0,0,a,2" p="3">two</d>', id="an attribute twice"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_one_bad_line_of_xml_costs_one_line_and_is_counted(line: str, encoding: str) -> None:
    found = parse(THREE.format(line).encode(encoding))
    assert [each.body.text for each in found.lines] == ["first", "last"]
    assert found.flaws == {Flaw.BROKEN: 1}
    assert not found.is_cut_off
    assert found.remarks() == ["1 danmaku skipped, broken markup or bytes"]


def test_what_follows_the_last_tag_does_not_make_a_file_cut_off() -> None:
    found = parse((THREE.format('<d p="2,1,25,0,0,0,a,2">a & b</d>') + "\n<!-- made by x -->").encode())
    assert (found.flaws, found.is_cut_off) == ({Flaw.BROKEN: 1}, False)


def test_a_bad_byte_costs_its_line_and_does_not_turn_the_others_into_another_encoding() -> None:
    content = THREE.format('<d p="2,1,25,0,0,0,a,2">坏</d>').replace("first", "第一").replace("last", "最后").encode()
    found = parse(content.replace("坏".encode(), b"\xff\xe5"))
    assert [each.body.text for each in found.lines] == ["第一", "最后"]
    assert found.flaws == {Flaw.BROKEN: 1}


def test_what_comes_before_the_markup_and_behind_it_is_passed_over() -> None:
    content = '\ufeff \n<?xml version="1.0"?>' + THREE.format("") + "\n" + THREE.format("")
    assert [each.body.text for each in parse(content.encode()).lines] == ["first", "first", "last", "last"]


@pytest.mark.parametrize("size", [20_000, 50_001, 80_002])
def test_a_file_that_is_cut_off_is_read_up_to_its_end(size: int) -> None:
    whole = read_file(REAL).lines
    found = parse(REAL.read_bytes()[:size])
    assert found.is_cut_off
    assert [line for line in whole if line in found.lines] == found.lines
    assert len(found.lines) + found.flaws[Flaw.BROKEN] == REAL.read_bytes()[:size].count(b"<d p")
    assert found.flaws[Flaw.BROKEN] <= 1
    assert "the file is cut off: only what came before its end is used" in found.remarks()


def test_a_file_that_lacks_its_last_tag_alone_loses_nothing() -> None:
    found = parse(REAL.read_bytes().rstrip().removesuffix(b"</i>"))
    assert found.lines == read_file(REAL).lines
    assert found.is_cut_off
    assert not found.flaws


# ---- encodings
UNICODE = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize(
    ("encoding", "declared", "text"),
    [
        *((encoding, declared, "弹幕一二三") for encoding in UNICODE for declared in ("UTF-8", "GBK", "x-klingon", encoding)),
        *(
            (encoding, declared, "弹幕一二三")
            for encoding in ("gbk", "gb18030")
            for declared in ("UTF-8", "x-klingon", encoding)
        ),
        ("big5", "big5", "彈幕一二三"),
        ("shift_jis", "Shift_JIS", "弾幕"),
    ],
)
def test_the_encoding_is_found_out_whatever_is_declared(encoding: str, declared: str, text: str) -> None:
    markup = f'<?xml version="1.0" encoding="{declared}"?>' + THREE.format("").replace("first", text)
    assert parse(markup.encode(encoding)).lines[0].body.text == text


def test_the_other_byte_order_with_its_mark_is_read() -> None:
    found = parse(b"\xfe\xff" + THREE.format('<d p="2,1,25,0,0,0,a,2">中文😀</d>').encode("utf-16-be"))
    assert [each.body.text for each in found.lines] == ["first", "中文😀", "last"]


def test_utf_16_that_is_cut_off_in_the_middle_of_a_character_is_read_up_to_it() -> None:
    content = THREE.format('<d p="2,1,25,0,0,0,a,2">中</d>').encode("utf-16")
    found = parse(content[: content.index("中".encode("utf-16-le")) + 1])
    assert [each.body.text for each in found.lines] == ["first"]
    assert (found.flaws, found.is_cut_off) == ({Flaw.BROKEN: 1}, True)


def test_a_declared_encoding_that_would_take_long_is_not_used() -> None:
    content = b'<?xml version="1.0" encoding="punycode"?><i><d p="1,1,25,0,0,0,a,1">\xb5\xaf\xc4\xbb</d></i>'
    assert parse(content).lines[0].body.text == "弹幕"


# ---- other formats
def varint(number: int) -> bytes:
    """Return a number as protobuf writes it."""
    number &= (1 << 64) - 1
    found = bytearray()
    while number >= 0x80:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def message(*fields: tuple[int, int | bytes]) -> bytes:
    """Return a message of protobuf."""
    parts = []
    for number, value in fields:
        if isinstance(value, int):
            parts.append(varint(number << 3) + varint(value))
        else:
            parts.append(varint(number << 3 | 2) + varint(len(value)) + value)
    return b"".join(parts)


def element(progress: int, text: str, *more: tuple[int, int | bytes], mode: int = 1) -> bytes:
    """Return one danmaku of a segment, with the fields that real ones have."""
    fields: list[tuple[int, int | bytes]] = [
        (1, 26515942),
        (2, progress),
        (3, mode),
        (4, 25),
        (5, 255),
        (6, b"b82a51a3"),
        (7, text.encode()),
        (8, 1304950431),
    ]
    return message((1, message(*fields, (9, 10), (12, b"26515942"), *more)))


def test_a_segment_in_protobuf_is_read() -> None:
    content = (
        element(1500, "弹幕") + element(500, "top", (13, 1), (22, b"x"), (27, b""), mode=5) + message((2, 0), (5, b"\x08\x01"))
    )
    found = parse(content)
    assert found.lines == [
        Line(0.5, "ub82a51a3", Danmaku("top", 255, Mode.TOP)),
        Line(1.5, "ub82a51a3", Danmaku("弹幕", 255)),
    ]
    assert not found.remarks()


def test_segments_behind_each_other_are_one_file_and_fields_that_are_left_out_have_their_default() -> None:
    content = element(1, "a") * 2 + message((1, message((3, 1), (7, b"b"))))
    assert [line.body for line in parse(content).lines][::2] == [Danmaku("b", 0), Danmaku("a", 255)]


@pytest.mark.parametrize(
    ("bad", "flaw"),
    [
        pytest.param(element(-5, "early"), None, id="a time below zero"),
        pytest.param(element(2**31 - 1, "late"), Flaw.ATTRIBUTES, id="a time far away"),
        pytest.param(element(2**63 - 1, "late"), Flaw.ATTRIBUTES, id="a time beyond all films"),
        pytest.param(element(1, "script", mode=7), Flaw.MODE, id="a script"),
        pytest.param(element(1, " "), Flaw.EMPTY, id="empty"),
        pytest.param(message((1, message((2, 1), (3, 1), (7, b"\xff\xfe")))), Flaw.BROKEN, id="bytes that are no text"),
        pytest.param(message((1, message((2, b"1"), (3, 1), (7, b"x")))), Flaw.BROKEN, id="a field of another type"),
        pytest.param(message((1, b"\x3a\x7fx")), Flaw.BROKEN, id="a length beyond the danmaku"),
        pytest.param(message((1, b"\xff" * 11)), Flaw.BROKEN, id="a number without end"),
        pytest.param(message((1, b"\x0b" * 50)), Flaw.BROKEN, id="groups within groups"),
    ],
)
def test_one_bad_danmaku_of_a_segment_costs_itself_only(bad: bytes, flaw: Flaw | None) -> None:
    found = parse(element(1000, "first") + bad + element(2000, "last"))
    assert [line.body.text for line in found.lines if line.at_s] == ["first", "last"]
    assert found.flaws == ({flaw: 1} if flaw else {})
    assert not found.is_cut_off


def test_a_segment_that_is_cut_off_is_read_up_to_its_end() -> None:
    whole = element(1000, "first") + element(2000, "last")
    for size in range(len(element(1000, "first")) + 1, len(whole)):
        found = parse(whole[:size])
        assert [line.body.text for line in found.lines] == ["first"]
        assert found.is_cut_off


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(
            '{"elems":[{"id":1,"progress":1500,"mode":5,"fontsize":25,"color":255,"midHash":"abc","content":"hi {x}"}]}',
            id="a segment",
        ),
        pytest.param('[{"progress":"1500","mode":5,"color":255,"midHash":"abc","content":"hi {x}"}]', id="an array"),
        pytest.param('{"progress":1500,"mode":5,"color":255,"midHash":"abc","content":"hi {x}"}\n\n', id="one a line"),
        pytest.param('{"count":1,"comments":[{"cid":7,"p":"1.5,5,255,abc","m":"hi {x}"}]}', id="with p and m"),
        pytest.param('[{"c":"1.5,255,5,25,abc,1304950431","m":"hi {x}"}]', id="with c and m"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_an_export_in_json_is_read(text: str, encoding: str) -> None:
    found = parse(text.encode(encoding))
    assert found.lines == [Line(1.5, "uabc", Danmaku("hi {x}", 255, Mode.TOP))]
    assert not found.remarks()


@pytest.mark.parametrize(
    ("bad", "flaw"),
    [
        pytest.param('{"progress":1,"content":"half \\ud800"}', Flaw.BROKEN, id="half a character"),
        pytest.param('{"progress":1,"content":"x",,}', Flaw.BROKEN, id="a comma too many"),
        pytest.param('{"progress":NaN,"content":"x"}', Flaw.BROKEN, id="a time that is no JSON"),
        pytest.param('{"progress":"nan","content":"x"}', Flaw.ATTRIBUTES, id="a time that is no number"),
        pytest.param('{"progress":1e308,"content":"x"}', Flaw.ATTRIBUTES, id="a time far away"),
        pytest.param('{"progress":[1],"content":"x"}', Flaw.ATTRIBUTES, id="a time that is a list"),
        pytest.param('{"progress":1,"mode":null,"content":"x"}', Flaw.ATTRIBUTES, id="no mode"),
        pytest.param('{"progress":1,"color":1e300,"mode":8,"content":"x"}', Flaw.MODE, id="a script of a huge colour"),
        pytest.param('{"p":"1,1","m":"x"}', Flaw.ATTRIBUTES, id="too few fields"),
        pytest.param('{"progress":1,"content":' + "[" * 5000 + '"content"', Flaw.BROKEN, id="arrays within arrays"),
        pytest.param('{"progress":1,"content":"li"ne","mode":1}', Flaw.BROKEN, id="a quotation mark too many"),
        pytest.param('{"progress":1,"content":"line,"mode":1}', Flaw.BROKEN, id="a quotation mark too few"),
        pytest.param('{"progress":1,"content":"line\\","mode":1}', Flaw.BROKEN, id="a backslash before the quotation mark"),
        pytest.param('{"progress":1,"content":"li\nne","mode":1}', Flaw.BROKEN, id="a raw line break"),
        pytest.param('{"progress":1,"content":"line"', Flaw.BROKEN, id="no closing brace"),
        pytest.param('"progress":1,"content":"line"}', Flaw.BROKEN, id="no opening brace"),
        pytest.param('{"x":{"a":1},"progress":1,"content":"li"ne"}', Flaw.BROKEN, id="a bad quotation mark behind an object"),
        pytest.param('{"progress":1,"content":5}', Flaw.ATTRIBUTES, id="a text that is a number"),
        pytest.param('{"m":"x","p":5}', Flaw.ATTRIBUTES, id="fields that are a number"),
    ],
)
@pytest.mark.parametrize("between", ["\n", ","])
def test_one_bad_danmaku_of_json_costs_itself_only_and_is_counted(bad: str, flaw: Flaw, between: str) -> None:
    lines = ['{"progress":1000,"content":"first"}', bad, '{"progress":2000,"content":"last"}']
    found = parse(f"[{between.join(lines)}]".encode())
    assert [line.body.text for line in found.lines] == ["first", "last"]
    assert found.flaws == {flaw: 1}
    assert not found.is_cut_off


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('{"progress":1500,"content":"hi","x":{"a":1}}', id="an object behind the text"),
        pytest.param('{"x":{"a":{"b":[{}, {"c":"{"}]}},"progress":1500,"content":"hi"}', id="objects before the text"),
        pytest.param('{"m":"hi","x":{"content":"no","progress":1},"p":"1.5,1,16777215,"}', id="an object like a danmaku"),
    ],
)
def test_a_danmaku_in_json_that_holds_objects_is_read(line: str) -> None:
    for text in (line, f"[{line}]", f'{{"data":{{"elems":[{line}]}}}}', f'[{line},{{"content":"li"ne","mode":7}}]'):
        assert parse(text.encode()).lines == [Line(1.5, user_of(""), Danmaku("hi"))]


def test_a_danmaku_in_json_without_a_time_is_one_of_the_beginning() -> None:
    for bare in ('{"content":"hi"}', '{"content":"hi","mode":1,"x":{}}'):
        found = parse(f'[{bare},{{"progress":1000,"content":"last"}}]'.encode())
        assert [(line.at_s, line.body.text) for line in found.lines] == [(0, "hi"), (1, "last")]
        assert not found.flaws


def test_json_that_is_cut_off_is_read_up_to_its_end() -> None:
    found = parse(b'[{"progress":1000,"content":"first"},{"progress":2000,"content":"la')
    assert [line.body.text for line in found.lines] == ["first"]
    assert found.is_cut_off


# ---- bounds
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'<i><d p="0,1,1,1,0,0,a">x</d>' + b"<d p" * 400_000, id="tags that do not end"),
        pytest.param(b"<i>" + b"&" * 2_000_000, id="ampersands"),
        pytest.param(b"{" + b'"\\"{' * 400_000, id="quotation marks"),
        pytest.param(b'{"' * 500_000, id="strings that do not end"),
        pytest.param(b'{"content":' * 300_000, id="objects that do not end"),
        pytest.param(b'{"a":[{},' * 300_000 + b'"', id="arrays that do not end"),
        pytest.param(b"\xff" * 2_000_000, id="bytes that are no text"),
        pytest.param(b"\n\x00" * 1_000_000, id="empty danmaku of a segment"),
        pytest.param(b"<" + b"a" * 4_000_000 + b"\xff", id="a name without end"),
    ],
)
def test_a_hostile_file_takes_a_time_that_grows_with_its_size(content: bytes) -> None:
    """Where the time grew with the square of the size, it would take hours."""
    with suppress(DanmakuFileError):
        parse(content)


def test_too_many_danmaku_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.danmaku.lines.MAX_LINES", 2)
    with pytest.raises(DanmakuFileError, match="more than 2 danmaku"):
        parse(THREE.format('<d p="2,7,25,0,0,0,a,2">script</d>').encode())


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
