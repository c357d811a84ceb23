"""A whole system behind real proxies: who calls, upgrades, streams, time-outs, HTTP/1.0, TLS."""

import asyncio
import json
import secrets
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from devstack.system import System
from liveroom.addresses import url_of
from liveroom.chance import SystemChance
from liveroom.ports import HOST, free_ports
from liveroom.wire import SUBPROTOCOL
from tests.proxies import haproxy, hitch, nginx
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.entry import Entry, ask_entry
from viewer.sender import Accepted, Sender

pytestmark = pytest.mark.kafka
DEADLINE_S = 120.0  # nothing here takes so long, on whatever machine
ROOM = "lobby"
ASKED = 12  # requests, each with another invented address; more than the refusals that end a caller's own connection
GUESTS, SENT, CONNECTED = 3, 5, 2  # the bounds of an address at the scheduler, the ingress and a gateway
NEVER_S = "0.0001"  # a bound refills for the next test, if at all


@dataclass
class Behind:
    """A system, and the URLs of the proxies in front of it. `trusting`: what trusts their TLS."""

    system: System
    scheduler: str
    ingress: str
    gateway: str
    trusting: ssl.SSLContext | None = None

    @classmethod
    def at(cls, system: System, scheme: str, ports: Sequence[int], trusting: ssl.SSLContext | None = None) -> "Behind":
        """Return what is behind the proxies' ports for scheduler, ingress and gateway."""
        scheduler, ingress, gateway = (url_of(scheme, HOST, port) for port in ports)
        return cls(system, scheduler, ingress, gateway, trusting)

    @asynccontextmanager
    async def caller(self, last: int) -> AsyncIterator[aiohttp.ClientSession]:
        """Give the requests of a caller at the address 127.0.0.`last`; the proxies are at .1."""
        connector = aiohttp.TCPConnector(local_addr=(f"127.0.0.{last}", 0), ssl=self.trusting or True, limit=0)
        async with aiohttp.ClientSession(connector=connector) as http:
            yield http

    async def entry(self, http: aiohttp.ClientSession, user: str) -> Entry:
        return await ask_entry(http, self.scheduler, [ROOM], SystemChance(), self.system.token(user))


def settings_behind(port: int, scheme: str = "ws", **more: str) -> dict[str, Any]:
    """Return the settings of a system whose gateway viewers reach at a proxy's port."""
    return {
        "settings": {"PROXIES": f'["{HOST}/32"]', **more},
        "settings_of": {
            "scheduler": {"ADDRESS_GUESTS_BURST": str(GUESTS), "ADDRESS_GUESTS_PER_S": NEVER_S},
            "ingress": {"ADDRESS_REQUESTS_BURST": str(SENT), "ADDRESS_REQUESTS_PER_S": NEVER_S},
            "edge": {"MAX_PER_ADDRESS": str(CONNECTED), "PUBLIC_URL": url_of(scheme, HOST, port, "/v1/live")},
        },
    }


@asynccontextmanager
async def started(bootstrap: str, port: int, scheme: str = "ws", **more: str) -> AsyncIterator[System]:
    prefix = f"x{secrets.token_hex(4)}."
    async with System(bootstrap, prefix=prefix, partitions=2, edges=1, **settings_behind(port, scheme, **more)) as system:
        await system.knows_gateways(1, DEADLINE_S)
        yield system


async def bounds_hold(place: Behind) -> None:
    """Hold that callers are counted by their own addresses, whatever they write into headers."""
    async with place.caller(9) as http, place.caller(10) as elsewhere:
        found: Counter[int] = Counter()
        for number in range(ASKED):
            headers = {"X-Forwarded-For": f"6.6.6.{number}", "Forwarded": f"for=7.7.7.{number}"}
            async with http.get(f"{place.scheduler}/v1/entry?room={ROOM}", headers=headers) as answer:
                found[answer.status] += 1
        assert found == {200: GUESTS, 429: ASKED - GUESTS}
        async with elsewhere.get(f"{place.scheduler}/v1/entry?room={ROOM}") as answer:
            assert answer.status == 200, "another caller of the same proxy"

        found.clear()
        for number in range(ASKED):
            headers = {"Authorization": f"Bearer {place.system.token(f'u{number}')}", "X-Forwarded-For": f"6.6.6.{number}"}
            body = {"text": f"hello {number}"}
            async with http.post(f"{place.ingress}/v1/rooms/{ROOM}/danmaku", json=body, headers=headers) as answer:
                found[answer.status] += 1
        assert found == {202: SENT, 429: ASKED - SENT}

        async with AsyncExitStack() as held:
            outcomes = []
            for number in range(CONNECTED + 2):
                entry = await place.entry(elsewhere, f"u{number}")
                headers = {"X-Forwarded-For": f"6.6.6.{number}"}
                opening = http.ws_connect(entry.urls[0], params={"ticket": entry.ticket}, headers=headers)
                try:
                    await held.enter_async_context(opening)
                    outcomes.append(101)
                except aiohttp.WSServerHandshakeError as error:
                    outcomes.append(error.status)
            assert outcomes == [101] * CONNECTED + [429] * 2
            entry = await place.entry(elsewhere, "somebody")
            async with elsewhere.ws_connect(entry.urls[0], params={"ticket": entry.ticket}, protocols=(SUBPROTOCOL,)) as socket:
                assert socket.protocol == SUBPROTOCOL


