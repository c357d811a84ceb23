"""The errors that the project answers with or shows.

One table of stable codes for every refusal over HTTP or in an `error` frame, with the RFC 9457
body, and the base of the errors that a program shows as one line. Pure.
"""

from enum import Enum
from typing import Any, Final, NamedTuple, Self


class ExplainedError(Exception):
    """The message alone says what is wrong and what to do about it.

    A program that ends with one shows the message as one line, without a traceback.
    """


class Code(Enum):
    """Stable error codes. Programs branch on them, so a code never changes its meaning."""

    BAD_REQUEST = "bad_request"
    BODY_LATE = "body_late"
    BAD_JSON = "bad_json"
    SCHEMA = "schema"
    TOO_LARGE = "too_large"
    PACKAGE_TOO_LARGE = "package_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    ROOM_INVALID = "room_invalid"
    ROOM_DISSOLVED = "room_dissolved"
    TOKEN_MISSING = "token_missing"  # noqa: S105 - a code, no secret
    TOKEN_INVALID = "token_invalid"  # noqa: S105 - a code, no secret
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - a code, no secret
    REVOKED = "revoked"
    FORBIDDEN = "forbidden"
    MUTED = "muted"
    BANNED = "banned"
    KICKED = "kicked"
    ROOM_MUTED = "room_muted"
    FOLLOWERS_ONLY = "followers_only"
    SUBSCRIBERS_ONLY = "subscribers_only"
    NO_MEDIA = "no_media"
    WORDS = "words"
    REVIEW = "review"
    RATE_USER = "rate_user"
    RATE_ROOM = "rate_room"
    RATE_ADDRESS = "rate_address"
    SLOW_MODE = "slow_mode"
    QUEUE_UNAVAILABLE = "queue_unavailable"
    NOT_READY = "not_ready"
    NO_GATEWAY = "no_gateway"
    DRAINING = "draining"
    FULL = "full"
    TICKET_INVALID = "ticket_invalid"
    TICKET_EXPIRED = "ticket_expired"
    TICKET_USED = "ticket_used"
    ORIGIN = "origin"
    UPGRADE_REQUIRED = "upgrade_required"
    TOO_MANY_ROOMS = "too_many_rooms"
    NOT_IN_ROOM = "not_in_room"
    UNKNOWN_FRAME = "unknown_frame"
    LIMIT = "limit"
    INTERNAL = "internal"


class Refusal(NamedTuple):
    """The HTTP status of a code and its title, a sentence for people."""

    status: int
    title: str


