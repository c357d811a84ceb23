"""The opening handshake of RFC 6455, section 4.2: the check of an upgrade, and its answer. Pure.

Owns the text of the `101`. Refuses with a problem whatever is no handshake of version 13.
`edge.upgrade` calls it.
"""

import base64
import binascii
from collections.abc import Iterable
from hashlib import sha1
from typing import Final, NamedTuple, Protocol

from edge.extensions import accept_deflate
from liveroom.errors import Code, ProblemError
from liveroom.wire import SUBPROTOCOL

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16
_VERSION: Final = "13"


class Headers(Protocol):
    """The headers of a request, by case-insensitive name."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """Return all values of a header."""


class Handshake(NamedTuple):
    """An accepted upgrade: the bytes of the answer, and whether frames may be compressed."""

    answer: bytes
    deflates: bool


def accept(headers: Headers, more: str = "") -> Handshake:
    """Return the answer to an upgrade; `more` are further lines of its head.

    Raises `ProblemError`: upgrade_required, bad_request.
    """
    if "websocket" not in _tokens(headers.getall("Upgrade", [])) or "upgrade" not in _tokens(headers.getall("Connection", [])):
        raise ProblemError(Code.UPGRADE_REQUIRED)
    if headers.getall("Sec-WebSocket-Version", []) != [_VERSION]:
        raise ProblemError(Code.UPGRADE_REQUIRED, "the version of WebSocket is 13")
    keys = headers.getall("Sec-WebSocket-Key", [])
    if len(keys) != 1 or not _is_key(keys[0]):
        raise ProblemError(Code.BAD_REQUEST, "Sec-WebSocket-Key is 16 bytes in base64")
    accepted = base64.b64encode(sha1(keys[0].encode() + _GUID, usedforsecurity=False).digest()).decode()
    answer = (
        f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accepted}\r\n"
    )
    if SUBPROTOCOL in _items(headers.getall("Sec-WebSocket-Protocol", [])):
        answer += f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
    deflate = accept_deflate(", ".join(headers.getall("Sec-WebSocket-Extensions", [])) or None)
    if deflate is not None:
        answer += f"Sec-WebSocket-Extensions: {deflate}\r\n"
    return Handshake(f"{answer}{more}\r\n".encode(), deflate is not None)


def _items(values: Iterable[str]) -> list[str]:
    return [item.strip() for value in values for item in value.split(",")]


def _tokens(values: Iterable[str]) -> list[str]:
    return [item.lower() for item in _items(values)]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    except (binascii.Error, ValueError):
        return False
