"""Who calls, by address: the caller behind proxies, and what is known of its network. Pure.

Owns the search for the longest prefix, and whose word about an address is believed:
`X-Forwarded-For` is anybody's to write, so it counts only as far as it was written by proxies of
ours.
"""

from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

_MOST_HOPS: Final = 16
_IPV6_SITE_BITS: Final = 64  # what one subscriber has


class NetworksError(ValueError):
    """A list of networks that cannot be used; the message says where and why."""


class Networks:
    """A name for every network: `find` gives that of the narrowest one an address lies in."""

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
        """Return the name of the network, None where it is in none or is no address."""
        if not self._by_bits or (parsed := _parsed(address)) is None:
            return None
        number = int(parsed)
        for version, bits, names in self._by_bits:
            if version == parsed.version and (name := names.get(number >> bits)) is not None:
                return name
        return None


def read_networks(text: str) -> Networks:
    """Return the networks of a file: a line each, the network and its name with a space between; #
    begins a comment.
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
    """Return the address of who calls: `remote`, or whom our proxies (`proxies`) say they speak
    for.
    """
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
    """Return what stands for one subscriber in counts: an IPv4 address, the /64 of an IPv6 one; any
    other text as it is.
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
