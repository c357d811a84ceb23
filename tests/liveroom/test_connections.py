"""Bounds on connections, over a real port: nobody that sends its request at once is refused."""

import asyncio
import contextlib
import resource
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from liveroom.connections import DISCARD_BYTES, IN_A_TURN, MAX_HEAD_BYTES, MOST_REFUSALS, Connections, End
from liveroom.networks import Callers
from liveroom.proxy_protocol import SIGNATURE
from liveroom.registry import Metrics
from liveroom.settings import HttpSettings
from liveroom.web import problems, serve

GET = b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n"
HERE = ("127.0.0.0/8",)
OFFERED = 64 * 1024 * 1024


class UnreadTransport(asyncio.Transport):
    """A transport whose peer does not read."""

    is_aborted = False

    def get_write_buffer_size(self) -> int:
        return 0 if self.is_aborted else 1

    def abort(self) -> None:
        self.is_aborted = True


class Unread:
    """A connection whose peer does not read."""

    def __init__(self) -> None:
        self.key: str | None = "203.0.113.1"
        self.peer = UnreadTransport()
        self.raw: asyncio.Transport = self.peer
        self.unread_since_s = 0.0

    def may_go(self, now_s: float) -> bool:
        del now_s
        return False


class Port:
    """A served port, its bounds and its metrics."""

    def __init__(self, port: int, connections: Connections, metrics: Metrics, hold: asyncio.Event) -> None:
        self.port = port
        self.connections = connections
        self.hold = hold
        self.on_request: Callable[[], None] = lambda: None
        self._metrics = metrics
        self.writers: list[asyncio.StreamWriter] = []

    async def open(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    async def answer(self, data: bytes) -> bytes:
        """All that a connection gets that sends `data`, up to its end."""
        reader, _ = await self.open(data)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                return await reader.read()
        return b""

    async def who(self) -> str:
        async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{self.port}/who") as answer:
            return await answer.text()

    def ended(self) -> dict[str, float]:
        """How many connections were ended, by reason, where any was."""
        counts = {
            end.value: self._metrics.registry.get_sample_value(
                "liveroom_http_connections_ended_total", {"port": "public", "reason": end.value}
            )
            for end in End
        }
        return {reason: count for reason, count in counts.items() if count}


@asynccontextmanager
async def served(proxies: tuple[str, ...] = (), **settings: Any) -> AsyncIterator[Port]:
    """Serve the caller's address at `/who`, a long text at `/long`, a wait at `/hold` and posts."""
    hold = asyncio.Event()
    port_of: list[Port] = []

    async def who(request: web.Request) -> web.Response:
        port_of[0].on_request()
        return web.Response(text=f"{request.remote}")

    async def long(_: web.Request) -> web.Response:
        return web.Response(body=bytes(OFFERED))

    async def wait(_: web.Request) -> web.Response:
        await hold.wait()
        return web.Response(text="held")

    async def post(request: web.Request) -> web.Response:
        return web.Response(text=str(len(await request.read())))

    app = web.Application(middlewares=[problems()], client_max_size=1000)
    app.router.add_get("/who", who)
    app.router.add_get("/long", long)
    app.router.add_get("/hold", wait)
    app.router.add_post("/post", post)
    metrics = Metrics("scheduler")
    http = HttpSettings(**settings)
    connections = Connections(http, Callers(proxies), metrics, takes_proxy_header=http.proxy_protocol)
    async with serve(app, "127.0.0.1", 0, shutdown_timeout_s=0.2, connections=connections) as (_, port):
        served = Port(port, connections, metrics, hold)
        port_of.append(served)
        try:
            yield served
        finally:
            for writer in served.writers:
                writer.close()


@pytest.mark.parametrize(
    "begun",
    [
        *(b"", b"\r\n", b"\r\n\r\n", b"\r\n\r\nGET / HTTP/1.1\r\n"),
        *(b"GE", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01"),
    ],
)
async def test_a_connection_without_a_whole_head_ends_in_time(begun: bytes) -> None:
    async with served(head_timeout_s=0.2) as port:
        many = [await port.open(begun) for _ in range(20)]
        assert await port.who() == "127.0.0.1"
        async with asyncio.timeout(5):
            assert [await reader.read() for reader, _ in many] == [b""] * 20
        assert port.ended() == {"head_late": 20}


async def test_a_head_that_trickles_is_late_too() -> None:
    async with served(head_timeout_s=0.3) as port:
        reader, writer = await port.open()

        async def trickle() -> None:
            for byte in GET * 1000:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        async with asyncio.timeout(5):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        trickling.cancel()
        assert port.ended() == {"head_late": 1}


async def test_a_head_in_pieces_is_answered() -> None:
    async with served() as port:
        reader, writer = await port.open()
        for byte in GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert (await reader.read()).endswith(b"127.0.0.1")


async def test_empty_lines_before_a_request_are_none() -> None:
    async with served() as port:
        reader, writer = await port.open(b"\r\n\r")
        await asyncio.sleep(0.01)
        writer.write(b"\n\r\n" + CLOSING)
        async with asyncio.timeout(5):
            assert (await reader.read()).endswith(b"127.0.0.1")


async def test_requests_that_are_sent_in_advance_wait_a_turn_of_the_loop_each() -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with served() as port:
        turning = asyncio.create_task(turn())
        seen: list[int] = []
        port.on_request = lambda: seen.append(turns)
        assert (await port.answer(GET * 200 + CLOSING)).count(b" 200 OK") == 201
        turning.cancel()
        assert len(seen) == len(set(seen)) == 201


async def test_of_all_connections_a_few_requests_sent_in_advance_are_answered_in_one_turn() -> None:
    turns, seen = 0, Counter[int]()

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with served() as port:
        turning = asyncio.create_task(turn())
        port.on_request = lambda: seen.update([turns])
        first = b"POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"  # not counted: it waits for none
        answers = await asyncio.gather(*(port.answer(first + GET * 18 + CLOSING) for _ in range(5 * IN_A_TURN)))
        turning.cancel()
    assert [answer.count(b" 200 OK") for answer in answers] == [20] * len(answers)
    assert sum(seen.values()) == 19 * len(answers)
    assert max(seen.values()) == IN_A_TURN


async def test_a_caller_who_is_refused_again_and_again_must_connect_again() -> None:
    refused, good = GET.replace(b"/who", b"/none"), GET
    async with served() as port:
        assert (await port.answer(refused * 50)).count(b" 404 ") == MOST_REFUSALS
        answer = await port.answer((refused * 5 + good) * 5 + CLOSING)
        assert (answer.count(b" 404 "), answer.count(b" 200 ")) == (25, 6), "one answer that is none begins the count again"
    async with served(HERE) as port:
        assert (await port.answer(refused * 50 + CLOSING)).count(b" 404 ") == 50, "a proxy's connection has many callers"


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET /who HTTP/1.1\r\nA\x00: b\r\n\r\n", id="header"),
        pytest.param(b"GET /who HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", id="length"),
        pytest.param(b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", id="long"),
        pytest.param(b"BAD\r\n\r\n", id="no request"),
        pytest.param(b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n", id="address"),
    ],
)
@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
async def test_a_request_that_cannot_be_read_is_counted_and_logs_nothing(
    before: bytes, request_: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with served() as port:
        assert b" 400 " in await port.answer(before + request_)
        assert port.ended() == {"malformed": 1}
    assert not caplog.records


async def test_of_many_connections_that_do_not_read_each_turn_ends_a_part() -> None:
    connections = Connections(HttpSettings(unread_timeout_s=0.03))
    many = [Unread() for _ in range(1000)]
    for one in many:
        connections.replace(one, one)
    ended = []
    async with asyncio.timeout(5):
        while connections._open.all:
            await asyncio.sleep(0)
            ended.append(sum(one.peer.is_aborted for one in many))
    assert max(later - earlier for earlier, later in pairwise([0, *ended])) <= 256


async def test_the_head_of_a_later_request_has_as_much_time() -> None:
    async with served(head_timeout_s=0.2) as port:
        reader, writer = await port.open(GET)
        async with asyncio.timeout(5):
            await reader.readuntil(b"127.0.0.1")
            await asyncio.sleep(0.3)
            writer.write(GET)
            await reader.readuntil(b"127.0.0.1")
            writer.write(b"GET /who HT")
            assert await reader.read() == b""
        assert port.ended() == {"head_late": 1}


async def test_a_connection_that_waits_for_no_next_request_ends_in_time() -> None:
    async with served(idle_timeout_s=0.2) as port:
        reader, _ = await port.open(GET)
        async with asyncio.timeout(5):
            assert (await reader.read()).endswith(b"127.0.0.1")
        assert port.ended() == {}


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"max_pending": 20}, "pending", id="in all"),
        pytest.param({"max_pending_per_address": 20}, "pending_address", id="by address"),
        pytest.param({"max_open": 20}, "open", id="all that are open"),
        pytest.param({"max_open_per_address": 20}, "open_address", id="all that are open, by address"),
    ],
)
async def test_silent_connections_give_way_to_those_that_send_a_request(settings: dict[str, Any], reason: str) -> None:
    async with served(**settings) as port:
        silent = [await port.open() for _ in range(20)]
        await asyncio.sleep(0.6)
        assert [await port.who() for _ in range(30)] == ["127.0.0.1"] * 30
        assert len(port.connections._open.all) <= 20
        async with asyncio.timeout(5):
            assert await silent[0][0].read() == b"", "the oldest goes first"
        assert port.ended().keys() == {reason}


