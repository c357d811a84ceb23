"""Entry tickets (scheduler to edge) and user tokens (identity service to all). Pure.

A ticket is `v1.<key id>.<payload>.<signature>`: JSON and its HMAC-SHA256, both base64url. It names the gateways it is good
for with their start generation, so one that restarted or drains refuses it. A user token is a JWT; the algorithms are fixed
here, never taken from the token.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import jwt
import msgspec

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.topics import ROOM_ID, USER_ID

AUDIENCE: Final = "liveroom"
ALGORITHMS: Final = ("HS256",)
TICKET_TTL_S: Final = 60
MAX_TICKET_CHARS: Final = 2048
_MAX_NAME_CHARS: Final = 64
_MAX_LEVEL: Final = 255
_TICKET_PARTS: Final = 4
_SURROGATE: Final = re.compile("[\\ud800-\\udfff]")  # alone in a text: no record (UTF-8) can hold it


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who a token or ticket speaks for. `rooms`: the only rooms it is good for (empty: any)."""

    id: str
    role: Role = Role.VIEWER
    level: int = 0
    name: str = ""
    rooms: tuple[str, ...] = ()
    follower: bool = False
    subscriber: bool = False


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """An entry: who, until when, and at which gateways (id, generation). `purpose` keeps what is signed alike apart."""

    purpose: str
    user: User
    expires_ms: int
    nonce: str
    gateways: tuple[tuple[str, int], ...] = ()


ENTRY: Final = "entry"

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Ticket)


def sign(ticket: Ticket, key_id: str, key: bytes) -> str:
    """Return the ticket as text."""
    body = f"v1.{key_id}.{_b64(_encoder.encode(ticket))}"
    return f"{body}.{_b64(hmac.digest(key, body.encode(), sha256))}"


def verify(text: str, keys: Mapping[str, bytes], purpose: str, now_ms: int) -> Ticket:
    """Return the ticket that `text` is, or raise a problem (ticket_invalid, ticket_expired).

    Says nothing of gateways: that is the caller's to check.
    """
    parts = text.split(".")
    formed = len(parts) == _TICKET_PARTS and parts[0] == "v1" and len(text) <= MAX_TICKET_CHARS and text.isascii()
    if not formed or parts[1] not in keys:
        raise ProblemError(Code.TICKET_INVALID, "not a ticket of this system")
    body = text.rpartition(".")[0]
    if not hmac.compare_digest(_b64(hmac.digest(keys[parts[1]], body.encode(), sha256)), parts[3]):
        raise ProblemError(Code.TICKET_INVALID, "the signature is wrong")
    try:
        ticket = _decoder.decode(base64.urlsafe_b64decode(parts[2] + "=" * (-len(parts[2]) % 4)))
    except (binascii.Error, msgspec.DecodeError, ValueError):
        raise ProblemError(Code.TICKET_INVALID, "the payload cannot be read") from None
    if ticket.purpose != purpose:
        raise ProblemError(Code.TICKET_INVALID, f"this is for {ticket.purpose}")
    if now_ms >= ticket.expires_ms:
        raise ProblemError(Code.TICKET_EXPIRED)
    return ticket


def sign_user(user: User, key: bytes, now_s: int, ttl_s: int = 3600, key_id: str = "") -> str:
    """Return a user token. For the demo, tests and `liveroom token`; in production an identity service signs them."""
    claims: dict[str, Any] = {"sub": user.id, "aud": AUDIENCE, "iat": now_s, "exp": now_s + ttl_s, "role": user.role.value}
    claims |= {"level": user.level, "name": user.name}
    if user.rooms:
        claims["rooms"] = list(user.rooms)
    if user.follower:
        claims["follower"] = True
    if user.subscriber:
        claims["subscriber"] = True
    return jwt.encode(claims, key, algorithm=ALGORITHMS[0], headers={"kid": key_id} if key_id else None)


def verify_user(token: str, key: bytes, leeway_s: float = 30) -> User:
    """Return who a user token speaks for, or raise a problem (token_invalid, token_expired)."""
    try:
        claims = jwt.decode(
            token,
            key,
            algorithms=list(ALGORITHMS),
            audience=AUDIENCE,
            leeway=leeway_s,
            options={"require": ["exp", "sub", "aud"]},
        )
    except jwt.ExpiredSignatureError:
        raise ProblemError(Code.TOKEN_EXPIRED) from None
    except (jwt.InvalidTokenError, UnicodeError) as error:
        raise ProblemError(Code.TOKEN_INVALID, str(error)) from None
    return _user_of(claims)


def _user_of(claims: Mapping[str, Any]) -> User:
    subject, level, name = claims["sub"], claims.get("level", 0), claims.get("name", "")
    rooms = claims.get("rooms", [])
    if not isinstance(subject, str) or not USER_ID.match(subject):
        raise ProblemError(Code.TOKEN_INVALID, "sub is not a user id")
    if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level <= _MAX_LEVEL:
        raise ProblemError(Code.TOKEN_INVALID, "level is not 0 to 255")
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS or _SURROGATE.search(name):
        raise ProblemError(Code.TOKEN_INVALID, "name is not a text of at most 64 characters")
    if not isinstance(rooms, list) or not all(isinstance(room, str) and ROOM_ID.match(room) for room in rooms):
        raise ProblemError(Code.TOKEN_INVALID, "rooms is not a list of rooms")
    try:
        role = Role(claims.get("role", Role.VIEWER.value))
    except ValueError:
        raise ProblemError(Code.TOKEN_INVALID, "role is not known") from None
    return User(subject, role, level, name, tuple(rooms), claims.get("follower") is True, claims.get("subscriber") is True)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
