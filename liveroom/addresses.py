"""Addresses as URLs name them.

Owns every URL that is made of a host and a port: an IPv6 address stands in brackets there
(RFC 3986), and an address that listens everywhere is nowhere to connect to. Every module that
writes such a URL calls it.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import inet_aton
from typing import Final
from urllib.parse import urlsplit

_USUAL_PORTS: Final = {"http": 80, "https": 443}
_BROKER: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s:,/\[\]]+)(?::[0-9]{1,5})?")
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


def check_origin(origin: str) -> str:
    """Return an origin that browsers may send as it stands, or `*`.

    Browsers send scheme, host and port alone, in lower case and without the scheme's own port.
    Raises ValueError for anything else, which no page could match; it says what is wrong, and how
    to write it.
    """
    if origin in {"*", "null"}:  # `null` is what a page in a sandbox sends
        return origin
    scheme, separator, rest = origin.partition("://")
    if not separator:
        raise ValueError(f"{origin!r} has no scheme: write {'https://' + origin!r} or {'http://' + origin!r}")
    if scheme.lower() not in _USUAL_PORTS:  # of an app's web view, which follow no rule
        return origin
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{origin!r} is no origin: {error}") from None
    if not host or "*" in host or any(character.isspace() for character in origin):
        raise ValueError(f"{origin!r} names no host: an origin is a scheme, one host, and a port, or '*' for all")
    written = f"{scheme.lower()}://{url_host(_ascii(host))}"
    if port is not None and port != _USUAL_PORTS[scheme.lower()]:
        written += f":{port}"
    if origin != written:
        raise ValueError(f"{origin!r} {_unlike_an_origin(origin, written, rest)}: browsers send {written!r}, so write that")
    return origin


def _unlike_an_origin(origin: str, written: str, rest: str) -> str:
    """Return in what an origin differs from how browsers write it."""
    if rest.endswith("/") and rest.count("/") == 1:
        return "ends in a slash"
    if re.search(r"[/?#]", rest):
        return "has a path"
    if "@" in rest:
        return "has a user"
    if not origin.isascii():
        return "has letters beyond ASCII"
    if origin.lower() == written:
        return "has upper-case letters"
    return f"names the port that {origin.partition('://')[0].lower()} has anyway"


def _ascii(host: str) -> str:
    return host if host.isascii() else host.encode("idna").decode()


def check_service_url(url: str) -> str:
    """Return the URL of a service, or an empty one; raise ValueError where none can be called."""
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if url and not is_usable:
        raise ValueError(f"{url!r} is no URL of a service: it begins with http:// or https:// and names a host")
    return url


def check_service_urls(text: str) -> str:
    """Return URLs of services, separated by commas; raise ValueError where one is none."""
    for url in _stripped(text.split(",")):
        check_service_url(url)
    return text


def check_brokers(text: str) -> str:
    """Return addresses of brokers, separated by commas; raise ValueError where one is none."""
    for address in text.split(","):
        if not _BROKER.fullmatch(address.strip()) and _address(address.strip()) is None:
            raise ValueError(f"{address!r} is no address of a broker: write host:port, several separated by commas")
    return text


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
