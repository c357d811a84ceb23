"""The entry over HTTP, and the real process on the real Kafka."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import structlog
from aiokafka import AIOKafkaProducer

from devstack.processes import Service
from liveroom.files import Watched
from liveroom.kafka import ensure_topics
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Role
from liveroom.records.codec import encode_json
from liveroom.records.control import GatewayState
from liveroom.records.revocations import Revocation
from liveroom.revocations import Revocations
from liveroom.service import Runtime
from liveroom.settings import KafkaSettings, SchedulerSettings
from liveroom.ticket_keys import write_private_keys, write_public_keys
from liveroom.tickets import ENTRY, HMAC_VERSION, MAX_TICKET_CHARS, VERSION, User, verify
from liveroom.tokens import Verifier, secret, sign_user
from liveroom.users import user_id
from liveroom.web import serve
from liveroom.wire import MAX_ROOMS_PER_CONNECTION
from scheduler.__main__ import read_zones
from scheduler.app import App, EntryLimit
from scheduler.placement import Placement
from tests.e2e.audience import settled
from tests.scheduler.test_placement import report
from tests.tickets import KEYS, NEW, OLD, PRIVATE_KEYS

TOKEN_KEY = "t" * 32
HMAC_KEYS = {"k2": "b" * 32, "k1": "a" * 32}


@pytest.fixture
async def placement() -> Placement:
    return Placement(3.0)


@pytest.fixture
async def url(placement: Placement, request: pytest.FixtureRequest) -> AsyncIterator[str]:
    settings = SchedulerSettings(
        token_key=TOKEN_KEY,
        ticket_signing_keys=PRIVATE_KEYS,
        origins=("https://page.example",),
        **getattr(request, "param", {}),
    )
    async with served(settings, placement) as (url, _):
        yield url


@asynccontextmanager
async def served(
    settings: SchedulerSettings, placement: Placement, revocations: Revocations | None = None
) -> AsyncIterator[tuple[str, App]]:
    """Serve entries while the block runs; gives their address."""
    verifier = Verifier([secret(TOKEN_KEY.encode())], revocations=revocations)
    app = App(settings, placement, verifier, Runtime("scheduler"))
    app.use_signers(await asyncio.to_thread(settings.read_ticket_signers))
    app.use_zones(await asyncio.to_thread(read_zones, settings))
    async with serve(app.web, "127.0.0.1", 0) as (_, port):
        yield f"http://127.0.0.1:{port}/v1/entry", app


def bearer(user: User, *, key: str = TOKEN_KEY, ttl_s: int = 86_400) -> dict[str, str]:
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
    ticket = verify(body["ticket"], KEYS, ENTRY, (body["gateways"][0]["id"], 9), int(time.time() * 1000))
    assert body["ticket"].split(".")[1] == "k2"
    assert ticket.gateways == tuple((gateway["id"], 9) for gateway in body["gateways"])
    assert (ticket.user.rooms, ticket.user.names_rooms) == (("r1", "r2"), False)
    assert (body["role"], ticket.user.role.value) == ("guest", "guest")
    assert ticket.user.id == body["user"]
    assert 0 < ticket.expires_ms - time.time() * 1000 <= 60_000


async def test_a_ticket_speaks_for_the_user_of_the_token(url: str, placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    _, body, _ = await get(f"{url}?room=r1", bearer(User("ann", level=7, name="Ann")))
    user = verify(body["ticket"], KEYS, ENTRY, (body["gateways"][0]["id"], report().generation), 0).user
    assert (user.id, user.level, user.name, user.rooms) == ("ann", 7, "Ann", ("r1",))


@pytest.mark.parametrize("url", [{"addresses": 10}], indirect=True)
async def test_the_longest_ticket_of_all_is_one_that_gateways_take(url: str, placement: Placement) -> None:
    for number in range(10):
        placement.update(report(f"{number:064}", generation=2**53), time.monotonic())
    rooms = [f"{number}" * 64 for number in range(MAX_ROOMS_PER_CONNECTION)]
    name = "a" + "\x01" * 63
    longest = User(user_id("\N{PARTY POPPER}" * 32), Role.MODERATOR, 255, name, tuple(rooms), follower=True, subscriber=True)
    status, body, _ = await get(f"{url}?room={'&room='.join(rooms)}&device={'d' * 64}", bearer(longest))
    assert status == 200
    ticket = verify(body["ticket"], KEYS, ENTRY, (body["gateways"][9]["id"], 2**53), int(time.time() * 1000))
    assert ticket.user.issued_s is not None
    assert ticket.user == msgspec.structs.replace(
        longest, rooms=tuple(rooms), device="d" * 64, issued_s=ticket.user.issued_s, names_rooms=True
    )
    assert len(body["ticket"]) > MAX_TICKET_CHARS * 0.65


@pytest.mark.parametrize(
    ("headers", "query", "device"),
    [
        pytest.param({}, "", "", id="none"),
        pytest.param({}, "&device=a.phone:1_-", "a.phone:1_-", id="a guest's"),
        pytest.param(bearer(User("ann")), f"&device={'d' * 64}", "d" * 64, id="one of 64 characters"),
        pytest.param(bearer(User("ann", device="tv")), "&device=phone", "tv", id="the token's own wins"),
    ],
)
async def test_a_ticket_carries_the_device_of_the_token_or_else_of_the_request(
    url: str, placement: Placement, headers: dict[str, str], query: str, device: str
) -> None:
    placement.update(report(), time.monotonic())
    _, body, _ = await get(f"{url}?room=r1{query}", headers)
    assert verify(body["ticket"], KEYS, ENTRY, (body["gateways"][0]["id"], report().generation), 0).user.device == device


async def test_a_revoked_token_device_or_moment_gets_no_ticket(placement: Placement) -> None:
    settings, revocations = SchedulerSettings(token_key=TOKEN_KEY, ticket_signing_keys=PRIVATE_KEYS), Revocations()
    ann, ben = bearer(User("ann", device="tv")), bearer(User("ben"))
    placement.update(report(), time.monotonic())
    async with served(settings, placement, revocations) as (url, _):
        assert [(await get(f"{url}?room=r", one))[0] for one in (ann, ben, None)] == [503] * 3
        revocations.are_read = True
        assert [(await get(f"{url}?room=r", one))[0] for one in (ann, ben, None)] == [200] * 3
        revocations.apply(Revocation(1, "a", 0, 2**40, 0, "ben", "phone"))
        assert (await get(f"{url}?room=r&device=pc", ben))[0] == 200
        status, body, _ = await get(f"{url}?room=r&device=phone", ben)
        assert (status, body["code"]) == (401, "revoked")
        revocations.apply(Revocation(1, "b", 0, 2**40, 0, "ann"))
        assert (await get(f"{url}?room=r", ann))[1]["code"] == "revoked"
        revocations.apply(Revocation(1, "c", 0, int(time.time()) + 60, 0))
        assert (await get(f"{url}?room=r"))[1]["code"] == "revoked"


@pytest.mark.parametrize("device", ["", "d" * 65, "a%20b", "a/b", "%E5%AE%89", "d%0A", "%ED%A0%80"])
@pytest.mark.parametrize("headers", [pytest.param({}, id="guest"), pytest.param(bearer(User("u", device="tv")), id="token")])
async def test_a_device_that_is_no_device_id_is_refused_with_the_rule(
    url: str, placement: Placement, headers: dict[str, str], device: str
) -> None:
    placement.update(report(), time.monotonic())
    status, body, _ = await get(f"{url}?room=r&device={device}", headers)
    assert (status, body["code"]) == (400, "bad_request")
    assert body["detail"] == "device is not 1 to 64 characters of A-Z a-z 0-9 _ . : -"


async def test_parameters_that_the_scheduler_does_not_know_are_ignored(url: str, placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    assert (await get(f"{url}?room=r1&region=eu&v=2&room_hint=x"))[0] == 200


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


@pytest.mark.parametrize(
    ("query", "room"),
    [
        pytest.param("room=a&room=b%20c&room=d", "b c", id="no room's id"),
        pytest.param("room=a&room=%ED%A0%80", None, id="bytes that are no text"),
        pytest.param("room=a&room=b&room=a", "b", id="token of another room"),
    ],
)
async def test_a_refusal_for_one_of_several_rooms_names_it(
    url: str, placement: Placement, query: str, room: str | None
) -> None:
    placement.update(report(), time.monotonic())
    status, body, _ = await get(f"{url}?{query}", bearer(User("u", rooms=("a",)), ttl_s=9999))
    assert status in {403, 404}
    assert room in {None, body["room"]}


@pytest.mark.parametrize("url", [{"guests": False}], indirect=True)
async def test_guests_may_be_turned_away(url: str, placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    status, body, _ = await get(f"{url}?room=r")
    assert (status, body["code"]) == (401, "token_missing")


@pytest.mark.parametrize("url", [{"proxies": ("127.0.0.0/8",), "address_per_s": 0.001, "address_burst": 2}], indirect=True)
async def test_an_address_gets_only_so_many_entries(url: str, placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    for name in ("u1", "u2"):
        assert (await get(f"{url}?room=r", bearer(User(name)) | {"X-Forwarded-For": "1.2.3.4"}))[0] == 200
    status, body, headers = await get(f"{url}?room=r", bearer(User("u3")) | {"X-Forwarded-For": "6.6.6.6, 1.2.3.4"})
    assert (status, body["code"]) == (429, "rate_address")
    assert 900 < int(headers["Retry-After"]) <= 1000
    assert (await get(f"{url}?room=r", bearer(User("u3")) | {"X-Forwarded-For": "1.2.3.5"}))[0] == 200


def limited(app: App) -> dict[str, float]:
    """How often each budget has refused an entry."""
    counts = {limit.value: app._limited[limit]._value.get() for limit in EntryLimit}
    return {limit: count for limit, count in counts.items() if count}


async def test_a_user_gets_only_so_many_entries_over_all_tokens_and_addresses(placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    settings = SchedulerSettings(
        token_key=TOKEN_KEY,
        ticket_signing_keys=PRIVATE_KEYS,
        proxies=("127.0.0.0/8",),
        user_entries_per_s=0.001,
        user_entries_burst=3,
    )
    async with served(settings, placement) as (url, app):
        for number in range(6):
            headers = bearer(User("ann"), ttl_s=1000 + number) | {"X-Forwarded-For": f"1.2.3.{number}"}
            status, body, _ = await get(f"{url}?room=r", headers)
            assert (status, body.get("code")) == ((200, None) if number < 3 else (429, "rate_user"))
        assert (await get(f"{url}?room=r", bearer(User("bob"))))[0] == 200
        for _ in range(6):
            assert (await get(f"{url}?room=r", bearer(User("root", Role.OPERATOR))))[0] == 200
        assert limited(app) == {"user_entries": 3}


async def test_an_address_makes_only_so_many_guests_and_its_users_still_enter(placement: Placement) -> None:
    placement.update(report(), time.monotonic())
    settings = SchedulerSettings(
        token_key=TOKEN_KEY,
        ticket_signing_keys=PRIVATE_KEYS,
        proxies=("127.0.0.0/8",),
        address_guests_per_s=0.001,
        address_guests_burst=2,
        address_per_s=0.001,
        address_burst=2,
        user_entries_per_s=0.001,
        user_entries_burst=1,
        address_failures_per_s=0.001,
        address_failures_burst=2,
    )
    async with served(settings, placement) as (url, app):
        here = {"X-Forwarded-For": "1.2.3.4"}
        assert [(await get(f"{url}?room=r", here))[0] for _ in range(4)] == [200, 200, 429, 429]
        ann, bob, eve = (bearer(User(name)) | here for name in ("ann", "bob", "eve"))
        assert [(await get(f"{url}?room=r", ann))[0] for _ in range(3)] == [200, 429, 429]
        assert [(await get(f"{url}?room=", bob))[0] for _ in range(3)] == [404] * 3
        forged = here | {"Authorization": "Bearer forged"}
        assert [(await get(f"{url}?room=r", forged))[0] for _ in range(4)] == [401, 401, 429, 429]
        assert (await get(f"{url}?room=r", bob))[0] == 200, "what others were refused took nothing from the address"
        assert (await get(f"{url}?room=r", eve))[0] == 429
        assert (await get(f"{url}?room=r", {"X-Forwarded-For": "1.2.3.5"}))[0] == 200
        assert limited(app) == {"address_guests": 2, "user_entries": 2, "address_failures": 3}


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    file = tmp_path / "zones"
    file.write_text("1.0.0.0/8 east\n2.0.0.0/8 west\n")
    return file


async def test_viewers_go_to_their_zone_first(placement: Placement, zones: Path) -> None:
    settings = SchedulerSettings(
        token_key=TOKEN_KEY, ticket_signing_keys=PRIVATE_KEYS, zones_file=zones, proxies=("127.0.0.0/8",)
    )
    async with served(settings, placement) as (url, _):
        for number in range(4):
            for zone in ("east", "west"):
                placement.update(report(f"{zone}-{number}", zone=zone), time.monotonic())

        async def first(address: str) -> str:
            _, body, _ = await get(f"{url}?room=r", {"X-Forwarded-For": address})
            return str(body["gateways"][0]["id"]).partition("-")[0]

        assert {await first("1.2.3.4") for _ in range(20)} == {"east"}
        assert {await first("2.2.3.4") for _ in range(20)} == {"west"}
        assert {await first("3.2.3.4") for _ in range(40)} == {"east", "west"}
        for number in range(4):
            placement.update(report(f"west-{number}", zone="west", connections=10_000), time.monotonic())
        placement.choose(1, time.monotonic() + 1, lambda: 0.5)
        assert {await first("2.2.3.4") for _ in range(20)} == {"east"}, "a full zone is no zone"


async def test_ticket_keys_change_without_a_restart(placement: Placement, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_text(write_private_keys([OLD]))
    settings = SchedulerSettings(token_key=TOKEN_KEY, ticket_signing_keys_file=file)
    async with served(settings, placement) as (url, app):
        placement.update(report(), time.monotonic())
        watching = asyncio.create_task(Watched([file], settings.read_ticket_signers).watch(app.use_signers))

        async def signed_by() -> str:
            placement.update(report(), time.monotonic())
            return str((await get(f"{url}?room=r"))[1]["ticket"]).split(".")[1]

        assert await signed_by() == "k1"
        for bad in ("{}", "nonsense", '{"keys": []}', write_public_keys([NEW])):
            with structlog.testing.capture_logs() as logs:
                file.write_text(bad)
                await settled(lambda logs=logs: any(each["event"] == "file_not_usable" for each in logs))  # type: ignore[misc]
            assert await signed_by() == "k1", "a file that cannot be used changes nothing"
        file.write_text(write_private_keys([NEW, OLD]))
        async with asyncio.timeout(60):
            while await signed_by() != "k2":  # noqa: ASYNC110 - it is asked over HTTP
                await asyncio.sleep(0.1)
        watching.cancel()


@pytest.mark.parametrize(
    ("versions", "with_hmac", "signed"),
    [
        pytest.param((VERSION, VERSION), True, VERSION, id="all gateways are upgraded"),
        pytest.param((VERSION, HMAC_VERSION), True, HMAC_VERSION, id="one gateway reads version 1 alone"),
        pytest.param((HMAC_VERSION,), True, HMAC_VERSION, id="no gateway is upgraded"),
        pytest.param((VERSION + 1,), True, VERSION, id="a gateway of a later version"),
        pytest.param((VERSION, HMAC_VERSION), False, VERSION, id="there is no HMAC key"),
    ],
)
async def test_while_gateways_read_hmac_alone_the_ticket_is_one_that_all_of_its_gateways_read(
    versions: tuple[int, ...], with_hmac: bool, signed: int, placement: Placement
) -> None:
    more: dict[str, Any] = {"ticket_keys": HMAC_KEYS} if with_hmac else {}
    settings = SchedulerSettings(token_key=TOKEN_KEY, ticket_signing_keys=PRIVATE_KEYS, **more)
    async with served(settings, placement) as (url, _):
        for name, version in zip("abc", versions, strict=False):
            placement.update(msgspec.structs.replace(report(name), ticket_version=version), time.monotonic())
        assert (await get(f"{url}?room=r1"))[1]["ticket"].startswith(f"v{signed}.k2.")


async def test_operators_choose_their_gateway_full_or_not_and_nobody_else(url: str, placement: Placement) -> None:
    placement.update(report("a"), time.monotonic())
    placement.update(report("b", connections=10_000), time.monotonic())
    placement.update(report("c", state=GatewayState.DRAINING), time.monotonic())
    operator = bearer(User("op", Role.OPERATOR))
    for name in ("a", "b"):
        _, body, _ = await get(f"{url}?room=r&gateway={name}", operator)
        assert [each["id"] for each in body["gateways"]] == [name]
    for name in ("c", "nobody", ""):
        assert (await get(f"{url}?room=r&gateway={name}", operator))[1]["code"] == "no_gateway"
    for headers in ({}, bearer(User("ann"))):
        assert (await get(f"{url}?room=r&gateway=a", headers))[1]["code"] == "forbidden"


async def test_operators_see_how_gateways_stand_and_nobody_else(url: str, placement: Placement) -> None:
    placement.update(report("a", connections=7), time.monotonic())
    placement.update(report("b", state=GatewayState.DRAINING), time.monotonic())
    url = url.replace("/entry", "/gateways")
    for headers in ({}, bearer(User("ann"))):
        assert (await get(url, headers))[0] in {401, 403}
    status, body, _ = await get(url, bearer(User("op", Role.OPERATOR)))
    assert status == 200
    assert [(each["gateway"], each["standing"], each["connections"]) for each in body["gateways"]] == [
        ("a", "open", 7),
        ("b", "draining", 0),
    ]
    assert body["gateways"][0]["weight"] > 0


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
    await ensure_topics(AioKafka(kafka_settings))
    environment = {
        "LIVEROOM_KAFKA__BOOTSTRAP": kafka_settings.bootstrap,
        "LIVEROOM_KAFKA__PREFIX": kafka_settings.prefix,
        "LIVEROOM_KAFKA__PARTITIONS": str(kafka_settings.partitions),
        "LIVEROOM_TOKEN_KEY": TOKEN_KEY,
        "LIVEROOM_TICKET_SIGNING_KEYS": PRIVATE_KEYS,
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
        await producer.send_and_wait(topic, encode_json(report("e" * 4000)), key=b"y")  # its tickets would be too long
        await until((200, {"a", "b"}), "a", "b")
        await producer.send_and_wait(topic, None, key=b"b")
        await until((200, {"a"}), "a")
        await until((503, set()))
        await settled(lambda: service.running)
    finally:
        await producer.stop()
        assert await service.stop() == 0
