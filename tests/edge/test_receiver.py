"""What comes from viewers: RFC 6455 and RFC 7692 case by case, in any chunks, and `websockets` as
judge of random bytes.
"""

import logging
import tracemalloc
import zlib
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.exceptions import PayloadTooBig
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import ExtensionName

from edge.receiver import MAX_FRAGMENTS, Closing, Event, Fault, Flaw, Ping, Pong, Receiver, Text
from liveroom.closecodes import Close
from liveroom.wire import MAX_CLIENT_FRAME_BYTES

LIMIT = MAX_CLIENT_FRAME_BYTES
CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN, RSV1, RSV2, RSV3 = 0x80, 0x40, 0x20, 0x10
KEY = b"\x37\xfa\x21\x3d"
MAX_HEAD = 14


def frame(opcode: int, payload: bytes = b"", *, flags: int = FIN, key: bytes | None = KEY, size_in: int | None = None) -> bytes:
    """Return a client's frame, written byte by byte from RFC 6455, 5.2.

    `size_in`: bytes of a length that is not minimal.
    """
    size = len(payload)
    if size_in is None:
        size_in = 0 if size <= 125 else 2 if size < 65536 else 8
    marker = {0: size, 2: 126, 8: 127}[size_in]
    head = bytes((flags | opcode, marker | (0x80 if key is not None else 0)))
    if size_in:
        head += size.to_bytes(size_in, "big")
    if key is None:
        return head + payload
    return head + key + bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


def header(first: int, second: int, size: bytes = b"") -> bytes:
    """Return the start of a frame whose payload has not come."""
    return bytes((first, second)) + size


def deflated(text: bytes, level: int = 6) -> bytes:
    engine = zlib.compressobj(level, zlib.DEFLATED, -15)
    return (engine.compress(text) + engine.flush(zlib.Z_SYNC_FLUSH))[:-4]


def noise(size: int) -> bytes:
    """Return text that hardly deflates."""
    state, out = 1, bytearray()
    while len(out) < size:
        state = state * 1103515245 + 12345 & 0x7FFFFFFF
        out.append(33 + (state >> 16) % 94)
    return bytes(out)


def in_chunks(stream: bytes, sizes: Iterable[int]) -> list[bytes]:
    chunks, start = [], 0
    for size in sizes:
        chunks.append(stream[start : start + size])
        start += size
    return [*chunks, stream[start:]]


def read(receiver: Receiver, chunks: Iterable[bytes]) -> list[Event]:
    return [event for chunk in chunks for event in receiver.feed(chunk)]


def fault(flaw: Flaw, code: int = 1002) -> Fault:
    return Fault(Close(code), flaw)


TOO_BIG = fault(Flaw.SIZE, 1009)
RESERVED = fault(Flaw.RESERVED_BIT)

