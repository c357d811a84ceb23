"""What may enter: every check of a request and the `uplink` record it becomes. Pure: bytes, values and `now` in, values out.

Owns the table of routes (kind, path, who may send). Refuses with `ProblemError`, in order: size, token, media type, schema,
room, role. Called by `app`, for every request; nothing here waits.
"""

from enum import Enum
from typing import Any, Final, NamedTuple, Union

import msgspec

from liveroom.bodies import BODY_OF
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.records import MAX_PACKAGE_ITEMS, VERSION, BadRecordError, Item, ItemId, Uplink, encode_uplink
from liveroom.tickets import User, verify_user
from liveroom.topics import INTERACTION_ID, ROOM_ID

PACKAGE: Final = "package"
VIA: Final = "ingress"

SPEAKERS: Final = frozenset(Role) - {Role.GUEST}
HOSTS: Final = frozenset({Role.STREAMER, Role.MODERATOR, Role.OPERATOR})


class Rule(NamedTuple):
    """A kind that users may send: the last part of its path, and which roles may."""

    kind: Kind
    path: str
    roles: frozenset[Role]


RULES: Final = (
    Rule(Kind.DANMAKU, "danmaku", SPEAKERS),
    Rule(Kind.GIFT, "gifts", SPEAKERS),
    Rule(Kind.LIKE, "likes", SPEAKERS),
    Rule(Kind.ANNOUNCEMENT, "announcements", HOSTS),
)
ROLES_OF: Final = {rule.kind: rule.roles for rule in RULES}

REFUSALS: Final = (
    Code.TOO_LARGE,
    Code.TOKEN_MISSING,
    Code.TOKEN_INVALID,
    Code.TOKEN_EXPIRED,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.BAD_REQUEST,
    Code.BODY_LATE,
    Code.BAD_JSON,
    Code.SCHEMA,
    Code.PACKAGE_TOO_LARGE,
    Code.ROOM_INVALID,
    Code.FORBIDDEN,
    Code.QUEUE_UNAVAILABLE,
    Code.NOT_FOUND,
    Code.METHOD_NOT_ALLOWED,
    Code.INTERNAL,
)


class Outcome(Enum):
    """What became of a request to send. UNKNOWN: no ack came, it may have been written all the same."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Accepted(NamedTuple):
    """A request that passed: the room's key and the record for `uplink`, and the answer for after the ack."""

    room: str
    value: bytes
    answer: bytes


class _Answer(msgspec.Struct, frozen=True):
    """The body of a 202."""

    id: str
    room: str
    kind: str
    at_ms: int


class _Sent(NamedTuple):
    """What a body said."""

    id: str
    items: list[Item]
    package: str = ""


_encoder: Final = msgspec.json.Encoder()


