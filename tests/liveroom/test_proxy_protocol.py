"""The PROXY header: HAProxy's examples, pieces of them, and everything that is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.proxy_protocol import MAX_HEADER_BYTES, SIGNATURE, Peer, ProxyHeaderError, read_header

TCP4 = bytes([192, 168, 0, 1, 192, 168, 0, 11]) + (56324).to_bytes(2) + (443).to_bytes(2)
TCP6 = bytes.fromhex("20010db800000000000000000000000120010db8000000000000000000000002dc0401bb")


def binary(command: int, family: int, rest: bytes, *, version: int = 2, length: int | None = None) -> bytes:
    """A header of version 2."""
    length = len(rest) if length is None else length
    return SIGNATURE + bytes([version << 4 | command, family]) + length.to_bytes(2) + rest


TLV = b"\x04\x00\x05hello"
WHOLE = [
    pytest.param(b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", Peer("192.168.0.1", 56324), id="v1-tcp4"),
    pytest.param(
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Peer("255.255.255.255", 65535), id="v1-longest-tcp4"
    ),
    pytest.param(
        b"PROXY TCP6 ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".replace(b"f...f", b"ffff:ffff:ffff:ffff:ffff:ffff"),
        Peer("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535),
        id="v1-longest-tcp6",
    ),
    pytest.param(b"PROXY TCP6 2001:db8::1 2001:db8::2 4124 443\r\n", Peer("2001:db8::1", 4124), id="v1-tcp6"),
    pytest.param(b"PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", Peer("1.2.3.4", 0), id="v1-ports-of-0"),
    pytest.param(b"PROXY UNKNOWN\r\n", None, id="v1-unknown"),
    pytest.param(
        b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
        None,
        id="v1-longest-of-all",
    ),
    pytest.param(binary(1, 0x11, TCP4), Peer("192.168.0.1", 56324), id="v2-tcp4"),
    pytest.param(binary(1, 0x21, TCP6), Peer("2001:db8::1", 56324), id="v2-tcp6"),
    pytest.param(binary(1, 0x11, TCP4 + TLV), Peer("192.168.0.1", 56324), id="v2-with-a-tlv"),
    pytest.param(binary(0, 0x00, b""), None, id="v2-local"),
    pytest.param(binary(0, 0x11, TCP4), None, id="v2-local-with-addresses"),
    pytest.param(binary(1, 0x00, TLV), None, id="v2-unspecified"),
    pytest.param(binary(1, 0x11, TCP4 + bytes(508)), Peer("192.168.0.1", 56324), id="v2-of-536-bytes"),
]
BAD = [
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00", id="tls"),
    pytest.param(b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 1\r\n", id="v1-a-tab"),
    pytest.param(b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", id="v1-two-spaces"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", id="v1-a-space-at-the-end"),
    pytest.param(b"proxy TCP4 1.2.3.4 1.2.3.4 1 1\r\n", id="v1-small-letters"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", id="v1-one-port"),
    pytest.param(b"PROXY TCP4 2001:db8::1 2001:db8::2 1 1\r\n", id="v1-another-family"),
    pytest.param(b"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", id="v1-another-family-still"),
    pytest.param(b"PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", id="v1-a-leading-zero"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 01 1\r\n", id="v1-a-port-with-a-leading-zero"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 1\r\n", id="v1-no-port"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n", id="v1-a-sign"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xb2\r\n", id="v1-no-digit"),
    pytest.param(b"PROXY TCP6 fe80::1%eth0 fe80::2 1 \xff\r\n", id="v1-no-ascii"),
    pytest.param(b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", id="v1-another-transport"),
    pytest.param(b"PROXY \r\n", id="v1-nothing"),
    pytest.param(b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n" + b"x" * 100, id="v1-no-end-within-107-bytes"),
    pytest.param(b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", id="v1-108-bytes"),
    pytest.param(binary(1, 0x11, TCP4, version=1), id="v2-another-version"),
    pytest.param(binary(2, 0x11, TCP4), id="v2-another-command"),
    pytest.param(binary(1, 0x12, TCP4), id="v2-udp"),
    pytest.param(binary(1, 0x31, bytes(216)), id="v2-unix"),
    pytest.param(binary(1, 0x11, TCP4[:-1]), id="v2-too-short"),
    pytest.param(binary(1, 0x21, TCP4), id="v2-too-short-for-its-family"),
    pytest.param(binary(1, 0x11, b"", length=521), id="v2-of-537-bytes"),
    pytest.param(SIGNATURE[:-1] + b"\r", id="v2-another-signature"),
]


@pytest.mark.parametrize(("data", "source"), WHOLE)
def test_the_examples_of_the_specification_and_the_limits_are_read(data: bytes, source: Peer | None) -> None:
    header = read_header(data + b"GET / HTTP/1.1\r\n\r\n")
    assert header == (source, len(data))


@pytest.mark.parametrize(("data", "source"), WHOLE)
def test_a_part_of_a_header_is_none_yet(data: bytes, source: Peer | None) -> None:
    assert [read_header(data[:size]) for size in range(len(data))] == [None] * len(data)
    assert read_header(data) == (source, len(data))


@pytest.mark.parametrize("data", BAD)
def test_everything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProxyHeaderError):
        read_header(data)


STARTS = st.sampled_from([b"", SIGNATURE, b"PROXY ", SIGNATURE + b"\x21\x11"])


@given(STARTS, st.binary(max_size=600))
def test_any_bytes_are_a_header_within_the_limit_or_refused(start: bytes, rest: bytes) -> None:
    data = start + rest
    try:
        header = read_header(data)
    except ProxyHeaderError:
        return
    assert len(data) < MAX_HEADER_BYTES if header is None else header.size <= MAX_HEADER_BYTES
