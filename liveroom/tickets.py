"""Entry tickets, from the scheduler to the edge, and whom they and user tokens speak for. Pure.

A ticket is `v1.<key id>.<payload>.<signature>`: JSON and its HMAC-SHA256, both base64url. It names
the gateways it is good for with their start generation, so one that restarted or drains refuses it.
"""

import base64
import binascii
import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

import msgspec

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role

TICKET_TTL_S: Final = 60
MAX_TICKET_CHARS: Final = 2048
_TICKET_PARTS: Final = 4


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
    """An entry: who, until when, and at which gateways (id, generation).

    `purpose` keeps what is signed alike apart.
    """

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
    except (binascii.Error, ValueError, RecursionError):
        raise ProblemError(Code.TICKET_INVALID, "the payload cannot be read") from None
    if ticket.purpose != purpose:
        raise ProblemError(Code.TICKET_INVALID, f"this is for {ticket.purpose}")
    if now_ms >= ticket.expires_ms:
        raise ProblemError(Code.TICKET_EXPIRED)
    return ticket


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
