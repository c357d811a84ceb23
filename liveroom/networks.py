"""The caller's address behind proxies, and the name of its network. Pure.

Owns the search for the longest prefix, and the trust in `X-Forwarded-For`: anybody can write that
header, so only the entries that our own proxies added count.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

_MOST_HOPS: Final = 16
_IPV6_SITE_BITS: Final = 64  # what one subscriber has


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
    for number, line in enumerate(text.splitlines(), 1):
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


def caller(remote: str | None, forwarded_for: str | None, proxies: Networks) -> str:
    """Return the caller's address: `remote`, or the address that our `proxies` forward for."""
    address = remote or ""
    if not proxies or forwarded_for is None:
        return address
    for hop in reversed(forwarded_for.split(",")[-_MOST_HOPS:]):
        if proxies.find(address) is None or _parsed(hop.strip()) is None:
            break
        address = hop.strip()
    return address


@lru_cache(maxsize=16_384)
def subscriber(address: str) -> str:
    """Return the key under which one subscriber's requests are counted.

    That is an IPv4 address, or the /64 network of an IPv6 address; any other text stays as it is.
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
