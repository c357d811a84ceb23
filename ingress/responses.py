"""The answers of the ingress, as JSON bodies. Pure.

Refusals are `liveroom.web`'s. Called by `app`, `moderation`, `moderation_api` and `revocation_api`;
the OpenAPI document is made from these classes and their docstrings.
"""

from typing import Final

import msgspec

from liveroom.kinds import Role
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


class RevocationEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """A revocation in force: tokens with an `iat` before `issued_before_s` are refused.

    `user`, `device`: only the tokens of this user and this device; empty: of all. `until_ms`: when
    the last of these tokens has expired, and the revocation ends.
    """

    id: str
    at_ms: int
    issued_before_s: int
    until_ms: int
    user: str = ""
    device: str = ""
    by: str = ""
    why: str = ""


class RevocationList(msgspec.Struct, frozen=True):
    """Revocations in force, by id.

    `after`: pass it on to get the next ones; empty at the end of the list.
    """

    revocations: list[RevocationEntry]
    after: str = ""


class GatewayConnection(msgspec.Struct, frozen=True, omit_defaults=True):
    """A connection of a user. `issued_s`: when its token was issued, where that is known."""

    gateway: str
    role: Role
    transport: str
    rooms: list[str]
    device: str = ""
    issued_s: int | None = None


class UserConnectionList(msgspec.Struct, frozen=True):
    """The connections of a user: those that there are, or those that were ended.

    `total`: how many; of each gateway at most 100 are in `connections`. `missing`: the gateways
    that did not answer within 2 s; the user may have more connections there.
    """

    user: str
    total: int
    connections: list[GatewayConnection]
    missing: list[str]


_encoder: Final = msgspec.json.Encoder()


def encode(answer: msgspec.Struct) -> bytes:
    """Return the body of an answer."""
    return _encoder.encode(answer)
