"""The bodies of commands of hosts and operators, and one such request with its sender. Pure.

Owns reading and checking these bodies. Refuses with `ProblemError`. Called by `app`; the OpenAPI
document is made from these classes and their docstrings.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from ingress import requests
from ingress.permissions import Command
from ingress.words import LibraryError, check_word
from liveroom.bodies import Announcement, NamedUserId
from liveroom.errors import Code, ProblemError
from liveroom.moderation import EVERYWHERE
from liveroom.records.codec import NO_USER_PATTERN, ItemId, named
from liveroom.records.control import WordAction
from liveroom.records.revocations import NoDeviceOrId, Seconds
from liveroom.records.snapshot import RoomChange
from liveroom.texts import visible_or_empty
from liveroom.tickets import User
from liveroom.topics import INTERACTION_ID
from liveroom.users import UserIdError, check_user_id

# The largest command sets `allow` to 200 users: 35,000 bytes where each id has 172 characters, and
# spaces and line breaks between them. With the 192 characters that records allow, and the other
# fields, its record has 40,500 bytes of the 65,536 that `uplink` allows.
MAX_COMMAND_BYTES: Final = 64 * 1024
MAX_LISTED: Final = 1000
Why = Annotated[str, msgspec.Meta(max_length=200, description="the user sees it, and the audit log keeps it")]
Span = Annotated[int, msgspec.Meta(ge=1, le=315_360_000, description="for how long; without it or null: without an end")]


class SanctionRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mute or ban this user."""

    user: NamedUserId
    for_s: Span | None = None
    why: Why = ""
    id: ItemId = ""

    def __post_init__(self) -> None:
        check_user_id(self.user, "$.user")


class KickRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Remove this user from the room."""

    user: NamedUserId
    why: Why = ""
    id: ItemId = ""

    def __post_init__(self) -> None:
        check_user_id(self.user, "$.user")


class ClearRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Remove a message of a user, or without `message` all that the user has sent so far.

    `message`: its id, with `#index` for one item of a package. Ids are unique for one user only, so
    name the user too. `message` without `user` is deprecated: it removes every message with that
    id, and is refused where one of the newest messages with it is by a host of the sender's own
    rank or above.
    """

    user: Annotated[str, named(*NO_USER_PATTERN)] = ""
    message: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_.:-]{1,64}(#[0-9]{1,2})?)?\Z")] = ""
    why: Why = ""
    id: ItemId = ""

    def __post_init__(self) -> None:
        if self.user or not self.message:
            check_user_id(self.user, "$.user")


class ModesRequest(RoomChange, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Modes to change; modes that are left out stay as they are."""

    allow: Annotated[list[NamedUserId], msgspec.Meta(max_length=200)] | msgspec.UnsetType = msgspec.UNSET
    why: Why = ""
    id: ItemId = ""

    def __post_init__(self) -> None:
        for place, user in enumerate(self.allow or ()):
            check_user_id(user, f"$.allow[{place}]")


class WhyRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reason for the command."""

    why: Why = ""
    id: ItemId = ""


class WordRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The action on texts that contain the word."""

    action: WordAction
    why: Why = ""
    id: ItemId = ""


class RevokeRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Revoke the tokens of this user, or of one device of the user, or everybody's.

    `issued_before_s`: only tokens with an earlier `iat`, in seconds of Unix time; without it or
    null: all that were issued until now. For everybody's tokens it is required.
    """

    user: Annotated[str, named(*NO_USER_PATTERN)] = ""
    device: NoDeviceOrId = ""
    issued_before_s: Seconds | None = None
    why: Why = ""
    id: ItemId = ""

    def __post_init__(self) -> None:
        if self.user:
            check_user_id(self.user, "$.user")


class AnnounceRequest(Announcement, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A text above the chat of every room that has viewers now."""

    why: Why = ""
    id: ItemId = ""

    def __post_init__(self) -> None:
        requests.check_visible(self)


REQUESTS: Final[dict[Command, type[msgspec.Struct]]] = {
    Command.MUTE: SanctionRequest,
    Command.BAN: SanctionRequest,
    Command.KICK: KickRequest,
    Command.CLEAR: ClearRequest,
    Command.MODES: ModesRequest,
    Command.DISSOLVE: WhyRequest,
    Command.REOPEN: WhyRequest,
    Command.SET_ROOM_WORD: WordRequest,
    Command.SET_WORD: WordRequest,
    Command.ANNOUNCE: AnnounceRequest,
    Command.REVOKE: RevokeRequest,
}
_DECODERS: Final[dict[Command, msgspec.json.Decoder[Any]]] = {
    command: msgspec.json.Decoder(of) for command, of in REQUESTS.items()
}


class CommandRequest:
    """One request for a command, from a user that may give it.

    `path` and `query`: the parameters of its URL. `header_id`: its `Idempotency-Key`. `new_id`: its
    id where neither the header nor the body has one.
    """

    def __init__(
        self,
        command: Command,
        user: User,
        *,
        path: Mapping[str, str],
        query: Mapping[str, str],
        body: bytes,
        header_id: str | None,
        new_id: str,
    ) -> None:
        self.command = command
        self.user = user
        self.room = path.get("room", EVERYWHERE)
        self.query = query
        self.body: Any = requests.decode(_DECODERS[command], body or b"{}") if command in _DECODERS else None
        self.id = requests.choose_id(getattr(self.body, "id", ""), header_id, new_id)
        self.why = visible_or_empty(getattr(self.body, "why", ""))
        self._path = path

    def target(self) -> str:
        """Return the user in the path."""
        try:
            return check_user_id(self._path["user"])
        except UserIdError as error:
            raise ProblemError(Code.NOT_FOUND, str(error)) from None

    def revocation_id(self) -> str:
        """Return the id of the revocation in the path."""
        id_ = self._path["id"]
        if not INTERACTION_ID.match(id_):
            raise ProblemError(Code.NOT_FOUND, "the id of a revocation is 1 to 64 of A-Z a-z 0-9 _ . : -")
        return id_

    def limit(self) -> int:
        """Return how many entries a list may have at most."""
        try:
            limit = int(self.query.get("limit", "100"))
        except ValueError:
            limit = 0
        if not 1 <= limit <= MAX_LISTED:
            raise ProblemError(Code.BAD_REQUEST, f"limit must be 1 to {MAX_LISTED}")
        return limit

    def word(self) -> str:
        """Return the word in the path."""
        try:
            return check_word(self._path["word"])
        except LibraryError as error:
            raise ProblemError(Code.SCHEMA, str(error)) from None
