"""Who calls, by address."""

import ipaddress
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from liveroom.networks import FORWARDED, FORWARDED_FOR, Callers, Networks, NetworksError, read_networks, subscriber

PROXIES = ("10.0.0.0/8", "fd00::/8")
LINES = {FORWARDED_FOR: "X-Forwarded-For", FORWARDED: "Forwarded"}


def caller(remote: str | None, *lines: str, header: str = FORWARDED_FOR, proxies: tuple[str, ...] = PROXIES) -> str:
    """The address that a request with these lines of the header counts for."""
    headers = CIMultiDict((name, line) for line in lines for name in (LINES[header],))
    return Callers(proxies, header).address(remote, headers)


@pytest.mark.parametrize(
    ("remote", "lines", "expected"),
    [
        pytest.param("203.0.113.9", [], "203.0.113.9", id="nobody in between"),
        pytest.param("203.0.113.9", ["1.2.3.4"], "203.0.113.9", id="a viewer's own header is not believed"),
        pytest.param("10.0.0.1", ["1.2.3.4"], "1.2.3.4", id="our proxy's is"),
        pytest.param("10.0.0.1", ["6.6.6.6, 1.2.3.4"], "1.2.3.4", id="but not what the viewer put before it"),
        pytest.param("10.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4", id="nor what it put into a line before it"),
        pytest.param("10.0.0.1", ["6.6.6.6", "1.2.3.4, 10.9.9.9"], "1.2.3.4", id="two lines, two proxies of ours"),
        pytest.param("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.9.9.9"], "1.2.3.4", id="two proxies of ours"),
        pytest.param("10.0.0.1", ["10.0.0.7"], "", id="a caller among the proxies"),
        pytest.param("10.0.0.1", ["1.2.3.4," * 1000 + "10.0.0.7," * 15 + "10.0.0.7"], "", id="no more than 16 hops"),
        pytest.param("10.0.0.1", ["2001:db8::1"], "2001:db8::1", id="IPv6"),
        pytest.param("10.0.0.1", ["1.2.3.4:5678"], "1.2.3.4", id="a port"),
        pytest.param("10.0.0.1", ["[2001:db8::1]:443"], "2001:db8::1", id="IPv6 with a port"),
        pytest.param("10.0.0.1", ["[2001:db8::1]"], "2001:db8::1", id="IPv6 in brackets"),
        pytest.param("10.0.0.1", ["2001:DB8:0::1"], "2001:db8::1", id="one form for one address"),
        pytest.param("10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4", id="IPv4 in IPv6"),
        pytest.param("10.0.0.1", ["[::ffff:1.2.3.4]:80"], "1.2.3.4", id="IPv4 in IPv6 with a port"),
        pytest.param("fd00::1", ["1.2.3.4"], "1.2.3.4", id="a proxy with IPv6"),
        pytest.param("::ffff:10.0.0.1", ["1.2.3.4"], "1.2.3.4", id="a proxy with IPv4 in IPv6"),
        pytest.param("::ffff:9.9.9.9", [], "9.9.9.9", id="a peer with IPv4 in IPv6"),
        pytest.param("10.0.0.1", ["nonsense"], "", id="no address"),
        pytest.param("10.0.0.1", [""], "", id="empty"),
        pytest.param("10.0.0.1", ["1.2.3.4", ""], "1.2.3.4", id="an empty last line"),
        pytest.param("10.0.0.1", ["1.2.3.4, ,"], "1.2.3.4", id="empty elements"),
        pytest.param("10.0.0.1", ["unknown"], "", id="unknown"),
        pytest.param("10.0.0.1", [], "", id="a proxy that names nobody"),
        pytest.param("10.0.0.1", ["1.2.3.4, nonsense"], "", id="nonsense next to us"),
        pytest.param("10.0.0.1", ["1.2.3.4, nonsense, 10.0.0.7"], "", id="nonsense behind another proxy"),
        pytest.param("10.0.0.1", ["2001:db8::1%a,b"], "", id="a scope"),
        pytest.param("10.0.0.1", ["1.2.3.4:123456"], "", id="no port"),
        pytest.param("10.0.0.1", ["[1.2.3.4"], "", id="half a bracket"),
        pytest.param("10.0.0.1", ["for=1.2.3.4"], "", id="the other header's form"),
        pytest.param(None, ["1.2.3.4"], "", id="gone already"),
    ],
)
def test_the_caller_behind_proxies(remote: str | None, lines: list[str], expected: str) -> None:
    assert caller(remote, *lines) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(["for=1.2.3.4"], "1.2.3.4", id="alone"),
        pytest.param(["For=1.2.3.4;proto=https;by=10.0.0.1"], "1.2.3.4", id="with other parameters"),
        pytest.param(['for="[2001:db8:cafe::17]:4711"'], "2001:db8:cafe::17", id="IPv6 with a port"),
        pytest.param(['for="1.2.3.4:80"'], "1.2.3.4", id="IPv4 with a port"),
        pytest.param(["for=6.6.6.6, for=1.2.3.4"], "1.2.3.4", id="what the viewer put before it"),
        pytest.param(["for=6.6.6.6", "for=1.2.3.4, for=10.9.9.9"], "1.2.3.4", id="two lines, two proxies of ours"),
        pytest.param(['for=6.6.6.6;host="x, for=1.2.3.4'], "1.2.3.4", id="a quote that the viewer left open"),
        pytest.param(["for=unknown"], "", id="unknown"),
        pytest.param(["for=_hidden"], "", id="an obfuscated name"),
        pytest.param(["for=1.2.3.4;host=a.b:80"], "1.2.3.4", id="a host with a port, outside of quotes"),
        pytest.param(["proto=https"], "", id="no caller"),
        pytest.param(["for=1.2.3.4;for=6.6.6.6"], "", id="two callers"),
        pytest.param(["for=[2001:db8::1]"], "2001:db8::1", id="brackets outside of quotes"),
        pytest.param(["1.2.3.4"], "", id="the other header's form"),
        pytest.param(['for="1.2.3.4', 'x"'], "", id="a quote over two lines"),
    ],
)
def test_the_caller_in_forwarded(lines: list[str], expected: str) -> None:
    assert caller("10.0.0.1", *lines, header=FORWARDED) == expected