@pytest.mark.parametrize("bound", ["max_open", "max_open_per_address"])
async def test_connections_between_requests_give_way_and_those_that_wait_for_an_answer_do_not(bound: str) -> None:
    settings: dict[str, Any] = {bound: 20}
    async with served(**settings) as port:
        asked = [await port.open(b"GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") for _ in range(10)]
        idle = [await port.open(GET) for _ in range(10)]
        for reader, _ in idle:
            await reader.readuntil(b"127.0.0.1")
        assert [await port.who() for _ in range(12)] == ["127.0.0.1"] * 12
        more = [await port.open(b"GET /hold HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") for _ in range(10)]
        await asyncio.sleep(0.1)
        refused = await port.answer(GET)
        assert refused == b"", "nobody is left who waits"
        port.hold.set()
        async with asyncio.timeout(5):
            assert all([(await reader.read()).endswith(b"held") for reader, _ in (*asked, *more)])
        assert port.ended() == {bound.removeprefix("max_").replace("_per", ""): 11}


def test_what_the_system_has_no_files_for_is_not_accepted() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    try:
        most = [Connections(beside=beside)._open._most for beside in (0, 600, 5000)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert most == [800, 200, 100]


async def test_a_storm_of_honest_connections_in_one_turn_is_answered() -> None:
    async with served(max_pending_per_address=300) as port:
        assert await asyncio.gather(*(port.who() for _ in range(250))) == ["127.0.0.1"] * 250
        assert port.ended() == {}


async def test_connections_of_a_proxy_are_not_counted_by_address() -> None:
    async with served(HERE, max_pending_per_address=1, max_open_per_address=1) as port:
        kept = [await port.open() for _ in range(10)]
        assert await port.who() == "127.0.0.1"
        assert port.ended() == {}
        assert len(kept) == len(port.connections._pending.all)


async def test_a_head_that_is_too_large_is_refused() -> None:
    async with served() as port:
        answer = await port.answer(b"GET /who HTTP/1.1\r\n" + b"X: y\r\n" * (MAX_HEAD_BYTES // 6 + 1))
        assert answer.startswith(b"HTTP/1.1 431 ")
        assert port.ended() == {"head_too_large": 1}


async def test_the_head_of_a_later_request_that_is_too_large_is_refused() -> None:
    async with served() as port:
        reader, writer = await port.open(GET)
        async with asyncio.timeout(5):
            await reader.readuntil(b"127.0.0.1")
            for _ in range(60):
                writer.write(b"GET" if not port.connections._heads else b"X" * 2000)
                await asyncio.sleep(0.002)
            with contextlib.suppress(ConnectionError):
                assert b"HTTP/1.1 4" in await reader.read()


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(f"Content-Length: {OFFERED}\r\n", id="declared"),
        pytest.param("Transfer-Encoding: chunked\r\n", id="chunked"),
        pytest.param(f"Content-Length: {OFFERED}\r\nContent-Encoding: gzip\r\n", id="compressed"),
    ],
)
async def test_a_body_that_is_too_large_is_cut_and_its_sender_still_reads_why(head: str) -> None:
    async with served() as port:
        reader, writer = await port.open(f"POST /post HTTP/1.1\r\nHost: x\r\n{head}\r\n".encode())
        chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
        sent = 0

        async def send() -> None:
            nonlocal sent
            with contextlib.suppress(ConnectionError):
                while sent < OFFERED:
                    writer.write(chunk)
                    await writer.drain()
                    sent += len(chunk)

        sending = asyncio.create_task(send())
        async with asyncio.timeout(10):
            assert b" 41" in await reader.readline()
            headers = await reader.readuntil(b"\r\n\r\n")
            await sending
        assert b"Connection: close" in headers
        assert sent < OFFERED
        assert port.ended() == {"body_cut": 1}


async def test_a_small_body_behind_its_refusal_is_read_so_that_no_reset_hides_the_answer() -> None:
    async with served() as port:
        reader, writer = await port.open(b"POST /none HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n")
        async with asyncio.timeout(5):
            assert b" 404 " in await reader.readline()
            writer.write(b"x" * min(100_000, DISCARD_BYTES))
            await writer.drain()
            rest = await reader.read()
        assert b'"not_found"' in rest


async def test_an_answer_that_nobody_reads_is_cut() -> None:
    async with served(unread_timeout_s=0.3) as port:
        reader, _ = await port.open(b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            while port.ended() != {"unread": 1}:  # noqa: ASYNC110 - a metric has no event
                await asyncio.sleep(0.02)
        assert not port.connections._open.all
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < OFFERED


async def test_a_long_answer_is_read_whole() -> None:
    async with served() as port, aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port.port}/long") as answer:
        assert len(await answer.read()) == OFFERED


async def test_nothing_is_left_of_connections_that_ended() -> None:
    async with served() as port:
        for data in (b"", b"GET", GET, b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n"):
            _, writer = await port.open(data)
            await asyncio.sleep(0.05)
            writer.close()
            await writer.wait_closed()
        async with asyncio.timeout(5):
            while port.connections._open.all:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert not port.connections._open.of
        assert not port.connections._pending.all
        assert not port.connections._pending.of
        assert not port.connections._heads


# ---- the PROXY header
V1 = b"PROXY TCP4 203.0.113.7 192.168.0.11 56324 443\r\n"
V2 = SIGNATURE + b"\x21\x21\x00\x24" + bytes.fromhex("20010db8" + "00" * 11 + "01" + "20010db8" + "00" * 11 + "02" + "dc0401bb")
CLOSING = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    ("header", "address"),
    [
        pytest.param(V1, b"203.0.113.7", id="v1"),
        pytest.param(V2, b"2001:db8::1", id="v2"),
        pytest.param(b"PROXY TCP6 ::ffff:9.8.7.6 ::ffff:1.2.3.4 1 2\r\n", b"9.8.7.6", id="IPv4 in IPv6"),
        pytest.param(b"PROXY UNKNOWN\r\n", b"127.0.0.1", id="v1-unknown"),
        pytest.param(SIGNATURE + b"\x20\x00\x00\x00", b"127.0.0.1", id="v2-local"),
    ],
)
@pytest.mark.parametrize("pieces", [1, 7, 1000])
async def test_the_proxy_header_says_who_calls(header: bytes, address: bytes, pieces: int) -> None:
    async with served(HERE, proxy_protocol=True) as port:
        reader, writer = await port.open()
        size = len(header + CLOSING) // pieces or 1
        for start in range(0, len(header + CLOSING), size):
            writer.write((header + CLOSING)[start : start + size])
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            assert (await reader.read()).endswith(b"\r\n\r\n" + address)
        assert port.ended() == {}


@pytest.mark.parametrize("data", [GET, b"PROXY TCP4 1.2.3.4\r\n" + GET, V1[1:] + GET, b"\x16\x03\x01\x02\x00\x01" + GET])
async def test_a_proxy_that_sends_no_header_is_cut_off(data: bytes) -> None:
    async with served(HERE, proxy_protocol=True) as port:
        assert await port.answer(data) == b""
        assert port.ended() == {"proxy_header": 1}


@pytest.mark.parametrize("data", [b"", b"PROXY", V1, V2[:40]])
async def test_a_header_has_no_more_time_than_a_head(data: bytes) -> None:
    async with served(HERE, proxy_protocol=True, head_timeout_s=0.2) as port:
        assert await port.answer(data) == b""
        assert port.ended() == {"head_late": 1}


async def test_only_proxies_may_connect_where_a_header_is_expected() -> None:
    async with served(("10.0.0.0/8",), proxy_protocol=True) as port:
        assert await port.answer(V1 + GET) == b""
        assert port.ended() == {"proxy_untrusted": 1}


async def test_callers_behind_a_proxy_are_counted_by_their_own_addresses() -> None:
    async with served(HERE, proxy_protocol=True, max_pending_per_address=3) as port:
        kept = [await port.open(V1) for _ in range(3)]
        await asyncio.sleep(0.6)
        other = [await port.open(V1.replace(b".7 ", f".{number} ".encode())) for number in range(10, 20)]
        await asyncio.sleep(0.1)
        assert port.ended() == {}
        kept.append(await port.open(V1))
        async with asyncio.timeout(5):
            assert await kept[0][0].read() == b""
        assert port.ended() == {"pending_address": 1}
        assert len(port.connections._pending.all) == 3 + len(other)


async def test_without_the_setting_a_header_is_no_request() -> None:
    async with served(HERE) as port:
        assert (await port.answer(V1 + GET)).startswith(b"HTTP/1.0 400 ")
