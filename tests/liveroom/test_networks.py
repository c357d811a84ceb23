"""Who calls, by address."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.networks import Networks, NetworksError, caller, read_networks, subscriber

PROXIES = Networks([("10.0.0.0/8", "p"), ("fd00::/8", "p")])


@pytest.mark.parametrize(
    ("remote", "forwarded", "expected"),
    [
        pytest.param("203.0.113.9", None, "203.0.113.9", id="nobody in between"),
        pytest.param("203.0.113.9", "1.2.3.4", "203.0.113.9", id="a viewer's own header is not believed"),
        pytest.param("10.0.0.1", "1.2.3.4", "1.2.3.4", id="our proxy's is"),
        pytest.param("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4", id="but not what the viewer put before it"),
        pytest.param("10.0.0.1", "6.6.6.6, 1.2.3.4, 10.9.9.9", "1.2.3.4", id="two proxies of ours"),
        pytest.param("10.0.0.1", "2001:db8::1", "2001:db8::1", id="IPv6"),
        pytest.param("fd00::1", "1.2.3.4", "1.2.3.4", id="a proxy with IPv6"),
        pytest.param("::ffff:10.0.0.1", "1.2.3.4", "1.2.3.4", id="a proxy with IPv4 in IPv6"),
        pytest.param("10.0.0.1", "nonsense", "10.0.0.1", id="no address"),
        pytest.param("10.0.0.1", "", "10.0.0.1", id="empty"),
        pytest.param("10.0.0.1", "1.2.3.4, nonsense", "10.0.0.1", id="nonsense next to us"),
        pytest.param(None, "1.2.3.4", "", id="gone already"),
    ],
)
def test_the_caller_behind_proxies(remote: str | None, forwarded: str | None, expected: str) -> None:
    assert caller(remote, forwarded, PROXIES) == expected


def test_without_proxies_nobody_is_believed() -> None:
    assert caller("10.0.0.1", "1.2.3.4", Networks()) == "10.0.0.1"


def test_the_narrowest_network_names_it() -> None:
    found = read_networks(
        "10.0.0.0/8 east  # all\n\n# a comment\n10.1.0.0/16 west\n10.1.2.3/32 lab\n2001:db8::/32 six\n0.0.0.0/0 rest\n"
    )
    told = {
        address: found.find(address) for address in ("10.2.0.1", "10.1.0.1", "10.1.2.3", "2001:db8::5", "8.8.8.8", "::1", "x")
    }
    assert told == {
        "10.2.0.1": "east",
        "10.1.0.1": "west",
        "10.1.2.3": "lab",
        "2001:db8::5": "six",
        "8.8.8.8": "rest",
        "::1": None,
        "x": None,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("10.0.0.0/8", "line 1: a network and its name", id="no name"),
        pytest.param("10.0.0.0/8 a b", "line 1: a network and its name", id="two names"),
        pytest.param("10.0.0.0/8 a\n10.0.0.1/8 b", "line 2: 10.0.0.1/8 has host bits set", id="host bits"),
        pytest.param("somewhere a", "line 1: 'somewhere' does not appear", id="no network"),
    ],
)
def test_a_file_that_cannot_be_used_says_where(text: str, said: str) -> None:
    with pytest.raises(NetworksError, match=said):
        read_networks(text)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.randoms(use_true_random=False))
def test_the_search_agrees_with_trying_all(address: int, near: int, rng: random.Random) -> None:
    networks = [
        ipaddress.ip_network((base & ~((1 << (32 - bits)) - 1), bits))
        for base, bits in ((rng.choice((address, near)) ^ (1 << rng.randrange(32)), rng.randint(0, 32)) for _ in range(12))
    ]
    parsed = ipaddress.ip_address(address)
    holding = [network for network in networks if parsed in network]
    expected = str(max(holding, key=lambda network: network.prefixlen)) if holding else None
    assert Networks((str(network), str(network)) for network in networks).find(str(parsed)) == expected


def test_a_subscriber_is_one_address_or_one_64() -> None:
    assert subscriber("1.2.3.4") == "1.2.3.4" != subscriber("1.2.3.5")
    assert subscriber("2001:db8:1:2::3") == subscriber("2001:db8:1:2:ffff::9") != subscriber("2001:db8:1:3::3")
    assert subscriber("::ffff:1.2.3.4") == subscriber("1.2.3.4")
    assert subscriber("no address") == "no address"
