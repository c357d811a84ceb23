"""A hostile run of the whole system: what is said and claimed in it is in no log and in no refusal,
and each refusal can be found by its id and by its user.
"""

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from cli.why import run_why
from devstack.system import System
from liveroom.refusals import user_mark
from liveroom.registry import Metrics
from liveroom.settings import KafkaSettings
from liveroom.tickets import User
from liveroom.tokens import sign_user
from liveroom.topics import UPLINK, partition_of
from tests.e2e.audience import knows_gateways
from tests.log import producing

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]
MARK = "Marked7ext"
ROOM = "lobby"


class Refusal(NamedTuple):
    """A refusal as its caller sees it."""

    code: str
    request_id: str


class Attacker:
    """Sends what is refused, with `MARK` wherever somebody may write a text."""

    def __init__(self, system: System, http: aiohttp.ClientSession) -> None:
        self.system = system
        self.http = http
        self.refusals: list[Refusal] = []

    async def ask(self, method: str, url: str, token: str | None = None, **more: Any) -> Refusal:
        headers = more.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        async with self.http.request(method, url, headers=headers, **more) as answer:
            text = await answer.text()
            assert answer.status >= 400, text
            assert MARK not in text
            assert MARK not in str(answer.headers)
            refusal = Refusal(json.loads(text)["code"], answer.headers["X-Request-Id"])
            assert json.loads(text)["request_id"] == refusal.request_id
            self.refusals.append(refusal)
            return refusal

    async def at_the_ingress(self) -> None:
        url, user = f"{self.system.ingress_url}/v1/rooms/{ROOM}", f"{MARK}-ann"
        good = self.system.token(user, name=MARK)
        strange = sign_user(User(user, name=MARK), b"another key of thirty-two bytes!", 2_000_000_000)
        for token in (None, MARK, f"{MARK}.{MARK}.{MARK}", strange, self.system.token(user, ttl_s=-3600)):
            await self.ask("POST", f"{url}/danmaku", token, json={"text": MARK})
        for body in (f'{{"text": "{MARK}', json.dumps({"text": MARK * 100}), json.dumps({"text": [MARK]}), f'["{MARK}"]'):
            await self.ask("POST", f"{url}/danmaku", good, data=body, headers={"Content-Type": "application/json"})
        await self.ask("POST", f"{url}/danmaku", good, data=MARK, headers={"Content-Type": f"text/{MARK}"})
        await self.ask("POST", f"{url}/danmaku", good, json={"text": MARK}, headers={"Idempotency-Key": f"{MARK} !"})
        await self.ask("POST", f"{url}/danmaku", good, json={"text": [MARK]}, headers={"X-Request-Id": f"{MARK}.a.b"})
        await self.ask("POST", f"{self.system.ingress_url}/v1/rooms/{MARK}!/danmaku", good, json={"text": MARK})
        await self.ask("POST", f"{self.system.ingress_url}/{MARK}", good, json={"text": MARK})
        await self.ask("GET", f"{self.system.ingress_url}/v1/users/{user}/connections", good)
        await self.ask("POST", f"{url}/mutes", good, json={"user": user, "why": MARK})

    async def at_the_scheduler(self) -> None:
        url = f"{self.system.scheduler.url}/v1/entry"
        await self.ask("GET", url, f"{MARK}.{MARK}.{MARK}", params={"room": ROOM})
        await self.ask("GET", url, params={"room": "a b"})
        await self.ask("GET", url, params={"room": ROOM, "device": f"{MARK} !"})
        await self.ask("GET", url, self.system.token(f"{MARK}-ann"), params={"room": ROOM, "gateway": MARK})

    async def at_the_gateway(self) -> None:
        url = self.system.edges[0].url
        await self.ask("GET", f"{url}/v1/live", params={"ticket": f"{MARK}.{MARK}"})
        await self.ask("GET", f"{url}/v1/events", params={"ticket": f"v2.k1.{MARK}.{MARK}"})
        await self.ask("GET", f"{url}/v1/rooms/{ROOM}/messages", MARK)
        token = self.system.token(f"{MARK}-ann", name=MARK)
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.get(f"{self.system.scheduler.url}/v1/entry", params={"room": ROOM}, headers=headers) as answer:
            ticket = (await answer.json())["ticket"]
        async with self.http.ws_connect(f"{url}/v1/live", params={"ticket": ticket}) as socket:
            hello = json.loads(await socket.receive_str(timeout=10))
            await socket.send_json({"t": "join", "room": f"{MARK} !"})
            refused = json.loads(await socket.receive_str(timeout=10))
            assert refused["request_id"] == hello["request_id"]
            self.refusals.append(Refusal(refused["code"], hello["request_id"]))
            await socket.send_str(f'{{"t": "join", "room": ["{MARK}"]}}')
            while (await socket.receive(timeout=10)).type is aiohttp.WSMsgType.TEXT:
                pass
            assert socket.close_code == 4010


