"""What may enter: the checks of a request and the `uplink` record it becomes. Pure: bytes, values and `now` in, values out.

Owns reading bodies against each kind's schema. Refuses with `ProblemError`, in order: size, media type, schema, room, role.
What the room's state says is `ingress.gate`'s, what words say `ingress.words`'. Called by `app` for every request; nothing
here waits.
"""

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Any, Final, NamedTuple, TypeVar, Union

import msgspec

from ingress.actions import BY_KIND, INTERACTIONS, Interaction
from liveroom.bodies import BODY_OF, MAX_CUSTOM_BYTES, Custom
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.nesting import MAX_DEPTH, UNDECODABLE, nests_deeper
from liveroom.records import MAX_PACKAGE_ITEMS, VERSION, BadRecordError, Item, ItemId, Name, Uplink, UserId, encode_uplink
from liveroom.tickets import User
from liveroom.topics import INTERACTION_ID, ROOM_ID

PACKAGE: Final = "package"
PACKAGE_LEVELS: Final = 3  # above an item's `data`: the package, its list of items, the item
VIA: Final = "ingress"
MAX_BULK_ITEMS: Final = 1000
MAX_BULK_DEPTH: Final = 256  # of the whole request: an item deeper than `MAX_DEPTH` is refused by itself
MAX_BULK_BYTES: Final = 1024 * 1024
T = TypeVar("T")


class Outcome(Enum):
    """What became of a request to send. UNKNOWN: no ack came, it may have been written all the same."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Body(NamedTuple):
    """One interaction: its kind's rules, and what it carries."""

    interaction: Interaction
    data: Any


class Draft(NamedTuple):
    """A request whose form is good and whose sender may send such."""

    room: str
    id: str
    user: User
    bodies: Sequence[Body]
    package: str = ""


class _Sent(NamedTuple):
    """What a body said."""

    id: str
    bodies: list[Body]
    package: str = ""


class Accepted(msgspec.Struct, frozen=True, omit_defaults=True):
    """It is written: every viewer of the room will get it.

    `text`: as it was let through, where words were masked or changed.
    """

    id: str
    room: str
    kind: str
    at_ms: int
    text: str = ""


_encoder: Final = msgspec.json.Encoder()
_TOO_DEEP: Final = f"`data` nests deeper than {MAX_DEPTH} levels"


def _camel(kind: Kind) -> str:
    return kind.value.title().replace("_", "")


class Route:
    """One kind's path below `/v1/rooms/{room}/`: reads bodies that are the kind's own fields and an optional `id`."""

    def __init__(self, interaction: Interaction) -> None:
        self.name = interaction.kind.value
        self.path = interaction.path
        self.interaction = interaction
        self.request = msgspec.defstruct(
            f"{_camel(interaction.kind)}Request",
            [("id", ItemId, "")],
            bases=(BODY_OF[interaction.kind],),
            frozen=True,
            kw_only=True,
            omit_defaults=True,
            forbid_unknown_fields=True,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.request)

    def read(self, body: bytes) -> _Sent:
        """Return what `body` says."""
        sent = decode(self._decoder, body)
        data = msgspec.structs.replace(sent, id="") if sent.id else sent
        return _Sent(sent.id, [Body(self.interaction, data)])


_ITEM_TYPES: Final = {
    msgspec.defstruct(
        f"{_camel(interaction.kind)}Item",
        [("data", BODY_OF[interaction.kind])],
        tag_field="kind",
        tag=interaction.kind.value,
        frozen=True,
        forbid_unknown_fields=True,
    ): interaction
    for interaction in INTERACTIONS
}


class PackageRoute:
    """The path of packages: several items that stay together and in order, or are refused together."""

    name = PACKAGE
    path = "packages"
    request = msgspec.defstruct(
        "PackageRequest",
        [("package", ItemId), ("items", list[Union[tuple(_ITEM_TYPES)]]), ("id", ItemId, "")],  # type: ignore[misc] # noqa: UP007
        frozen=True,
        forbid_unknown_fields=True,
    )

    def __init__(self) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.request)

    def read(self, body: bytes) -> _Sent:
        """Return what `body` says; every item is checked as if it came alone."""
        sent = decode(self._decoder, body, MAX_DEPTH + PACKAGE_LEVELS)
        if not sent.items:
            raise ProblemError(Code.SCHEMA, "a package has at least one item - at `$.items`")
        if len(sent.items) > MAX_PACKAGE_ITEMS:
            raise ProblemError(Code.PACKAGE_TOO_LARGE, f"{len(sent.items)} items, at most {MAX_PACKAGE_ITEMS}")
        return _Sent(sent.id, [Body(_ITEM_TYPES[type(item)], item.data) for item in sent.items], sent.package)


AnyRoute = Route | PackageRoute
ROUTES: Final[tuple[AnyRoute, ...]] = (*(Route(interaction) for interaction in INTERACTIONS), PackageRoute())


def check_size(declared: int | None, max_bytes: int) -> None:
    """Refuse a body by the length it declares, before any of it is read."""
    if declared is not None and declared > max_bytes:
        raise ProblemError(Code.TOO_LARGE, f"{declared} bytes, at most {max_bytes}")


def check_media_type(content_type: str | None) -> None:
    """Refuse what does not say that it is JSON: a page of a foreign origin can send plain text without asking (CORS)."""
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(Code.UNSUPPORTED_MEDIA_TYPE)


def check_room(room: str, user: User) -> None:
    """Refuse what is no room, and rooms that the token is not for."""
    if not ROOM_ID.match(room):
        raise ProblemError(Code.ROOM_INVALID)
    if user.rooms and room not in user.rooms:
        raise ProblemError(Code.FORBIDDEN, "the token is for other rooms")


