"""One room's part of a BATCH as this gateway keeps it: its numbers and its finished frames. Pure.

Owns building each frame once, and removing messages that are cleared. Created by the hub; shared by
all viewers, their send queues and the room's ring.
"""

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from liveroom.bodies import Clear
from liveroom.kinds import Kind
from liveroom.nesting import UNDECODABLE
from liveroom.wire import (
    BadFrameError,
    Message,
    MessageHead,
    encode_message,
    inflate,
    pack_lines,
    payload_text,
    split_message,
    text_pieces,
    websocket_frame,
)

_PIECE_LINES: Final = 200


class Form(IntEnum):
    """The form of a viewer's frames; also their index in `PreparedBatch.frames`."""

    PLAIN = 0
    DEFLATED = 1
    EVENTS = 2


class Cleared(NamedTuple):
    """A `clear` with its number `seq`: it removes messages that were numbered before."""

    seq: int
    clear: Clear

    def takes(self, line: MessageHead) -> bool:
        """Return whether it removes this message."""
        return line.seq < self.seq and self.clear.takes(line.kind, line.id, line.user)

    def needles(self) -> Iterator[bytes]:
        """Yield byte strings: every message that it removes contains one of them."""
        for name in (self.clear.id, self.clear.user):
            if name:
                yield _encode(name)


class Clears:
    """Some clears, by the names in them: a message is compared with those that may take it alone.

    So a room in which thousands of messages were cleared costs no more to read than another.
    """

    def __init__(self, clears: Sequence[Cleared] = ()) -> None:
        self._by_name: dict[str, dict[tuple[str, str, str], Cleared]] = {}
        self.add(clears)

    def add(self, clears: Sequence[Cleared]) -> None:
        """Add some more."""
        for cleared in clears:
            clear = cleared.clear
            for name in {clear.id, clear.user} - {""}:
                same = self._by_name.setdefault(name, {})
                what = clear.id, clear.sender, clear.user
                before = same.get(what)
                if before is None or before.seq < cleared.seq:  # of clears of the same the last one takes all
                    same[what] = cleared

    def takes(self, line: MessageHead) -> bool:
        """Return whether some clear removes this message."""
        named = self._by_name
        return bool(named) and any(
            cleared.takes(line) for name in (line.id, line.user) if name in named for cleared in named[name].values()
        )


_clear_decoder: Final = msgspec.json.Decoder(Clear)
_encode: Final = msgspec.json.Encoder().encode


def as_event(text: bytes, name: str = "") -> bytes:
    """Return a text as one server-sent event. `name`: the event's type; empty for frames."""
    head = f"event: {name}\n".encode() if name else b""
    return b"%bdata: %b\n\n" % (head, text.replace(b"\n", b"\ndata: "))


