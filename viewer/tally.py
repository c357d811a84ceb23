"""What a crowd of viewers has received: batches, messages, bytes, delays.

Frames are the same bytes for a whole room, so each header is parsed once and remembered. Called by
`viewer.load`.
"""

from collections import OrderedDict, deque
from typing import Final, NamedTuple

import msgspec

from viewer.delays import delay_ms

REMEMBERED_HEADERS: Final = 1024
DELAY_SAMPLES: Final = 20_000


class Figures(NamedTuple):
    """The state of a crowd. Delays are over the last samples, None before the first."""

    wanted: int
    connected: int
    joined: int
    batches: int
    messages: int
    received_bytes: int
    reconnects: int
    refused: int
    delay_p50_ms: float | None
    delay_p99_ms: float | None


class _Header(msgspec.Struct):
    """The fields of a batch's first line that are counted."""

    seq: tuple[int, int]
    at: int


class Tally:
    """Counts what all viewers of a crowd receive."""

    def __init__(self) -> None:
        self.batches = self.messages = self.received_bytes = 0
        self._delays: deque[float] = deque(maxlen=DELAY_SAMPLES)
        self._headers: OrderedDict[bytes, int] = OrderedDict()
        self._decoder = msgspec.json.Decoder(_Header)

    def count(self, text: bytes) -> None:
        """Count a text frame."""
        self.received_bytes += len(text)
        if not text.startswith(b'{"t":"batch"'):
            return
        self.batches += 1
        head = text.partition(b"\n")[0]
        count = self._headers.get(head)
        if count is None:
            header = self._decoder.decode(head)
            count = self._headers[head] = text.count(b"\n")
            if (delay := delay_ms(header.at)) is not None:
                self._delays.append(delay)
            if len(self._headers) > REMEMBERED_HEADERS:
                self._headers.popitem(last=False)
        self.messages += count

    def delays_ms(self) -> tuple[float | None, float | None]:
        """Return the median and the 99th percentile of the delay from acceptance to receipt."""
        delays = sorted(self._delays)
        if not delays:
            return None, None
        return delays[len(delays) // 2], delays[min(len(delays) - 1, len(delays) * 99 // 100)]
