"""The entry over HTTP, and the real process on the real Kafka."""

import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiokafka import AIOKafkaProducer

from liveroom.cli.processes import Service
from liveroom.kafka import ensure_topics
from liveroom.records import encode_json
from liveroom.service import Metrics
from liveroom.settings import KafkaSettings, SchedulerSettings
from liveroom.tickets import ENTRY, User, verify
from liveroom.tokens import Verifier, secret, sign_user
from liveroom.web import serve
from scheduler.app import Entry
from scheduler.placement import Placement
from tests.e2e.audience import settled
from tests.scheduler.test_placement import report

TOKEN_KEY = "t" * 32
TICKET_KEYS = {"k2": "b" * 32, "k1": "a" * 32}
KEYS = {name: key.encode() for name, key in TICKET_KEYS.items()}


@pytest.fixture
async def placement() -> Placement:
    return Placement(3.0)


@pytest.fixture
async def url(placement: Placement, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    settings = SchedulerSettings(
        token_key=TOKEN_KEY, ticket_keys=TICKET_KEYS, origins=("https://page.example",), **getattr(request, "param", {})
    )
    async with serve(
        Entry(settings, placement, Verifier([secret(TOKEN_KEY.encode())]), Metrics("scheduler")).app(), "127.0.0.1", 0
    ) as (_, port):
        yield f"http://127.0.0.1:{port}/v1/entry"


def bearer(user: User, *, key: str = TOKEN_KEY, ttl_s: int = 60) -> dict[str, str]:
    return {"Authorization": f"Bearer {sign_user(user, key.encode(), int(time.time()), ttl_s)}"}


async def get(url: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, Any], Any]:
    async with aiohttp.ClientSession() as http, http.get(url, headers=headers) as answer:
        return answer.status, await answer.json(content_type=None), answer.headers


async def test_a_guest_gets_gateways_and_a_ticket_for_them(url: str, placement: Placement) -> None:
    for name in ("a", "b", "c", "d"):
        placement.update(report(name, generation=9), time.monotonic())
    status, body, headers = await get(f"{url}?room=r1&room=r2")
    assert status == 200
    assert headers["Cache-Control"] == "no-store"
    assert len(body["gateways"]) == 3
    ticket = verify(body["ticket"], KEYS, ENTRY, int(time.time() * 1000))
    assert body["ticket"].split(".")[1] == "k2"
    assert ticket.gateways == tuple((gateway["id"], 9) for gateway in body["gateways"])
    assert ticket.user.rooms == ("r1", "r2")
    assert (body["role"], ticket.user.role.value) == ("guest", "guest")
    assert ticket.user.id == body["user"]
    assert 0 < ticket.expires_ms - time.time() * 1000 <= 60_000


async def test_a_ticket_speaks_for_the_user_of_the_token(url: str, placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    _, body, _ = await get(f"{url}?room=r1", bearer(User("ann", level=7, name="Ann")))
    user = verify(body["ticket"], KEYS, ENTRY, 0).user
    assert (user.id, user.level, user.name, user.rooms) == ("ann", 7, "Ann", ("r1",))


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        pytest.param("", {}, 400, "bad_request", id="no room"),
        pytest.param("&".join(f"room=r{i}" for i in range(9)), {}, 400, "bad_request", id="nine rooms"),
        pytest.param("room=a%20b", {}, 404, "room_invalid", id="no room's id"),
        pytest.param("room=r", {"Authorization": "Bearer x"}, 401, "token_invalid", id="no token"),
        pytest.param("room=r", {"Authorization": "Basic x"}, 401, "token_missing", id="not a bearer"),
        pytest.param("room=r", bearer(User("u"), key="x" * 32), 401, "token_invalid", id="another's key"),
        pytest.param("room=r", bearer(User("u"), ttl_s=-100), 401, "token_expired", id="expired"),
        pytest.param("room=r", bearer(User("u", rooms=("other",)), ttl_s=9999), 403, "forbidden", id="token of another room"),
    ],
)
async def test_who_does_not_get_in_is_told_why(
    url: str, placement: Placement, query: str, headers: dict[str, str], status: int, code: str
) -> None:
    placement.update(report(), time.monotonic())
    got, body, _ = await get(f"{url}?{query}", headers)
    assert (got, body["code"]) == (status, code)


@pytest.mark.parametrize("url", [{"guests": False}], indirect=True)
async def test_guests_may_be_turned_away(url: str, placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    status, body, _ = await get(f"{url}?room=r")
    assert (status, body["code"]) == (401, "token_missing")


async def test_without_a_gateway_the_answer_says_when_to_ask_again(url: str) -> None:
    status, body, headers = await get(f"{url}?room=r", {"Origin": "https://page.example"})
    assert (status, body["code"], headers["Retry-After"]) == (503, "no_gateway", "1")
    assert headers["Access-Control-Allow-Origin"] == "https://page.example"


async def test_pages_of_allowed_origins_may_ask_with_a_token(url: str) -> None:
    asks = {"Origin": "https://page.example", "Access-Control-Request-Method": "GET"}
    async with aiohttp.ClientSession() as http:
        async with http.options(url, headers=asks) as answer:
            assert answer.status == 204
            assert "authorization" in answer.headers["Access-Control-Allow-Headers"]
        async with http.options(url, headers=asks | {"Origin": "https://evil.example"}) as answer:
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_the_process_follows_reports_through_garbage_and_tombstones_and_refuses_when_they_stop(
    kafka_settings: KafkaSettings, tmp_path: Any
) -> None:
    await ensure_topics(kafka_settings)
    environment = {
        "LIVEROOM_KAFKA__BOOTSTRAP": kafka_settings.bootstrap,
        "LIVEROOM_KAFKA__PREFIX": kafka_settings.prefix,
        "LIVEROOM_KAFKA__PARTITIONS": str(kafka_settings.partitions),
        "LIVEROOM_TOKEN_KEY": TOKEN_KEY,
        "LIVEROOM_TICKET_KEYS": '{"k1":"' + "a" * 32 + '"}',
        "LIVEROOM_STALE_S": "0.7",
    }
    service = Service("scheduler-1", "scheduler", tmp_path, environment)
    await service.start_ready()
    topic = f"{kafka_settings.prefix}gateways"
    producer = AIOKafkaProducer(bootstrap_servers=kafka_settings.bootstrap)
    await producer.start()
    answers: list[tuple[int, set[str]]] = []

    async def ask() -> tuple[int, set[str]]:
        status, body, _ = await get(f"{service.url}/v1/entry?room=r")
        answers.append((status, {gateway["id"] for gateway in body.get("gateways", [])}))
        return answers[-1]

    async def until(expected: tuple[int, set[str]], *keep: str) -> None:
        end = time.monotonic() + 10
        while await ask() != expected and time.monotonic() < end:
            for name in keep:
                await producer.send_and_wait(topic, encode_json(report(name)), key=name.encode())
        assert answers[-1] == expected

    try:
        assert (await ask())[0] == 503
        await producer.send_and_wait(topic, b"garbage", key=b"x")
        await until((200, {"a", "b"}), "a", "b")
        await producer.send_and_wait(topic, None, key=b"b")
        await until((200, {"a"}), "a")
        await until((503, set()))
        await settled(lambda: service.running)
    finally:
        await producer.stop()
        assert await service.stop() == 0
