"""The answers of the ingress, as JSON bodies. Pure.

Refusals are `liveroom.web`'s. Called by `app`, `moderation` and `moderation_api`; the OpenAPI
document is made from these classes and their docstrings.
"""

from typing import Final

import msgspec

from liveroom.records.control import WordAction


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """The interaction is written: every viewer of the room will get it.

    `text`: the text as written, where words were masked or a review changed it.
    """

    id: str
    room: str
    kind: str
    at_ms: int
    text: str = ""


class BulkResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The outcome of one item: `id` where it was accepted, otherwise the problem's `code`.

    `retry_after_s`: when the same item may succeed.
    """

    id: str = ""
    code: str = ""
    detail: str = ""
    retry_after_s: float | None = None


class BulkAnswer(msgspec.Struct, frozen=True):
    """The outcomes of many interactions, in the order of the request."""

    accepted: int
    items: list[BulkResult]


class CommandResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """A command that was carried out. `until_ms`: of mutes and bans; -1: without an end."""

    id: str
    act: str
    at_ms: int
    room: str = ""
    user: str = ""
    until_ms: int = 0


class AnnouncementResult(CommandResult, frozen=True, omit_defaults=True):
    """An announcement that is on its way to `rooms` rooms.

    A request with the same id reaches those rooms that the first one did not reach.
    """

    rooms: int = 0


class ActiveSanction(msgspec.Struct, frozen=True, omit_defaults=True):
    """A mute or ban in force. `until_ms` -1: without an end."""

    user: str
    until_ms: int
    at_ms: int
    by: str
    why: str = ""


class SanctionList(msgspec.Struct, frozen=True):
    """Mutes or bans in force, by user.

    `after`: pass it on to get the next ones; empty at the end of the list.
    """

    room: str
    users: list[ActiveSanction]
    after: str = ""


class WordList(msgspec.Struct, frozen=True):
    """Words, with the action on texts that contain them."""

    words: dict[str, WordAction]


_encoder: Final = msgspec.json.Encoder()


def encode(answer: msgspec.Struct) -> bytes:
    """Return the body of an answer."""
    return _encoder.encode(answer)