def test_the_header_that_our_proxies_do_not_write_is_the_callers_and_not_believed() -> None:
    headers = CIMultiDict({"Forwarded": "for=6.6.6.6", "X-Forwarded-For": "1.2.3.4"})
    assert Callers(PROXIES).address("10.0.0.1", headers) == "1.2.3.4"
    assert Callers(PROXIES, FORWARDED).address("10.0.0.1", headers) == "6.6.6.6"


@given(st.lists(st.text(max_size=60), max_size=4), st.sampled_from([FORWARDED, FORWARDED_FOR]))
def test_whatever_a_viewer_sends_before_it_the_proxys_own_entry_counts(lines: list[str], header: str) -> None:
    own = {FORWARDED: "for=1.2.3.4", FORWARDED_FOR: "1.2.3.4"}[header]
    assert caller("10.0.0.1", *lines, own, header=header) == "1.2.3.4"
    joined = ",".join([*lines, own])
    assert caller("10.0.0.1", joined, header=header) == "1.2.3.4"


def test_a_proxy_that_reports_no_caller_is_reported_once() -> None:
    silent: list[str] = []
    callers = Callers(PROXIES, on_silent=silent.append)
    for remote in ("10.0.0.1", "10.0.0.2", "10.0.0.1", "203.0.113.9"):
        callers.address(remote, CIMultiDict())
    callers.address("10.0.0.3", CIMultiDict({"X-Forwarded-For": "1.2.3.4"}))
    assert silent == ["10.0.0.1", "10.0.0.2"]


def test_without_proxies_nobody_is_believed() -> None:
    assert caller("10.0.0.1", "1.2.3.4", proxies=()) == "10.0.0.1"


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