TABLE: Final[dict[Code, Refusal]] = {
    Code.BAD_REQUEST: Refusal(400, "The request is not valid HTTP for this service"),
    Code.BODY_LATE: Refusal(408, "The body did not arrive in time"),
    Code.BAD_JSON: Refusal(400, "The body is not JSON"),
    Code.SCHEMA: Refusal(422, "The body is JSON but does not match the schema of this call"),
    Code.TOO_LARGE: Refusal(413, "The body is too large"),
    Code.PACKAGE_TOO_LARGE: Refusal(413, "The package has too many items or is too large"),
    Code.UNSUPPORTED_MEDIA_TYPE: Refusal(415, "The body must be application/json"),
    Code.NOT_FOUND: Refusal(404, "There is no such resource"),
    Code.METHOD_NOT_ALLOWED: Refusal(405, "The resource does not support this method"),
    Code.ROOM_INVALID: Refusal(404, "A room id has 1 to 64 characters of A-Z a-z 0-9 _ -"),
    Code.ROOM_DISSOLVED: Refusal(410, "The room is dissolved"),
    Code.TOKEN_MISSING: Refusal(401, "A bearer token is required"),
    Code.TOKEN_INVALID: Refusal(401, "The token is not valid"),
    Code.TOKEN_EXPIRED: Refusal(401, "The token has expired"),
    Code.REVOKED: Refusal(401, "The token was revoked; a token that is issued now is valid"),
    Code.FORBIDDEN: Refusal(403, "Your role does not permit this"),
    Code.MUTED: Refusal(403, "You are muted in this room"),
    Code.BANNED: Refusal(403, "You are banned from this room"),
    Code.KICKED: Refusal(403, "You were removed from this room"),
    Code.ROOM_MUTED: Refusal(403, "The room is muted"),
    Code.FOLLOWERS_ONLY: Refusal(403, "Only followers may speak in this room"),
    Code.SUBSCRIBERS_ONLY: Refusal(403, "Only subscribers may speak in this room"),
    Code.NO_MEDIA: Refusal(403, "The room allows text only"),
    Code.WORDS: Refusal(403, "The text contains words that this room does not allow"),
    Code.REVIEW: Refusal(403, "The text was not approved"),
    Code.RATE_USER: Refusal(429, "You are sending too fast"),
    Code.RATE_ROOM: Refusal(429, "The room cannot accept more at the moment"),
    Code.RATE_ADDRESS: Refusal(429, "Too many requests from this address"),
    Code.SLOW_MODE: Refusal(429, "The room is in slow mode"),
    Code.QUEUE_UNAVAILABLE: Refusal(503, "The queue did not confirm in time; try again with the same id"),
    Code.NOT_READY: Refusal(503, "The service is not ready yet"),
    Code.NO_GATEWAY: Refusal(503, "No gateway has capacity at the moment"),
    Code.DRAINING: Refusal(503, "This gateway is draining; ask the scheduler for another one"),
    Code.FULL: Refusal(503, "This gateway is full; ask the scheduler for another one"),
    Code.TICKET_INVALID: Refusal(401, "The ticket is not valid at this gateway"),
    Code.TICKET_EXPIRED: Refusal(401, "The ticket has expired; ask the scheduler for a new one"),
    Code.TICKET_USED: Refusal(401, "The ticket has been used; ask the scheduler for a new one"),
    Code.ORIGIN: Refusal(403, "Pages of this origin may not connect"),
    Code.UPGRADE_REQUIRED: Refusal(426, "This URL accepts only WebSocket upgrades"),
    Code.TOO_MANY_ROOMS: Refusal(409, "A connection can be in at most 8 rooms, and its user in as many as the gateway allows"),
    Code.NOT_IN_ROOM: Refusal(409, "The connection is not in this room"),
    Code.UNKNOWN_FRAME: Refusal(400, "The gateway does not know frames of this type"),
    Code.LIMIT: Refusal(409, "The limit on the number of these is reached"),
    Code.INTERNAL: Refusal(500, "The service failed; it has logged the failure"),
}


# The codes whose details are words of this system alone, which a log may show. Other details may
# quote what they refuse: a text, a user, a host's reason.
OWN_WORDS: Final = frozenset(
    {
        Code.TOKEN_INVALID,
        Code.TICKET_INVALID,
        Code.FORBIDDEN,
        Code.RATE_USER,
        Code.RATE_ROOM,
        Code.RATE_ADDRESS,
        Code.TOO_LARGE,
        Code.QUEUE_UNAVAILABLE,
        Code.NOT_READY,
        Code.FULL,
        Code.ORIGIN,
        Code.UPGRADE_REQUIRED,
        Code.TOO_MANY_ROOMS,
        Code.LIMIT,
    }
)


class ProblemError(Exception):
    """A refusal, raised where it is found and turned into a response at the top.

    `detail` explains this one case to people. `retry_after_s` is how many seconds to wait before
    trying again; None if waiting does not help. `extra` are further members of the document.
    `user`: the id of the user whom it refuses, for the log alone, where the caller does not know it
    otherwise.
    """

    user: str | None = None

    def __init__(self, code: Code, detail: str = "", retry_after_s: float | None = None, **extra: Any) -> None:
        super().__init__(f"{code.value}: {detail or TABLE[code].title}")
        self.code = code
        self.detail = detail.encode(errors="replace").decode()  # a lone surrogate, echoed from a token's head, breaks JSON
        self.retry_after_s = retry_after_s
        self.extra = extra

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return TABLE[self.code].status

    def of(self, user: str) -> Self:
        """Return this refusal as one of the user with this id."""
        self.user = user
        return self

    def body(self) -> dict[str, Any]:
        """Return the problem document (RFC 9457) with our `code`."""
        refusal = TABLE[self.code]
        document: dict[str, Any] = {"type": "about:blank", "title": refusal.title, "status": refusal.status}
        document["code"] = self.code.value
        if self.detail:
            document["detail"] = self.detail
        if self.retry_after_s is not None:
            document["retry_after_s"] = round(self.retry_after_s, 3)
        return document | self.extra


def in_words(error: BaseException) -> str:
    """Return one line that says what went wrong."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(map(in_words, error.exceptions)))
    text = " ".join(str(error).split())
    return text or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
