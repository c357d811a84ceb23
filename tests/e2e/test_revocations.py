"""Tokens are revoked, and connections listed and ended, at all ingresses and gateways of a running
system.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from typer.testing import CliRunner

from cli.commands import app
from liveroom.closecodes import Close
from liveroom.kinds import Role
from liveroom.records.codec import JsonReader
from liveroom.records.revocations import Revocation
from liveroom.ticket_keys import read_private_keys
from liveroom.tickets import ENTRY, Ticket, User, sign
from liveroom.topics import REVOCATIONS
from tests.e2e.harness import Answer, Stage, seen, staged
from tests.log import read_all
from viewer.client import Viewer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
# 1 s is promised. The measured times are printed; a machine with other work may take longer.
WITHIN_S = 3.0


class Entry:
    """An entry answer: every gateway and a ticket for them."""

    def __init__(self, body: dict[str, Any]) -> None:
        self.urls: list[str] = [gateway["url"] for gateway in sorted(body["gateways"], key=lambda gateway: str(gateway["id"]))]
        self.ticket: str = body["ticket"]
        self.user: str = body["user"]


class Line:
    """One connection to a gateway: its hello, and how and when it ended."""

    def __init__(self, url: str) -> None:
        self.http_url = url.replace("ws://", "http://").removesuffix("/v1/live")
        self.hello: dict[str, Any] = {}
        self.code: int | None = None
        self.ended_s = 0.0

    async def pull(self, http: aiohttp.ClientSession, room: str) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {self.hello['pull']}"}
        query = {"after_rseq": "0", "epoch": "1"}
        async with http.get(f"{self.http_url}/v1/rooms/{room}/messages", params=query, headers=headers) as answer:
            return answer.status, (await answer.json(content_type=None)).get("code", "")

    @asynccontextmanager
    async def websocket(self, http: aiohttp.ClientSession, url: str, ticket: str, room: str) -> AsyncIterator["Line"]:
        async with http.ws_connect(url, params={"ticket": ticket}, protocols=("liveroom.v1",)) as socket:
            self.hello = json.loads((await socket.receive_str(timeout=5)).split("\n")[0])
            await socket.send_json({"t": "join", "room": room})
            task = asyncio.create_task(self._read_socket(socket))
            try:
                yield self
            finally:
                task.cancel()

    async def _read_socket(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
            pass
        self.code, self.ended_s = socket.close_code, time.monotonic()

    @asynccontextmanager
    async def events(self, http: aiohttp.ClientSession, ticket: str) -> AsyncIterator["Line"]:
        async with http.get(f"{self.http_url}/v1/events", params={"ticket": ticket}) as answer:
            assert answer.status == 200
            self.hello = json.loads((await answer.content.readuntil(b"\n\n")).partition(b"data: ")[2].split(b"\n")[0])
            task = asyncio.create_task(self._read_events(answer.content))
            try:
                yield self
            finally:
                task.cancel()

    async def _read_events(self, content: aiohttp.StreamReader) -> None:
        is_close = False
        async for line in content:
            if is_close and line.startswith(b"data: "):
                self.code, self.ended_s = int(line[6:10]), time.monotonic()
            is_close = line.startswith(b"event: close")


async def enter(stage: Stage, token: str | None, room: str = "lobby", device: str = "") -> Entry | str:
    """Return an entry, or the code of the refusal."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    query = {"room": room} | ({"device": device} if device else {})
    async with stage.http.get(f"{stage.system.scheduler.url}/v1/entry", params=query, headers=headers) as answer:
        body = await answer.json(content_type=None)
        return Entry(body) if answer.status == 200 else str(body["code"])


async def entry_of(stage: Stage, token: str | None, room: str = "lobby", device: str = "") -> Entry:
    entry = await enter(stage, token, room, device)
    assert isinstance(entry, Entry), entry
    assert len(entry.urls) == 2
    return entry


async def send(stage: Stage, token: str, ingress: int) -> Answer:
    url = f"{stage.system.ingresses[ingress].url}/v1/rooms/lobby/likes"
    async with stage.http.post(url, json={"count": 1}, headers={"Authorization": f"Bearer {token}"}) as answer:
        return Answer(answer.status, await answer.json(content_type=None))


