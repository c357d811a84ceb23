"""The viewer protocol `liveroom.v1.json`: frames, messages, a room's packed batch, and the bytes of
WebSocket frames. Pure.

The broadcaster packs with it, the edge frames packed batches without opening them, viewers decode.
docs/viewer-protocol.md describes the protocol.

The payload of a batch is JSON lines: the header and the reliable messages first, then the
best-effort ones. Above `DEFLATE_FROM` bytes it is raw deflate without context, with a sync flush
between the two parts. So the whole payload, and its first part alone, are both valid messages of
`permessage-deflate` without the last four bytes of the flush (RFC 7692, 7.2.1).
"""

import json
import zlib
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple, TypeVar, get_args

import msgspec

from liveroom.kinds import Role
from liveroom.nesting import UNDECODABLE

SUBPROTOCOL: Final = "liveroom.v1.json"
DEFLATE_FROM: Final = 512
DEFLATE_LEVEL: Final = 6  # a tenth fewer bytes for every viewer than 1, for 1 us a message, once
MAX_CLIENT_FRAME_BYTES: Final = 4096
HEARTBEAT_S: Final = 20.0
VIEWER_SILENCE_S: Final = 25.0
MAX_ROOMS_PER_CONNECTION: Final = 8
MAX_EXACT: Final = 2**53 - 1  # the whole numbers that every reader of JSON has exactly
_MAX_TYPE_CHARS: Final = 64
MAX_TEXT_BYTES: Final = 16 * 1024 * 1024  # of an inflated payload
PIECE_BYTES: Final = 32 * 1024  # inflating and splitting it takes a third of a millisecond
_TAIL: Final = b"\x00\x00\xff\xff"

T = TypeVar("T")
_encoder: Final = msgspec.json.Encoder()


