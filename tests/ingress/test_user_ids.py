"""User ids at the ingress: users whom an identity service names by any text send and are moderated,
a text where an id belongs is refused with its id, and bodies of the longest ids are taken.
"""

from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from ingress.command_requests import MAX_COMMAND_BYTES
from ingress.requests import MAX_BULK_BYTES, MAX_BULK_ITEMS
from liveroom.errors import Code
from liveroom.kinds import Kind, Role
from liveroom.records.uplink import MAX_UPLINK_BYTES, Item, Uplink, encode_uplink
from liveroom.topics import MODERATION
from liveroom.users import MAX_USER_ID_CHARS, user_id
from tests.ingress.harness import headers_of, problem_of, served

AUTH0, AUTH0_ID = "auth0|5f7c8ec7", "~YXV0aDB8NWY3YzhlYzc"
LONGEST = [user_id(f"{number:04}" + "\N{PARTY POPPER}" * 31) for number in range(MAX_BULK_ITEMS)]
HOST = headers_of(Role.OPERATOR, user="host")
SERVICE = headers_of(Role.SERVICE, user="gifts")
EVERY_BODY = [
    pytest.param("POST", "mutes", {"user": AUTH0}, "$.user", id="mute"),
    pytest.param("POST", "bans", {"user": AUTH0}, "$.user", id="ban"),
    pytest.param("POST", "kicks", {"user": AUTH0}, "$.user", id="kick"),
    pytest.param("POST", "clears", {"user": AUTH0}, "$.user", id="clear"),
    pytest.param("PATCH", "modes", {"allow": ["anna", AUTH0]}, "$.allow[1]", id="allow"),
    pytest.param("POST", "danmaku", {"text": "hi", "mention": [AUTH0]}, "$.mention[0]", id="mention"),
    pytest.param(
        "POST",
        "packages",
        {"package": "p", "items": [{"kind": "danmaku", "data": {"text": "hi", "mention": ["u", "u", AUTH0]}}]},
        "$.items[0].data.mention[2]",
        id="in a package",
    ),
]
NO_TEXTS = ["~YW5uYQ", "~tom", "~" + "." * 191, "u" * 150, "~fnRvbR"]


def named(body: Any) -> Any:
    """The same body with the user id in place of the text."""
    return msgspec.json.decode(msgspec.json.encode(body).replace(AUTH0.encode(), AUTH0_ID.encode()))


@pytest.mark.parametrize("user", [AUTH0, "名前 with space", "ann+tag@example.org", "a/b", "~tom", "\N{PARTY POPPER}" * 32])
async def test_a_user_of_any_text_sends_under_its_user_id(user: str) -> None:
    async with served() as ingress:
        path = "/v1/rooms/lobby/danmaku"
        async with ingress.http.post(path, json={"text": "hi"}, headers=headers_of(user=user)) as answer:
            assert answer.status == 202
        [record] = ingress.writer.taken
        assert record.user == user_id(user)


@pytest.mark.parametrize(("method", "path", "body", "at"), EVERY_BODY)
async def test_a_text_in_a_body_is_refused_and_its_field_and_its_user_id_are_named(
    method: str, path: str, body: dict[str, Any], at: str
) -> None:
    url = f"/v1/rooms/lobby/{path}"
    async with served() as ingress:
        async with ingress.http.request(method, url, json=body, headers=HOST) as answer:
            detail = (await problem_of(answer, Code.SCHEMA))["detail"]
        assert AUTH0_ID in detail
        assert detail.endswith(f" - at `{at}`")
        assert not ingress.writer.written
        async with ingress.http.request(method, url, json=named(body), headers=HOST) as answer:
            assert answer.status == 202, await answer.text()


@pytest.mark.parametrize("text", ["", "~", "u~", "u" * 193, ".", "..", "\ud800"])
async def test_what_is_no_user_id_at_all_is_refused(text: str) -> None:
    async with (
        served() as ingress,
        ingress.http.post("/v1/rooms/lobby/mutes", json={"user": text}, headers=HOST) as answer,
    ):
        await problem_of(answer, Code.BAD_JSON if text == "\ud800" else Code.SCHEMA)


