"""Entry tickets: the scheduler signs one for a viewer, a gateway verifies it. Pure.

A ticket is `v2.<key id>.<payload>.<signature>`: JSON and its signature, both base64url. It names
the gateways it is valid at with the generation (start time) of each, so a gateway that has
restarted refuses the tickets of its earlier start. A ticket can be used any number of times until
it expires, `TICKET_TTL_S` after its signature.

The version at its beginning stands for the algorithm: Ed25519 in version 2 (keys of it:
`liveroom.ticket_keys`), HMAC-SHA256 in version 1, which liveroom 0.1 writes and reads. Each key
signs and verifies one version, so a public key can never serve as a secret. Owns also `User`, the
identity in tickets and user tokens.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final, NamedTuple

import msgspec

from liveroom.errors import Code, ProblemError
from liveroom.kinds import HOSTS_OF_ROOMS, Role
from liveroom.records.codec import read_versions

VERSION: Final = 2
HMAC_VERSION: Final = 1
TICKET_TTL_S: Final = 60
# The longest ticket, in bytes of JSON:
#
#     220  the user's id, which records limit to 192
#     400  the name: 64 characters, each 6 as an escape
#     550  8 rooms of 64 (`wire.MAX_ROOMS_PER_CONNECTION`)
#     150  role, level, follower, subscriber, time of issue, `names_rooms`
#     170  purpose, expiry, nonce, a device's id of 64
#     850  10 gateways: an id of 64 and a generation of 16 digits each
#   -----
#   2,340, so 3,120 characters of base64url; the key's id of 16 and the signature add 107
#
# A ticket of MAX_TICKET_CHARS still fits into the request line of /v1/live and /v1/events: aiohttp
# and most proxies allow 8 KiB.
MAX_TICKET_CHARS: Final = 4096
_TICKET_PARTS: Final = 4
_READ: Final = {f"v{version}": version for version in read_versions(VERSION)}


class User(msgspec.Struct, frozen=True, omit_defaults=True):
    """The user of a token or ticket.

    `rooms`: the only rooms that it permits; empty: none. None: it names no rooms, and `permits`
    decides by the role. `device`: the id of the device that it watches on (empty: unknown).
    `issued_s`: when the token was issued, in Unix time (None: unknown); a guest's is the time of
    its entry. `names_rooms`: in a ticket, whose `rooms` are always the rooms that were requested:
    the token names them. Version 0.1 does not state it.
    """

    id: str
    role: Role = Role.VIEWER
    level: int = 0
    name: str = ""
    rooms: tuple[str, ...] | None = None
    follower: bool = False
    subscriber: bool = False
    device: str = ""
    issued_s: int | None = None
    names_rooms: bool = False

    def permits(self, room: str) -> bool:
        """Return whether the user may be in a room.

        A token that names no rooms is for every room, except a host's, which is for none: a host
        of one room must not be one everywhere.
        """
        if self.rooms is None:
            return self.role not in HOSTS_OF_ROOMS
        return room in self.rooms

    def check_permits(self, room: str) -> None:
        """Raise `ProblemError` (forbidden) unless the user may be in a room."""
        if self.permits(room):
            return
        if self.rooms is None:
            raise ProblemError(Code.FORBIDDEN, f"a token with the role {self.role.value} must name its rooms (claim rooms)")
        raise ProblemError(Code.FORBIDDEN, "the token is for other rooms" if self.rooms else "the token is for no room")


class Ticket(msgspec.Struct, frozen=True, omit_defaults=True):
    """The permission of a user to enter, until `expires_ms`, at some gateways (id, generation).

    `purpose` separates kinds of tickets that the same keys sign. `nonce` makes every ticket unique,
    so that a gateway can count the uses of one (`edge.spent_tickets`).
    """

    purpose: str
    user: User
    expires_ms: int
    nonce: str
    gateways: tuple[tuple[str, int], ...] = ()


ENTRY: Final = "entry"

_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Ticket)


class Signer(NamedTuple):
    """A key that signs tickets of one version. `sign` returns the signature of its argument."""

    key_id: str
    version: int
    sign: Callable[[bytes], bytes]


# The keys of a gateway, by version and key id: each returns whether a signature (its first
# argument) is that of a text (its second one).
Keys = Mapping[tuple[int, str], Callable[[bytes, bytes], bool]]


def hmac_signer(key_id: str, key: bytes) -> Signer:
    """Return the signer of tickets that liveroom 0.1 reads."""
    return Signer(key_id, HMAC_VERSION, lambda text: hmac.digest(key, text, sha256))


def hmac_keys(keys: Mapping[str, bytes]) -> Keys:
    """Return the keys that verify tickets of liveroom 0.1; `keys`: the secrets by key id."""

    def verifier(key: bytes) -> Callable[[bytes, bytes], bool]:
        return lambda signature, text: hmac.compare_digest(hmac.digest(key, text, sha256), signature)

    return {(HMAC_VERSION, key_id): verifier(key) for key_id, key in keys.items()}


def sign(ticket: Ticket, signer: Signer) -> str:
    """Return the ticket as text, signed by `signer`.

    Raises ValueError for a ticket above `MAX_TICKET_CHARS`, which every gateway would refuse: its
    fields are longer than their own limits.
    """
    body = f"v{signer.version}.{signer.key_id}.{_b64(_encoder.encode(ticket))}"
    text = f"{body}.{_b64(signer.sign(body.encode()))}"
    if len(text) > MAX_TICKET_CHARS:
        raise ValueError(f"a ticket of {len(text)} characters, at most {MAX_TICKET_CHARS}")
    return text


def verify(text: str, keys: Keys, purpose: str, gateway: tuple[str, int], now_ms: int) -> Ticket:
    """Return the ticket in `text`, or raise a problem (ticket_invalid, ticket_expired).

    `gateway`: the id of the gateway that asks, and its generation. A gateway that has restarted has
    another one, so it refuses its earlier tickets.
    """
    parts = text.split(".")
    if len(parts) != _TICKET_PARTS or len(text) > MAX_TICKET_CHARS or not text.isascii():
        raise ProblemError(Code.TICKET_INVALID, "not a ticket of this system")
    version = _READ.get(parts[0])
    if version is None:
        raise ProblemError(Code.TICKET_INVALID, "the ticket has a version that this gateway does not read")
    is_signature = keys.get((version, parts[1]))
    if is_signature is None:
        raise ProblemError(Code.TICKET_INVALID, "no key of this gateway has signed the ticket")
    signature, body = _unb64(parts[3]), text.rpartition(".")[0]
    if signature is None or not is_signature(signature, body.encode()):
        raise ProblemError(Code.TICKET_INVALID, "the signature is wrong")
    payload = _unb64(parts[2])
    try:
        ticket = _decoder.decode(payload or b"")
    except (ValueError, RecursionError):
        raise ProblemError(Code.TICKET_INVALID, "the payload cannot be read") from None
    if ticket.purpose != purpose:
        raise ProblemError(Code.TICKET_INVALID, f"the ticket is for {ticket.purpose}")
    if now_ms >= ticket.expires_ms:
        raise ProblemError(Code.TICKET_EXPIRED).of(ticket.user.id)
    if ticket.user.rooms == ():
        raise ProblemError(Code.TICKET_INVALID, "the ticket permits no room")
    if gateway not in ticket.gateways:
        raise ProblemError(Code.TICKET_INVALID, "the ticket is for other gateways, or for this one before it was restarted")
    return ticket


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unb64(text: str) -> bytes | None:
    """Return the bytes that `text` is the base64url of; None where it is not their only one.

    A decoder that is not strict passes over foreign characters and unused bits, so one ticket
    would have many texts.
    """
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return None
    return data if _b64(data) == text else None
