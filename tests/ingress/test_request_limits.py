"""Budgets of requests by user and address, over all tokens and connections."""

import asyncio
from collections import Counter

import aiohttp
import pytest

from ingress.request_limits import RequestLimit, RequestLimits
from liveroom.errors import ProblemError
from liveroom.kinds import Role
from liveroom.settings import IngressSettings
from liveroom.tickets import User
from tests.ingress.harness import Served, headers_of, served, settings_of

DANMAKU = "/v1/rooms/r1/danmaku"
JSON = {"Content-Type": "application/json"}
SLOW = {"address_requests_per_s": 0.01, "user_requests_per_s": 0.01}
BEHIND = {"proxies": ("127.0.0.0/8",)}


async def status(ingress: Served, headers: dict[str, str], data: bytes = b'{"text":"a"}') -> tuple[int, str]:
    async with ingress.http.post(DANMAKU, data=data, headers=JSON | headers) as answer:
        document = await answer.json(content_type=None)
        return answer.status, document.get("code", "")


def limited(ingress: Served) -> dict[str, float | None]:
    return {
        reason: ingress.count("liveroom_ingress_limited_total", reason=reason)
        for reason in ("user_requests", "address_requests", "address_failures")
    }


async def test_a_user_has_one_budget_over_all_its_connections_tokens_and_addresses() -> None:
    async with served(**SLOW, **BEHIND, user_requests_burst=10, address_requests_burst=1000) as ingress:
        url, outcomes = f"http://127.0.0.1:{ingress.port}{DANMAKU}", Counter[int]()
        for number in range(20):
            async with aiohttp.ClientSession() as http:
                headers = headers_of(user="rude", ttl_s=1000 + number) | {"X-Forwarded-For": f"1.2.3.{number}"}
                async with http.post(url, json={"text": "a"}, headers=headers) as answer:
                    outcomes[answer.status] += 1
        assert outcomes == {202: 10, 429: 10}
        assert await status(ingress, headers_of(user="kind")) == (202, "")
        assert limited(ingress) == {"user_requests": 10, "address_requests": 0, "address_failures": 0}


async def test_an_address_has_one_budget_for_all_that_its_users_send() -> None:
    async with served(**SLOW, **BEHIND, address_requests_burst=10) as ingress:
        here = {"X-Forwarded-For": "6.6.6.6, 1.2.3.4"}
        outcomes = Counter[tuple[int, str]]()
        for number in range(15):
            outcomes[await status(ingress, headers_of(user=f"u{number}") | here, b"no json")] += 1
        assert outcomes == {(400, "bad_json"): 10, (429, "rate_address"): 5}
        assert (await status(ingress, headers_of() | {"X-Forwarded-For": "1.2.3.5"}))[0] == 202
        assert limited(ingress) == {"user_requests": 0, "address_requests": 5, "address_failures": 0}


async def test_whoever_fails_to_authenticate_takes_nothing_from_the_users_behind_its_address() -> None:
    async with served(**SLOW, address_requests_burst=3, address_failures_per_s=0.01, address_failures_burst=10) as ingress:
        assert await status(ingress, headers_of(user="ann")) == (202, "")
        outcomes = Counter[tuple[int, str]]()
        for number in range(15):
            outcomes[await status(ingress, {"Authorization": f"Bearer forged.{number}.x"})] += 1
            outcomes[await status(ingress, {})] += 1
        assert outcomes == {(401, "token_invalid"): 10, (429, "rate_address"): 5, (401, "token_missing"): 15}
        assert await status(ingress, headers_of(user="ann")) == (202, "")
        assert await status(ingress, headers_of(user="new")) == (429, "rate_address"), "its token costs a signature"
        assert limited(ingress) == {"user_requests": 0, "address_requests": 0, "address_failures": 6}


async def test_a_user_beyond_its_own_budget_takes_nothing_from_its_address() -> None:
    async with served(**SLOW, user_requests_burst=2, address_requests_burst=4) as ingress:
        outcomes = Counter([await status(ingress, headers_of(user="rude")) for _ in range(10)])
        assert outcomes == {(202, ""): 2, (429, "rate_user"): 8}
        assert await status(ingress, headers_of(user="kind")) == (202, "")


async def test_the_addresses_of_one_64_are_one() -> None:
    async with served(**SLOW, **BEHIND, address_requests_burst=5) as ingress:
        outcomes = Counter(
            [await status(ingress, headers_of(user=f"u{n}") | {"X-Forwarded-For": f"2001:db8::{n}"}) for n in range(1, 11)]
        )
        assert outcomes == {(202, ""): 5, (429, "rate_address"): 5}


async def test_services_have_no_budget_and_use_up_none() -> None:
    async with served(**SLOW, user_requests_burst=3, address_requests_burst=3) as ingress:
        outcomes = await asyncio.gather(*(status(ingress, headers_of(Role.SERVICE)) for _ in range(30)))
        assert {code for code, _ in outcomes} == {202}
        assert [(await status(ingress, headers_of()))[0] for _ in range(4)] == [202, 202, 202, 429]


async def test_the_document_has_a_budget_of_its_own_by_address() -> None:
    async with served(**SLOW, address_requests_burst=1) as ingress:
        outcomes = set()
        for _ in range(80):
            async with ingress.http.get("/v1/openapi.json") as answer:
                outcomes.add(answer.status)
        assert outcomes == {200, 429}
        assert await status(ingress, headers_of()) == (202, "")


def test_the_usual_budgets_are_low_for_a_user_and_high_for_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIVEROOM_USER_REQUESTS_PER_S")
    settings: IngressSettings = settings_of()
    refused: list[RequestLimit] = []
    limits = RequestLimits(settings, refused.append)
    for _ in range(int(settings.user_requests_burst)):
        limits.take(User("u"), "a", 0.0)
    with pytest.raises(ProblemError):
        limits.take(User("u"), "a", 0.0)
    for number in range(int(settings.address_requests_burst - settings.user_requests_burst)):
        limits.take(User(f"u{number}"), "a", 0.0)
    with pytest.raises(ProblemError):
        limits.take(User("v"), "a", 0.0)
    limits.take(User("v"), "b", 0.0)
    assert refused == [RequestLimit.USER, RequestLimit.ADDRESS]
