"""The viewer protocol: what we pack, `permessage-deflate` and RFC 6455 read back; what viewers send
is read or refused.
"""

import contextlib
import json
import math
import zlib
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader
from websockets.typing import ExtensionName

from liveroom import wire
from liveroom.kinds import Kind, Role
from liveroom.wire import (
    MAX_TEXT_BYTES,
    PIECE_BYTES,
    BadFrameError,
    BatchHeader,
    Beat,
    Card,
    Error,
    Heartbeat,
    Hello,
    Join,
    Joined,
    Leave,
    Left,
    Message,
    Move,
    Notice,
    ReceivedBatch,
    UnknownFrameError,
    close_frame,
    decode_client_frame,
    decode_server_frame,
    encode_frame,
    encode_message,
    inflate,
    pack_payload,
    text_pieces,
    websocket_frame,
)

HEADER = BatchHeader(room="r", epoch=7, seq=(1, 2), rseq=1, at=1_700_000_000_000, pos="3.99")
HEAD = msgspec.json.encode(HEADER)


def message(seq: int, *, rseq: int = 0, text: str = "hi") -> Message:
    kind = Kind.GIFT if rseq else Kind.DANMAKU
    return Message(seq, kind, f"a{seq}", "u1", 5, rseq, data=msgspec.Raw(msgspec.json.encode({"text": text})))


class Bare(Extension):
    """An extension that owns RSV1 and changes nothing: shows whether the bit was set."""

    name = ExtensionName("bare")

    def __init__(self) -> None:
        self.rsv1 = False

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:  # noqa: ARG002 - as the library calls it
        self.rsv1, frame.rsv1 = frame.rsv1, False
        return frame


def parse(data: bytes, *, extensions: Sequence[Extension] | None = None) -> Frame:
    """One frame as the `websockets` library reads it from a server."""
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    parser = Frame.parse(reader.read_exact, mask=False, extensions=extensions)
    with pytest.raises(StopIteration) as done:
        next(parser)
    frame = done.value.value
    assert isinstance(frame, Frame)
    with pytest.raises(StopIteration) as rest:  # nothing is left behind it
        next(reader.at_eof())
    assert rest.value.value is True
    return frame


def as_viewer(payload: bytes) -> bytes:
    """The text a browser makes of a deflated payload: one message of `permessage-deflate`, no
    context before it.
    """
    deflate = PerMessageDeflate(
        remote_no_context_takeover=True, local_no_context_takeover=True, remote_max_window_bits=15, local_max_window_bits=15
    )
    return bytes(parse(websocket_frame(payload, deflated=True), extensions=[deflate]).data)


# ---- packing
LINES = st.lists(st.text(min_size=1, max_size=80).map(lambda text: msgspec.json.encode({"text": text})), max_size=12)


@given(LINES, LINES)
def test_a_payload_and_its_first_part_alone_are_both_whole_messages(reliable: list[bytes], best_effort: list[bytes]) -> None:
    packed = pack_payload(HEADER, reliable, best_effort)
    head = [HEAD, *reliable]
    read = as_viewer if packed.deflated else bytes
    assert read(packed.data).split(b"\n") == [*head, *best_effort]
    if reliable:
        assert read(packed.data[: packed.reliable_size]).split(b"\n") == head
    else:
        assert packed.reliable_size == 0
    if packed.deflated:
        assert inflate(packed.data) == as_viewer(packed.data)
        assert not packed.data.endswith(b"\x00\x00\xff\xff"), "RFC 7692, 7.2.1: the flush's end is taken off"
        if reliable and best_effort:
            assert packed.data[packed.reliable_size :].startswith(b"\x00\x00\xff\xff")


@pytest.mark.parametrize(
    ("reliable", "best_effort"),
    [
        pytest.param(40, 0, id="reliable alone"),
        pytest.param(0, 40, id="best effort alone"),
        pytest.param(40, 40, id="both"),
        pytest.param(1, 2000, id="a busy room"),
    ],
)
def test_a_large_batch_is_deflated_once_for_all_viewers(reliable: int, best_effort: int) -> None:
    first = [encode_message(message(seq, rseq=seq)) for seq in range(1, reliable + 1)]
    rest = [encode_message(message(seq)) for seq in range(reliable + 1, reliable + best_effort + 1)]
    packed = pack_payload(HEADER, first, rest)
    assert packed.deflated
    assert len(packed.data) < sum(map(len, first + rest)) / 3
    batch = decode_server_frame(as_viewer(packed.data))
    assert isinstance(batch, ReceivedBatch)
    assert [received.seq for received in batch.messages] == list(range(1, reliable + best_effort + 1))
    if reliable:
        alone = decode_server_frame(as_viewer(packed.data[: packed.reliable_size]))
        assert isinstance(alone, ReceivedBatch)
        assert [received.rseq for received in alone.messages] == list(range(1, reliable + 1))