async def test_a_text_in_a_bulk_request_is_refused_alone() -> None:
    items = [{"room": "lobby", "user": user, "kind": "gift", "data": {"gift": "rose"}} for user in (AUTH0, AUTH0_ID)]
    async with (
        served() as ingress,
        ingress.http.post("/v1/interactions", json={"items": items}, headers=SERVICE) as answer,
    ):
        refused, taken = (await answer.json())["items"]
        assert refused["code"] == Code.SCHEMA.value
        assert AUTH0_ID in refused["detail"]
        assert refused["detail"].endswith(" - at `$.user`")
        assert taken["id"]
        assert [record.user for record in ingress.writer.taken] == [AUTH0_ID]


@pytest.mark.parametrize(
    "user",
    ["ann@example.org", "a:b", user_id("~tom"), user_id(AUTH0), LONGEST[0], user_id("."), user_id(".."), "...", *NO_TEXTS],
)
@pytest.mark.parametrize("list_", ["mutes", "bans"])
async def test_a_user_is_lifted_by_its_path_however_it_is_encoded(list_: str, user: str) -> None:
    url = f"/v1/rooms/lobby/{list_}"
    every = "".join(f"%{byte:02X}" for byte in user.encode())
    async with served() as ingress:
        for path in (user, quote(user, safe=""), every):
            async with ingress.http.post(url, json={"user": user}, headers=HOST) as answer:
                assert answer.status == 202
            async with ingress.http.get(url, headers=HOST) as answer:
                assert [each["user"] for each in (await answer.json())["users"]] == [user]
            async with ingress.http.delete(f"{url}/{path}", headers=HOST) as answer:
                assert answer.status == 202, await answer.text()
            async with ingress.http.get(url, headers=HOST) as answer:
                assert (await answer.json())["users"] == []
        keys = {key for topic, key, _ in ingress.writer.written if topic is MODERATION and key != b"*/host/host"}
        assert keys == {f"lobby/{list_[:-1]}/{user}".encode()}


@pytest.mark.parametrize("text", [AUTH0, "a/b", "名前"])
async def test_a_text_in_a_path_is_refused_and_its_user_id_is_named(text: str) -> None:
    url = f"/v1/rooms/lobby/bans/{quote(text, safe='')}"
    async with served() as ingress, ingress.http.delete(url, headers=HOST) as answer:
        assert user_id(text) in (await problem_of(answer, Code.NOT_FOUND))["detail"]


async def test_an_allow_list_of_200_of_the_longest_user_ids_is_taken_however_it_is_laid_out() -> None:
    body = msgspec.json.encode({"allow": LONGEST[:200], "why": "\N{PARTY POPPER}" * 200, "id": "i" * 64})
    json = HOST | {"Content-Type": "application/json"}
    for laid_out in (body, msgspec.json.format(body, indent=4)):
        async with (
            served(max_body_bytes=4096) as ingress,
            ingress.http.patch("/v1/rooms/lobby/modes", data=laid_out, headers=json) as answer,
        ):
            assert answer.status == 202, await answer.text()
            [record] = ingress.writer.taken
            assert msgspec.json.decode(record.items[0].data) == {"allow": LONGEST[:200]}
    assert len(msgspec.json.format(body, indent=4)) < MAX_COMMAND_BYTES * 0.6


async def test_a_bulk_request_of_1000_gifts_of_the_longest_ids_is_taken() -> None:
    longest = {"room": "r" * 64, "name": "\N{PARTY POPPER}" * 64, "role": "viewer", "level": 255, "kind": "gift"}
    data = {"gift": "g" * 64, "count": 99_999}
    items = [longest | {"user": user, "id": f"{number:064}", "data": data} for number, user in enumerate(LONGEST)]
    body = msgspec.json.encode({"items": items})
    assert MAX_BULK_BYTES * 0.6 < len(body) < MAX_BULK_BYTES * 0.8
    async with (
        served() as ingress,
        ingress.http.post("/v1/interactions", data=body, headers=SERVICE | {"Content-Type": "application/json"}) as answer,
    ):
        assert (await answer.json())["accepted"] == MAX_BULK_ITEMS


def test_a_record_with_the_longest_allow_list_that_records_have_room_for_fits() -> None:
    allow = ["~" + "u" * (MAX_USER_ID_CHARS - 1)] * 200
    item = Item(Kind.ROOM, msgspec.Raw(msgspec.json.encode({"allow": allow})))
    record = Uplink(1, "r" * 64, "i" * 64, allow[0], 2**53, [item], "\x01" * 64, Role.MODERATOR, 255, "p" * 64, "ingress")
    assert 39_000 < len(encode_uplink(record)) < MAX_UPLINK_BYTES * 0.65
