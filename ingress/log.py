"""The Kafka log as an ingress writes it: the port that its parts write through, and what a sender
is told without an ack.

`kafka` has the real one. Called by `admission`, `moderation`, `announcements` and `room_status`.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from liveroom.errors import Code, ProblemError
from liveroom.kafka import UnsentError
from liveroom.topics import Topic

RETRY_AFTER_S: Final = 1.0


class LogWriter(Protocol):
    """The log, as an ingress writes it."""

    waiting: int

    async def put(self, topic: Topic, key: bytes, value: bytes) -> None:
        """Return after the brokers' ack, or raise `UnsentError` within the time for it."""

    async def put_many(self, topic: Topic, records: Sequence[tuple[bytes, bytes]]) -> list[UnsentError | None]:
        """Write (key, value) records together; return of each why it got no ack within the time for
        it.
        """


def unsent(error: UnsentError) -> ProblemError:
    """Return the refusal of what got no ack, with `error` as its cause."""
    problem = ProblemError(Code.QUEUE_UNAVAILABLE, retry_after_s=RETRY_AFTER_S)
    problem.__cause__ = error
    return problem