class Route:
    """One kind's path below `/v1/rooms/{room}/`: reads bodies that are the kind's own fields and an optional `id`."""

    def __init__(self, rule: Rule) -> None:
        self.name = rule.kind.value
        self.path = rule.path
        self._kind = rule.kind
        request = msgspec.defstruct(
            f"{BODY_OF[rule.kind].__name__}Request",
            [("id", ItemId, "")],
            bases=(BODY_OF[rule.kind],),
            frozen=True,
            kw_only=True,
            omit_defaults=True,
            forbid_unknown_fields=True,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(request)

    def read(self, body: bytes) -> _Sent:
        """Return what `body` says. It goes on as we write it: known fields only, the last of doubled ones, in one line."""
        sent = _decode(self._decoder, body)
        data = msgspec.structs.replace(sent, id="") if sent.id else sent
        return _Sent(sent.id, [Item(self._kind, msgspec.Raw(_encoder.encode(data)))])


_ITEM_TYPES: Final = {
    msgspec.defstruct(
        f"{BODY_OF[rule.kind].__name__}Item",
        [("data", BODY_OF[rule.kind])],
        tag_field="kind",
        tag=rule.kind.value,
        frozen=True,
        forbid_unknown_fields=True,
    ): rule.kind
    for rule in RULES
}


class PackageRoute:
    """The path of packages: several items that stay together and in order, or are refused together."""

    name = PACKAGE
    path = "packages"

    def __init__(self) -> None:
        request = msgspec.defstruct(
            "PackageRequest",
            [("package", ItemId), ("items", list[Union[tuple(_ITEM_TYPES)]]), ("id", ItemId, "")],  # type: ignore[misc] # noqa: UP007
            frozen=True,
            forbid_unknown_fields=True,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(request)

    def read(self, body: bytes) -> _Sent:
        """Return what `body` says; every item is checked as if it came alone."""
        sent = _decode(self._decoder, body)
        if not sent.items:
            raise ProblemError(Code.SCHEMA, "a package has at least one item - at `$.items`")
        if len(sent.items) > MAX_PACKAGE_ITEMS:
            raise ProblemError(Code.PACKAGE_TOO_LARGE, f"{len(sent.items)} items, at most {MAX_PACKAGE_ITEMS}")
        items = [Item(_ITEM_TYPES[type(item)], msgspec.Raw(_encoder.encode(item.data))) for item in sent.items]
        return _Sent(sent.id, items, sent.package)


AnyRoute = Route | PackageRoute
ROUTES: Final[tuple[AnyRoute, ...]] = (*(Route(rule) for rule in RULES), PackageRoute())


def check_size(declared: int | None, max_bytes: int) -> None:
    """Refuse a body by the length it declares, before any of it is read."""
    if declared is not None and declared > max_bytes:
        raise ProblemError(Code.TOO_LARGE, f"{declared} bytes, at most {max_bytes}")


def authenticate(authorization: str | None, key: bytes, leeway_s: float) -> User:
    """Return the user whose bearer token this is."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise ProblemError(Code.TOKEN_MISSING)
    return verify_user(token, key, leeway_s)


def check_media_type(content_type: str | None) -> None:
    """Refuse what does not say that it is JSON: a page of a foreign origin can send plain text without asking (CORS)."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(Code.UNSUPPORTED_MEDIA_TYPE)


def accept(route: AnyRoute, room: str, user: User, body: bytes, *, header_id: str | None, new_id: str, now_ms: int) -> Accepted:
    """Return what a request becomes, or refuse it: schema, room, role. `new_id` is taken where the sender gave none."""
    sent = route.read(body)
    item_id = _choose_id(sent.id, header_id, new_id)
    if not ROOM_ID.match(room):
        raise ProblemError(Code.ROOM_INVALID)
    _check_role(user, room, sent.items)
    record = Uplink(
        VERSION,
        room,
        item_id,
        user.id,
        now_ms,
        sent.items,
        name=user.name,
        role=user.role,
        level=user.level,
        package=sent.package,
        via=VIA,
    )
    try:
        value = encode_uplink(record)
    except BadRecordError as error:
        raise ProblemError(Code.PACKAGE_TOO_LARGE if sent.package else Code.TOO_LARGE, error.detail) from None
    return Accepted(room, value, _encoder.encode(_Answer(item_id, room, route.name, now_ms)))


def _choose_id(body_id: str, header_id: str | None, new_id: str) -> str:
    if header_id is None:
        return body_id or new_id
    if not INTERACTION_ID.match(header_id):
        raise ProblemError(Code.SCHEMA, "Idempotency-Key is 1 to 64 of A-Z a-z 0-9 _ . : -")
    if body_id and body_id != header_id:
        raise ProblemError(Code.SCHEMA, "Idempotency-Key and `$.id` differ")
    return header_id


def _check_role(user: User, room: str, items: list[Item]) -> None:
    if user.rooms and room not in user.rooms:
        raise ProblemError(Code.FORBIDDEN, "the token is for other rooms")
    for item in items:
        if user.role not in ROLES_OF[item.kind]:
            raise ProblemError(Code.FORBIDDEN, f"a {user.role.value} may not send a {item.kind.value}")


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ProblemError(Code.SCHEMA, str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProblemError(Code.BAD_JSON, str(error)) from None
