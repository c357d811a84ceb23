"""What an interaction passes on its way in, over HTTP: the order, the rates, slow mode, and what
the log says.
"""

from typing import Any

import pytest
from yarl import URL

from liveroom.errors import Code
from liveroom.kafka import Unsent, UnsentError
from liveroom.kinds import Role
from liveroom.records.control import Moderation, RuleKind
from tests.ingress.harness import Served, headers_of, problem_of, served, settings_of

DANMAKU = "/v1/rooms/r1/danmaku"


async def post(ingress: Served, path: str, body: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    async with ingress.http.post(path, json=body, headers=headers_of(**more)) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_the_schema_is_checked_before_the_room_and_the_room_before_the_role() -> None:
    async with served() as ingress:
        for path, code in (
            ("/v1/rooms/a%20b/danmaku", Code.SCHEMA),
            ("/v1/rooms/a%20b/likes", Code.ROOM_INVALID),
            ("/v1/rooms/r1/likes", Code.FORBIDDEN),
        ):
            url = URL(ingress.url + path, encoded=True)
            async with ingress.http.post(url, json={}, headers=headers_of(Role.GUEST)) as answer:
                await problem_of(answer, code)


async def test_over_the_limit_of_waiting_ones_the_answer_is_503_at_once() -> None:
    async with served(max_waiting=3) as ingress:
        ingress.writer.waiting = 3
        async with ingress.http.post(DANMAKU, json={"text": "a"}, headers=headers_of()) as answer:
            await problem_of(answer, Code.QUEUE_UNAVAILABLE)
            assert answer.headers["Retry-After"] == "1"
        assert ingress.writer.taken == []
        assert ingress.count("liveroom_ingress_interactions_total", kind="danmaku", outcome="refused") == 1


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [
        pytest.param(Unsent.TIMEOUT, "unknown", id="no-ack"),
        pytest.param(Unsent.BROKEN, "unknown", id="broken"),
        pytest.param(Unsent.CLOSED, "refused", id="not-connected"),
    ],
)
async def test_without_an_ack_the_answer_is_503_and_the_count_says_what_is_known(reason: Unsent, outcome: str) -> None:
    async with served() as ingress:
        ingress.writer.error = UnsentError(reason)
        async with ingress.http.post("/v1/rooms/r1/gifts", json={"gift": "g"}, headers=headers_of()) as answer:
            await problem_of(answer, Code.QUEUE_UNAVAILABLE)
            assert answer.headers["Retry-After"] == "1"
        assert ingress.count("liveroom_ingress_interactions_total", kind="gift", outcome=outcome) == 1


def test_the_settings_leave_time_to_answer_within_3_s() -> None:
    assert settings_of().ack_timeout_s < 3


async def test_too_fast_is_429_and_says_when_to_come_again() -> None:
    async with served(rates={"danmaku": {"user_per_s": 0.5, "user_burst": 2}}) as ingress:

        async def say(user: str = "u1", role: Role = Role.VIEWER) -> tuple[int, dict[str, Any], str | None]:
            async with ingress.http.post(DANMAKU, json={"text": "x"}, headers=headers_of(role, user=user)) as answer:
                return answer.status, await answer.json(content_type=None), answer.headers.get("Retry-After")

        assert [(await say())[0] for _ in range(2)] == [202, 202]
        status, body, retry_after = await say()
        assert (status, body["code"], retry_after) == (429, "rate_user", "2")
        assert 1 < body["retry_after_s"] <= 2
        assert (await say("u2"))[0] == 202
        assert [(await say("s", Role.SERVICE))[0] for _ in range(10)] == [202] * 10


async def test_a_package_counts_for_all_that_is_in_it() -> None:
    package = {"package": "p", "items": [{"kind": "danmaku", "data": {"text": "x"}}] * 3}
    async with served(rates={"danmaku": {"user_per_s": 0.5, "user_burst": 5}}) as ingress:
        assert (await post(ingress, "/v1/rooms/r1/packages", package))[0] == 202
        status, body = await post(ingress, "/v1/rooms/r1/packages", package)
        assert (status, body["code"]) == (429, "rate_user")
    async with served() as ingress:
        ingress.rules.apply(Moderation(1, "r1", 1, RuleKind.MODE, "slow_s", value=30))
        status, body = await post(ingress, "/v1/rooms/r1/packages", package)
        assert (status, body["code"], body["detail"]) == (429, "slow_mode", "one message at a time")
        assert (await post(ingress, DANMAKU, {"text": "x"}))[0] == 202


async def test_what_was_not_written_does_not_count_in_slow_mode() -> None:
    async with served() as ingress:
        ingress.rules.apply(Moderation(1, "r1", 1, RuleKind.MODE, "slow_s", value=30))
        ingress.writer.error = UnsentError(Unsent.TIMEOUT)
        assert (await post(ingress, DANMAKU, {"text": "x"}))[0] == 503
        ingress.writer.error = None
        assert (await post(ingress, DANMAKU, {"text": "x"}))[0] == 202
        assert (await post(ingress, DANMAKU, {"text": "x"}))[1]["code"] == "slow_mode"


async def test_of_many_only_the_bad_ones_are_refused_whatever_the_log_says() -> None:
    rest = {"room": "r1", "user": "u", "kind": "custom"}
    items = [rest | {"data": {"type": "t", "body": "x" * size}} for size in (1, 3000, 2)]
    async with served() as ingress:
        status, body = await post(ingress, "/v1/interactions", {"items": items}, role=Role.SERVICE)
        assert (status, body["accepted"], [item.get("code") for item in body["items"]]) == (200, 2, [None, "too_large", None])
        ingress.writer.error = UnsentError(Unsent.TIMEOUT)
        status, body = await post(ingress, "/v1/interactions", {"items": items}, role=Role.SERVICE)
        assert [item["code"] for item in body["items"]] == ["queue_unavailable", "too_large", "queue_unavailable"]
        assert body["items"][0]["retry_after_s"] == 1
        assert ingress.count("liveroom_ingress_interactions_total", kind="custom", outcome="unknown") == 2
    async with served(max_waiting=1) as ingress:
        status, body = await post(ingress, "/v1/interactions", {"items": items}, role=Role.SERVICE)
        assert {item["code"] for item in body["items"]} == {"queue_unavailable"}