# ---- edge to viewer
class Hello(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t", tag="hello"):
    """First frame of a connection.

    `gateway`, `generation`: who serves it. `heartbeat_s`: how often to send a heartbeat.
    `silence_s`: after so long without a frame the viewer connects again. `pull`: the token for
    pulls. `request_id`: the id of the connection in the gateway's log; a viewer that reports a
    failure names it.
    """

    gateway: str
    generation: int
    heartbeat_s: float
    silence_s: float
    user: str
    pull: str = ""
    request_id: str = ""


class Card(msgspec.Struct, frozen=True, omit_defaults=True):
    """A room as a newcomer sees it: totals, modes, the last messages. None: unknown."""

    epoch: int | None = None
    seq: int | None = None
    rseq: int | None = None
    likes: int | None = None
    users: int | None = None
    connections: int | None = None
    settings: msgspec.Raw = msgspec.Raw(b"null")
    announcement: msgspec.Raw = msgspec.Raw(b"null")
    messages: list[msgspec.Raw] = []
    reliable: list[msgspec.Raw] = []
    tombstones: list[msgspec.Raw] = []

    @property
    def modes(self) -> dict[str, Any]:
        """`settings` as Python's values; empty where they are unknown."""
        return _object(self.settings)

    @property
    def announced(self) -> "Message | None":
        """The announcement that stands, None where there is none."""
        return next(_readable([self.announcement]), None)

    @property
    def history(self) -> "list[Message]":
        """The last messages, `messages` and `reliable`, in order of `seq`."""
        found = {message.seq: message for message in _readable([*self.reliable, *self.messages])}
        return [found[seq] for seq in sorted(found)]


class Joined(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t", tag="joined"):
    """Answer to `join`. Numbers up to `seq` are history; batches follow from there.

    `epoch`, `seq`, `rseq` are None where the gateway has seen nothing of the room yet: the first
    batch then sets them. `resumed`: the numbers are the viewer's own, and the missed messages
    follow, so no pull is needed. `card`: the room as it was at `seq`; where the gateway does not
    get it within a second, it follows in a frame of its own.
    """

    room: str
    epoch: int | None = None
    seq: int | None = None
    rseq: int | None = None
    pos: str = ""
    resumed: bool = False
    card: Card | None = None


class Carded(msgspec.Struct, frozen=True, tag_field="t", tag="card"):
    """The card of a room that was joined without one.

    Its numbers are its own: they do not move the viewer's position.
    """

    room: str
    card: Card


class BatchHeader(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t", tag="batch", gc=False):
    """First line of a batch.

    `seq`: the first and last number in it (first = last + 1: none). `rseq`: the newest reliable
    number of the room. `at`: when it was packed, in milliseconds. `pos`: the cursor for a pull.
    `skipped`: danmaku thinned since the last batch. `likes`: the room's total, where it changed.
    `viewers`: [users, connections], where reported.
    """

    room: str
    epoch: int
    seq: tuple[int, int]
    rseq: int
    at: int
    pos: str = ""
    skipped: int = 0
    likes: int | None = None
    viewers: tuple[int, int] | None = None


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of a batch.

    `kind`, `role`: a later version may have more of them. `at`: when it was accepted, in
    milliseconds. `rseq`: of reliable kinds only. `n`: how many identical messages it stands for.
    `data`: the body, as the sender wrote it.
    """

    seq: int
    kind: str
    id: str
    user: str
    at: int
    rseq: int = 0
    name: str = ""
    role: str = Role.VIEWER
    level: int = 0
    n: int = 1
    package: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")

    @property
    def body(self) -> dict[str, Any]:
        """`data` as Python's values; empty where it is no JSON object.

        It is parsed at each call, so that whoever only passes messages on pays nothing. Numbers
        that are too large are infinite, as in browsers.
        """
        return _object(self.data)


class MessageHead(msgspec.Struct, frozen=True, gc=False):
    """A message without its body: enough for numbering, clearing and searching."""

    seq: int
    kind: str
    id: str
    user: str
    at: int
    rseq: int = 0


class _WholeMessage(MessageHead, frozen=True):
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Notice(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t", tag="notice"):
    """Sent to one user: it is muted, banned or kicked, or no longer muted or banned.

    `kind`: a later version may have more of them. A notice has an id and no number. On entering a
    room, the notice of a mute that holds is repeated. `by_role`: the role of the host who gave the
    command; empty where that is unknown.
    """

    room: str
    kind: str
    id: str
    at: int
    until_ms: int = 0
    why: str = ""
    by_role: str = ""


class Move(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t", tag="move"):
    """Connect again through the scheduler after `delay_s`; this connection serves until then."""

    reason: str
    delay_s: float = 0.0


class Error(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="t", tag="error"):
    """A frame or a join is refused, or the viewer was put out of the room (banned, kicked,
    room_dissolved, full).

    `code` is stable. `retry_after_s`: after so long the same join may succeed (None: nobody knows).
    `until_ms`: when the ban ends, in milliseconds of Unix time (-1: never; 0: it is no ban).
    `detail` is then the reason that the host gave. `request_id`: that of `hello`.
    """

    code: str
    detail: str = ""
    room: str = ""
    retry_after_s: float | None = None
    until_ms: int = 0
    request_id: str = ""


class Left(msgspec.Struct, frozen=True, tag_field="t", tag="left"):
    """Answer to `leave`: no more frames of the room follow."""

    room: str


class Beat(msgspec.Struct, frozen=True, tag_field="t", tag="hb"):
    """Answer to `hb`, and sent after a quiet time. `at`: the gateway's clock, in milliseconds."""

    at: int


class Pulled(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer to a pull: the wanted messages of a room's history, in order of `seq`.

    `epoch`: of the numbers (None: the gateway knows none). `seq`, `rseq`: up to these numbers the
    answer is complete. `more`: more messages follow; the next pull begins at `pos`. `gone`: some
    wanted messages are no longer kept or cannot be read, most often the oldest ones.
    """

    room: str
    epoch: int | None = None
    seq: int = 0
    rseq: int = 0
    pos: str = ""
    more: bool = False
    gone: bool = False
    messages: list[msgspec.Raw] = []


ServerFrame = Hello | Joined | Carded | Left | Notice | Move | Error | Beat


# ---- viewer to edge
class Join(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=False, tag_field="t", tag="join"):
    """Enter a room, or resume it after the numbers already seen (`epoch`, `seq`, `rseq`)."""

    room: str
    epoch: int | None = None
    seq: int | None = None
    rseq: int | None = None


class Leave(msgspec.Struct, frozen=True, tag_field="t", tag="leave"):
    """Leave a room."""

    room: str


class Heartbeat(msgspec.Struct, frozen=True, tag_field="t", tag="hb"):
    """The viewer is alive."""


ClientFrame = Join | Leave | Heartbeat

_client_decoder: Final[msgspec.json.Decoder[ClientFrame]] = msgspec.json.Decoder(ClientFrame)
_server_decoder: Final[msgspec.json.Decoder[ServerFrame | BatchHeader]] = msgspec.json.Decoder(ServerFrame | BatchHeader)
_message_decoder: Final = msgspec.json.Decoder(Message)
_header_decoder: Final = msgspec.json.Decoder(BatchHeader)
_card_decoder: Final = msgspec.json.Decoder(Card)
_head_decoder: Final = msgspec.json.Decoder(MessageHead)
_whole_decoder: Final = msgspec.json.Decoder(_WholeMessage)
_pulled_decoder: Final = msgspec.json.Decoder(Pulled)


class BadFrameError(ValueError):
    """A frame does not follow the protocol."""


class UnknownFrameError(BadFrameError):
    """A frame of a type that this version does not know: a later version sent it."""


class _Type(msgspec.Struct):
    """The type of any frame."""

    t: str


_CLIENT_TYPES: Final = frozenset(str(frame.__struct_config__.tag) for frame in get_args(ClientFrame))
_SERVER_TYPES: Final = frozenset(str(frame.__struct_config__.tag) for frame in (*get_args(ServerFrame), BatchHeader))
_type_decoder: Final = msgspec.json.Decoder(_Type)


def _decoded_frame(decoder: msgspec.json.Decoder[T], types: Container[str], text: bytes | str) -> T:
    try:
        return decoder.decode(text)
    except UNDECODABLE as error:
        named = _decoded(_type_decoder, text)
        if named.t not in types:
            raise UnknownFrameError(f"unknown type {named.t[:_MAX_TYPE_CHARS]}") from None
        raise BadFrameError(str(error)) from None


def _decoded(decoder: msgspec.json.Decoder[T], text: bytes | str) -> T:
    try:
        return decoder.decode(text)
    except UNDECODABLE as error:
        raise BadFrameError(str(error)) from None


def _messages(lines: Iterable[bytes | msgspec.Raw]) -> list[Message]:
    try:
        return [_message_decoder.decode(line) for line in lines]
    except UNDECODABLE as error:
        raise BadFrameError(str(error)) from None


def _object(data: msgspec.Raw) -> dict[str, Any]:
    """Return a JSON object; an empty one where `data` is none."""
    most = len(str(MAX_EXACT))
    try:
        found = json.loads(bytes(data), parse_int=lambda digits: float(digits) if len(digits) > most else int(digits))
    except (ValueError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}


def _readable(lines: Iterable[msgspec.Raw]) -> "Iterator[Message]":
    """Yield the messages of the lines that are some."""
    for line in lines:
        with suppress(*UNDECODABLE):
            yield _message_decoder.decode(line)


def decode_client_frame(text: bytes | str) -> ClientFrame:
    """Return what a viewer sent.

    Raises `UnknownFrameError` for a frame of an unknown type, `BadFrameError` for any other text.
    """
    return _decoded_frame(_client_decoder, _CLIENT_TYPES, text)


def decode_header(line: bytes) -> BatchHeader:
    """Return the first line of a batch, or raise `BadFrameError`."""
    return _decoded(_header_decoder, line)


def decode_card(text: bytes) -> Card:
    """Return a room's card, or raise `BadFrameError`."""
    return _decoded(_card_decoder, text)


_DATA: Final = b',"data":'  # within a string its quotes would be escaped; `data` comes last in every line that we write


def split_message(line: bytes) -> tuple[MessageHead, bytes]:
    """Return a message's head and the JSON of its body, or raise `BadFrameError`.

    A body may be any JSON, of any depth, so a line of `encode_message` or the broadcaster is split
    without decoding it. Any other line is decoded whole.
    """
    head, found, data = line.partition(_DATA)
    if found:
        with suppress(*UNDECODABLE):
            return _head_decoder.decode(head + b"}"), data[:-1]
    whole = _decoded(_whole_decoder, line)
    return whole, bytes(whole.data)


class ReceivedBatch(NamedTuple):
    """A batch as a viewer reads it; `messages` in order of `seq`."""

    header: BatchHeader
    messages: list[Message]


def decode_pulled(text: bytes) -> tuple[Pulled, list[Message]]:
    """Return a pull's answer and its messages, or raise `BadFrameError`. For viewers and tests."""
    pulled = _decoded(_pulled_decoder, text)
    return pulled, _messages(pulled.messages)


def decode_server_frame(text: bytes) -> ServerFrame | ReceivedBatch:
    """Return a frame of the edge. For viewers and tests.

    Raises `UnknownFrameError` for a frame of an unknown type, `BadFrameError` for any other text.
    """
    head, _, rest = text.partition(b"\n")
    frame = _decoded_frame(_server_decoder, _SERVER_TYPES, head)
    if not isinstance(frame, BatchHeader):
        return frame
    messages = _messages(line for line in rest.split(b"\n") if line)
    messages.sort(key=lambda message: message.seq)
    return ReceivedBatch(frame, messages)


def encode_frame(frame: ServerFrame | ClientFrame | Pulled) -> bytes:
    """Return the JSON text of a frame, or of the answer to a pull."""
    return _encoder.encode(frame)


def encode_message(message: Message) -> bytes:
    """Return a message's line (without the line break)."""
    return _encoder.encode(message)


class Payload(NamedTuple):
    """A room's part of a BATCH, as viewers receive it.

    `reliable_size`: the size of its first part, in bytes; 0: it has no reliable messages.
    """

    data: bytes
    reliable_size: int
    deflated: bool


def pack_payload(header: BatchHeader, reliable: Sequence[bytes], best_effort: Sequence[bytes]) -> Payload:
    """Pack one room's batch. `reliable`, `best_effort`: lines of `encode_message`."""
    return pack_lines(_encoder.encode(header), reliable, best_effort)


def pack_lines(header: bytes, reliable: Sequence[bytes] = (), best_effort: Sequence[bytes] = ()) -> Payload:
    """Pack a batch whose header is encoded already, or any frame that viewers share (`header`).

    A deflated payload lacks the last four bytes of the flush, as `permessage-deflate` wants it.
    """
    if not reliable or not best_effort:
        text = b"\n".join((header, *reliable, *best_effort))
        is_deflated = len(text) >= DEFLATE_FROM
        if is_deflated:
            deflate = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -15, 9)
            text = (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
        return Payload(text, len(text) if reliable else 0, is_deflated)
    first, rest = b"\n".join((header, *reliable)), b"\n" + b"\n".join(best_effort)
    if len(first) + len(rest) < DEFLATE_FROM:
        return Payload(first + rest, len(first), deflated=False)
    deflate = zlib.compressobj(DEFLATE_LEVEL, zlib.DEFLATED, -15, 9)
    head = deflate.compress(first) + deflate.flush(zlib.Z_SYNC_FLUSH)
    tail = deflate.compress(rest) + deflate.flush(zlib.Z_SYNC_FLUSH)
    return Payload(head + tail[:-4], len(head) - 4, deflated=True)


def inflate(data: bytes | memoryview, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """Return the text of a deflated payload.

    Raises `BadFrameError` where it is broken or longer than `max_bytes`.
    """
    engine = zlib.decompressobj(-15)
    try:
        text = engine.decompress(bytes(data) + _TAIL, max_bytes)
    except zlib.error as error:
        raise BadFrameError(str(error)) from None
    if engine.unconsumed_tail:
        raise BadFrameError(f"inflates to more than {max_bytes} bytes")
    return text


def payload_text(payload: bytes | memoryview, *, deflated: bool) -> bytes:
    """Return the text of a room's payload, deflated or not; raises as `inflate` does."""
    return inflate(payload) if deflated else bytes(payload)


def text_pieces(payload: bytes, *, deflated: bool) -> Iterator[bytes]:
    """Yield the text of a room's payload in pieces of at most `PIECE_BYTES`.

    A caller that shares a loop with others stops between two pieces. Raises as `inflate` does,
    perhaps after some pieces.
    """
    if not deflated:
        yield from (payload[start : start + PIECE_BYTES] for start in range(0, len(payload), PIECE_BYTES))
        return
    engine = zlib.decompressobj(-15)
    rest, size = payload + _TAIL, 0
    while True:
        try:
            piece = engine.decompress(rest, PIECE_BYTES)
        except zlib.error as error:
            raise BadFrameError(str(error)) from None
        rest, size = engine.unconsumed_tail, size + len(piece)
        if size > MAX_TEXT_BYTES:
            raise BadFrameError(f"inflates to more than {MAX_TEXT_BYTES} bytes")
        yield piece
        if not rest and len(piece) < PIECE_BYTES:  # a full piece may have left text within the engine
            return


# ---- WebSocket frames
TEXT: Final = 0x1
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA
_FIN: Final = 0x80
_RSV1: Final = 0x40
_SHORT: Final = 126
_MEDIUM: Final = 1 << 16

Opcode = Literal[0x1, 0x8, 0x9, 0xA]


def websocket_frame(payload: bytes | memoryview, opcode: int = TEXT, *, deflated: bool = False) -> bytes:
    """Return one whole unmasked frame (RFC 6455, 5.2), as a server sends it.

    `deflated`: the payload is compressed; it sets RSV1.
    """
    size = len(payload)
    first = _FIN | (_RSV1 if deflated else 0) | opcode
    if size < _SHORT:
        head = bytes((first, size))
    elif size < _MEDIUM:
        head = bytes((first, 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, 127)) + size.to_bytes(8, "big")
    return head + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a close frame; `reason` is cut to the 123 bytes a control frame holds."""
    text = reason.encode(errors="replace")[:123].decode(errors="ignore").encode()
    return websocket_frame(code.to_bytes(2, "big") + text, CLOSE)