@asynccontextmanager
async def attacked(bootstrap: str) -> AsyncIterator[Attacker]:
    prefix = f"l{secrets.token_hex(4)}."
    settings = {"LOG_REFUSALS_PER_S": "1000", "ORIGINS": "[]"}
    async with System(bootstrap, prefix=prefix, partitions=2, edges=1, settings=settings) as system:
        await knows_gateways(system, 1)
        async with aiohttp.ClientSession(skip_auto_headers=["User-Agent"]) as http:
            yield Attacker(system, http)


async def logged(folder: Path, is_there: Callable[[str], bool]) -> str:
    """Return all logs, once they have what is waited for."""
    async with asyncio.timeout(20):
        while not is_there(text := await asyncio.to_thread(_read, folder)):  # noqa: ASYNC110 - others write it
            await asyncio.sleep(0.05)
    return text


def _read(folder: Path) -> str:
    return "".join(log.read_text() for log in sorted(folder.glob("*.log")))


async def test_nothing_that_is_said_or_claimed_is_in_a_log_and_every_refusal_is_found_by_its_id(
    kafka_bootstrap: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async with attacked(kafka_bootstrap) as attacker:
        system = attacker.system
        kafka = KafkaSettings(bootstrap=kafka_bootstrap, prefix=system.prefix, partitions=2)
        bad = {"v": 1, "room": ROOM, "id": "i", "user": f"{MARK} ann", "at_ms": 1, "items": [], "name": MARK}
        async with producing(kafka, Metrics("ingress")) as producer:
            key, value = ROOM.encode(), json.dumps(bad).encode()
            await producer.send(UPLINK, value, key=key, partition=partition_of(ROOM, 2), timeout_s=10)
        await attacker.at_the_ingress()
        await attacker.at_the_scheduler()
        await attacker.at_the_gateway()
        ids = {refusal.request_id for refusal in attacker.refusals}
        text = await logged(system.folder, lambda text: "dead_letter" in text and all(id_ in text for id_ in ids))
        assert MARK not in text
        lines = [json.loads(line) for line in text.splitlines()]
        found = {Refusal(line["code"], line["request_id"]) for line in lines if line["event"] == "refused"}
        assert found == set(attacker.refusals)
        assert {line["code"] for line in lines if line["event"] == "closed"} == {4010}
        mark = user_mark(system.log_key.encode(), f"{MARK}-ann")
        assert {line["service"] for line in lines if line.get("user") == mark} == {"ingress", "scheduler", "edge"}
        files = [str(log) for log in system.folder.glob("*.log")]
        assert await asyncio.to_thread(run_why, "", f"{MARK}-ann", system.log_key, files) == 0
        assert await asyncio.to_thread(run_why, attacker.refusals[0].request_id, "", "", files) == 0
    told = capsys.readouterr().out
    assert "token_missing: A bearer token is required" in told
    assert MARK not in told
