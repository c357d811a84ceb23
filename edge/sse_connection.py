"""A viewer over server-sent events, whose network lets no WebSocket through.

It receives the same frames as events of one endless HTTP answer, and sends each of its own in a
request (`POST /v1/events`). Created by `edge.upgrade`, which also hands it those requests.
"""

from edge.member import MAX_FRAMES_A_TURN, Member, MemberHost
from edge.prepared_batch import Form, as_event
from liveroom import clock
from liveroom.closecodes import Close
from liveroom.tickets import User


class SseConnection(Member):
    """A member that receives events, and sends its frames in requests (`take`)."""

    __slots__ = ()

    def __init__(self, host: MemberHost, user: User, pull: str, now_s: float, address: str, request_id: str) -> None:
        super().__init__(host, user, pull, now_s, Form.EVENTS, address, request_id)

    def framed(self, text: bytes) -> bytes:
        """Return a text as one event."""
        return as_event(text)

    def data_received(self, _: bytes) -> None:
        """Abort: a viewer may send nothing on a stream that goes one way."""
        self.abort()

    def take(self, text: bytes) -> None:
        """Take a frame that the viewer sent in a request."""
        if self.transport is None or self.close_code:
            return
        self.frames += 1
        if self.frames > MAX_FRAMES_A_TURN:
            self.close(Close.TOO_FAST)
            return
        self.received_s = clock.monotonic_s()
        self._host.received(self, text)

    def _goodbye(self, code: Close, reason: str) -> bytes:
        return as_event(f"{code.value} {reason}".encode(), "close")
