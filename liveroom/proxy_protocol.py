"""The PROXY protocol of HAProxy, versions 1 and 2: the caller's address before the first byte of a
connection that a proxy forwards. Pure.

Owns reading the header, strictly: a peer that must send one and does not is no proxy of ours.
Refuses headers above `MAX_HEADER_BYTES`, other transports than TCP, and addresses of another family
than announced. Extensions (TLVs) of version 2 are skipped. `liveroom.connections` calls it.
"""

from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

MAX_HEADER_BYTES: Final = 536  # what every network passes in one piece, so what a proxy may send
SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"  # of version 2
_TEXT: Final = b"PROXY "  # of version 1
_MAX_TEXT_BYTES: Final = 107  # with the end of line
_FIXED_BYTES: Final = 16  # of version 2: the signature, version and command, family, length
_VERSION: Final = 2
_LOCAL, _PROXY = 0, 1
_UNSPECIFIED: Final = 0x00
_TCP4: Final = 0x11
_TCP6: Final = 0x21
_ADDRESSES_BYTES: Final = {_TCP4: 12, _TCP6: 36}
_FAMILIES: Final[dict[bytes, type[IPv4Address | IPv6Address]]] = {b"TCP4": IPv4Address, b"TCP6": IPv6Address}
_WORDS: Final = 6  # PROXY, family, two addresses, two ports
_MAX_PORT: Final = 65_535


class ProxyHeaderError(ValueError):
    """Bytes that are no PROXY header. The message says why."""


class Peer(NamedTuple):
    """An address and a port."""

    address: str
    port: int


class ProxyHeader(NamedTuple):
    """A whole header. `size`: its bytes; the connection's own ones follow.

    `source`: the caller; None where the proxy speaks for itself (a health check) or does not know.
    """

    source: Peer | None
    size: int


def read_header(data: bytes) -> ProxyHeader | None:
    """Return the header at the beginning of `data`; None while it is not whole.

    Raises ProxyHeaderError as soon as `data` cannot become one.
    """
    if SIGNATURE.startswith(data[: len(SIGNATURE)]):
        return _read_binary(data)
    if _TEXT.startswith(data[: len(_TEXT)]):
        return _read_text(data)
    raise ProxyHeaderError("neither version 1 nor version 2")


def _read_text(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:_MAX_TEXT_BYTES].partition(b"\r\n")
    if not end:
        if len(data) >= _MAX_TEXT_BYTES:
            raise ProxyHeaderError(f"no end of line within {_MAX_TEXT_BYTES} bytes")
        return None
    size = len(line) + len(end)
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return ProxyHeader(None, size)
    family = _FAMILIES.get(words[1])
    if family is None or len(words) != _WORDS:
        raise ProxyHeaderError("not a family, two addresses and two ports")
    try:
        source, _ = (family(word.decode("ascii")) for word in words[2:4])
    except ValueError:
        raise ProxyHeaderError("an address is none of its family") from None
    port, _ = map(_port, words[4:])
    return ProxyHeader(Peer(str(source), port), size)


def _port(word: bytes) -> int:
    if not word.isdigit() or (word[:1] == b"0" and word != b"0") or len(word) > len(str(_MAX_PORT)) or int(word) > _MAX_PORT:
        raise ProxyHeaderError("a port is none")
    return int(word)


def _read_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED_BYTES:
        return None
    version, command = data[12] >> 4, data[12] & 15
    family = data[13]
    size = _FIXED_BYTES + int.from_bytes(data[14:16])
    if version != _VERSION or command not in (_LOCAL, _PROXY):
        raise ProxyHeaderError("an unknown version or command")
    if size > MAX_HEADER_BYTES:
        raise ProxyHeaderError(f"{size} bytes, at most {MAX_HEADER_BYTES}")
    is_known = command == _PROXY and family != _UNSPECIFIED
    if is_known and family not in _ADDRESSES_BYTES:
        raise ProxyHeaderError("the transport is not TCP over IPv4 or IPv6")
    if is_known and size < _FIXED_BYTES + _ADDRESSES_BYTES[family]:
        raise ProxyHeaderError("too short for its addresses")
    if len(data) < size:
        return None
    if not is_known:
        return ProxyHeader(None, size)
    addresses = data[_FIXED_BYTES:]
    if family == _TCP4:
        return ProxyHeader(Peer(str(IPv4Address(addresses[:4])), int.from_bytes(addresses[8:10])), size)
    return ProxyHeader(Peer(str(IPv6Address(addresses[:16])), int.from_bytes(addresses[32:34])), size)
