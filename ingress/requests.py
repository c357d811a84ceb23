"""Requests to send: their bodies, and the `uplink` record that each becomes. Pure.

Owns reading bodies by each kind's schema, and the id of a request: the same id again is the same
interaction, which the room's owner drops as a repeat. Refuses with `ProblemError`, in this order:
size, media type, schema, id. Called by `app` for every request; `command_requests` decodes the
bodies of commands with `decode`.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeVar, Union

import msgspec

from ingress.permissions import BY_KIND, INTERACTIONS, Interaction, check_room
from liveroom.bodies import BODY_OF, MAX_CUSTOM_BYTES, Custom, NamedUserId
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.nesting import MAX_DEPTH, UNDECODABLE, nests_deeper
from liveroom.records.codec import BadRecordError, ItemId, Name
from liveroom.records.uplink import MAX_PACKAGE_ITEMS, Item, Uplink, encode_uplink
from liveroom.texts import is_visible, visible_or_empty
from liveroom.tickets import User
from liveroom.topics import INTERACTION_ID
from liveroom.users import check_user_id

PACKAGE: Final = "package"
PACKAGE_LEVELS: Final = 3  # above an item's `data`: the package, its list of items, the item
VIA: Final = "ingress"
MAX_BULK_ITEMS: Final = 1000
MAX_BULK_DEPTH: Final = 256  # of the whole request: an item deeper than `MAX_DEPTH` is refused by itself
# 1,000 items of 1,048 bytes. A gift takes 700 where all its ids and its name have full length:
# 172 (user) + 3 * 64 (room, id, gift) + 256 (name) + 80. A danmaku has 450 left for its text.
MAX_BULK_BYTES: Final = 1024 * 1024
T = TypeVar("T")


class DraftItem(NamedTuple):
    """One interaction: the table's entry of its kind, and its body."""

    interaction: Interaction
    data: Any


class Draft(NamedTuple):
    """A request to send with a valid form; admission may still refuse it."""

    room: str
    id: str
    user: User
    items: Sequence[DraftItem]
    package: str = ""

    @property
    def name(self) -> str:
        """The name of its route: the kind, or `package`."""
        return PACKAGE if self.package else self.items[0].interaction.kind.value

    @property
    def interactions(self) -> list[Interaction]:
        """The table's entry of each item's kind, in the order of the items."""
        return [item.interaction for item in self.items]


class _Parsed(NamedTuple):
    """The content of a body."""

    id: str
    items: list[DraftItem]
    package: str = ""


_READ_BY_PEOPLE: Final = ("text", "title", "gift", "badge")
_encode: Final = msgspec.json.Encoder().encode
# `check_user_id` names the path within a body, and msgspec then adds where in a package that is.
_two_paths: Final = re.compile(r" - at `\$([^`]*)` - at `\$([^`]*)`\Z")
_TOO_DEEP: Final = f"`data` nests deeper than {MAX_DEPTH} levels"


def check_visible(body: msgspec.Struct) -> None:
    """Raise ValueError where a text that people read is not empty and yet shows nothing."""
    for name in _READ_BY_PEOPLE:
        text = getattr(body, name, "")
        if text and not is_visible(text):
            raise ValueError(f"Expected a text that shows something - at `$.{name}`")