async def a_viewer_sees_a_gift(place: Behind, last: int) -> None:
    """Hold that a viewer at an address of its own enters, and gets what is sent."""
    seen: asyncio.Queue[str] = asyncio.Queue()

    def note(effect: Effect) -> None:
        if isinstance(effect, Delivered):
            seen.put_nowait(effect.message.id)

    async with (
        place.caller(last) as http,
        Viewer(place.scheduler, [ROOM], http=http, token=place.system.token("ann"), on_effect=note) as viewer,
    ):
        await viewer.joined(DEADLINE_S)
        sent = await Sender(place.ingress, place.system.token("ben"), http).gift(ROOM, "rose")
        assert isinstance(sent, Accepted)
        while await seen.get() != sent.id:
            pass
        assert viewer.session.reconnects == 0


async def events_come_at_once(place: Behind, gateway: str, last: int) -> None:
    """Hold that no proxy keeps back a stream: the next event answers what this one asks."""
    async with place.caller(last) as http:
        entry = await place.entry(http, "eve")
        url = f"{gateway}/v1/events"
        async with http.get(url, params={"ticket": entry.ticket}, timeout=aiohttp.ClientTimeout()) as stream:
            assert stream.status == 200
            assert stream.content_type == "text/event-stream"
            hello = await event_of(stream, "hello")
            pull = {"Authorization": f"Bearer {hello['pull']}"}
            async with http.post(url, json={"t": "join", "room": ROOM}, headers=pull) as answer:
                assert answer.status == 204
            await event_of(stream, "joined")
            sent = await Sender(place.ingress, place.system.token("ben"), http).gift(ROOM, "rose")
            assert isinstance(sent, Accepted)
            await event_of(stream, "batch")


async def event_of(stream: aiohttp.ClientResponse, kind: str) -> dict[str, Any]:
    """Return the next frame of a type; the head of a batch."""
    while True:
        line = await stream.content.readline()
        assert line, "the stream ended"
        if line.startswith(b'data: {"t":"' + kind.encode()):
            found: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
            return found


async def answered_in_http_1_0(place: Behind, last: int) -> None:
    """Hold that a client of HTTP/1.0, which may name no host, gets a whole answer and its end."""
    ports = [int(url.rpartition(":")[2]) for url in (place.scheduler, place.ingress)]
    body = b'{"text":"an old client"}'
    token = f"Authorization: Bearer {place.system.token('old')}\r\n".encode()
    head = b"Content-Type: application/json\r\nContent-Length: %d\r\n" % len(body)
    asked = (
        b"GET /v1/entry?room=lobby HTTP/1.0\r\n" + token + b"\r\n",
        b"POST /v1/rooms/lobby/danmaku HTTP/1.0\r\n" + token + head + b"\r\n" + body,
    )
    for port, text, status in zip(ports, asked, (b" 200 ", b" 202 "), strict=True):
        reader, writer = await asyncio.open_connection(HOST, port, local_addr=(f"127.0.0.{last}", 0), ssl=place.trusting)
        writer.write(text)
        answer = await reader.read()
        writer.close()
        first, _, rest = answer.partition(b"\r\n")
        assert status in first + b" "
        assert isinstance(json.loads(rest.partition(b"\r\n\r\n")[2]), dict), "not in chunks, which HTTP/1.0 does not know"


async def status_of_origin(place: Behind, origin: str, last: int) -> int:
    """Return how the gateway answers a page of an origin."""
    async with place.caller(last) as http:
        entry = await place.entry(http, "page")
        try:
            async with http.ws_connect(entry.urls[0], params={"ticket": entry.ticket}, origin=origin):
                return 101
        except aiohttp.WSServerHandshakeError as error:
            return error.status


