"""The log as an ingress writes it: the port for its parts, and the refusal of what is not written.

`kafka` has the real one. Called by `admission`, `moderation`, `announcements` and `room_status`.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from liveroom.errors import Code, ProblemError
from liveroom.kafka import UnsentError
from liveroom.topics import Topic

RETRY_AFTER_S: Final = 1.0


class LogWriter(Protocol):
    """Writes records. `waiting`: how many records are not acknowledged yet."""

    waiting: int

    async def put(self, topic: Topic, key: bytes, value: bytes | None) -> None:
        """Return once the record is acknowledged; raise UnsentError where it is not in time.

        `value` None withdraws the earlier records of the key, where the topic is compacted.
        """

    async def put_many(self, topic: Topic, records: Sequence[tuple[bytes, bytes]]) -> list[UnsentError | None]:
        """Write (key, value) records together; return, in order, None or each record's error."""


async def write(writer: LogWriter, topic: Topic, key: bytes, value: bytes) -> None:
    """Write a record; raise the refusal where it is not acknowledged in time."""
    try:
        await writer.put(topic, key, value)
    except UnsentError as error:
        raise unsent(error) from error


def unsent(error: UnsentError) -> ProblemError:
    """Return the refusal of a record that was not acknowledged, with `error` as its cause."""
    problem = ProblemError(Code.QUEUE_UNAVAILABLE, retry_after_s=RETRY_AFTER_S)
    problem.__cause__ = error
    return problem