@pytest.mark.parametrize(("size", "deflated"), [(wire.DEFLATE_FROM - 1, False), (wire.DEFLATE_FROM, True)])
def test_a_batch_is_deflated_from_512_bytes(size: int, deflated: bool) -> None:
    line = b"x" * (size - len(HEAD) - 1)
    packed = pack_payload(HEADER, [line], [])
    assert packed.deflated is deflated
    assert packed.reliable_size == len(packed.data)


def test_a_batch_of_nothing_but_its_header_is_a_message() -> None:
    packed = pack_payload(HEADER, [], [])
    assert decode_server_frame(packed.data) == ReceivedBatch(HEADER, [])
    assert packed.reliable_size == 0


@given(st.binary(max_size=3000) | st.integers(0, 3000).map(bytes), st.integers(1, 3000))
def test_inflating_stops_at_its_cap_and_never_cuts_silently(text: bytes, cap: int) -> None:
    deflate = zlib.compressobj(6, zlib.DEFLATED, -15, 9)
    data = (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    if len(text) <= cap:
        assert inflate(data, cap) == text
    else:
        with pytest.raises(BadFrameError):
            inflate(data, cap)


def test_a_kilobyte_does_not_become_a_gigabyte() -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15, 9)
    bomb = deflate.compress(bytes(64 * 1024 * 1024)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    with pytest.raises(BadFrameError, match="more than 16777216"):
        inflate(bomb)


@given(st.binary(max_size=200))
def test_any_bytes_inflate_or_are_refused(junk: bytes) -> None:
    with contextlib.suppress(BadFrameError):
        assert len(inflate(junk, 10_000)) <= 10_000


# ---- WebSocket frames
@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
@pytest.mark.parametrize("deflated", [False, True])
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_a_frame_of_any_size_is_read_by_a_websocket_library(size: int, deflated: bool, kind: type) -> None:
    bare = Bare()
    frame = parse(websocket_frame(kind(b"x" * size), deflated=deflated), extensions=[bare])
    assert (frame.opcode, bytes(frame.data)) == (Opcode.TEXT, b"x" * size)
    assert (frame.fin, bare.rsv1, frame.rsv2, frame.rsv3) == (True, deflated, False, False)


@pytest.mark.parametrize(("opcode", "named"), [(wire.PING, Opcode.PING), (wire.PONG, Opcode.PONG), (wire.CLOSE, Opcode.CLOSE)])
def test_control_frames_are_read_by_a_websocket_library(opcode: wire.Opcode, named: Opcode) -> None:
    assert parse(websocket_frame(b"\x03\xe8", opcode)).opcode is named


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        pytest.param("", "", id="none"),
        pytest.param("slow", "slow", id="short"),
        pytest.param("x" * 200, "x" * 123, id="longer than a control frame holds"),
        pytest.param("弹" * 60, "弹" * 41, id="never cut within a character"),
        pytest.param("a\ud800", "a?", id="no lone surrogate"),
    ],
)
def test_a_close_frame_says_code_and_reason(reason: str, sent: str) -> None:
    frame = parse(close_frame(4008, reason))
    frame.check()
    close = Close.parse(bytes(frame.data))
    assert (close.code, close.reason) == (4008, sent)


