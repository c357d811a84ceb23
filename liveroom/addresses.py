"""Addresses as URLs name them.

Owns every URL that is made of a host and a port: an IPv6 address stands in brackets there
(RFC 3986), and an address that listens everywhere is nowhere to connect to. Every module that
writes such a URL calls it.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import inet_aton
from typing import Final
from urllib.parse import urlsplit

_LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}


def reachable(host: str) -> str:
    """Return where this machine reaches what listens at `host`.

    That is `host` itself, but for the addresses that stand for all addresses (`0.0.0.0`, `0`, `::`,
    however they are written): for these it is the loopback address of the same family, and that of
    IPv4 for the empty host.
    """
    if not host or _is_any_of_ipv4(host):
        return _LOOPBACK[4]
    address = _address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return host if address is None or not address.is_unspecified else _LOOPBACK[address.version]


def authority(host: str, port: int) -> str:
    """Return a host and a port as they stand in a URL, in a `Host` header and in messages."""
    return f"{url_host(host)}:{port}"


def url_host(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets, its zone quoted
    (RFC 6874).
    """
    return f"[{host.replace('%', '%25')}]" if isinstance(_address(host), IPv6Address) else host


def url_of(scheme: str, host: str, port: int, path: str = "") -> str:
    """Return a URL; `path` begins with a slash, or is empty for an origin."""
    return f"{scheme}://{authority(host, port)}{path}"


def origin_of(gateway_url: str) -> str:
    """Return the base of a gateway's HTTP requests, from the URL of its WebSocket connections."""
    parts = urlsplit(gateway_url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1/live')}"


def check_gateway_url(url: str) -> str:
    """Return the URL of a gateway, or an empty one.

    Raises ValueError where no WebSocket connection with a ticket can be made to it.
    """
    parts = urlsplit(url)
    if url and (parts.scheme not in {"ws", "wss"} or not parts.hostname or parts.query or parts.fragment):
        raise ValueError("a gateway's URL is ws:// or wss:// with a host and no query, as in wss://name/v1/live")
    return url


def bases(text: str) -> str:
    """Return a list of services' URLs, separated by commas, to which paths can be appended.

    Spaces around each and slashes at its end are removed.
    """
    return ",".join(_stripped(text.split(",")))


def _stripped(urls: Iterable[str]) -> Iterable[str]:
    return (base for url in urls if (base := url.strip().rstrip("/")))


def _is_any_of_ipv4(host: str) -> bool:
    try:
        return not any(inet_aton(host))
    except OSError:
        return False


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
