"""User tokens: JWTs that an identity service signs and every service verifies. Pure.

Owns which keys and algorithms count. Each key has one algorithm, taken from the key and never from
the token: so no token can choose `none`, or make a public key serve as a secret. Refuses with
`token_missing`, `token_invalid`, `token_expired` or `revoked`. Called by ingress, scheduler and
autoscaler.
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, NamedTuple

import jwt
import msgspec

from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.nesting import UNDECODABLE
from liveroom.revocations import Revocations
from liveroom.texts import visible_or_empty, without_mark
from liveroom.tickets import User
from liveroom.topics import DEVICE_ID, ROOM_ID
from liveroom.users import UserIdError, user_id, user_text

AUDIENCE: Final = "liveroom"
LEEWAY_S: Final = 30.0
LIFE_S: Final = 30 * 86_400
MAX_TOKEN_CHARS: Final = 8192
MAX_CACHED: Final = 50_000
FEW_CACHED: Final = 1000
MIN_SECRET_BYTES: Final = 32
MIN_RSA_BITS: Final = 2048
ANY: Final = ""
_ALGORITHMS: Final = {"oct": "HS256", "RSA": "RS256", "OKP": "EdDSA"}
_MAX_NAME_CHARS: Final = 64
_MAX_LEVEL: Final = 255
_QUOTED: Final = re.compile(r":.*|(?<=extension) '.*(?= is missing)", re.DOTALL)  # in a message of the library
_SURROGATE: Final = re.compile("[\\ud800-\\udfff]")  # alone in a text, it has no UTF-8 form and fits no record


class KeysError(ValueError):
    """A key set that cannot be used; the message names the key and the reason."""


class Key(NamedTuple):
    """A key and its one algorithm. `id` ANY: it serves for every key id that a token names."""

    id: str
    algorithm: str
    key: Any


class _KeySet(msgspec.Struct):
    """A JWK Set (RFC 7517)."""

    keys: list[dict[str, Any]]


def secret(key: bytes, key_id: str = ANY) -> Key:
    """Return an HS256 key."""
    return Key(key_id, "HS256", key)


def read_keys(text: bytes | str) -> list[Key]:
    """Return the signing keys of a JWK Set: HS256 (`oct`), RS256 (`RSA`) and EdDSA (`OKP`).

    Raises KeysError for a key of another kind, and for a set without any.
    """
    try:
        described = msgspec.json.decode(without_mark(text), type=_KeySet).keys
    except UNDECODABLE as error:
        raise KeysError(f"not a JWK Set: {error}") from None
    keys = [_key(each, number) for number, each in enumerate(described) if each.get("use", "sig") == "sig"]
    if not keys:
        raise KeysError("no key in it is for signatures")
    if len({key.id for key in keys}) != len(keys):
        raise KeysError("two keys have one kid")
    return keys


def _key(described: Mapping[str, Any], number: int) -> Key:
    name = described.get("kid")
    if not isinstance(name, str) or not name:
        raise KeysError(f"key {number} has no kid")
    algorithm = _ALGORITHMS.get(str(described.get("kty")))
    if algorithm is None or described.get("alg", algorithm) != algorithm:
        raise KeysError(f"key {name} is not for HS256 (oct), RS256 (RSA) or EdDSA (OKP)")
    if algorithm != "HS256" and "d" in described:
        raise KeysError(f"key {name} is a private key: verifying tokens needs the public key only")
    try:
        key = jwt.PyJWK(dict(described), algorithm=algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        raise KeysError(f"key {name}: its values are not those of a key for {algorithm}") from None
    if algorithm == "HS256" and len(key) < MIN_SECRET_BYTES:
        raise KeysError(f"key {name} must be at least {MIN_SECRET_BYTES} bytes")
    if algorithm == "RS256" and key.key_size < MIN_RSA_BITS:
        raise KeysError(f"key {name} must be at least {MIN_RSA_BITS} bits")
    return Key(name, algorithm, key)


class Verifier:
    """Verifies tokens. A valid one is remembered until it expires or the keys change.

    Verifying a signature costs 50 us, finding a remembered token less than one. `leeway_s`: by how
    much clocks may differ. `life_s`: the longest time from a token's issue to its expiry.
    `revocations`: these are checked at each use of a token; None: there are none.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        leeway_s: float = LEEWAY_S,
        life_s: float = LIFE_S,
        revocations: Revocations | None = None,
    ) -> None:
        self._keys = list(keys)
        self._leeway_s = leeway_s
        self._life_s = life_s
        self._revocations = revocations
        self._known: dict[str, tuple[User, float]] = {}
        self._sweep_at = min(MAX_CACHED, FEW_CACHED)

    def __len__(self) -> int:
        return len(self._known)

    def use(self, keys: Sequence[Key]) -> None:
        """Use these keys from now on, in place of all earlier ones."""
        self._keys = list(keys)
        self._known.clear()

    def bearer(self, authorization: str | None, now_s: float) -> User:
        """Return the user of the bearer token in an `Authorization` header; `now_s`: Unix time."""
        token = _token_of(authorization)
        if not token:
            raise ProblemError(Code.TOKEN_MISSING)
        return self.verify(token, now_s)

    def knows(self, authorization: str | None, now_s: float) -> bool:
        """Return whether `bearer` would return a user at once, of a token that it verified before.

        This costs no signature. `now_s`: Unix time.
        """
        known = self._known.get(_token_of(authorization))
        if known is None or now_s >= known[1]:
            return False
        user = known[0]
        return self._revocations is None or not self._revocations.revokes(user.id, user.device, user.issued_s)

    def verify(self, token: str, now_s: float) -> User:
        """Return the user that a token identifies; `now_s`: Unix time."""
        user = self._verified(token, now_s)
        self.check_revoked(user)
        return user

    def check_revoked(self, user: User) -> None:
        """Raise `ProblemError` (revoked) where the token of a user is revoked.

        `verify` has checked the user of a token. A caller that adds a device, or lets a guest in,
        calls it for that. Raises also (not_ready) until the revocations are read.
        """
        if self._revocations is not None:
            self._revocations.check(user)

    def _verified(self, token: str, now_s: float) -> User:
        known = self._known.get(token)
        if known is not None:
            if now_s < known[1]:
                return known[0]
            del self._known[token]
        if len(token) > MAX_TOKEN_CHARS:
            raise ProblemError(Code.TOKEN_INVALID, f"longer than {MAX_TOKEN_CHARS} characters")
        claims = self._claims(token)
        try:
            _check_times(claims, now_s, self._leeway_s)
            self._check_life(claims, now_s)
            user = user_of(claims)
        except ProblemError as problem:
            with suppress(UserIdError):
                problem.user = user_id(str(claims["sub"]))
            raise
        if len(self._known) >= self._sweep_at:
            self._sweep(now_s)
        self._known[token] = user, float(claims["exp"]) + self._leeway_s
        return user

    def _check_life(self, claims: Mapping[str, Any], now_s: float) -> None:
        """Refuse a token that outlives the revocations of its time."""
        life_s = int(claims["exp"]) - int(claims.get("iat", now_s))
        if life_s > self._life_s:
            detail = f"it is valid for {life_s} s, at most {self._life_s:.0f} s are allowed (LIVEROOM_TOKEN_LIFE_S)"
            raise ProblemError(Code.TOKEN_INVALID, detail)

    def _sweep(self, now_s: float) -> None:
        """Forget expired tokens, and the older ones where more than half of the room stays taken.

        So at least as many new tokens as are kept come between two sweeps: with the room full, a
        sweep for each token took a hundred times as long as checking it.
        """
        kept = [(token, known) for token, known in self._known.items() if now_s < known[1]]
        self._known = dict(kept[-(MAX_CACHED // 2) :])
        self._sweep_at = min(MAX_CACHED, max(FEW_CACHED, 2 * len(self._known)))

    def _claims(self, token: str) -> dict[str, Any]:
        try:
            name = jwt.get_unverified_header(token).get("kid")
            for key in self._keys:
                if name is None or key.id in {name, ANY}:
                    try:
                        return self._decode(token, key)
                    except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError):
                        continue
        except (jwt.InvalidTokenError, UnicodeError, RecursionError) as error:
            raise ProblemError(Code.TOKEN_INVALID, _in_own_words(error)) from None
        raise ProblemError(Code.TOKEN_INVALID, "no configured key has signed it")

    def _decode(self, token: str, key: Key) -> dict[str, Any]:
        claims: dict[str, Any] = jwt.decode(
            token,
            key.key,
            algorithms=[key.algorithm],
            audience=AUDIENCE,
            # Times are checked by `_check_times`: the library reads the system's clock.
            options={"require": ["exp", "sub", "aud"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
        return claims


def _in_own_words(error: Exception) -> str:
    """Return what is wrong with a token, without what the library quotes of it."""
    if not isinstance(error, jwt.InvalidTokenError):
        return "the head cannot be read"
    return _QUOTED.sub("", str(error))


def _token_of(authorization: str | None) -> str:
    """Return the bearer token in an `Authorization` header; empty: there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _check_times(claims: Mapping[str, Any], now_s: float, leeway_s: float) -> None:
    """Refuse a token that has expired, or is not valid yet, at `now_s`."""
    for name in ("iat", "nbf", "exp"):
        if name not in claims:
            continue
        try:
            at_s = int(claims[name])
        except (ValueError, TypeError, OverflowError):
            raise ProblemError(Code.TOKEN_INVALID, f"{name} is not a number of seconds") from None
        if name == "exp" and at_s <= now_s - leeway_s:
            raise ProblemError(Code.TOKEN_EXPIRED)
        if name != "exp" and at_s > now_s + leeway_s:
            raise ProblemError(Code.TOKEN_INVALID, f"the token is not valid yet ({name})")


def user_of(claims: Mapping[str, Any]) -> User:
    """Return the user that a token's claims describe, or raise `token_invalid`.

    The caller has checked the times.
    """
    subject, level, name = claims["sub"], claims.get("level", 0), claims.get("name", "")
    rooms = claims.get("rooms")
    if not isinstance(subject, str):
        raise ProblemError(Code.TOKEN_INVALID, "sub is not a text")
    try:
        user = user_id(subject)
    except UserIdError as error:
        raise ProblemError(Code.TOKEN_INVALID, f"sub: {error}") from None
    if not isinstance(level, int) or isinstance(level, bool) or not 0 <= level <= _MAX_LEVEL:
        raise ProblemError(Code.TOKEN_INVALID, "level is not 0 to 255")
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS or _SURROGATE.search(name):
        raise ProblemError(Code.TOKEN_INVALID, f"name is not a text of at most {_MAX_NAME_CHARS} characters")
    if "rooms" in claims and not _are_rooms(rooms):
        raise ProblemError(Code.TOKEN_INVALID, "rooms is not a list of rooms")
    try:
        role = Role(claims.get("role", Role.VIEWER.value))
    except ValueError:
        raise ProblemError(Code.TOKEN_INVALID, "role is unknown") from None
    permitted = None if rooms is None else tuple(rooms)
    follower, subscriber = claims.get("follower") is True, claims.get("subscriber") is True
    issued_s = int(claims["iat"]) if "iat" in claims else None
    return User(user, role, level, visible_or_empty(name), permitted, follower, subscriber, _device_of(claims), issued_s)


def _are_rooms(rooms: Any) -> bool:
    return isinstance(rooms, list) and all(isinstance(room, str) and ROOM_ID.match(room) for room in rooms)


def _device_of(claims: Mapping[str, Any]) -> str:
    if "device" not in claims:
        return ""
    device = claims["device"]
    if not isinstance(device, str) or not DEVICE_ID.match(device):
        raise ProblemError(Code.TOKEN_INVALID, "device is not 1 to 64 characters of A-Z a-z 0-9 _ . : -")
    return device


def sign_user(user: User, key: bytes, now_s: int, ttl_s: int = 3600, key_id: str = ANY) -> str:
    """Return a user token signed with an HS256 key, valid for `ttl_s` from `now_s` (Unix time).

    `sub` is the text of the user's id. Raises UserIdError for an id that stands for no text. For
    the demo, tests and `liveroom token`; in production an identity service signs.
    """
    claims: dict[str, Any] = {
        "sub": user_text(user.id),
        "aud": AUDIENCE,
        "iat": now_s,
        "exp": now_s + ttl_s,
        "role": user.role.value,
    }
    claims |= {"level": user.level, "name": user.name}
    if user.rooms is not None:
        claims["rooms"] = list(user.rooms)
    if user.follower:
        claims["follower"] = True
    if user.subscriber:
        claims["subscriber"] = True
    if user.device:
        claims["device"] = user.device
    return jwt.encode(claims, key, algorithm="HS256", headers={"kid": key_id} if key_id else None)