# ---- what viewers send
@pytest.mark.parametrize(
    ("text", "frame"),
    [
        pytest.param('{"t":"join","room":"r"}', Join("r"), id="join"),
        pytest.param('{"t":"join","room":"r","epoch":7,"seq":5,"rseq":2}', Join("r", 7, 5, 2), id="join to resume"),
        pytest.param('{"room":"r","later":[1],"t":"join"}', Join("r"), id="unknown field, other order"),
        pytest.param('{"t":"leave","room":"r"}', Leave("r"), id="leave"),
        pytest.param('{"t":"hb"}', Heartbeat(), id="heartbeat"),
        pytest.param('{"t":"hb","rooms":{"r":[5,2]}}', Heartbeat(), id="heartbeat with the places of an earlier version"),
    ],
)
def test_what_a_viewer_says_is_read_as_text_and_as_bytes(text: str, frame: wire.ClientFrame) -> None:
    assert decode_client_frame(text) == frame
    assert decode_client_frame(text.encode()) == frame
    assert decode_client_frame(encode_frame(frame)) == frame


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("null", id="null"),
        pytest.param("[]", id="list"),
        pytest.param("{}", id="no type"),
        pytest.param('{"t":"shout"}', id="unknown type"),
        pytest.param('{"t":1}', id="type is a number"),
        pytest.param('{"t":"join"}', id="no room"),
        pytest.param('{"t":"join","room":null}', id="room is null"),
        pytest.param('{"t":"join","room":"r","seq":"5"}', id="seq is a text"),
        pytest.param('{"t":"join","room":"r"}{}', id="two values"),
        pytest.param('{"t":"join","room":"r","seq":NaN}', id="NaN"),
        pytest.param('{"t":"join","room":"r","seq":1e400}', id="beyond all numbers"),
        pytest.param('{"t":"join","room":"\\ud800"}', id="escaped lone surrogate"),
        pytest.param('{"t":"join","room":"\ud800"}', id="lone surrogate"),
        pytest.param('{"t":"join","room":"r","x":' + "[" * 4000, id="deep"),
        pytest.param('{"x":' * 800, id="deep objects"),
        pytest.param('{"t":"batch","room":"r","epoch":1,"seq":[1,1],"rseq":1,"at":1}', id="a frame of the server"),
        pytest.param(b'{"t":"join","room":"\xff"}', id="invalid UTF-8"),
    ],
)
def test_what_is_not_of_the_protocol_is_a_bad_frame(text: str | bytes) -> None:
    with pytest.raises(BadFrameError):
        decode_client_frame(text)


@given(st.binary(max_size=200) | st.text(st.characters(exclude_categories=()), max_size=100))
def test_anything_from_a_viewer_is_read_or_a_bad_frame(junk: bytes | str) -> None:
    with contextlib.suppress(BadFrameError):
        decode_client_frame(junk)


@given(st.dictionaries(st.sampled_from(["t", "room", "seq", "rseq", "rooms", "epoch"]), st.from_type(object) | st.none()))
def test_anything_like_a_frame_is_read_or_a_bad_frame(fields: dict[str, Any]) -> None:
    text = json.dumps(fields, default=repr)
    with contextlib.suppress(BadFrameError):
        decode_client_frame(text)


# ---- what the edge sends
CARD = Card(1, 2, 1, 9, 5, 6, settings=msgspec.Raw(b'{"slow_s":2.0}'), messages=[msgspec.Raw(b'{"seq":2}')])
SERVER_FRAMES = [
    pytest.param(Hello("edge-1", 5, 20.0, 25.0, "u1", "v1.k.x.y"), id="hello"),
    pytest.param(Joined("r", 7, 5, 2, "3.99", resumed=True, card=CARD), id="joined"),
    pytest.param(Joined("r"), id="joined, nothing known"),
    pytest.param(Left("r"), id="left"),
    pytest.param(Notice("r", Kind.MUTE, "m1", 5, 99, "spam"), id="notice"),
    pytest.param(Move("drain", 1.5), id="move"),
    pytest.param(Error("room_invalid", "x", "r"), id="error"),
    pytest.param(Beat(5), id="hb"),
]


@pytest.mark.parametrize("frame", SERVER_FRAMES)
def test_a_viewer_reads_what_the_edge_sent(frame: wire.ServerFrame) -> None:
    assert decode_server_frame(encode_frame(frame)) == frame


def test_a_room_of_which_nothing_is_known_is_joined_without_numbers() -> None:
    assert encode_frame(Joined("r")) == b'{"t":"joined","room":"r"}'


def test_a_message_in_full_comes_back_as_it_was() -> None:
    full = Message(1, Kind.GIFT, "a", "u", 5, 1, "Ann", Role.STREAMER, 9, 3, "p", msgspec.Raw(b'{"gift":"rose"}'))
    text = b"\n".join((HEAD, encode_message(full)))
    assert decode_server_frame(text) == ReceivedBatch(HEADER, [full])


@pytest.mark.parametrize(
    ("data", "body"),
    [
        pytest.param(b'{"text":"hi","x":[1,null]}', {"text": "hi", "x": [1, None]}, id="an object"),
        pytest.param(b'{"text":"\xe5\xbc\xb9\\ud83d"}', {"text": "弹\ud83d"}, id="half an emoji"),
        pytest.param(b'{"text":"a","x":1e999}', {"text": "a", "x": math.inf}, id="too large a number"),
        pytest.param(b'{"x":' + b"9" * 5000 + b"}", {"x": math.inf}, id="too many digits"),
        pytest.param(b"[1]", {}, id="a list"),
        pytest.param(b"null", {}, id="null"),
        pytest.param(b'{"a":', {}, id="cut"),
        pytest.param(b"[" * 100_000, {}, id="a deep one"),
    ],
)
def test_a_body_is_an_object_whatever_was_written(data: bytes, body: dict[str, Any]) -> None:
    assert Message(1, "gift", "a", "u", 5, data=msgspec.Raw(data)).body == body


