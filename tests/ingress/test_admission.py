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


def package_of(*items: Any, **more: Any) -> dict[str, Any]:
    """A package for a user, in a bulk request."""
    return {"room": "r1", "user": "ann", "id": "order-1", "package": "party", "items": list(items)} | more


GIFT_ITEM = {"kind": "gift", "data": {"gift": "rose", "count": 3}}
TEXT_ITEM = {"kind": "danmaku", "data": {"text": "party!"}}


async def test_a_service_publishes_a_package_of_a_user_which_stays_whole() -> None:
    async with served(viewers_may_claim_payment=False) as ingress:
        items = [package_of(GIFT_ITEM, TEXT_ITEM), {"room": "r1", "user": "bob", **TEXT_ITEM}]
        status, body = await post(ingress, "/v1/interactions", {"items": items}, role=Role.SERVICE)
        assert (status, body["accepted"], body["items"][0]) == (200, 2, {"id": "order-1"})
        record = ingress.writer.taken[0]
        assert (record.user, record.role, record.package, record.id) == ("ann", Role.VIEWER, "party", "order-1")
        assert [item.kind.value for item in record.items] == ["gift", "danmaku"]
        assert ingress.count("liveroom_ingress_interactions_total", kind="package", outcome="accepted") == 1


@pytest.mark.parametrize(
    ("item", "code", "detail"),
    [
        pytest.param(package_of(GIFT_ITEM, {"kind": "gift", "data": {"gift": ""}}), "schema", "$.items[1].data.gift", id="bad"),
        pytest.param(package_of(), "schema", "at least one item", id="empty"),
        pytest.param(package_of(*[TEXT_ITEM] * 65), "package_too_large", "65 items", id="of too many"),
        pytest.param(package_of(TEXT_ITEM, package=""), "schema", "$.package", id="of an empty name"),
        pytest.param({"room": "r1", "user": "ann", "items": [TEXT_ITEM]}, "schema", "`kind` and `data`, or", id="no name"),
        pytest.param({"room": "r1", "user": "ann", "package": "p"}, "schema", "`kind` and `data`, or", id="no items"),
        pytest.param({"room": "r1", "user": "ann", "kind": "gift"}, "schema", "`kind` and `data`, or", id="no data"),
        pytest.param({"room": "r1", "user": "ann"}, "schema", "`kind` and `data`, or", id="nothing"),
        pytest.param(package_of(TEXT_ITEM, **GIFT_ITEM), "schema", "`kind` and `data`, or", id="both"),
        pytest.param(
            package_of(TEXT_ITEM, {"kind": "announcement", "data": {"text": "x"}}), "forbidden", "announcement", id="forbidden"
        ),
    ],
)
async def test_a_package_of_a_user_that_is_none_is_refused_whole_and_alone(item: Any, code: str, detail: str) -> None:
    async with served() as ingress:
        good = {"room": "r1", "user": "bob", **TEXT_ITEM}
        _, body = await post(ingress, "/v1/interactions", {"items": [item, good]}, role=Role.SERVICE)
        assert (body["accepted"], body["items"][0]["code"]) == (1, code)
        assert detail in body["items"][0]["detail"]
        assert [record.user for record in ingress.writer.taken] == ["bob"]


async def test_items_of_packages_count_towards_those_of_a_bulk_request() -> None:
    async with served() as ingress:
        many = [package_of(*[TEXT_ITEM] * 64, id=f"order-{number}") for number in range(16)]
        status, body = await post(ingress, "/v1/interactions", {"items": many}, role=Role.SERVICE)
        assert (status, body["code"]) == (413, "too_large")
        assert "1024 items" in body["detail"]
        status, body = await post(ingress, "/v1/interactions", {"items": many[:15]}, role=Role.SERVICE)
        assert (status, body["accepted"]) == (200, 15)


async def test_a_mode_that_forbids_one_item_refuses_a_package_of_a_user_whole() -> None:
    async with served() as ingress:
        ingress.rules.apply(Moderation(1, "r1", 1, RuleKind.MODE, "no_media", value=True))
        items = [package_of(TEXT_ITEM, {"kind": "custom", "data": {"type": "sticker"}})]
        _, body = await post(ingress, "/v1/interactions", {"items": items}, role=Role.SERVICE)
        assert body["items"][0]["code"] == "no_media"
        assert ingress.writer.taken == []


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
