"""URLs of hosts and ports."""

import ast
import re
from urllib.parse import urlsplit

import pytest
from yarl import URL

from devstack.builds import ROOT
from liveroom.addresses import (
    authority,
    bases,
    check_brokers,
    check_gateway_url,
    check_origin,
    origin_of,
    reachable,
    url_host,
    url_of,
)
from liveroom.settings import EdgeSettings

PACKAGES = ("autoscaler", "broadcaster", "cli", "devstack", "edge", "ingress", "liveroom", "scheduler", "viewer")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        pytest.param("127.0.0.1", "ws://127.0.0.1:26265/v1/live", id="IPv4"),
        pytest.param("0.0.0.0", "ws://127.0.0.1:26265/v1/live", id="all of IPv4"),
        pytest.param("0", "ws://127.0.0.1:26265/v1/live", id="all of IPv4 in another spelling"),
        pytest.param("::ffff:0.0.0.0", "ws://127.0.0.1:26265/v1/live", id="all of IPv4 within IPv6"),
        pytest.param("", "ws://127.0.0.1:26265/v1/live", id="everywhere"),
        pytest.param("::1", "ws://[::1]:26265/v1/live", id="IPv6"),
        pytest.param("::", "ws://[::1]:26265/v1/live", id="all of IPv6"),
        pytest.param("0:0:0:0:0:0:0:0", "ws://[::1]:26265/v1/live", id="all of IPv6 in another spelling"),
        pytest.param("2001:db8::7", "ws://[2001:db8::7]:26265/v1/live", id="IPv6 of the world"),
        pytest.param("::ffff:192.0.2.1", "ws://[::ffff:192.0.2.1]:26265/v1/live", id="IPv4 within IPv6"),
        pytest.param("fe80::1%eth0", "ws://[fe80::1%25eth0]:26265/v1/live", id="with a zone"),
        pytest.param("edge-1.example", "ws://edge-1.example:26265/v1/live", id="a name"),
        pytest.param("localhost", "ws://localhost:26265/v1/live", id="this machine by name"),
    ],
)
def test_a_gateway_is_announced_where_viewers_reach_it(host: str, url: str) -> None:
    made = url_of("ws", reachable(host), 26265, "/v1/live")
    assert made == url
    for port in (urlsplit(made).port, URL(made).port):
        assert port == 26265


def test_hosts_in_messages_and_templates_are_those_of_urls() -> None:
    assert [authority("::1", 80), authority("a.example", 80)] == ["[::1]:80", "a.example:80"]
    assert "wss://{host}:8010".replace("{host}", url_host("2001:db8::1")) == "wss://[2001:db8::1]:8010"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        pytest.param("http://a/", "http://a", id="a slash"),
        pytest.param("http://a/, http://b:1//", "http://a,http://b:1", id="several"),
        pytest.param(" http://a/x/ ,", "http://a/x", id="a path, and a comma at the end"),
        pytest.param("", "", id="none"),
    ],
)
def test_paths_can_be_appended_to_the_urls_of_services(given: str, wanted: str) -> None:
    assert bases(given) == wanted


@pytest.mark.parametrize(
    ("gateway", "origin"),
    [
        pytest.param("ws://[::1]:26265/v1/live", "http://[::1]:26265", id="IPv6"),
        pytest.param("https://news.example/v1/live", "https://news.example", id="ws within the name"),
        pytest.param("WSS://live.example/v1/live/", "https://live.example", id="capitals, and a slash"),
        pytest.param("wss://live.example/v1/live", "https://live.example", id="TLS"),
        pytest.param("wss://example.org/gateway-ws-1/v1/live", "https://example.org/gateway-ws-1", id="a path of a proxy"),
    ],
)
def test_requests_to_a_gateway_go_where_its_connections_go(gateway: str, origin: str) -> None:
    assert origin_of(gateway) == origin


@pytest.mark.parametrize("url", ["https://a.example/v1/live", "a.example", "wss:///v1/live", "wss://a/v1/live?z=1"])
def test_a_gateway_does_not_start_with_a_url_to_which_nobody_connects(url: str) -> None:
    with pytest.raises(ValueError, match=r"ws:// or wss://"):
        EdgeSettings(public_url=url)
    assert check_gateway_url("WSS://a.example/v1/live") == "WSS://a.example/v1/live"


def makes_a_url(text: ast.JoinedStr) -> bool:
    """Return whether an f-string puts a host behind a scheme; with `:*` it is a pattern."""
    parts = [part.value if isinstance(part, ast.Constant) else "" for part in text.values]
    return any(
        str(before).endswith("://") and not host and not str(after).startswith(":*")
        for before, host, after in zip(parts, parts[1:], [*parts[2:], "end"], strict=False)
    )


def test_no_other_module_makes_urls_of_hosts_and_ports() -> None:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "addresses.py"]
    assert {
        f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}"
        for path in files
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.JoinedStr) and makes_a_url(node)
    } == set()


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "http://x",
        "https://a.example:8443",
        "http://[::1]:8080",
        "capacitor://localhost",
        "chrome-extension://abcdefgh",
        "file://",
    ],
)
def test_an_origin_as_browsers_send_it_is_taken(origin: str) -> None:
    assert check_origin(origin) == origin


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("http://x/", "it ends in a slash: browsers send 'http://x', so write that"),
        ("http://x:5173/app", "has a path: browsers send 'http://x:5173'"),
        ("http://x?a", "has a path: browsers send 'http://x'"),
        ("x.example", "has no scheme: write https:// or http:// before the host"),
        ("localhost:5173", "has no scheme"),
        ("HTTP://x", "has upper-case letters: browsers send 'http://x'"),
        ("http://X", "has upper-case letters: browsers send 'http://x'"),
        ("http://x:80", "names the port that http has anyway: browsers send 'http://x'"),
        ("https://x:443", "names the port that https has anyway: browsers send 'https://x'"),
        ("http://me@x", "has a user: browsers send 'http://x'"),
        ("https://bücher.example", "browsers send 'https://xn--bcher-kva.example'"),
        ("https://straße.example", "browsers send 'https://xn--strae-oqa.example'"),
        (f"https://{'ü' * 70}.example", "write its xn-- form, as browsers send it (a part of it is longer than 63 letters)"),
        ("https://☕.example", "write its xn-- form, as browsers send it (not every letter can be in a name)"),
        ("htp://localhost:5173", "looks like a misspelt http"),
        ("hhtps://x", "looks like a misspelt http"),
        ("wss://x", "write that of the page"),
        ("capacitor://localhost/", "without a path, a slash at the end"),
        ("app://a b", "or white space"),
        ("app://me:word@x", "it is no origin"),
        ("App://x", "a scheme in lower case"),
        ("://x", "it is no origin"),
        ("https://*.example.org", "names no host"),
        ("https://", "names no host"),
        ("http://x:port", "is no origin"),
    ],
)
def test_an_origin_that_no_browser_sends_is_refused_with_the_reason(origin: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        check_origin(origin)


@pytest.mark.parametrize("brokers", ["a:9092,", "a:9092, b", ",[::1]:9092", "::1"])
def test_a_comma_too_many_between_brokers_does_no_harm(brokers: str) -> None:
    assert check_brokers(brokers) == brokers


@pytest.mark.parametrize("brokers", ["", ",", "a:b", "a:1,me:word@b:1", "word@b:1"])
def test_what_is_no_list_of_brokers_is_refused_by_its_place(brokers: str) -> None:
    with pytest.raises(ValueError, match=r"number \d is no address of a broker") as refused:
        check_brokers(brokers)
    assert "word" not in str(refused.value)