def check_roles(user: User, bodies: Iterable[Body]) -> None:
    """Refuse who may not send one of these."""
    for interaction, _ in bodies:
        if user.role not in interaction.roles:
            raise ProblemError(Code.FORBIDDEN, f"a {user.role.value} may not send a {interaction.kind.value}")


def draft(route: AnyRoute, room: str, user: User, body: bytes, *, header_id: str | None, new_id: str) -> Draft:
    """Return what a request says, or refuse it: schema, room, role. `new_id` is taken where the sender gave none."""
    sent = route.read(body)
    item_id = choose_id(sent.id, header_id, new_id)
    check_room(room, user)
    check_roles(user, sent.bodies)
    return Draft(room, item_id, user, sent.bodies, sent.package)


def encode(draft_: Draft, now_ms: int) -> bytes:
    """Return the record for `uplink`."""
    user = draft_.user
    record = Uplink(
        VERSION,
        draft_.room,
        draft_.id,
        user.id,
        now_ms,
        [_item(body) for body in draft_.bodies],
        name=user.name,
        role=user.role,
        level=user.level,
        package=draft_.package,
        via=VIA,
    )
    try:
        return encode_uplink(record)
    except BadRecordError as error:
        raise ProblemError(Code.PACKAGE_TOO_LARGE if draft_.package else Code.TOO_LARGE, error.detail) from None


def _item(body: Body) -> Item:
    """Return an item as we write it: known fields only, the last of doubled ones, in one line."""
    data = _encoder.encode(body.data)
    if len(data) > MAX_CUSTOM_BYTES and isinstance(body.data, Custom):
        raise ProblemError(Code.TOO_LARGE, f"{len(data)} bytes, at most {MAX_CUSTOM_BYTES}")
    return Item(body.interaction.kind, msgspec.Raw(data))


def answer(accepted: msgspec.Struct) -> bytes:
    """Return the body of an answer."""
    return _encoder.encode(accepted)


def choose_id(body_id: str, header_id: str | None, new_id: str) -> str:
    """Return the id that a request has by its body or header; both must agree."""
    if header_id is None:
        return body_id or new_id
    if not INTERACTION_ID.match(header_id):
        raise ProblemError(Code.SCHEMA, "Idempotency-Key is 1 to 64 of A-Z a-z 0-9 _ . : -")
    if body_id and body_id != header_id:
        raise ProblemError(Code.SCHEMA, "Idempotency-Key and `$.id` differ")
    return header_id


def decode(decoder: msgspec.json.Decoder[T], body: bytes, levels: int = MAX_DEPTH) -> T:
    """Return what a body says that nests at most so many levels, or refuse it."""
    if nests_deeper(body, levels):
        raise ProblemError(Code.SCHEMA, _TOO_DEEP)
    return _decode(decoder, body)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ProblemError(Code.SCHEMA, str(error)) from None
    except UNDECODABLE as error:
        raise ProblemError(Code.BAD_JSON, str(error)) from None


# ---- many at once, from services
class BulkItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One interaction of a user, published by a service: where, by whom, what. `data` is the kind's own body."""

    room: str
    user: UserId
    kind: Kind
    data: msgspec.Raw
    id: ItemId = ""
    name: Name = ""
    role: Role = Role.VIEWER
    level: int = 0


class BulkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Many interactions, of any rooms and users."""

    items: list[msgspec.Raw]


class BulkResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one item: `id` where it was accepted, else the problem's `code`, and when to try again."""

    id: str = ""
    code: str = ""
    detail: str = ""
    retry_after_s: float | None = None


class BulkAnswer(msgspec.Struct, frozen=True):
    """What became of many interactions, in the order of the request."""

    accepted: int
    items: list[BulkResult]


_bulk_decoder: Final = msgspec.json.Decoder(BulkRequest)
_bulk_item_decoder: Final = msgspec.json.Decoder(BulkItem)
_body_decoders: Final[dict[Kind, msgspec.json.Decoder[Any]]] = {kind: msgspec.json.Decoder(BODY_OF[kind]) for kind in BY_KIND}
_MAX_LEVEL: Final = 255
_USERS: Final = frozenset(Role) - {Role.SERVICE, Role.OPERATOR}


def read_bulk(body: bytes) -> list[msgspec.Raw]:
    """Return the items of a bulk request, each still to be read."""
    items = decode(_bulk_decoder, body, MAX_BULK_DEPTH).items
    if not 1 <= len(items) <= MAX_BULK_ITEMS:
        raise ProblemError(Code.SCHEMA, f"1 to {MAX_BULK_ITEMS} items - at `$.items`")
    return items


def draft_bulk(raw: msgspec.Raw, service: User, new_id: str) -> Draft:
    """Return what one item of a bulk request says, or refuse it. The service answers for who the user is."""
    item = decode(_bulk_item_decoder, bytes(raw), MAX_DEPTH + 1)
    interaction = BY_KIND.get(item.kind)
    if interaction is None or Role.SERVICE not in interaction.roles:
        raise ProblemError(Code.FORBIDDEN, f"a service may not send a {item.kind.value}")
    if item.role not in _USERS or not 0 <= item.level <= _MAX_LEVEL:
        raise ProblemError(Code.SCHEMA, "role is that of a user, level 0 to 255")
    check_room(item.room, service)
    user = User(item.user, item.role, item.level, item.name)
    return Draft(item.room, item.id or new_id, user, (Body(interaction, _decode(_body_decoders[item.kind], item.data)),))
