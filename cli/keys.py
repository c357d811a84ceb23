"""`liveroom keys`: makes and rotates the keys of entry tickets, in a folder; makes one of tokens.

Owns the two files of tickets: the private keys for the scheduler, and the public ones for the
gateways. Both are written again as wholes, the private one for its owner's eyes only. Refuses to
replace keys that are there, and to remove the last one. A key of user tokens belongs to an identity
service; one can be made here for a trial, or for a service that has none yet.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from liveroom.chance import Chance
from liveroom.errors import ExplainedError
from liveroom.given_file import GivenFileError, read_given_file
from liveroom.ticket_keys import (
    SEED_BYTES,
    PrivateKey,
    make_private_key,
    read_private_keys,
    write_private_keys,
    write_public_keys,
)

PRIVATE_FILE: Final = "ticket_signing_keys.json"
PUBLIC_FILE: Final = "ticket_public_keys.json"
USERS_PRIVATE_FILE: Final = "token_signing_key.pem"
USERS_PUBLIC_FILE: Final = "token_keys.json"
USERS_KEY_ID: Final = "token-1"
_RSA_BITS: Final = 2048


class KeyFilesError(ExplainedError):
    """The folder's keys cannot be used, or not as the command asks; the message says why."""


def make_keys(folder: Path, chance: Chance) -> str:
    """Make a folder with one key, and return a line for the caller.

    Raises KeyFilesError where one of its two files is there already.
    """
    _refuse_present(folder, (PRIVATE_FILE, PUBLIC_FILE), "to rotate keys, use --add, then --first and --remove")
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder, [_new([], chance)])
    return f"wrote {folder / PRIVATE_FILE} for the scheduler alone, and {folder / PUBLIC_FILE} for the gateways"


def add_key(folder: Path, chance: Chance) -> str:
    """Add a key that does not sign yet, and return a line for the caller."""
    keys = _read(folder)
    keys.append(_new(keys, chance))
    _write(folder, keys)
    return f"added {keys[-1].id}; when all gateways have read {PUBLIC_FILE}, use --first {keys[-1].id}"


def put_first(folder: Path, key_id: str) -> str:
    """Let a key sign from now on, and return a line for the caller."""
    keys = _read(folder)
    first = _find(keys, key_id)
    _write(folder, [first, *(key for key in keys if key != first)])
    return f"{key_id} signs; the others may go a minute after all schedulers have read {PRIVATE_FILE}"


def remove_key(folder: Path, key_id: str) -> str:
    """Remove a key, and return a line for the caller.

    Raises KeyFilesError for the key that signs.
    """
    keys = _read(folder)
    gone = _find(keys, key_id)
    if gone == keys[0]:
        raise KeyFilesError(f"{key_id} signs; put another key first")
    _write(folder, [key for key in keys if key != gone])
    return f"removed {key_id}"


def make_token_key(folder: Path) -> str:
    """Make a folder with a key of user tokens, and return a line for the caller.

    Raises KeyFilesError where one of its two files is there already: tokens that their keys signed
    would be refused.
    """
    names = (USERS_PRIVATE_FILE, USERS_PUBLIC_FILE)
    _refuse_present(folder, names, "for another key, use another folder, and put both keys in one JWK Set")
    file = folder / USERS_PRIVATE_FILE
    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65_537, key_size=_RSA_BITS)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    described = {"kty": public["kty"], "kid": USERS_KEY_ID, "alg": "RS256", "use": "sig", "n": public["n"], "e": public["e"]}
    _replace(folder / USERS_PUBLIC_FILE, msgspec.json.format(msgspec.json.encode({"keys": [described]})).decode() + "\n", 0o644)
    _replace(file, private.decode(), 0o600)
    return f"wrote {file} for the service that signs user tokens, and {folder / USERS_PUBLIC_FILE} for LIVEROOM_TOKEN_KEYS_FILE"


def _refuse_present(folder: Path, names: Iterable[str], instead: str) -> None:
    """Raise KeyFilesError where one of the files is there: its keys may be in use."""
    present = next((folder / name for name in names if os.path.lexists(folder / name)), None)
    if present is not None:
        raise KeyFilesError(f"{present} is there already; {instead}")


def _read(folder: Path) -> list[PrivateKey]:
    try:
        return read_given_file(folder / PRIVATE_FILE, read_private_keys)
    except FileNotFoundError:
        raise KeyFilesError(f"{folder} has no ticket keys: there is no {PRIVATE_FILE}") from None
    except (OSError, GivenFileError) as error:
        raise KeyFilesError(str(error)) from None


def _find(keys: list[PrivateKey], key_id: str) -> PrivateKey:
    found = next((key for key in keys if key.id == key_id), None)
    if found is None:
        raise KeyFilesError(f"there is no key {key_id}; there are {', '.join(key.id for key in keys)}")
    return found


def _new(keys: list[PrivateKey], chance: Chance) -> PrivateKey:
    """Return a new key. Its id is the next of k1, k2, ..., so that none is used twice."""
    numbers = [int(key.id[1:]) for key in keys if key.id[:1] == "k" and key.id[1:].isdecimal()]
    return make_private_key(f"k{max(numbers, default=0) + 1}", chance.token_bytes(SEED_BYTES))


def _write(folder: Path, keys: list[PrivateKey]) -> None:
    _replace(folder / PRIVATE_FILE, write_private_keys(keys), 0o600)
    _replace(folder / PUBLIC_FILE, write_public_keys(keys), 0o644)


def _replace(file: Path, text: str, mode: int) -> None:
    """Replace a file as a whole: a service may read it at any moment."""
    part = file.with_name(f".{file.name}.part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="ascii") as opened:
        opened.write(text)
    part.replace(file)
