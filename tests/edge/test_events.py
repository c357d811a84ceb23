"""Viewers whose network lets no WebSocket through: the same frames as server-sent events, and
requests the other way.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import pytest

from edge.drain import drain
from liveroom.closecodes import Close
from tests.edge.harness import Edge, line, next_frame

PAGE = "https://a.example"


class Event(NamedTuple):
    name: str
    data: str

    @property
    def frame(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.data.split("\n")[0])
        return found


class Stream:
    """Reads a stream as the standard has it (HTML, 9.2.6), and speaks by requests."""

    def __init__(self, edge: Edge, http: aiohttp.ClientSession, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer
        self._http = http
        self._ssl = edge.trusting or True
        self._url = f"{edge.http}/v1/events"
        self.pull = ""

    async def next(self) -> Event | None:
        name, data = "", []
        async with asyncio.timeout(5):
            while text := (await self.answer.content.readline()).decode():
                field, _, value = text.rstrip("\n").partition(": ")
                if field == "data":
                    data.append(value)
                elif field == "event":
                    name = value
                elif not field:
                    return Event(name, "\n".join(data))
        return None

    async def say(self, text: str, token: str | None = None) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self.pull if token is None else token}"}
        async with self._http.post(self._url, data=text, headers=headers, ssl=self._ssl) as answer:
            body = await answer.read()
            return answer.status, json.loads(body)["code"] if body else ""


@asynccontextmanager
async def listening(edge: Edge, ticket: str | None = None, **headers: str) -> AsyncIterator[Stream]:
    url = f"{edge.http}/v1/events"
    async with (
        aiohttp.ClientSession() as http,
        http.get(
            url,
            params={"ticket": edge.ticket() if ticket is None else ticket},
            headers=headers,
            ssl=edge.trusting or True,
        ) as answer,
    ):
        stream = Stream(edge, http, answer)
        if answer.status == 200:
            hello = await stream.next()
            assert hello is not None
            assert hello.frame["t"] == "hello"
            stream.pull = hello.frame["pull"]
        yield stream


async def test_events_carry_what_websockets_carry_and_frames_come_by_requests(edge: Edge) -> None:
    async with listening(edge) as stream, edge.connect() as socket:
        await next_frame(socket)
        assert stream.answer.headers["Content-Type"] == "text/event-stream"
        assert await stream.say('{"t":"join","room":"lobby"}') == (204, "")
        await socket.send('{"t":"join","room":"lobby"}')
        joined = await stream.next()
        assert joined is not None
        assert joined.frame["t"] == "joined"
        assert (await next_frame(socket))["t"] == "joined"
        await edge.deliver("lobby", [line(1, "hi"), line(2, "x" * 2000)])  # long enough to come deflated to others
        batch = await stream.next()
        assert batch is not None
        assert batch.data == await asyncio.wait_for(socket.recv(), 5)
        assert await stream.say('{"t":"hb"}') == (204, "")
        beat = await stream.next()
        assert beat is not None
        assert beat.frame["t"] == "hb"


async def test_a_notice_and_an_error_reach_it(edge: Edge) -> None:
    async with listening(edge) as stream:
        await stream.say('{"t":"join","room":"lobby"}')
        await stream.next()
        await edge.notify("lobby", "u1", b'{"t":"notice","room":"lobby","kind":"mute","id":"m","at":1}')
        notice = await stream.next()
        assert notice is not None
        assert notice.frame["kind"] == "mute"
        await stream.say('{"t":"join","room":"not a room"}')
        error = await stream.next()
        assert error is not None
        assert error.frame["code"] == "room_invalid"
        assert await stream.say('{"t":"vote","room":"lobby"}') == (204, "")
        error = await stream.next()
        assert error is not None
        assert error.frame["code"] == "unknown_frame"


async def test_the_last_event_gives_the_close_code_and_nothing_follows(edge: Edge) -> None:
    async with listening(edge) as stream:
        assert await stream.say("no JSON") == (204, "")
        assert await stream.next() == ("close", f"{Close.BAD_FRAME.value} bad frame")
        assert await stream.next() is None
    async with asyncio.timeout(5):
        while edge.gateway.members:  # noqa: ASYNC110 - the gateway has no such event
            await asyncio.sleep(0.02)
    assert edge.gateway.sse_connections == {}


async def test_a_viewer_that_leaves_is_forgotten_and_its_token_is_void(edge: Edge) -> None:
    async with listening(edge) as stream:
        await stream.say('{"t":"join","room":"lobby"}')
        token = stream.pull
    async with asyncio.timeout(5):
        while edge.gateway.members:  # noqa: ASYNC110 - the gateway has no such event
            await asyncio.sleep(0.02)
    assert edge.gateway.hub.watched == 0
    async with listening(edge) as stream, edge.connect() as socket:
        assert await stream.say('{"t":"hb"}', token) == (401, "token_invalid")
        over_websocket = (await next_frame(socket))["pull"]
        assert await stream.say('{"t":"hb"}', over_websocket) == (401, "token_invalid")
        assert await stream.say("x" * 5000) == (413, "too_large")


@pytest.mark.parametrize("edge", [{"handshake_timeout_s": 0.5}], indirect=True)
async def test_a_request_that_never_ends_is_not_waited_for(edge: Edge) -> None:
    async with listening(edge) as stream:
        await stream.say('{"t":"join","room":"lobby"}')
        reader, writer = await edge.open()
        head = f"POST /v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stream.pull}\r\nContent-Length: 20\r\n\r\n"
        writer.write(head.encode() + b'{"t"')
        async with asyncio.timeout(5):
            answer = await reader.readline()
        assert answer.startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_viewer_that_sends_far_too_much_is_closed(edge: Edge) -> None:
    async with listening(edge) as stream:
        for _ in range(70):
            await stream.say('{"t":"hb"}')
        found = [event async for event in _all(stream)]
        assert found[-1].name == "close"
        assert found[-1].data.startswith(str(Close.TOO_FAST.value))


async def _all(stream: Stream) -> AsyncIterator[Event]:
    while (event := await stream.next()) is not None:
        yield event


@pytest.mark.parametrize("edge", [{"origins": (PAGE,)}], indirect=True)
async def test_pages_of_the_right_origin_may_read_it(edge: Edge) -> None:
    async with listening(edge, Origin=PAGE) as stream:
        assert stream.answer.headers["Access-Control-Allow-Origin"] == PAGE
    async with listening(edge, Origin="https://b.example") as stream:
        assert stream.answer.status == 403
        assert "Access-Control-Allow-Origin" not in stream.answer.headers


async def test_a_bad_ticket_is_refused_before_anything_is_sent(edge: Edge) -> None:
    async with listening(edge, "no ticket") as stream:
        assert stream.answer.status == 401


async def test_a_gateway_that_drains_moves_it_too(edge: Edge) -> None:
    async with listening(edge) as stream:
        await stream.say('{"t":"join","room":"lobby"}')
        await stream.next()
        draining = asyncio.create_task(drain(edge.gateway))
        move = await stream.next()
        assert move is not None
        assert move.frame["t"] == "move"
        assert await stream.next() == ("close", f"{Close.SERVICE_RESTART.value} restart")
        await draining
