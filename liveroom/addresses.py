"""Addresses as URLs name them.

Owns every URL that is made of a host and a port: an IPv6 address stands in brackets there
(RFC 3986), and an address that listens everywhere is nowhere to connect to. Every module that
writes such a URL calls it.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address
from socket import inet_aton
from typing import Final
from urllib.parse import urlsplit

import idna

_USUAL_PORTS: Final = {"http": 80, "https": 443}
_BROKER: Final = re.compile(r"(?:\[[0-9A-Fa-f:.%\w]+\]|[^\s:,/@\[\]]+)(?::[0-9]{1,5})?")
_APP_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://(?:(?![/?#@])[!-~])*")
_LIKE_HTTP: Final = 0.75  # `htp`, `htps` and `hhtp` are, `ftp` and `app` are not
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
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"ws", "wss"} and bool(parts.hostname) and not parts.query and not parts.fragment
    except ValueError:
        is_usable = False
    if url and not is_usable:
        raise ValueError("a gateway's URL is ws:// or wss:// with a host and no query, as in wss://name/v1/live")
    return url


def check_origin(origin: str) -> str:
    """Return an origin that browsers may send as it stands, or `*`.

    Browsers send scheme, host and port alone, in lower case and without the scheme's own port.
    Raises ValueError for anything else, which no page could match; it says what is wrong, and how
    to write it. It quotes the scheme, the host and the port at most: a user may have a password.
    """
    if origin in {"*", "null"}:  # `null` is what a page in a sandbox sends
        return origin
    scheme, separator, rest = origin.partition("://")
    if not separator:
        raise ValueError("it has no scheme: write https:// or http:// before the host")
    if scheme.lower() not in _USUAL_PORTS:
        return _check_origin_of_an_app(origin)
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("it is no origin: an origin is a scheme, one host, and a port from 0 to 65535") from None
    if not host or "*" in host or any(character.isspace() for character in origin):
        raise ValueError("it names no host: an origin is a scheme, one host, and a port, or '*' for all")
    written = f"{scheme.lower()}://{url_host(_ascii(host))}"
    if port is not None and port != _USUAL_PORTS[scheme.lower()]:
        written += f":{port}"
    if origin != written:
        raise ValueError(f"it {_unlike_an_origin(origin, written, rest)}: browsers send {written!r}, so write that")
    return origin


def _check_origin_of_an_app(origin: str) -> str:
    """Return an origin with another scheme, as an app's web view or an extension sends it.

    Browsers keep the host of such a scheme as it is, and it may be empty.
    """
    scheme = origin.partition("://")[0]
    if get_close_matches(scheme.lower(), _USUAL_PORTS, cutoff=_LIKE_HTTP):
        raise ValueError("its scheme looks like a misspelt http or https: write https:// or http:// before the host")
    if scheme.lower() in {"ws", "wss"}:
        raise ValueError("it has the scheme of a connection: write that of the page, https:// or http://")
    if not _APP_ORIGIN.fullmatch(origin):
        raise ValueError(
            "it is no origin: a scheme in lower case, :// and a host, without a path, a slash at the end, or white space"
        )
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
    """Return a host as browsers send it.

    That is UTS 46, non-transitional: a German sharp s stays another letter than two of s.
    """
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True, transitional=False).decode()
    except idna.IDNAError as error:
        why = "a part of it is longer than 63 letters" if "too long" in str(error) else "not every letter can be in a name"
        raise ValueError(f"its host has letters beyond ASCII: write its xn-- form, as browsers send it ({why})") from None


def check_service_url(url: str) -> str:
    """Return the URL of a service, or an empty one.

    Raises ValueError where none can be called. It does not quote the URL, which may have a user
    with a password.
    """
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if url and not is_usable:
        raise ValueError("it is no URL of a service: that begins with http:// or https:// and names a host")
    return url


def check_service_urls(text: str) -> str:
    """Return URLs of services, separated by commas; raise ValueError where one is none."""
    for url in _stripped(text.split(",")):
        check_service_url(url)
    return text


def check_brokers(text: str) -> str:
    """Return addresses of brokers, separated by commas; raise ValueError where one is none.

    A comma at the end does no harm. The message quotes no address, which may have a user.
    """
    addresses = [address.strip() for address in text.split(",")]
    for number, address in enumerate(addresses, 1):
        if (address or not any(addresses)) and not _BROKER.fullmatch(address) and _address(address) is None:
            raise ValueError(f"number {number} is no address of a broker: write host:port, several separated by commas")
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