def test_a_card_shows_the_room_as_it_was() -> None:
    lines = {seq: msgspec.Raw(encode_message(message(seq))) for seq in (3, 1, 2)}
    card = Card(
        settings=msgspec.Raw(b'{"slow_s":5}'),
        announcement=lines[3],
        messages=[lines[1], lines[2]],
        reliable=[lines[3], lines[2]],
    )
    assert [one.seq for one in card.history] == [1, 2, 3]
    assert card.modes == {"slow_s": 5}
    assert card.announced == message(3)
    assert (Card().history, Card().modes, Card().announced) == ([], {}, None)
    assert Card(messages=[msgspec.Raw(b'{"later":1}'), lines[1]]).history == [message(1)]


@pytest.mark.parametrize("decode", [decode_client_frame, decode_server_frame])
@pytest.mark.parametrize(
    ("text", "is_unknown"),
    [
        pytest.param(b'{"t":"poll","room":"r"}', True, id="a later type"),
        pytest.param(b'{"t":"","x":[]}', True, id="an empty type"),
        pytest.param(b'{"t":"hb","at":"x"', False, id="a known type, cut"),
        pytest.param(b'{"t":"poll"', False, id="cut"),
        pytest.param(b'{"t":5}', False, id="a number"),
        pytest.param(b"{}", False, id="none"),
        pytest.param(b"[]", False, id="a list"),
    ],
)
def test_a_frame_of_a_later_type_is_told_from_a_bad_one(
    decode: Callable[[bytes], object], text: bytes, is_unknown: bool
) -> None:
    with pytest.raises(BadFrameError) as caught:
        decode(text)
    assert isinstance(caught.value, UnknownFrameError) == is_unknown


def test_a_batch_keeps_kinds_and_roles_of_a_later_version() -> None:
    line = encode_message(message(1)).replace(b'"danmaku"', b'"vote"')[:-1] + b',"role":"bot","later":{}}'
    batch = decode_server_frame(HEAD + b"\n" + line)
    assert isinstance(batch, ReceivedBatch)
    assert [(received.kind, received.role) for received in batch.messages] == [("vote", "bot")]


def test_messages_come_in_order_of_seq_though_reliable_ones_are_written_first() -> None:
    packed = pack_payload(
        HEADER, [encode_message(message(2, rseq=1))], [encode_message(message(1)), encode_message(message(3))]
    )
    batch = decode_server_frame(packed.data)
    assert isinstance(batch, ReceivedBatch)
    assert [received.seq for received in batch.messages] == [1, 2, 3]


@given(st.binary(max_size=200))
def test_anything_from_an_edge_is_read_or_a_bad_frame(junk: bytes) -> None:
    for text in (junk, HEAD + b"\n" + junk):
        with contextlib.suppress(BadFrameError):
            decode_server_frame(text)


@pytest.mark.parametrize("deflated", [True, False])
@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 5 * PIECE_BYTES])
@pytest.mark.parametrize("letter", ["a", ""], ids=["repeated", "random"])
def test_a_text_in_pieces_is_the_same_text(size: int, letter: str, *, deflated: bool) -> None:
    text = letter.encode() * size if letter else Random(size).randbytes(size)
    engine = zlib.compressobj(6, zlib.DEFLATED, -15, 9)
    payload = (engine.compress(text) + engine.flush(zlib.Z_SYNC_FLUSH))[:-4] if deflated else text
    pieces = list(text_pieces(payload, deflated=deflated))
    assert b"".join(pieces) == text
    assert all(len(piece) <= PIECE_BYTES for piece in pieces)


def test_a_text_in_pieces_that_is_broken_or_endless_is_refused() -> None:
    engine = zlib.compressobj(6, zlib.DEFLATED, -15, 9)
    bomb = engine.compress(bytes(MAX_TEXT_BYTES + 1)) + engine.flush(zlib.Z_SYNC_FLUSH)[:-4]
    for payload in (b"\xff" * 10, bomb):
        with pytest.raises(BadFrameError):
            list(text_pieces(payload, deflated=True))
