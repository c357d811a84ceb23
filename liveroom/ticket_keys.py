"""Ed25519 keys of entry tickets, as JWK Sets (RFC 7517, RFC 8037). Pure.

The scheduler holds the private keys, and its first one signs. Gateways hold the public keys of the
same ids, so whoever breaks into a gateway cannot make tickets. Owns the two forms of a key set and
what is refused in them: a private key among the public ones, a key of another kind, two keys with
one id. `liveroom keys` makes and rotates them; `liveroom.settings` reads them.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from liveroom.nesting import UNDECODABLE
from liveroom.texts import without_mark
from liveroom.tickets import VERSION, Keys, Signer

KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,16}\Z")  # it stands between a ticket's dots
SEED_BYTES: Final = 32
_KIND: Final = ("OKP", "Ed25519")


class TicketKeysError(ValueError):
    """A key set that cannot be used; the message names the key and the reason."""


class _Jwk(msgspec.Struct, omit_defaults=True):
    kty: str
    crv: str
    kid: str
    x: str
    d: str = ""


class _JwkSet(msgspec.Struct):
    keys: list[_Jwk]


class PrivateKey(NamedTuple):
    """A private key and its id."""

    id: str
    key: Ed25519PrivateKey

    def signer(self) -> Signer:
        """Return what signs tickets with this key."""
        return Signer(self.id, VERSION, self.key.sign)


def make_private_key(key_id: str, seed: bytes) -> PrivateKey:
    """Return the private key of `SEED_BYTES` random bytes.

    Raises TicketKeysError for an id that no key may have.
    """
    _check_id(key_id)
    return PrivateKey(key_id, Ed25519PrivateKey.from_private_bytes(seed))


def read_private_keys(text: bytes | str) -> list[PrivateKey]:
    """Return the private keys of a JWK Set, in their order: the first one signs.

    Raises TicketKeysError where the set cannot be used, or holds no key.
    """
    return [_private(jwk) for jwk in _read(text)]


def read_public_keys(text: bytes | str) -> Keys:
    """Return the keys of a JWK Set that verify tickets.

    Raises TicketKeysError where the set cannot be used, holds no key, or holds a private one: that
    one belongs to the scheduler alone.
    """
    keys: dict[tuple[int, str], Callable[[bytes, bytes], bool]] = {}
    for jwk in _read(text):
        if jwk.d:
            raise TicketKeysError(f"ticket key {jwk.kid} is a private key: a gateway must have the public key only")
        keys[VERSION, jwk.kid] = _verifier(_public(jwk))
    return keys


def write_private_keys(keys: Sequence[PrivateKey]) -> str:
    """Return the JWK Set of private keys, for the scheduler."""
    return _write([_described(key, with_private=True) for key in keys])


def write_public_keys(keys: Sequence[PrivateKey]) -> str:
    """Return the JWK Set of the public keys of `keys`, for the gateways."""
    return _write([_described(key, with_private=False) for key in keys])


def _described(key: PrivateKey, *, with_private: bool) -> _Jwk:
    public = key.key.public_key().public_bytes_raw()
    return _Jwk(*_KIND, key.id, _b64(public), _b64(key.key.private_bytes_raw()) if with_private else "")


def _write(keys: Sequence[_Jwk]) -> str:
    return msgspec.json.format(msgspec.json.encode({"keys": keys}), indent=2).decode() + "\n"


def _read(text: bytes | str) -> list[_Jwk]:
    try:
        keys = msgspec.json.decode(without_mark(text), type=_JwkSet).keys
    except UNDECODABLE as error:
        raise TicketKeysError(f"not a JWK Set of Ed25519 keys: {error}") from None
    if not keys:
        raise TicketKeysError("the set holds no ticket key")
    for jwk in keys:
        _check_id(jwk.kid)
        if (jwk.kty, jwk.crv) != _KIND:
            raise TicketKeysError(f"ticket key {jwk.kid} is not an Ed25519 key (kty OKP, crv Ed25519)")
    if len({jwk.kid for jwk in keys}) != len(keys):
        raise TicketKeysError("two ticket keys have one kid")
    return keys


def _check_id(key_id: str) -> None:
    if not KEY_ID.match(key_id):
        raise TicketKeysError("a ticket key id is not 1 to 16 of A-Z a-z 0-9 _ -")


def _private(jwk: _Jwk) -> PrivateKey:
    if not jwk.d:
        raise TicketKeysError(f"ticket key {jwk.kid} is a public key: signing needs the private one (d)")
    key = Ed25519PrivateKey.from_private_bytes(_bytes_of(jwk.d, jwk.kid))
    if key.public_key() != _public(jwk):
        raise TicketKeysError(f"ticket key {jwk.kid}: the private key (d) and the public key (x) do not belong together")
    return PrivateKey(jwk.kid, key)


def _public(jwk: _Jwk) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(_bytes_of(jwk.x, jwk.kid))


def _bytes_of(text: str, key_id: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        data = b""
    if len(data) != SEED_BYTES:
        raise TicketKeysError(f"ticket key {key_id} is not {SEED_BYTES} bytes in base64url")
    return data


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _verifier(key: Ed25519PublicKey) -> Callable[[bytes, bytes], bool]:
    def is_signature(signature: bytes, text: bytes) -> bool:
        try:
            key.verify(signature, text)
        except InvalidSignature:
            return False
        return True

    return is_signature