class PreparedBatch:
    """A room's part of a BATCH, or any other frame that viewers share (without numbers).

    `frames`: the frame of the whole batch for each `Form` (`PLAIN` and `DEFLATED` for WebSockets,
    `EVENTS` for event streams); None until `make` builds it. `offset`: of its record. `first` to
    `last`: its numbers. `rseq`: the newest reliable number.
    """

    __slots__ = (
        "_clears",
        "_is_readable",
        "_reliable",
        "at_s",
        "first",
        "frames",
        "has_clear",
        "is_deflated",
        "last",
        "offset",
        "payload",
        "reliable_size",
        "rseq",
    )

    def __init__(
        self,
        payload: bytes,
        reliable_size: int = 0,
        *,
        is_deflated: bool,
        has_clear: bool = False,
        first: int = 1,
        last: int = 0,
        rseq: int = 0,
        offset: int = 0,
        at_s: float = 0.0,
    ) -> None:
        self.payload = payload
        self.reliable_size = reliable_size
        self.is_deflated = is_deflated
        self.has_clear = has_clear
        self.first = first
        self.last = last
        self.rseq = rseq
        self.offset = offset
        self.at_s = at_s
        self._is_readable: bool | None = None
        self._clears: Sequence[Cleared] | None = None
        self.frames: list[bytes | None] = [None, None, None]
        self._reliable: list[bytes | None] = [None, None, None]

    @property
    def is_empty(self) -> bool:
        """Whether no message is in it: only the room's sums."""
        return self.first > self.last

    def make(self, form: int) -> bytes:
        """Return the frame of the whole batch in a form.

        It is deflated where both the batch and the form are. Raises `BadFrameError` where a broken
        batch must be inflated.
        """
        return self._frame(self.frames, self.payload, form)

    def reliable(self, form: int) -> bytes | None:
        """Return the frame of the header and the reliable messages in a form; None: there are
        none.
        """
        if not self.reliable_size:
            return None
        return self._frame(self._reliable, self.payload[: self.reliable_size], form)

    def forget(self) -> None:
        """Drop the built frames; they can be built again."""
        self.frames = [None, None, None]
        self._reliable = [None, None, None]

    def _frame(self, frames: list[bytes | None], payload: bytes, form: int) -> bytes:
        frame = frames[form]
        if frame is None:
            deflated = form == Form.DEFLATED and self.is_deflated
            text = inflate(payload) if self.is_deflated and not deflated else payload
            frame = frames[form] = as_event(text) if form == Form.EVENTS else websocket_frame(text, deflated=deflated)
            if not self.is_deflated and form != Form.EVENTS:
                frames[Form.PLAIN] = frames[Form.DEFLATED] = frame
        return frame

    def lines(self) -> Iterator[tuple[MessageHead, bytes]]:
        """Yield the messages with their bytes, the reliable ones first.

        A message that cannot be decoded is left out: no viewer could decode it either.
        """
        for text in self._text().split(b"\n")[1:]:
            with suppress(BadFrameError):
                yield split_message(text)[0], text

    def walk(self, *, reliable_only: bool = False) -> Iterator[tuple[MessageHead, bytes] | None]:
        """Yield what `lines` does, and None after each piece of the work.

        A piece is `wire.PIECE_BYTES` of text and `_PIECE_LINES`, so that the caller can let others
        have the loop.
        `reliable_only`: only the reliable messages, without inflating the rest. Raises
        `BadFrameError` where the batch cannot be inflated, perhaps after some messages.
        """
        try:
            yield from self._walk(self.payload[: self.reliable_size] if reliable_only else self.payload)
        except BadFrameError:
            self._is_readable = False
            raise

    def _walk(self, payload: bytes) -> Iterator[tuple[MessageHead, bytes] | None]:
        unfinished = bytearray()
        is_header = True
        for piece in chain(text_pieces(payload, deflated=self.is_deflated), (b"\n",)):
            *texts, last = piece.split(b"\n")
            if texts:
                texts[0] = bytes(unfinished) + texts[0]
                unfinished.clear()
            unfinished += last
            for number, text in enumerate(texts[1:] if is_header else texts, 1):
                if text:
                    with suppress(BadFrameError):
                        yield split_message(text)[0], text
                if number % _PIECE_LINES == 0:
                    yield None
            is_header = is_header and not texts
            yield None

    def read_clears(self) -> Generator[None, None, Sequence[Cleared]]:
        """Return what the `clear`s in it remove; read once, and yields as `walk` does.

        One that cannot be decoded removes nothing. A batch that is broken removes nothing either.
        """
        if self._clears is None:
            found: list[Cleared] = []
            with suppress(BadFrameError):
                for line in self.walk():
                    if line is None:
                        yield
                    elif line[0].kind == Kind.CLEAR.value:
                        with suppress(*UNDECODABLE):
                            found.append(Cleared(line[0].seq, _clear_decoder.decode(split_message(line[1])[1])))
            self._clears = found
        return self._clears

    @property
    def is_broken(self) -> bool:
        """Return whether it was found out that it cannot be inflated."""
        return self._is_readable is False

    @property
    def is_readable(self) -> bool:
        """Return whether it can be inflated.

        Viewers with compression get it without a check, so the first replay finds out, once.
        """
        if self._is_readable is None:
            self._is_readable = not self.is_deflated or bool(self._text())
        return self._is_readable

    def _text(self) -> bytes:
        try:
            return payload_text(self.payload, deflated=self.is_deflated)
        except BadFrameError:
            return b""

    def clears(self) -> Iterator[Cleared]:
        """Yield what the `clear`s in it remove. The caller checks `has_clear` first."""
        for line, text in self.lines():
            if line.kind == Kind.CLEAR.value:
                yield Cleared(line.seq, _clear_decoder.decode(split_message(text)[1]))

    def purge(self, clears: Sequence[Cleared]) -> None:
        """Remove the cleared messages."""
        text = self._text()
        if not any(needle in text for clear in clears for needle in clear.needles()):
            return
        gone = Clears(clears)
        reliable: list[bytes] = []
        best_effort: list[bytes] = []
        for line, raw in self.lines():
            left = purged(line, raw, gone)
            if left is not None:
                (reliable if line.rseq else best_effort).append(left)
        self.payload, self.reliable_size, self.is_deflated = pack_lines(text.partition(b"\n")[0], reliable, best_effort)
        self.forget()


def purged(line: MessageHead, raw: bytes, clears: Clears) -> bytes | None:
    """Return what is left of a message after `clears`: the message itself, or nothing.

    In place of a reliable message stands a `clear` of it, so that its number leaves no hole.
    """
    if not clears.takes(line):
        return raw
    if not line.rseq:
        return None
    data = msgspec.Raw(_encode(Clear(id=line.id, sender=line.user)))
    return encode_message(Message(line.seq, Kind.CLEAR, line.id, line.user, line.at, line.rseq, data=data))