async def test_behind_haproxy_callers_are_told_apart_and_viewers_outlive_its_time_outs(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    scheduler, ingress, gateway = free_ports(3)
    async with asyncio.timeout(DEADLINE_S), started(kafka_bootstrap, gateway) as system:
        place = Behind.at(system, "http", (scheduler, ingress, gateway))
        ports = {scheduler: system.scheduler.port, ingress: system.ingress.port, gateway: system.edges[0].port}
        async with haproxy(ports, tmp_path):
            await bounds_hold(place)
            await a_viewer_sees_a_gift(place, 20)
            await events_come_at_once(place, place.gateway, 21)
            await answered_in_http_1_0(place, 24)
            assert await status_of_origin(place, place.gateway, 22) == 101
            assert await status_of_origin(place, "http://a.example", 22) == 403
        async with haproxy(ports, tmp_path, tunnel="500ms"):
            await every_gift_comes_once(place)


async def every_gift_comes_once(place: Behind) -> None:
    """Hold that a viewer whose connections are cut while they are silent misses nothing."""
    seen: list[str] = []
    last = asyncio.Event()
    sent: list[str] = []

    def note(effect: Effect) -> None:
        if isinstance(effect, Delivered) and effect.message.user == "gil":
            seen.append(effect.message.id)
            if len(sent) == len(seen):
                last.set()

    async with (
        place.caller(30) as http,
        aiohttp.ClientSession() as direct,  # the address of a proxy: it counts for none
        Viewer(place.scheduler, [ROOM], http=http, token=place.system.token("ann"), on_effect=note) as viewer,
    ):
        await viewer.joined(DEADLINE_S)
        sender = Sender(place.system.ingress_url, place.system.token("gil"), direct)
        while len(sent) < 3 or viewer.session.reconnects < 2:
            cuts = viewer.session.reconnects
            last.clear()
            outcome = await sender.gift(ROOM, "rose")
            assert isinstance(outcome, Accepted)
            sent.append(outcome.id)
            if len(seen) < len(sent):
                await last.wait()
            while viewer.session.reconnects == cuts:  # silent until the proxy cuts it  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    assert seen == sent


async def test_behind_nginx_as_it_is_without_settings_and_as_its_guide_passes_upgrades_on(
    kafka_bootstrap: str, tmp_path: Path
) -> None:
    scheduler, ingress, gateway, plain = free_ports(4)
    async with asyncio.timeout(DEADLINE_S), started(kafka_bootstrap, gateway) as system:
        place = Behind.at(system, "http", (scheduler, ingress, gateway))
        edge = system.edges[0].port
        older = {scheduler: system.scheduler.port, ingress: system.ingress.port, plain: edge}
        async with nginx(older, {gateway: edge}, tmp_path):
            await bounds_hold(place)
            await a_viewer_sees_a_gift(place, 20)
            await answered_in_http_1_0(place, 24)
            for url in (place.gateway, url_of("http", HOST, plain)):
                await events_come_at_once(place, url, 21)
            assert await status_of_origin(place, url_of("https", HOST, 443).removesuffix(":443"), 22) == 101
            assert await status_of_origin(place, "https://a.example", 22) == 403
            async with place.caller(23) as http:
                entry = await place.entry(http, "ann")
                with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                    await http.ws_connect(url_of("ws", HOST, plain, "/v1/live"), params={"ticket": entry.ticket})
            assert refused.value.status == 426, "an upgrade that a proxy does not pass on is said to be one"


async def test_behind_a_proxy_that_ends_tls_the_proxy_header_names_the_caller(kafka_bootstrap: str, tmp_path: Path) -> None:
    authority, certificate = trustme.CA(), tmp_path / "hitch.pem"
    made = authority.issue_cert(HOST)
    made.private_key_and_cert_chain_pem.write_to_path(certificate)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    scheduler, ingress, gateway = free_ports(3)
    async with asyncio.timeout(DEADLINE_S), started(kafka_bootstrap, gateway, "wss", HTTP__PROXY_PROTOCOL="true") as system:
        place = Behind.at(system, "https", (scheduler, ingress, gateway), trusting)
        ports = {scheduler: system.scheduler.port, ingress: system.ingress.port, gateway: system.edges[0].port}
        async with hitch(ports, certificate, tmp_path):
            await bounds_hold(place)
            await a_viewer_sees_a_gift(place, 20)
            await events_come_at_once(place, place.gateway, 21)
            await answered_in_http_1_0(place, 24)
            assert await status_of_origin(place, place.gateway, 22) == 101
            async with aiohttp.ClientSession() as direct:
                with pytest.raises(aiohttp.ClientError):
                    await direct.get(f"{system.scheduler_url}/v1/entry?room={ROOM}")
