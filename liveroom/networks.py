"""The caller's address behind proxies, and the name of its network. Pure.

Owns the search for the longest prefix, and the trust in the headers X-Forwarded-For and Forwarded
(RFC 7239): anybody can write these headers, so only the entries that our own proxies added count.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Protocol

FORWARDED: Final = "forwarded"
FORWARDED_FOR: Final = "x-forwarded-for"
NOBODY: Final = ""  # the address of a request that counts for none
_MOST_HOPS: Final = 16
_MOST_REPORTED: Final = 1000  # proxies that are reported, each once
_IPV6_SITE_BITS: Final = 64  # what one subscriber has
_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - of RFC 9110
_PAIR: Final = re.compile(rf'\s*({_TOKEN})=([^\s",;]+|"[^"\\]*")\s*\Z')  # milder than RFC 7239: host=a.b:80
_LINE_END: Final = re.compile(r"\r\n?|\n")  # and nothing else that Unicode calls one: a comment may hold it
_NODE: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?\Z")


class NetworksError(ValueError):
    """A list of networks that cannot be used. The message says where and why."""


class Networks:
    """Named networks: `find` returns the name of the narrowest one that contains an address."""

    def __init__(self, named: Iterable[tuple[str, str]] = ()) -> None:
        found: dict[tuple[int, int], dict[int, str]] = {}
        for text, name in named:
            try:
                network = ip_network(text)
            except ValueError as error:
                raise NetworksError(str(error)) from None
            found.setdefault((network.version, network.max_prefixlen - network.prefixlen), {})[
                int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            ] = name
        self._by_bits = sorted(((version, bits, names) for (version, bits), names in found.items()), key=lambda each: each[1])

    def __bool__(self) -> bool:
        return bool(self._by_bits)

    def find(self, address: str) -> str | None:
        """Return the name of the network; None if no network contains it or it is no address."""
        if not self._by_bits or (parsed := _parsed(address)) is None:
            return None
        number = int(parsed)
        for version, bits, names in self._by_bits:
            if version == parsed.version and (name := names.get(number >> bits)) is not None:
                return name
        return None


def read_networks(text: str) -> Networks:
    """Return the networks that `text` lists.

    Each line has a network and its name, separated by spaces; # begins a comment. Raises
    NetworksError with the number of the line that cannot be used.
    """
    named = []
    for number, line in enumerate(_LINE_END.split(text), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2:  # noqa: PLR2004 - a network and a name
            raise NetworksError(f"line {number}: a network and its name, as in: 10.0.0.0/8 east")
        try:
            Networks([(words[0], words[1])])
        except NetworksError as error:
            raise NetworksError(f"line {number}: {error}") from None
        named.append((words[0], words[1]))
    return Networks(named)


class Headers(Protocol):
    """The headers of a request, by case-insensitive name."""

    def getall(self, key: str, default: list[str]) -> list[str]:
        """Return all values of a header."""


class Callers:
    """Finds the addresses of callers behind proxies.

    `proxies`: the networks of our proxies; nobody else is believed. `header`: the one that they
    write, `x-forwarded-for` or `forwarded`. The other one comes from the caller. `on_silent` is
    called with the address of each proxy that reports no caller, once. Raises NetworksError for a
    network that cannot be used.
    """

    def __init__(
        self, proxies: Iterable[str] = (), header: str = FORWARDED_FOR, on_silent: Callable[[str], None] | None = None
    ) -> None:
        self._on_silent = on_silent
        self._silent: set[str] = set()
        self._proxies = Networks((network, network) for network in proxies)
        self._header = header
        self._node = _node_of_forwarded if header == FORWARDED else _node

    def trusts(self, address: str) -> bool:
        """Return whether `address` is that of a proxy of ours."""
        return self._proxies.find(address) is not None

    def address(self, remote: str | None, headers: Headers) -> str:
        """Return the caller's address: that of the peer, or the one that our proxies forward for.

        Hops are counted from the right, over all lines of the header, for as long as our proxies
        report them; empty ones are ignored. Proxies of ours are no callers: where they report none,
        or a hop that is no address, the request counts for NOBODY.
        """
        peer = plain_address(remote or "")
        if not self._proxies or not self.trusts(peer):
            return peer
        address = peer
        for hop in reversed(",".join(headers.getall(self._header, [])).rsplit(",", _MOST_HOPS)[-_MOST_HOPS:]):
            if not hop.strip():
                continue
            if (parsed := self._node(hop)) is None:
                break
            address = parsed
            if not self.trusts(address):
                return address
        self._report(peer)
        return NOBODY

    def _report(self, proxy: str) -> None:
        if self._on_silent is not None and proxy not in self._silent and len(self._silent) < _MOST_REPORTED:
            self._silent.add(proxy)
            self._on_silent(proxy)


@lru_cache(maxsize=16_384)
def plain_address(text: str) -> str:
    """Return an address in its shortest form; any other text stays as it is.

    An IPv4 address that is mapped into IPv6 becomes itself, and a scope ("%eth0") goes.
    """
    parsed = _parsed(text.partition("%")[0])
    return text if parsed is None else str(parsed)


def _node(text: str) -> str | None:
    """Return the address of a hop: alone, or with a port, then IPv6 stands in brackets."""
    text = text.strip()
    if (found := _NODE.match(text)) is not None:
        text = found[1] or found[2]
    parsed = None if "%" in text else _parsed(text)
    return None if parsed is None else str(parsed)


def _node_of_forwarded(text: str) -> str | None:
    """Return the address in the parameter `for` of one element of Forwarded.

    The caller splits at every comma. Commas within quotes make no hop of ours: no address has one,
    and an open quote that a viewer sent must not hide what our proxy appended.
    """
    found: list[str] = []
    for part in text.split(";"):
        pair = _PAIR.match(part)
        if pair is None:
            return None
        if pair[1].lower() == "for":
            found.append(pair[2].strip('"'))
    return _node(found[0]) if len(found) == 1 else None


@lru_cache(maxsize=16_384)
def subscriber(address: str) -> str:
    """Return the key under which one subscriber's requests are counted.

    That is an IPv4 address, or the /64 network of an IPv6 address; any other text stays as it is
    (NOBODY too, which no budget counts).
    """
    parsed = _parsed(address)
    if isinstance(parsed, IPv6Address):
        return f"{IPv6Address(int(parsed) >> _IPV6_SITE_BITS << _IPV6_SITE_BITS)}/64"
    return str(parsed or address)


@lru_cache(maxsize=16_384)
def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    return (parsed.ipv4_mapped or parsed) if isinstance(parsed, IPv6Address) else parsed