async def in_a_later_second(stage: Stage, user: str, before_s: int, **claims: Any) -> str:
    """Return a token that was issued after a revocation."""
    async with asyncio.timeout(5):
        while time.time() < before_s:  # noqa: ASYNC110 - tokens name the second of their issue
            await asyncio.sleep(0.02)
    return stage.token(user, **claims)


async def connections(stage: Stage, user: str, method: str = "GET", ingress: int = 0) -> dict[str, Any]:
    """Ask an ingress, which may not know the gateways yet."""
    async with asyncio.timeout(10):
        while True:
            answer = await stage.call(method, f"users/{user}/connections", role=Role.OPERATOR, ingress=ingress)
            if answer.code != "not_ready":
                assert answer.status == 200, answer
                return answer.body
            await asyncio.sleep(0.2)


async def printed(stage: Stage, code: int, arguments: list[str], text: str) -> None:
    """Run a command of the command line, as an operator."""
    where = ["--ingress", stage.system.ingress_url, "--token-key", stage.system.token_key]
    result = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *where])
    assert (result.exit_code, text in result.output) == (code, True), result.output


async def test_a_revoked_user_is_refused_and_closed_everywhere_and_others_are_not(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        old, other = stage.token("anna"), stage.token("ben")
        entry, bystander = await entry_of(stage, old), await entry_of(stage, other)
        lines = [Line(url) for url in entry.urls]
        events, watching = Line(entry.urls[0]), [Line(url) for url in bystander.urls]
        async with (
            lines[0].websocket(stage.http, entry.urls[0], entry.ticket, "lobby"),
            lines[1].websocket(stage.http, entry.urls[1], entry.ticket, "lobby"),
            events.events(stage.http, entry.ticket),
            watching[0].websocket(stage.http, bystander.urls[0], bystander.ticket, "lobby"),
            watching[1].websocket(stage.http, bystander.urls[1], bystander.ticket, "lobby"),
        ):
            assert [(await send(stage, old, ingress)).status for ingress in (0, 1)] == [202, 202]
            assert [(await line.pull(stage.http, "lobby"))[0] for line in lines] == [200, 200]

            revoked = await stage.call("POST", "revocations", {"user": "anna", "why": "stolen"}, role=Role.SERVICE)
            answered_s = time.monotonic()
            assert revoked.status == 200, revoked
            refused_s = [0.0, 0.0]
            for ingress in (0, 1):
                async with asyncio.timeout(WITHIN_S):
                    while (await send(stage, old, ingress)).code != "revoked":  # noqa: ASYNC110 - an ingress is asked
                        await asyncio.sleep(0.002)
                refused_s[ingress] = time.monotonic() - answered_s
            await seen(lambda: all(line.code is not None for line in (*lines, events)), WITHIN_S)
            closed_s = [line.ended_s - answered_s for line in (*lines, events)]
            print("refused after s:", *(f"{s:.3f}" for s in refused_s), "closed after s:", *(f"{s:.3f}" for s in closed_s))
            assert [line.code for line in (*lines, events)] == [Close.REVOKED] * 3
            assert max(*refused_s, *closed_s) < WITHIN_S

            assert [await line.pull(stage.http, "lobby") for line in (*lines, events)] == [(401, "revoked")] * 3
            for line in lines:
                async with stage.http.get(f"{line.http_url}/v1/events", params={"ticket": entry.ticket}) as answer:
                    assert (answer.status, (await answer.json(content_type=None))["code"]) == (401, "revoked")
            assert await enter(stage, old) == "revoked"
            assert [line.code for line in watching] == [None, None]
            assert [(await send(stage, other, ingress)).status for ingress in (0, 1)] == [202, 202]

            new = await in_a_later_second(stage, "anna", revoked.body["issued_before_s"])
            again, back = await entry_of(stage, new), Line(entry.urls[0])
            assert [(await send(stage, new, ingress)).status for ingress in (0, 1)] == [202, 202]
            async with back.websocket(stage.http, again.urls[0], again.ticket, "lobby"):
                assert (await back.pull(stage.http, "lobby"))[0] == 200
                assert back.code is None


async def test_what_was_revoked_stays_so_over_restarts_until_it_is_lifted(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        old, system = stage.token("anna"), stage.system
        issued_s = int(time.time())
        revoked = await stage.call("POST", "revocations", {"user": "anna", "id": "r-1"}, role=Role.OPERATOR)
        assert revoked.status == 200
        later = await in_a_later_second(stage, "operator", revoked.body["issued_before_s"], role=Role.OPERATOR)
        for service in (system.ingresses[1], system.edges[1], system.scheduler):
            service.kill()
            await service.ended()
            await service.start_ready()
        assert (await send(stage, old, 1)).code == "revoked"
        assert await enter(stage, old) == "revoked"

        async def generation() -> int:
            url, headers = f"{system.scheduler.url}/v1/gateways", {"Authorization": f"Bearer {later}"}
            async with stage.http.get(url, headers=headers) as answer:
                gateways = (await answer.json(content_type=None))["gateways"]
            return max((each["generation"] for each in gateways if each["gateway"] == restarted.name), default=0)

        restarted = system.edges[1]
        async with asyncio.timeout(10):
            while not (started_ms := await generation()):  # noqa: ASYNC110 - the scheduler is asked
                await asyncio.sleep(0.05)
        signer = read_private_keys(system.ticket_signing_keys)[0].signer()

        async def upgrade(issued_s: int | None) -> int:
            user = User("anna", rooms=("lobby",), issued_s=issued_s)
            expires_ms = int(time.time() * 1000) + 60_000
            ticket = sign(Ticket(ENTRY, user, expires_ms, "n", ((restarted.name, started_ms),)), signer)
            with suppress(aiohttp.WSServerHandshakeError):
                async with stage.http.ws_connect(f"ws://127.0.0.1:{restarted.port}/v1/live", params={"ticket": ticket}):
                    return 101
            return 401

        assert [await upgrade(issued_s), await upgrade(None)] == [401, 401]
        assert await upgrade(revoked.body["issued_before_s"]) == 101

        listed = await stage.call("GET", "revocations", role=Role.OPERATOR, ingress=1)
        assert [(each["id"], each["user"], each["by"]) for each in listed.body["revocations"]] == [("r-1", "anna", "operator")]
        assert (await stage.call("DELETE", "revocations/r-1", role=Role.OPERATOR, ingress=1)).status == 202
        async with asyncio.timeout(WITHIN_S):
            while (await send(stage, old, 0)).status != 202:  # noqa: ASYNC110 - an ingress is asked
                await asyncio.sleep(0.01)
        records = await read_all(kafka_bootstrap, f"{system.prefix}{REVOCATIONS.name}", range(1))
        assert [record.key for record in records] == [b"r-1", b"r-1"]
        assert JsonReader(Revocation).read(records[0].value).user == "anna"
        assert records[1].value is None


async def test_a_device_a_guest_and_all_tokens_of_a_time_can_be_revoked(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        phone, tablet = stage.token("anna", device="phone"), stage.token("anna", device="tablet")
        unnamed = stage.token("anna")  # issued before the revocation, as long as that takes
        entries = [await entry_of(stage, token) for token in (phone, tablet, None, None)]
        lines = [Line(entry.urls[number % 2]) for number, entry in enumerate(entries)]
        async with (
            lines[0].websocket(stage.http, entries[0].urls[0], entries[0].ticket, "lobby"),
            lines[1].websocket(stage.http, entries[1].urls[1], entries[1].ticket, "lobby"),
            lines[2].websocket(stage.http, entries[2].urls[0], entries[2].ticket, "lobby"),
            lines[3].websocket(stage.http, entries[3].urls[1], entries[3].ticket, "lobby"),
        ):
            assert (await stage.call("POST", "revocations", {"user": "anna", "device": "phone"})).status == 200
            await seen(lambda: lines[0].code == Close.REVOKED)
            assert (await send(stage, phone, 0)).code == "revoked"
            assert await enter(stage, phone) == "revoked"
            assert await enter(stage, unnamed, device="phone") == "revoked"
            assert (await send(stage, tablet, 0)).status == 202

            assert (await stage.call("POST", "revocations", {"user": entries[2].user})).status == 200
            await seen(lambda: lines[2].code == Close.REVOKED)
            assert [line.code for line in lines] == [Close.REVOKED, None, Close.REVOKED, None]
            async with stage.http.get(f"{lines[2].http_url}/v1/events", params={"ticket": entries[2].ticket}) as answer:
                assert (answer.status, (await answer.json(content_type=None))["code"]) == (401, "revoked")

            before_s = int(time.time()) + 1
            everybody = await stage.call("POST", "revocations", {"issued_before_s": before_s})
            assert everybody.status == 200
            await seen(lambda: lines[1].code == lines[3].code == Close.REVOKED)
            assert (await send(stage, tablet, 1)).code == "revoked"
            new = await in_a_later_second(stage, "anna", before_s)
            assert (await send(stage, new, 0)).status == 202


async def test_all_connections_of_a_user_are_listed_and_ended(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        token = stage.token("anna", device="tv")
        entry, other = await entry_of(stage, token), await entry_of(stage, stage.token("ben"))
        first, second, events, bystander = (Line(url) for url in (*entry.urls, entry.urls[1], other.urls[0]))
        async with (
            first.websocket(stage.http, entry.urls[0], entry.ticket, "lobby"),
            second.websocket(stage.http, entry.urls[1], entry.ticket, "lobby"),
            events.events(stage.http, entry.ticket),
            bystander.websocket(stage.http, other.urls[0], other.ticket, "lobby"),
        ):
            found = await connections(stage, "anna")
            names = [service.name for service in stage.system.edges]
            assert (found["total"], found["missing"]) == (3, [])
            shown = sorted((each["gateway"], each["transport"], each["device"]) for each in found["connections"])
            wanted = sorted([(names[0], "websocket", "tv"), (names[1], "websocket", "tv"), (names[1], "events", "tv")])
            assert shown == wanted
            assert await connections(stage, "nobody", ingress=1) == {
                "user": "nobody",
                "total": 0,
                "connections": [],
                "missing": [],
            }

            ended = await connections(stage, "anna", "DELETE", ingress=1)
            assert (ended["total"], ended["missing"]) == (3, [])
            await seen(lambda: all(line.code == Close.KICKED for line in (first, second, events)))
            assert (await connections(stage, "anna"))["total"] == 0
            assert bystander.code is None
            assert (await send(stage, token, 0)).status == 202

            await printed(stage, 0, ["revoke", "anna", "--device", "tv", "--why", "lost"], "tokens of anna on tv issued before")
            assert (await send(stage, token, 1)).code == "revoked"
            (listed,) = (await stage.call("GET", "revocations")).body["revocations"]
            await printed(stage, 0, ["revoke", "--list"], listed["id"])
            await printed(stage, 0, ["revoke", "--lift", listed["id"]], "lifted: ")
            await printed(stage, 2, ["revoke", "--issued-before", "99999999999"], "in the future")
            await printed(stage, 0, ["connections", "ben"], "1 connections of ben")

            stage.system.edges[1].kill()
            left = await connections(stage, "ben")
            assert (left["total"], left["missing"]) == (1, [names[1]])
            await printed(stage, 1, ["connections", "ben", "--end"], f"no answer from {names[1]}")
            await seen(lambda: bystander.code == Close.KICKED)


async def test_the_client_asks_once_for_a_new_token_and_ends_where_that_is_revoked_too(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        asked: list[float] = []

        def fresh() -> str:
            asked.append(time.monotonic())
            return stage.token("anna")

        fixed = stage.token("anna")
        url = stage.system.scheduler_url
        async with (
            Viewer(url, ["lobby"], http=stage.http, token=fresh) as renewing,
            Viewer(url, ["lobby"], http=stage.http, token=fixed) as repeating,
        ):
            await asyncio.gather(renewing.joined(), repeating.joined())
            assert (await stage.call("POST", "revocations", {"user": "anna"})).status == 200
            ended = await asyncio.wait_for(repeating.until_ended(), 20)
            assert ended.rule.code == Close.REVOKED
            await seen(lambda: renewing.is_open and renewing.session.reconnects == 1, 20)
            assert len(asked) == 2
            assert renewing.ended is None