FRAMING = [
    pytest.param(b"", [], id="nothing"),
    pytest.param(frame(TEXT, b"Hello"), [Text(b"Hello")], id="text"),
    pytest.param(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", [Text(b"Hello")], id="the RFC's masked Hello (5.7)"),
    pytest.param(frame(TEXT), [Text(b"")], id="empty text"),
    pytest.param(frame(TEXT, b"a") + frame(TEXT, b"b"), [Text(b"a"), Text(b"b")], id="two texts"),
    pytest.param(frame(TEXT, b"a" * 125), [Text(b"a" * 125)], id="125 bytes"),
    pytest.param(frame(TEXT, b"a" * 126), [Text(b"a" * 126)], id="126 bytes"),
    pytest.param(frame(TEXT, b"a" * LIMIT), [Text(b"a" * LIMIT)], id="as big as may be"),
    pytest.param(frame(TEXT, b"ab", size_in=2), [Text(b"ab")], id="2 bytes for a short length"),
    pytest.param(frame(TEXT, b"ab", size_in=8), [Text(b"ab")], id="8 bytes for a short length"),
    pytest.param(frame(PING, b"ab", size_in=2), [Ping(b"ab")], id="2 bytes for a ping's length"),
    pytest.param(frame(TEXT, b"a" * 9, key=b"\0\0\0\0"), [Text(b"a" * 9)], id="a key of zeros"),
    pytest.param(frame(TEXT, b"Hello", key=None), [fault(Flaw.UNMASKED)], id="not masked"),
    pytest.param(frame(PING, key=None), [fault(Flaw.UNMASKED)], id="ping not masked"),
    pytest.param(frame(TEXT, b"a") + frame(TEXT, key=None), [Text(b"a"), fault(Flaw.UNMASKED)], id="second not masked"),
    pytest.param(frame(TEXT, b"a")[:-1], [], id="unfinished frame"),
    pytest.param(frame(TEXT, b"a", flags=FIN | RSV1), [RESERVED], id="RSV1, nothing negotiated"),
    pytest.param(frame(TEXT, b"a", flags=FIN | RSV2), [RESERVED], id="RSV2"),
    pytest.param(frame(TEXT, b"a", flags=FIN | RSV3), [RESERVED], id="RSV3"),
    pytest.param(frame(PING, b"a", flags=FIN | RSV1), [RESERVED], id="RSV1 on a ping"),
    pytest.param(frame(CLOSE, flags=FIN | RSV3), [RESERVED], id="RSV3 on a close"),
    *(pytest.param(frame(code), [fault(Flaw.OPCODE)], id=f"opcode {code:x}") for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
    pytest.param(frame(BINARY, b"a"), [fault(Flaw.BINARY, 1003)], id="binary"),
    pytest.param(frame(BINARY, b"a", flags=0), [fault(Flaw.BINARY, 1003)], id="fragmented binary"),
    pytest.param(frame(TEXT, b"a" * (LIMIT + 1)), [TOO_BIG], id="one byte too big"),
    pytest.param(frame(BINARY, b"a" * (LIMIT + 1)), [TOO_BIG], id="binary too big"),
    # Refused at the header
    pytest.param(header(FIN | TEXT, 5), [fault(Flaw.UNMASKED)], id="header not masked"),
    pytest.param(header(FIN | 3, 0x85), [fault(Flaw.OPCODE)], id="header with an unknown opcode"),
    pytest.param(header(FIN | TEXT, 0xFE, b"\x10\x01"), [TOO_BIG], id="header of 4097 bytes"),
    pytest.param(header(FIN | TEXT, 0xFE, b"\x10\x00"), [], id="header of 4096 bytes"),
    pytest.param(header(FIN | TEXT, 0xFF, bytes(3) + b"\1" + bytes(4)), [TOO_BIG], id="header of 4 GiB"),
    pytest.param(header(FIN | TEXT, 0xFF, b"\x80" + bytes(7)), [TOO_BIG], id="header with the length's top bit"),
    pytest.param(header(FIN | RSV2 | TEXT, 0x85), [RESERVED], id="header with RSV2"),
    pytest.param(header(FIN | BINARY, 0x85), [fault(Flaw.BINARY, 1003)], id="header of a binary"),
]

FRAGMENTS = [
    pytest.param(frame(TEXT, b"a", flags=0) + frame(CONT, b"b"), [Text(b"ab")], id="two"),
    pytest.param(frame(TEXT, b"a", flags=0) + frame(CONT, b"b", flags=0) + frame(CONT, b"c"), [Text(b"abc")], id="three"),
    pytest.param(frame(TEXT, flags=0) + frame(CONT, flags=0) + frame(CONT), [Text(b"")], id="empty ones"),
    pytest.param(frame(TEXT, b"a", flags=0) + frame(CONT, b"b", flags=0), [], id="unfinished"),
    pytest.param(
        frame(TEXT, b"a", flags=0) + frame(PING, b"p") + frame(PONG) + frame(CONT, b"b") + frame(TEXT, b"c"),
        [Ping(b"p"), Pong(b""), Text(b"ab"), Text(b"c")],
        id="control frames between",
    ),
    pytest.param(frame(CONT, b"a"), [fault(Flaw.NOTHING_TO_CONTINUE)], id="nothing to continue"),
    pytest.param(frame(CONT, b"a", flags=0), [fault(Flaw.NOTHING_TO_CONTINUE)], id="nothing to continue, more to come"),
    pytest.param(
        frame(TEXT, b"a", flags=0) + frame(CONT, b"b") + frame(CONT, b"c"),
        [Text(b"ab"), fault(Flaw.NOTHING_TO_CONTINUE)],
        id="nothing more to continue",
    ),
    pytest.param(frame(TEXT, b"a", flags=0) + frame(TEXT, b"b"), [fault(Flaw.NOT_CONTINUED)], id="a text between"),
    pytest.param(frame(TEXT, b"a", flags=0) + frame(TEXT, flags=0), [fault(Flaw.NOT_CONTINUED)], id="a first one between"),
    pytest.param(frame(TEXT, b"a", flags=0) + frame(BINARY), [fault(Flaw.NOT_CONTINUED)], id="a binary between"),
    pytest.param(frame(TEXT, b"a" * LIMIT, flags=0) + frame(CONT), [Text(b"a" * LIMIT)], id="as big as may be"),
    pytest.param(frame(TEXT, b"a" * LIMIT, flags=0) + frame(CONT, b"a"), [TOO_BIG], id="one byte too big"),
    pytest.param(frame(TEXT, b"ab", flags=0) + header(FIN, 0xFE, b"\x0f\xff"), [TOO_BIG], id="header makes it too big"),
    pytest.param(frame(TEXT, b"ab", flags=0) + header(FIN, 0xFE, b"\x0f\xfe"), [], id="header does not make it too big"),
    pytest.param(
        frame(TEXT, b"a" * LIMIT, flags=0) + frame(PING, b"p" * 125) + frame(CONT),
        [Ping(b"p" * 125), Text(b"a" * LIMIT)],
        id="a ping does not count",
    ),
    pytest.param(
        frame(TEXT, b"a", flags=0) + (MAX_FRAGMENTS - 2) * frame(CONT, b"a", flags=0) + frame(CONT, b"a"),
        [Text(b"a" * MAX_FRAGMENTS)],
        id="as many as may be",
    ),
    pytest.param(
        frame(TEXT, flags=0) + (MAX_FRAGMENTS - 1) * frame(CONT, flags=0) + header(FIN, 0x80),
        [fault(Flaw.FRAGMENTS, 1009)],
        id="one too many",
    ),
]

CONTROL = [
    pytest.param(frame(PING), [Ping(b"")], id="empty ping"),
    pytest.param(frame(PING, b"\xff" * 125), [Ping(b"\xff" * 125)], id="ping of 125 bytes"),
    pytest.param(frame(PONG, b"p"), [Pong(b"p")], id="pong"),
    pytest.param(frame(PING, b"p" * 126), [fault(Flaw.CONTROL_SIZE)], id="ping of 126 bytes"),
    pytest.param(frame(PONG, b"p" * (LIMIT + 1)), [fault(Flaw.CONTROL_SIZE)], id="pong of 4097 bytes"),
    pytest.param(header(FIN | CLOSE, 0xFE, b"\0\x7e"), [fault(Flaw.CONTROL_SIZE)], id="header of a close of 126 bytes"),
    pytest.param(frame(PING, flags=0), [fault(Flaw.CONTROL_FRAGMENT)], id="fragmented ping"),
    pytest.param(frame(CLOSE, flags=0), [fault(Flaw.CONTROL_FRAGMENT)], id="fragmented close"),
    pytest.param(frame(CLOSE) + frame(PING), [Closing(None, "")], id="close, and nothing after it"),
    pytest.param(frame(CLOSE, b"\x03"), [fault(Flaw.CLOSE_SIZE)], id="close of 1 byte"),
    pytest.param(frame(CLOSE, b"\x03\xe8"), [Closing(1000, "")], id="close with a code"),
    pytest.param(frame(CLOSE, b"\x03\xe9" + "再见".encode()), [Closing(1001, "再见")], id="close with a reason"),
    pytest.param(frame(CLOSE, b"\x03\xe9" + b"r" * 123), [Closing(1001, "r" * 123)], id="close of 125 bytes"),
    pytest.param(frame(CLOSE, b"\x03\xe8\xff"), [fault(Flaw.CLOSE_UTF8, 1007)], id="close's reason not UTF-8"),
    pytest.param(frame(CLOSE, b"\x03\xe8\xe5\x86"), [fault(Flaw.CLOSE_UTF8, 1007)], id="close's reason cut"),
    pytest.param(frame(CLOSE, b"\0\0\xff"), [fault(Flaw.CLOSE_UTF8, 1007)], id="neither reason nor code"),
    pytest.param(frame(TEXT, b"a", flags=0) + frame(CLOSE, b"\x03\xe8"), [Closing(1000, "")], id="close within a message"),
    pytest.param(frame(TEXT, b"\xff") + frame(PING), [fault(Flaw.UTF8, 1007)], id="nothing after a fault"),
]

TEXTS = [
    pytest.param("κόσμε 房间 🎁".encode(), True, id="1 to 4 bytes"),
    pytest.param(b"\0\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80\xef\xbf\xbf\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", True, id="ends of ranges"),
    pytest.param(b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited", False, id="a surrogate"),
    pytest.param(b"\xf4\x90\x80\x80", False, id="above U+10FFFF"),
    pytest.param(b"\xc0\xaf", False, id="overlong in 2"),
    pytest.param(b"\xe0\x80\xaf", False, id="overlong in 3"),
    pytest.param(b"\x80", False, id="a continuation byte"),
    pytest.param(b"\xfe", False, id="a byte never used"),
    pytest.param(b"ab\xe6\x88", False, id="cut"),
]


@pytest.mark.parametrize("size", [1, 3, 1 << 20], ids=["byte by byte", "three by three", "at once"])
@pytest.mark.parametrize(("stream", "events"), [*FRAMING, *FRAGMENTS, *CONTROL])
def test_a_stream_is_read_as_rfc_6455_wants_it(stream: bytes, events: list[Event], size: int) -> None:
    receiver = Receiver()
    assert read(receiver, in_chunks(stream, [size] * (len(stream) // size))) == events
    assert receiver.ended == any(isinstance(event, Closing | Fault) for event in events)


@pytest.mark.parametrize(("text", "good"), TEXTS)
@pytest.mark.parametrize("deflates", [False, True])
def test_text_is_utf8_and_a_fragment_may_end_within_a_letter(text: bytes, good: bool, deflates: bool) -> None:
    events: list[Event] = [Text(text)] if good else [fault(Flaw.UTF8, 1007)]
    data, first = (deflated(text), RSV1) if deflates else (text, 0)
    assert Receiver(deflates=deflates).feed(frame(TEXT, data, flags=FIN | first)) == events
    for cut in range(len(data) + 1):
        stream = frame(TEXT, data[:cut], flags=first) + frame(CONT, data[cut:])
        assert Receiver(deflates=deflates).feed(stream) == events
    letters = [frame(CONT, data[place : place + 1], flags=0) for place in range(len(data))]
    assert Receiver(deflates=deflates).feed(frame(TEXT, flags=first) + b"".join(letters) + frame(CONT)) == events


def test_close_codes_are_those_a_peer_may_send() -> None:
    allowed = []
    for code in range(65536):
        match Receiver().feed(frame(CLOSE, code.to_bytes(2, "big"))):
            case [Closing(closed, "")] if closed == code:
                allowed.append(code)
            case [Fault(Close.PROTOCOL_ERROR, Flaw.CLOSE_CODE)]:
                pass
            case other:
                pytest.fail(f"{code}: {other}")
    assert allowed == [1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)]


@pytest.mark.parametrize(
    "last", [frame(CLOSE), frame(CLOSE, b"\x03"), frame(PING, b"p", flags=FIN | RSV2), frame(CONT, b"\xff")]
)
def test_after_a_fault_or_a_close_nothing_is_read_and_nothing_kept(last: bytes) -> None:
    receiver = Receiver()
    assert receiver.feed(frame(TEXT, b"a", flags=0) + last[:1]) == []
    [event] = receiver.feed(last[1:] + frame(TEXT, b"a") * 9)
    assert isinstance(event, Closing | Fault)
    assert receiver.feed(frame(TEXT, b"a")) == ()
    assert (receiver._rest, receiver._message) == (b"", None)


# ---- permessage-deflate
HELLO = b"\xf2\x48\xcd\xc9\xc9\x07\x00"

DEFLATED = [
    pytest.param(frame(TEXT, HELLO, flags=FIN | RSV1), [Text(b"Hello")], id="the RFC's Hello (7.2.3.1)"),
    pytest.param(
        frame(TEXT, HELLO[:3], flags=RSV1) + frame(CONT, HELLO[3:]), [Text(b"Hello")], id="the RFC's Hello in two fragments"
    ),
    pytest.param(frame(TEXT, b"\0\x05\0\xfa\xffHello\0", flags=FIN | RSV1), [Text(b"Hello")], id="a stored block (7.2.3.3)"),
    pytest.param(frame(TEXT, b"\0\x05\0\xfa\xffHel", flags=FIN | RSV1), [fault(Flaw.DEFLATE)], id="a stored block cut short"),
    pytest.param(frame(TEXT, b"\xf3\x48\xcd\xc9\xc9\x07\0\0", flags=FIN | RSV1), [Text(b"Hello")], id="BFINAL (7.2.3.4)"),
    pytest.param(
        frame(TEXT, b"\xf2\x48\x05\0\0\0\xff\xff\xca\xc9\xc9\x07\0", flags=FIN | RSV1),
        [Text(b"Hello")],
        id="two blocks (7.2.3.5)",
    ),
    pytest.param(frame(TEXT, b"\0", flags=FIN | RSV1), [Text(b"")], id="an empty message (7.2.3.6)"),
    pytest.param(frame(TEXT, b"Hello"), [Text(b"Hello")], id="not deflated though it was agreed on"),
    pytest.param(
        frame(TEXT, HELLO, flags=FIN | RSV1) + frame(TEXT, b"a") + frame(TEXT, HELLO, flags=FIN | RSV1),
        [Text(b"Hello"), Text(b"a"), Text(b"Hello")],
        id="each message anew",
    ),
    pytest.param(
        frame(TEXT, HELLO, flags=FIN | RSV1) + frame(TEXT, b"\xf2\0\x11\0\0", flags=FIN | RSV1),
        [Text(b"Hello"), fault(Flaw.DEFLATE)],
        id="a reference into the message before (7.2.3.2)",
    ),
    pytest.param(
        frame(TEXT, HELLO[:3], flags=RSV1) + frame(PING, b"p") + frame(CONT, HELLO[3:]),
        [Ping(b"p"), Text(b"Hello")],
        id="a ping between",
    ),
    pytest.param(frame(TEXT, b"\xff\xff", flags=FIN | RSV1), [fault(Flaw.DEFLATE)], id="no deflate data"),
    pytest.param(frame(TEXT, HELLO, flags=FIN | RSV1 | RSV2), [RESERVED], id="RSV2"),
    pytest.param(frame(PING, b"p", flags=FIN | RSV1), [RESERVED], id="a deflated ping"),
    pytest.param(frame(TEXT, HELLO[:3], flags=RSV1) + header(FIN | RSV1, 0x84), [RESERVED], id="RSV1 on the second fragment"),
    pytest.param(frame(TEXT, b"a", flags=0) + header(FIN | RSV1, 0x84), [RESERVED], id="RSV1 on the second fragment only"),
    pytest.param(frame(BINARY, HELLO, flags=FIN | RSV1), [fault(Flaw.BINARY, 1003)], id="deflated binary"),
    pytest.param(frame(TEXT, deflated(b"a" * LIMIT), flags=FIN | RSV1), [Text(b"a" * LIMIT)], id="as big as may be"),
    pytest.param(frame(TEXT, deflated(noise(LIMIT - 6), 0), flags=FIN | RSV1), [Text(noise(LIMIT - 6))], id="hardly deflated"),
    pytest.param(frame(TEXT, deflated(b"a" * (LIMIT + 1)), flags=FIN | RSV1), [TOO_BIG], id="inflates to one byte too many"),
    pytest.param(
        frame(TEXT, deflated(noise(LIMIT + 1))[:2000], flags=RSV1) + frame(CONT, deflated(noise(LIMIT + 1))[2000:]),
        [TOO_BIG],
        id="inflates to one byte too many, in fragments",
    ),
    pytest.param(header(FIN | RSV1 | TEXT, 0xFE, b"\x10\x01"), [TOO_BIG], id="too big before it is inflated"),
    pytest.param(
        frame(TEXT, deflated(b"a"), flags=RSV1) + header(FIN, 0xFE, b"\x10\x00"), [TOO_BIG], id="fragments too big before"
    ),
]


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["byte by byte", "at once"])
@pytest.mark.parametrize(("stream", "events"), DEFLATED)
def test_deflated_messages_are_read_as_rfc_7692_wants_it(stream: bytes, events: list[Event], size: int) -> None:
    assert read(Receiver(deflates=True), in_chunks(stream, [size] * (len(stream) // size))) == events


def test_a_bomb_is_refused_without_being_inflated() -> None:
    bomb = deflated(bytes(4_000_000), 9)
    assert len(bomb) < LIMIT
    once = frame(TEXT, bomb, flags=FIN | RSV1)
    fragments = frame(TEXT, bomb[:9], flags=RSV1) + frame(CONT, bomb[9:2000], flags=0) + frame(CONT, bomb[2000:])
    for stream in (once, fragments):
        tracemalloc.start()
        try:
            events = Receiver(deflates=True).feed(stream)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert events == [TOO_BIG]
        assert peak < 64 * 1024


# ---- What it costs
def test_an_idle_receiver_holds_nothing_of_its_own() -> None:
    receiver, other = Receiver(deflates=True), Receiver(deflates=True)
    assert not hasattr(receiver, "__dict__")
    receiver.feed(frame(TEXT, b"a" * 99) + frame(TEXT, HELLO[:3], flags=RSV1) + frame(CONT, HELLO[3:])[:-2])
    receiver.feed(frame(CONT, HELLO[3:])[-2:])
    assert not receiver.ended
    assert all(getattr(receiver, slot) is getattr(other, slot) for slot in Receiver.__slots__)


def test_no_more_than_one_frame_and_one_message_is_ever_kept() -> None:
    receiver = Receiver()
    half = frame(TEXT, b"a" * (LIMIT // 2), flags=0) + frame(CONT, b"a" * (LIMIT // 2), flags=0)
    assert read(receiver, [half, frame(PING, b"p" * 125)[:-1]]) == []
    assert receiver._message is not None
    assert (len(receiver._message.data), len(receiver._rest)) == (LIMIT, 130)
    receiver = Receiver()
    assert read(receiver, in_chunks(frame(TEXT, b"a" * LIMIT, size_in=8)[:-1], [1] * LIMIT)) == []
    assert len(receiver._rest) == LIMIT + MAX_HEAD - 1


# ---- Round trips
CHUNKS: Final = st.lists(st.integers(0, 40), max_size=30)
KEYS: Final = st.binary(min_size=4, max_size=4)
SHORT: Final = st.binary(max_size=125)


class Said(NamedTuple):
    """Frames of a client that keeps the rules, and the events that they are."""

    frames: list[bytes]
    events: list[Event]


@st.composite
def messages(draw: st.DrawFn, *, deflates: bool) -> Said:
    text = draw(st.text(max_size=60) | st.integers(0, 1300).map(lambda size: noise(size).decode())).encode()
    deflate = deflates and draw(st.booleans())
    data = deflated(text, draw(st.integers(0, 9))) if deflate else text
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=4)))
    frames = []
    for place, (start, end) in enumerate(zip([0, *cuts], [*cuts, len(data)], strict=True)):
        flags = (FIN if place == len(cuts) else 0) | (RSV1 if deflate and place == 0 else 0)
        size_in = draw(st.sampled_from([None, None, 2, 8]))
        frames.append(frame(CONT if place else TEXT, data[start:end], flags=flags, key=draw(KEYS), size_in=size_in))
    return Said(frames, [Text(text)])


CONTROLS: Final = st.one_of(
    st.builds(lambda payload, key: Said([frame(PING, payload, key=key)], [Ping(payload)]), SHORT, KEYS),
    st.builds(lambda payload, key: Said([frame(PONG, payload, key=key)], [Pong(payload)]), SHORT, KEYS),
)
CLOSES: Final = st.one_of(
    st.just(Said([frame(CLOSE)], [Closing(None, "")])),
    st.builds(
        lambda code, reason: Said([frame(CLOSE, code.to_bytes(2, "big") + reason.encode())], [Closing(code, reason)]),
        st.sampled_from([1000, 1001, 1011, 1014, 3000, 4999]),
        st.text(max_size=30),
    ),
)


@st.composite
def streams(draw: st.DrawFn, *, deflates: bool) -> Said:
    """Return up to four messages, control frames also among their fragments, and maybe a close."""
    said = Said([], [])
    for _ in range(draw(st.integers(0, 4))):
        message = draw(messages(deflates=deflates))
        for part in message.frames:
            for control in draw(st.lists(CONTROLS, max_size=1)):
                said.frames.extend(control.frames)
                said.events.extend(control.events)
            said.frames.append(part)
        said.events.extend(message.events)
    for close in draw(st.lists(CLOSES, max_size=1)):
        said.frames.extend(close.frames)
        said.events.extend(close.events)
    return said


@given(said=streams(deflates=True), sizes=CHUNKS)
def test_what_a_client_sends_is_what_is_received(said: Said, sizes: list[int]) -> None:
    assert read(Receiver(deflates=True), in_chunks(b"".join(said.frames), sizes)) == said.events


# ---- websockets as judge
MIN_ROOM: Final = 125
CUT_LIMIT: Final = 2044  # from here on `websockets` inflates the end of a message in a second step
QUIET: Final = logging.getLogger("tests.websockets")
QUIET.disabled = True


class BinaryError(Exception):
    """`websockets` met a binary frame that was well-formed: we refuse it."""


class Watch(Extension):
    """See each frame before `permessage-deflate` does; refuse binary ones."""

    name = ExtensionName("watch")

    def __init__(self, protocol: ServerProtocol, allowed: int) -> None:
        self.protocol = protocol
        self.allowed = allowed
        self.last: Frame | None = None

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:  # noqa: ARG002  # their interface
        self.last = frame
        reserved = RSV1 * frame.rsv1 | RSV2 * frame.rsv2 | RSV3 * frame.rsv3
        if frame.opcode is Opcode.BINARY and not reserved & ~self.allowed and self.protocol.current_size is None:
            raise BinaryError
        return frame

    def encode(self, frame: Frame) -> Frame:
        return frame


class Judge:
    """The sans-I/O server of `websockets`, and what makes of its frames what its connection does:
    messages of UTF-8.
    """

    def __init__(self, *, deflates: bool) -> None:
        self.protocol = ServerProtocol(state=State.OPEN, max_size=LIMIT, logger=QUIET)
        self.watch = Watch(self.protocol, RSV1 if deflates else 0)
        self.deflate = PerMessageDeflate(
            remote_no_context_takeover=True, local_no_context_takeover=True, remote_max_window_bits=15, local_max_window_bits=15
        )
        self.protocol.extensions = [*([self.deflate] if deflates else []), self.watch]
        self.said: list[Event] = []
        self.code: int | None = None
        self._message = b""

    def feed(self, data: bytes) -> None:
        """Take what comes; `said` and `code` (of a fault) tell what it was."""
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            assert isinstance(event, Frame)
            if self.code is None:
                self._take(event)
        received = self.protocol.close_rcvd
        error = self.protocol.parser_exc
        if self.code is None and not self.closed and error is not None:
            if isinstance(error, BinaryError):
                self.code = 1003
            elif str(error) == "incomplete fragmented message" and received is not None:
                self._close()  # RFC 6455, 5.4, lets any control frame come between fragments: a close too
            else:
                assert self.protocol.close_sent is not None
                self.code = self.protocol.close_sent.code

    @property
    def closed(self) -> bool:
        return bool(self.said) and isinstance(self.said[-1], Closing)

    @property
    def ended(self) -> bool:
        return self.code is not None or self.closed

    def _take(self, frame: Frame) -> None:
        data = bytes(frame.data)
        match frame.opcode:
            case Opcode.PING:
                self.said.append(Ping(data))
            case Opcode.PONG:
                self.said.append(Pong(data))
            case Opcode.CLOSE:
                self._close()
            case _:
                self._message += data
                if frame.fin:
                    text, self._message = self._message, b""
                    try:
                        text.decode()
                    except UnicodeDecodeError:
                        self.code = 1007
                    else:
                        self.said.append(Text(text))

    def _close(self) -> None:
        received = self.protocol.close_rcvd
        assert received is not None
        self.said.append(Closing(None if received.code == 1005 else received.code, received.reason))


def compare(stream: bytes, ours_in: Sequence[int], theirs_in: Sequence[int], *, deflates: bool) -> None:
    """Read a stream both ways and compare: what was said, in order, and the fault's code.

    Where we differ on purpose:
    - a binary message is refused (1003), at its header; a close within a fragmented message is a
      close (see `Judge`);
    - more than 64 fragments are refused: no stream here has as many;
    - a header that is wrong is refused before its payload has come: the judge is fed zeros in its
      place;
    - control frames are not weighed against what is left of a fragmented message, and too long ones
      are 1002, not 1009;
    - fragments of a deflated message are inflated once all are there, so what is wrong with them is
      found later.
    """
    receiver, judge = Receiver(deflates=deflates), Judge(deflates=deflates)
    said = read(receiver, in_chunks(stream, ours_in))
    code: int | None = None
    flaw: Flaw | None = None
    if said and isinstance(said[-1], Fault):
        code, flaw = int(said[-1].code), said[-1].reason
        del said[-1]
    for chunk in in_chunks(stream, theirs_in):
        judge.feed(chunk)
    if code is not None:
        before = len(judge.said)
        for _ in range(LIMIT + MAX_HEAD):
            if judge.ended or len(judge.said) > before:
                break
            judge.feed(b"\0")
    room = LIMIT - (judge.protocol.current_size or 0)
    error = judge.protocol.parser_exc
    while_inflating = isinstance(error, PayloadTooBig) and error.size is None
    last = judge.watch.last
    if (
        room < MIN_ROOM
        or (judge.ended and judge.deflate.decode_cont_data)
        or (while_inflating and last is not None and len(last.data) >= CUT_LIMIT)
    ):
        assert said[: len(judge.said)] == judge.said
        return
    assert said == judge.said
    if judge.code == 1009 and (flaw is Flaw.CONTROL_SIZE or while_inflating):
        assert code in {1002, 1009}  # two flaws in one frame: we tell the header's
        return
    assert code == judge.code


@st.composite
def mutations(draw: st.DrawFn, *, deflates: bool) -> bytes:
    """Return a valid stream with a few bytes changed, put in or taken out, or frames in another
    order.
    """
    frames = draw(streams(deflates=deflates)).frames
    if draw(st.booleans()):
        frames = draw(st.permutations(frames))
    data = bytearray(b"".join(frames))
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 2)):
            case 0 if place < len(data):
                data[place] ^= 1 << draw(st.integers(0, 7))
            case 1:
                data[place:place] = draw(st.binary(max_size=4))
            case _:
                del data[place : place + draw(st.integers(1, 4))]
    return bytes(data)


WILD: Final = st.lists(
    st.builds(
        lambda first, payload, key, size_in: frame(first & 0xF, payload, flags=first & 0xF0, key=key, size_in=size_in),
        st.sampled_from([0x81, 0x81, 0x01, 0x80, 0x00, 0x89, 0x8A, 0x88, 0xC1, 0x41, 0xC0, 0x82, 0x91, 0x09])
        | st.integers(0, 255),
        st.one_of(
            st.binary(max_size=6),
            st.text(max_size=6).map(str.encode),
            st.sampled_from([deflated(b"ab" * 20), HELLO, deflated(b"a" * LIMIT), deflated(b"a" * (LIMIT + 1))]),
            st.sampled_from([1000, 1004, 1005, 1012, 1015, 2999, 3000, 5000]).map(lambda code: code.to_bytes(2, "big")),
            st.sampled_from([124, 125, 126, 127, 3900, 4095, 4096, 4097]).map(lambda size: b"a" * size),
        ),
        st.one_of(KEYS, KEYS, KEYS, KEYS, st.none()),
        st.sampled_from([None, None, None, 2, 8]),
    ),
    max_size=8,
).map(b"".join)
RANDOM: Final = st.binary(max_size=80) | st.tuples(
    st.sampled_from([b"\x81", b"\xc1", b"\x01", b"\x89", b"\x88"]), st.integers(0x80, 0xFF), st.binary(max_size=80)
).map(lambda parts: parts[0] + bytes((parts[1],)) + parts[2])


@pytest.mark.parametrize("deflates", [False, True])
@settings(max_examples=250)
@given(data=st.data(), ours_in=CHUNKS, theirs_in=CHUNKS)
def test_mutated_streams_are_judged_as_by_websockets(
    data: st.DataObject, ours_in: list[int], theirs_in: list[int], deflates: bool
) -> None:
    compare(data.draw(mutations(deflates=deflates)), ours_in, theirs_in, deflates=deflates)


@pytest.mark.parametrize("deflates", [False, True])
@settings(max_examples=250)
@given(stream=WILD, ours_in=CHUNKS, theirs_in=CHUNKS)
def test_wild_frames_are_judged_as_by_websockets(
    stream: bytes, ours_in: list[int], theirs_in: list[int], deflates: bool
) -> None:
    compare(stream, ours_in, theirs_in, deflates=deflates)


@pytest.mark.parametrize("deflates", [False, True])
@given(stream=RANDOM, ours_in=CHUNKS, theirs_in=CHUNKS)
def test_random_bytes_are_judged_as_by_websockets(
    stream: bytes, ours_in: list[int], theirs_in: list[int], deflates: bool
) -> None:
    compare(stream, ours_in, theirs_in, deflates=deflates)


@pytest.mark.parametrize("deflates", [False, True])
@pytest.mark.parametrize(("stream", "events"), [*FRAMING, *CONTROL, *FRAGMENTS[:-1], *DEFLATED])
def test_the_cases_above_are_judged_as_by_websockets(stream: bytes, events: list[Event], deflates: bool) -> None:
    compare(stream, (), (), deflates=deflates)
