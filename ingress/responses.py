"""What a sender is told of what it sent: the bodies of answers, as JSON. Pure.

Owns the answers to interactions; what hosts are told is `moderation`'s and `moderation_api`'s,
refusals are `liveroom.web`'s. Called by `app`.
"""

from typing import Final

import msgspec


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """It is written: every viewer of the room will get it.

    `text`: as it was let through, where words were masked or changed.
    """

    id: str
    room: str
    kind: str
    at_ms: int
    text: str = ""


class BulkResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one item: `id` where it was accepted, else the problem's `code`, and when to
    try again.
    """

    id: str = ""
    code: str = ""
    detail: str = ""
    retry_after_s: float | None = None


class BulkAnswer(msgspec.Struct, frozen=True):
    """What became of many interactions, in the order of the request."""

    accepted: int
    items: list[BulkResult]


_encoder: Final = msgspec.json.Encoder()


def encode(answer: msgspec.Struct) -> bytes:
    """Return the body of an answer."""
    return _encoder.encode(answer)
