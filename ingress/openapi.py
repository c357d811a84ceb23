"""The OpenAPI 3.1 document of the ingress, made from `permissions` and the bodies. Pure.

Served at `/v1/openapi.json` by `app`; docs/openapi.json is a copy.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from ingress import requests, responses
from ingress.command_requests import REQUESTS
from ingress.permissions import COMMAND_ROUTES, Command, CommandRoute, Interaction
from ingress.room_status import RoomReport
from liveroom import __version__
from liveroom.errors import TABLE, Code
from liveroom.kinds import CLASS_OF, Role
from liveroom.records.codec import USER_PATTERN
from liveroom.records.uplink import MAX_PACKAGE_ITEMS

_REF: Final = "#/components/schemas/{name}"
_ROOM: Final[dict[str, Any]] = {
    "name": "room",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
}
_USER: Final[dict[str, Any]] = {
    "name": "user",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": USER_PATTERN[0].replace("\\Z", "$")},
}
_WORD: Final[dict[str, Any]] = {
    "name": "word",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 64},
}
_ID: Final[dict[str, Any]] = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,64}$"},
}
_KEY: Final[dict[str, Any]] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "the same as `id` in the body: requests with the same id take effect once",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_.:-]{1,64}$"},
}
_LIMIT: Final[dict[str, Any]] = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100},
}
_AFTER: Final[dict[str, Any]] = {
    "name": "after",
    "in": "query",
    "description": "continue after this one: the `after` of the answer before",
    "schema": {"type": "string"},
}

_ALWAYS: Final = (
    Code.TOKEN_MISSING,
    Code.TOKEN_INVALID,
    Code.TOKEN_EXPIRED,
    Code.REVOKED,
    Code.NOT_READY,
    Code.FORBIDDEN,
    Code.BAD_REQUEST,
    Code.RATE_USER,
)
_BODY: Final = (
    Code.BAD_JSON,
    Code.SCHEMA,
    Code.TOO_LARGE,
    Code.PACKAGE_TOO_LARGE,
    Code.UNSUPPORTED_MEDIA_TYPE,
    Code.BODY_LATE,
    Code.QUEUE_UNAVAILABLE,
)
_SENDING: Final = (
    Code.ROOM_DISSOLVED,
    Code.BANNED,
    Code.MUTED,
    Code.ROOM_MUTED,
    Code.FOLLOWERS_ONLY,
    Code.SUBSCRIBERS_ONLY,
    Code.NO_MEDIA,
    Code.WORDS,
    Code.REVIEW,
    Code.RATE_ROOM,
    Code.SLOW_MODE,
)

EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "danmaku": {"text": "hello", "color": 0xFFCC00},
    "gift": {"id": "order-4711", "gift": "rose", "count": 3, "combo": 12},
    "like": {"count": 7},
    "red_packet": {"packet": "rp-1", "text": "good luck", "count": 100},
    "coupon": {"coupon": "c-1", "text": "20 off", "ends_ms": 1_800_000_000_000},
    "goods": {"goods": "sku-1", "title": "a mug", "price": 1299, "currency": "EUR", "link": "https://shop.example/sku-1"},
    "announcement": {"text": "We begin at eight."},
    "enter": {"badge": "captain"},
    "leave": {"badge": "captain"},
    "custom": {"type": "sticker", "body": {"pack": "cats", "n": 3}},
    "package": {
        "package": "p1",
        "items": [{"kind": "gift", "data": {"gift": "rose"}}, {"kind": "danmaku", "data": {"text": "for you"}}],
    },
    "mute": {"user": "rude", "for_s": 600, "why": "spam"},
    "ban": {"user": "rude", "why": "threats"},
    "kick": {"user": "rude"},
    "clear": {"user": "rude"},
    "modes": {"slow_s": 5, "followers_only": True},
    "dissolve": {"why": "the show is over"},
    "reopen": {},
    "set_room_word": {"action": "mask"},
    "set_word": {"action": "refuse"},
    "announce": {"text": "Maintenance at midnight."},
    "revoke": {"user": "rude", "device": "phone-1", "why": "the phone was stolen"},
    "bulk": {"items": [{"room": "lobby", "user": "anna", "kind": "gift", "id": "order-1", "data": {"gift": "rose"}}]},
}


def _responses(good: str, schema: type[msgspec.Struct], codes: Iterable[Code]) -> dict[str, Any]:
    by_status: dict[int, list[Code]] = {}
    for code in codes:
        by_status.setdefault(TABLE[code].status, []).append(code)
    answers: dict[str, Any] = {
        good: {
            "description": " ".join((schema.__doc__ or "").split()),
            "content": {"application/json": {"schema": {"$ref": _REF.format(name=schema.__name__)}}},
        }
    }
    for status, found in sorted(by_status.items()):
        answers[str(status)] = {
            "description": "; ".join(f"`{code.value}`: {TABLE[code].title}" for code in found),
            "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
        }
        if status in {429, 503}:
            answers[str(status)]["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    for answer in answers.values():
        answer.setdefault("headers", {})["X-Request-Id"] = {"$ref": "#/components/headers/RequestId"}
    return answers


def _operation(
    name: str, about: str, roles: Iterable[Role], parameters: list[Any], responses: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": name,
        "summary": about,
        "description": f"Allowed roles: {_named(roles)}.",
        "responses": responses,
    }
    if parameters:
        operation["parameters"] = parameters
    return operation


def _named(roles: Iterable[Role]) -> str:
    return ", ".join(role.value for role in Role if role in set(roles))


def _body(name: str, schema: type[msgspec.Struct]) -> dict[str, Any]:
    content = {"schema": {"$ref": _REF.format(name=schema.__name__)}, "example": EXAMPLES[name]}
    return {"required": True, "content": {"application/json": content}}


def _interaction(route: requests.SendRoute, interaction: Interaction | None) -> dict[str, Any]:
    roles = interaction.roles if interaction is not None else frozenset(Role) - {Role.GUEST}
    about = (
        f"{interaction.about} ({CLASS_OF[interaction.kind].value})"
        if interaction is not None
        else "Send several interactions that stay together"
    )
    answers = _responses("202", responses.Accepted, (*_ALWAYS, Code.ROOM_INVALID, *_BODY, *_SENDING))
    operation = _operation(f"send_{route.name}", about, roles, [_ROOM, _KEY], answers)
    if interaction is not None and interaction.claimed_by:
        operation["description"] += f" With `viewers_may_claim_payment` also: {_named(interaction.claimed_by - roles)}."
    return operation | {"requestBody": _body(route.name, route.request)}


def _command(route: CommandRoute) -> dict[str, Any]:
    command = route.command
    parameters = [
        each for part, each in (("{room}", _ROOM), ("{user}", _USER), ("{word}", _WORD), ("{id}", _ID)) if part in route.path
    ]
    if command in {Command.MUTES, Command.BANS, Command.REVOCATIONS}:
        parameters += [_LIMIT, _AFTER]
    codes = list(_ALWAYS)
    if "{room}" in route.path:
        codes.append(Code.ROOM_INVALID)
    if "{user}" in route.path or route.method == "DELETE":
        codes.append(Code.NOT_FOUND)
    if command in _ABOUT_TOKENS:
        codes.append(Code.QUEUE_UNAVAILABLE)
    elif command is not Command.BULK:
        codes += [Code.BANNED, Code.MUTED, Code.QUEUE_UNAVAILABLE]
    if command in {Command.SET_ROOM_WORD, Command.SET_WORD, Command.REVOKE}:
        codes.append(Code.LIMIT)
    body = {}
    if command in _REQUESTS:
        codes += _BODY
        body = {"requestBody": _body(command.value, _REQUESTS[command])}
        parameters = [*parameters, _KEY]
    elif route.method == "DELETE":
        codes.append(Code.SCHEMA)
        parameters = [*parameters, _KEY]
    answer = _ANSWERS.get(command, responses.CommandResult)
    status = "202" if issubclass(answer, responses.CommandResult) else "200"
    return (
        _operation(command.value, route.about, route.roles, parameters, _responses(status, answer, dict.fromkeys(codes))) | body
    )


_ABOUT_TOKENS: Final = frozenset(
    {Command.REVOKE, Command.REVOCATIONS, Command.LIFT_REVOCATION, Command.CONNECTIONS, Command.END_CONNECTIONS}
)
_ANSWERS: Final[dict[Command, type[msgspec.Struct]]] = {
    Command.STATE: RoomReport,
    Command.MUTES: responses.SanctionList,
    Command.BANS: responses.SanctionList,
    Command.ROOM_WORDS: responses.WordList,
    Command.WORDS: responses.WordList,
    Command.ANNOUNCE: responses.AnnouncementResult,
    Command.BULK: responses.BulkAnswer,
    Command.REVOKE: responses.RevocationEntry,
    Command.REVOCATIONS: responses.RevocationList,
    Command.CONNECTIONS: responses.UserConnectionList,
    Command.END_CONNECTIONS: responses.UserConnectionList,
}
_REQUESTS: Final = REQUESTS | {Command.BULK: requests.BulkRequest}
_PROBLEM: Final = {
    "type": "object",
    "description": "A refusal (RFC 9457). Programs branch on `code`.",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": [code.value for code in Code]},
        "detail": {"type": "string"},
        "request_id": {"type": "string", "description": "the request's name in the log, as in X-Request-Id"},
        "retry_after_s": {"type": "number", "description": "when a retry may succeed"},
        "until_ms": {"type": "integer", "description": "of mutes and bans; -1: without an end"},
    },
}


def document() -> dict[str, Any]:
    """Return the document, as values that JSON can hold."""
    paths: dict[str, dict[str, Any]] = {}
    for kind in requests.SEND_ROUTES:
        interaction = kind.interaction if isinstance(kind, requests.InteractionRoute) else None
        paths[f"/v1/rooms/{{room}}/{kind.path}"] = {"post": _interaction(kind, interaction)}
    for route in COMMAND_ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _command(route)
    types: list[type[msgspec.Struct]] = [
        *(kind.request for kind in requests.SEND_ROUTES),
        *_REQUESTS.values(),
        *_ANSWERS.values(),
        responses.Accepted,
        requests.BulkItem,
        responses.CommandResult,
    ]
    _, schemas = msgspec.json.schema_components(types, ref_template=_REF)
    schemas["BulkRequest"]["properties"]["items"] = {
        "type": "array",
        "minItems": 1,
        "maxItems": requests.MAX_BULK_ITEMS,
        "items": {"$ref": _REF.format(name="BulkItem")},
    }
    for name in ("PackageRequest", "BulkItem"):
        schemas[name]["properties"]["items"] |= {"minItems": 1, "maxItems": MAX_PACKAGE_ITEMS}
    schemas["BulkItem"]["oneOf"] = [{"required": ["kind", "data"]}, {"required": ["package", "items"]}]
    schemas["Problem"] = _PROBLEM
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "liveroom ingress",
            "version": __version__,
            "description": "Sends to live rooms, and moderates them. 202: it is written and will reach the viewers.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "headers": {"RequestId": {"description": "the request's name in the log", "schema": {"type": "string"}}},
            "schemas": _portable(schemas),
        },
    }


def _paragraphs(docstring: str) -> str:
    """Return a docstring with each paragraph and item on one line; readers of the document wrap it.

    msgspec has joined the items of a list.
    """
    return "\n\n".join(" ".join(paragraph.split()).replace(" - `", "\n- `") for paragraph in docstring.split("\n\n"))


_TEXTS: Final[dict[str, Callable[[str], str]]] = {
    "pattern": lambda pattern: pattern.replace("\\Z", "$"),
    "description": _paragraphs,
}


def _portable(node: Any) -> Any:
    r"""Return schemas with patterns as other languages know them: Python's `\Z` is their `$`.

    Texts lose the lines and the indentation of their docstrings.
    """
    if isinstance(node, dict):
        return {
            key: _TEXTS[key](value) if key in _TEXTS and isinstance(value, str) else _portable(value)
            for key, value in node.items()
        }
    return [_portable(each) for each in node] if isinstance(node, list) else node


def encoded() -> bytes:
    """Return the document as JSON."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2)