def _strict(of: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return the type of a body in requests.

    It refuses a field that it does not have, which is most likely misspelt, and a text that shows
    nothing. Readers of records take both.
    """
    check_ids: Callable[[msgspec.Struct], None] | None = getattr(of, "check_ids", None)

    def check(body: msgspec.Struct) -> None:
        if check_ids is not None:
            check_ids(body)
        check_visible(body)

    namespace = {"__doc__": of.__doc__, "__post_init__": check}
    return msgspec.defstruct(
        of.__name__, [], bases=(of,), namespace=namespace, frozen=True, omit_defaults=True, forbid_unknown_fields=True
    )


_STRICT: Final = {of: _strict(of) for of in BODY_OF.values()}
REQUEST_BODY_OF: Final = {kind: _STRICT[of] for kind, of in BODY_OF.items()}


def _camel(kind: Kind) -> str:
    return kind.value.title().replace("_", "")


class InteractionRoute:
    """The route of one kind: a body has the fields of that kind, and maybe an `id`."""

    def __init__(self, interaction: Interaction) -> None:
        self.name = interaction.kind.value
        self.path = interaction.path
        self.interaction = interaction
        self.request = msgspec.defstruct(
            f"{_camel(interaction.kind)}Request",
            [("id", ItemId, "")],
            bases=(REQUEST_BODY_OF[interaction.kind],),
            frozen=True,
            kw_only=True,
            omit_defaults=True,
            forbid_unknown_fields=True,
        )
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.request)

    def read(self, body: bytes) -> _Parsed:
        """Return the content of `body`, or refuse it."""
        sent = decode(self._decoder, body)
        data = msgspec.structs.replace(sent, id="") if sent.id else sent
        return _Parsed(sent.id, [DraftItem(self.interaction, data)])


_ITEM_TYPES: Final = {
    msgspec.defstruct(
        f"{_camel(interaction.kind)}Item",
        [("data", REQUEST_BODY_OF[interaction.kind])],
        tag_field="kind",
        tag=interaction.kind.value,
        frozen=True,
        forbid_unknown_fields=True,
    ): interaction
    for interaction in INTERACTIONS
}
_PackageItem: Final = Union[tuple(_ITEM_TYPES)]  # noqa: UP007 - a tuple made here


class PackageRoute:
    """The route of packages: items that stay together and in order, or are refused together."""

    name = PACKAGE
    path = "packages"
    request = msgspec.defstruct(
        "PackageRequest",
        [("package", ItemId), ("items", list[_PackageItem]), ("id", ItemId, "")],  # type: ignore[valid-type]
        frozen=True,
        forbid_unknown_fields=True,
    )

    def __init__(self) -> None:
        self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(self.request)

    def read(self, body: bytes) -> _Parsed:
        """Return the content of `body`; every item is checked like a single one."""
        sent = decode(self._decoder, body, MAX_DEPTH + PACKAGE_LEVELS)
        return _Parsed(sent.id, _package_items(sent.items), sent.package)


def _package_items(items: Sequence[Any]) -> list[DraftItem]:
    """Return the items of a package, or refuse their number."""
    if not items:
        raise ProblemError(Code.SCHEMA, "a package has at least one item - at `$.items`")
    if len(items) > MAX_PACKAGE_ITEMS:
        raise ProblemError(Code.PACKAGE_TOO_LARGE, f"{len(items)} items, at most {MAX_PACKAGE_ITEMS}")
    return [DraftItem(_ITEM_TYPES[type(item)], item.data) for item in items]


SendRoute = InteractionRoute | PackageRoute
SEND_ROUTES: Final[tuple[SendRoute, ...]] = (*(InteractionRoute(interaction) for interaction in INTERACTIONS), PackageRoute())


def check_size(declared: int | None, max_bytes: int) -> None:
    """Refuse a body by the length it declares, before any of it is read."""
    if declared is not None and declared > max_bytes:
        raise ProblemError(Code.TOO_LARGE, f"{declared} bytes, at most {max_bytes}")


def check_media_type(content_type: str | None) -> None:
    """Refuse a body that is not declared as JSON.

    A page of a foreign origin can send plain text without a preflight (CORS).
    """
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise ProblemError(Code.UNSUPPORTED_MEDIA_TYPE)


def parse(route: SendRoute, room: str, user: User, body: bytes, *, header_id: str | None, new_id: str) -> Draft:
    """Return the draft of a request, or refuse its form.

    `header_id`: the `Idempotency-Key`. `new_id`: the id where the sender gave none.
    """
    parsed = route.read(body)
    return Draft(room, choose_id(parsed.id, header_id, new_id), user, parsed.items, parsed.package)


def to_record(draft: Draft, now_ms: int) -> bytes:
    """Return the draft's record for `uplink`, or refuse one that is too large."""
    user = draft.user
    record = Uplink(
        Uplink.VERSION,
        draft.room,
        draft.id,
        user.id,
        now_ms,
        [_record_item(item) for item in draft.items],
        name=user.name,
        role=user.role,
        level=user.level,
        package=draft.package,
        via=VIA,
    )
    try:
        return encode_uplink(record)
    except BadRecordError as error:
        raise ProblemError(Code.PACKAGE_TOO_LARGE if draft.package else Code.TOO_LARGE, error.detail) from None


def _record_item(item: DraftItem) -> Item:
    """Return an item as it is written: known fields only, the last of doubled ones, on one line."""
    data = _encode(item.data)
    if len(data) > MAX_CUSTOM_BYTES and isinstance(item.data, Custom):
        raise ProblemError(Code.TOO_LARGE, f"{len(data)} bytes, at most {MAX_CUSTOM_BYTES}")
    return Item(item.interaction.kind, msgspec.Raw(data))


def choose_id(body_id: str, header_id: str | None, new_id: str) -> str:
    """Return the id of a request by its body or header, which must agree; `new_id`: by neither."""
    if header_id is None:
        return body_id or new_id
    if not INTERACTION_ID.match(header_id):
        raise ProblemError(Code.SCHEMA, "Idempotency-Key is 1 to 64 of A-Z a-z 0-9 _ . : -")
    if body_id and body_id != header_id:
        raise ProblemError(Code.SCHEMA, "Idempotency-Key and `$.id` differ")
    return header_id


def decode(decoder: msgspec.json.Decoder[T], body: bytes, levels: int = MAX_DEPTH) -> T:
    """Return the content of a body, or refuse one that nests deeper than `levels`."""
    if nests_deeper(body, levels):
        raise ProblemError(Code.SCHEMA, _TOO_DEEP)
    return _decode(decoder, body)


def _decode(decoder: msgspec.json.Decoder[T], body: bytes | msgspec.Raw) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ProblemError(Code.SCHEMA, _two_paths.sub(r" - at `$\2\1`", str(error))) from None
    except UNDECODABLE as error:
        raise ProblemError(Code.BAD_JSON, str(error)) from None


# ---- bulk requests of services
class BulkItem(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a service publishes for a user: an interaction, or a package.

    An interaction has a `kind` and `data`, the body of that kind. A package has its own name,
    `package`, and `items`, each with a `kind` and `data`.
    """

    room: str
    user: NamedUserId
    kind: Kind | msgspec.UnsetType = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    package: ItemId = ""
    items: list[_PackageItem] | msgspec.UnsetType = msgspec.UNSET  # type: ignore[valid-type]
    id: ItemId = ""
    name: Name = ""
    role: Role = Role.VIEWER
    level: int = 0

    def __post_init__(self) -> None:
        check_user_id(self.user, "$.user")


class BulkRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Many interactions and packages, of any rooms and users."""

    items: list[msgspec.Raw]


_bulk_decoder: Final = msgspec.json.Decoder(BulkRequest)
_bulk_item_decoder: Final = msgspec.json.Decoder(BulkItem)
_body_decoders: Final[dict[Kind, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(REQUEST_BODY_OF[kind]) for kind in BY_KIND
}
_MAX_LEVEL: Final = 255
_USERS: Final = frozenset(Role) - {Role.SERVICE, Role.OPERATOR}


def read_bulk(body: bytes) -> list[msgspec.Raw]:
    """Return the items of a bulk request, undecoded."""
    items = decode(_bulk_decoder, body, MAX_BULK_DEPTH).items
    if not 1 <= len(items) <= MAX_BULK_ITEMS:
        raise ProblemError(Code.SCHEMA, f"1 to {MAX_BULK_ITEMS} items - at `$.items`")
    return items


def parse_bulk(body: bytes, service: User, new_id: str) -> list[Draft | ProblemError]:
    """Return, in order, the draft of each item of a bulk request or its refusal.

    `new_id`: the ids of items without one begin with it. Refuses a request as a whole that has too
    many items, those of packages included.
    """
    drafts: list[Draft | ProblemError] = []
    count = 0
    for number, raw in enumerate(read_bulk(body)):
        try:
            draft = parse_bulk_item(raw, service, f"{new_id}.{number}")
        except ProblemError as problem:
            drafts.append(problem)
            continue
        drafts.append(draft)
        count += len(draft.items)
    if count > MAX_BULK_ITEMS:
        raise ProblemError(Code.TOO_LARGE, f"{count} items with those of packages, at most {MAX_BULK_ITEMS}")
    return drafts


def parse_bulk_item(raw: msgspec.Raw, service: User, new_id: str) -> Draft:
    """Return the draft of one item of a bulk request, or refuse it.

    The service vouches for the user, so its own permissions apply.
    """
    item = decode(_bulk_item_decoder, bytes(raw), MAX_DEPTH + PACKAGE_LEVELS)
    if item.role not in _USERS or not 0 <= item.level <= _MAX_LEVEL:
        raise ProblemError(Code.SCHEMA, "role must be a user's, level 0 to 255")
    check_room(item.room, service)
    user = User(item.user, item.role, item.level, visible_or_empty(item.name), (item.room,))
    return Draft(item.room, item.id or new_id, user, _bulk_items(item), item.package)


def _bulk_items(item: BulkItem) -> Sequence[DraftItem]:
    """Return the one interaction of a bulk item, or those of its package, or refuse it."""
    if item.kind is not msgspec.UNSET and item.data is not msgspec.UNSET and not item.package and item.items is msgspec.UNSET:
        interaction = BY_KIND.get(item.kind)
        if interaction is None or Role.SERVICE not in interaction.roles:
            raise _not_of_services(item.kind)
        return (DraftItem(interaction, decode(_body_decoders[item.kind], bytes(item.data))),)
    if item.items is msgspec.UNSET or not item.package or (item.kind, item.data) != (msgspec.UNSET, msgspec.UNSET):
        raise ProblemError(Code.SCHEMA, "an item has `kind` and `data`, or `package` and `items`")
    items = _package_items(item.items)
    for each in items:
        if Role.SERVICE not in each.interaction.roles:
            raise _not_of_services(each.interaction.kind)
    return items


def _not_of_services(kind: Kind) -> ProblemError:
    return ProblemError(Code.FORBIDDEN, f"the role service may not send {kind.value}")
