"""The commands about tokens and connections: who may give them, what they write, how many there may
be.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ingress import revocation_api
from ingress.ended_revocations import withdraw_once
from liveroom import clock
from liveroom.errors import Code
from liveroom.kafka import Unsent, UnsentError
from liveroom.kinds import Role
from liveroom.records.codec import JsonReader
from liveroom.records.control import Audit
from liveroom.records.revocations import Revocation
from liveroom.topics import AUDIT, REVOCATIONS
from tests.ingress.harness import Served, headers_of, problem_of, served

URL = "/v1/revocations"
LIFE_S = 30 * 86_400
LEEWAY_S = 30


def written(ingress: Served, topic: Any) -> list[tuple[bytes, bytes | None]]:
    return [(key, value) for of, key, value in ingress.writer.written if of is topic]


async def revoke(ingress: Served, role: Role = Role.OPERATOR, **body: Any) -> dict[str, Any]:
    async with ingress.http.post(URL, json=body, headers=headers_of(role, user="op")) as answer:
        assert answer.status == 200, await answer.text()
        revoked: dict[str, Any] = await answer.json()
        return revoked


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.SERVICE])
async def test_a_revocation_is_written_with_its_end_and_audited_and_holds_at_once(role: Role) -> None:
    async with served() as ingress:
        theirs = headers_of(user="u9")
        before = int(time.time())
        revoked = await revoke(ingress, role, user="u9", why="stolen", id="r-1")
        assert before < revoked["issued_before_s"] <= time.time() + 1
        assert revoked["until_ms"] == (revoked["issued_before_s"] + LIFE_S + LEEWAY_S) * 1000
        ((key, value),) = written(ingress, REVOCATIONS)
        record = JsonReader(Revocation).read(value)
        assert (key, record.id, record.user, record.by, record.why) == (b"r-1", "r-1", "u9", "op", "stolen")
        audit = JsonReader(Audit).read(written(ingress, AUDIT)[0][1])
        assert (audit.action, audit.by, audit.role, audit.what["user"]) == ("revoke", "op", role, "u9")
        async with ingress.http.post("/v1/rooms/r1/danmaku", json={"text": "x"}, headers=theirs) as answer:
            problem = await problem_of(answer, Code.REVOKED)
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert problem["title"] == "The token was revoked; a token that is issued now is valid"
        async with ingress.http.post("/v1/rooms/r1/danmaku", json={"text": "x"}, headers=headers_of(user="u8")) as answer:
            assert answer.status == 202


@pytest.mark.parametrize("role", [Role.GUEST, Role.VIEWER, Role.STREAMER, Role.MODERATOR])
async def test_hosts_of_rooms_and_viewers_are_refused(role: Role) -> None:
    async with served() as ingress:
        for method, path in (
            ("POST", URL),
            ("GET", URL),
            ("DELETE", f"{URL}/r-1"),
            ("GET", "/v1/users/u9/connections"),
            ("DELETE", "/v1/users/u9/connections"),
        ):
            body = {"user": "u9"} if method == "POST" else None
            async with ingress.http.request(method, path, json=body, headers=headers_of(role)) as answer:
                problem = await problem_of(answer, Code.FORBIDDEN)
                hosts_rooms = "a command about all rooms needs a token without the claim rooms"
                assert problem["detail"].startswith((f"the role {role.value} may not use the command", hosts_rooms))
        assert ingress.writer.written == []


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        pytest.param({}, "name a user, or issued_before_s", id="nobody"),
        pytest.param({"device": "phone", "issued_before_s": 5}, "name the user too", id="a device of nobody"),
        pytest.param({"user": "u", "issued_before_s": 2_000_000_000_000}, "in the future", id="milliseconds"),
        pytest.param({"issued_before_s": 1}, "has expired", id="long ago"),
        pytest.param({"user": "auth0|1"}, "user id", id="no user id"),
        pytest.param({"user": "u", "device": "a b"}, "device", id="no device id"),
        pytest.param({"user": "u", "for_s": 5}, "for_s", id="an unknown field"),
    ],
)
async def test_a_revocation_that_makes_no_sense_is_refused_and_says_why(body: dict[str, Any], detail: str) -> None:
    async with served() as ingress, ingress.http.post(URL, json=body, headers=headers_of(Role.OPERATOR)) as answer:
        assert detail in (await problem_of(answer, Code.SCHEMA))["detail"]
        assert ingress.writer.written == []


async def test_the_same_request_again_writes_nothing_new_and_its_id_is_good_for_nothing_else() -> None:
    async with served() as ingress:
        first = await revoke(ingress, user="u9", id="r-1")
        assert await revoke(ingress, user="u9", id="r-1") == first
        assert len(written(ingress, REVOCATIONS)) == 1
        for body in ({"user": "u8"}, {"user": "u9", "device": "d"}, {"user": "u9", "issued_before_s": 1_700_000_000}):
            async with ingress.http.post(URL, json=body | {"id": "r-1"}, headers=headers_of(Role.OPERATOR)) as answer:
                assert answer.status == 422
        ingress.revocations.apply(Revocation(1, "old", clock.unix_ms() - 600_001, 5, 2**50, "u9"))
        async with ingress.http.post(URL, json={"user": "u9", "id": "old"}, headers=headers_of(Role.OPERATOR)) as answer:
            assert "another revocation" in (await problem_of(answer, Code.SCHEMA))["detail"]


async def test_so_many_revocations_are_kept_and_a_further_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_api, "MAX_REVOCATIONS", 3)
    async with served() as ingress:
        for number in range(3):
            await revoke(ingress, user=f"x{number}", id=f"r{number}")
        async with ingress.http.post(URL, json={"user": "u9"}, headers=headers_of(Role.SERVICE)) as answer:
            assert "at most 3 revocations" in (await problem_of(answer, Code.LIMIT))["detail"]
        async with ingress.http.delete(f"{URL}/r1", headers=headers_of(Role.SERVICE)) as answer:
            assert answer.status == 202
        await revoke(ingress, user="u9")
        assert len(ingress.revocations) == 3


async def test_revocations_are_listed_by_id_in_parts_and_lifted() -> None:
    async with served() as ingress:
        for id_ in ("c", "a", "b"):
            await revoke(ingress, user=f"u-{id_}", id=id_)
        ingress.revocations.apply(Revocation(1, "ended", 0, 5, clock.unix_ms() - 1, "u"))
        headers = headers_of(Role.OPERATOR)
        async with ingress.http.get(f"{URL}?limit=2", headers=headers) as answer:
            first = await answer.json()
        async with ingress.http.get(f"{URL}?limit=2&after={first['after']}", headers=headers) as answer:
            second = await answer.json()
        assert [each["id"] for each in first["revocations"]] == ["a", "b"]
        assert ([each["id"] for each in second["revocations"]], second["after"]) == (["c"], "")
        async with ingress.http.delete(f"{URL}/a", headers=headers) as answer:
            assert (answer.status, (await answer.json())["user"]) == (202, "u-a")
        assert written(ingress, REVOCATIONS)[-1] == (b"a", None)
        assert ingress.revocations.get("a") is None
        async with ingress.http.delete(f"{URL}/a%20b", headers=headers) as answer:
            await problem_of(answer, Code.NOT_FOUND)
        async with ingress.http.get(f"{URL}?limit=0", headers=headers) as answer:
            await problem_of(answer, Code.BAD_REQUEST)


async def test_what_the_log_does_not_take_does_not_hold() -> None:
    async with served() as ingress:
        ingress.writer.error = UnsentError(Unsent.TIMEOUT)
        async with ingress.http.post(URL, json={"user": "u9"}, headers=headers_of(Role.OPERATOR)) as answer:
            await problem_of(answer, Code.QUEUE_UNAVAILABLE)
        async with ingress.http.delete(f"{URL}/a", headers=headers_of(Role.OPERATOR)) as answer:
            await problem_of(answer, Code.QUEUE_UNAVAILABLE)
        assert len(ingress.revocations) == 0


async def test_all_callers_together_have_a_rate_services_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_api, "BURST", 3.0)
    monkeypatch.setattr(revocation_api, "PER_S", 0.01)
    async with served() as ingress:
        for number in range(3):
            await revoke(ingress, Role.SERVICE, user=f"x{number}")
        async with ingress.http.post(URL, json={"user": "u9"}, headers=headers_of(Role.SERVICE)) as answer:
            await problem_of(answer, Code.RATE_USER)


async def test_a_request_whose_body_comes_after_the_revocation_is_refused() -> None:
    async with served() as ingress:
        is_revoked = asyncio.Event()

        async def body() -> AsyncIterator[bytes]:
            yield b'{"text":'
            await is_revoked.wait()
            yield b'"x"}'

        headers = headers_of(user="u9") | {"Content-Type": "application/json"}
        sending = asyncio.create_task(ingress.http.post("/v1/rooms/r1/danmaku", data=body(), headers=headers))
        await revoke(ingress, user="u9")
        is_revoked.set()
        async with await sending as answer:
            await problem_of(answer, Code.REVOKED)
        assert ingress.writer.taken == []


async def test_nothing_is_accepted_until_the_revocations_are_read() -> None:
    async with served() as ingress:
        ingress.revocations.are_read = False
        async with ingress.http.post("/v1/rooms/r1/danmaku", json={"text": "x"}, headers=headers_of()) as answer:
            assert "revocations are not read" in (await problem_of(answer, Code.NOT_READY))["detail"]


async def test_revocations_leave_the_topic_once_they_have_ended() -> None:
    async with served() as ingress:
        now_ms = clock.unix_ms()
        table = ingress.revocations
        table.apply(Revocation(1, "ended", 0, 5, now_ms - 1, "a"))
        table.apply(Revocation(1, "older", 0, 5, 2**50, "b"))
        table.apply(Revocation(1, "newer", 0, 6, 2**50, "b"))
        ingress.writer.error = UnsentError(Unsent.TIMEOUT)
        await withdraw_once(ingress.writer, table)
        assert len(table) == 3
        ingress.writer.error = None
        await withdraw_once(ingress.writer, table)
        assert written(ingress, REVOCATIONS) == [(b"ended", None)]
        assert [each.id for each in table] == ["older", "newer"]


async def test_a_stolen_token_stays_revoked_when_a_later_revocation_is_lifted() -> None:
    async with served() as ingress:
        now_s = int(clock.unix_s())
        await revoke(ingress, user="u9", id="stolen", issued_before_s=now_s - 1800)
        await revoke(ingress, user="u9", id="mistake")
        await withdraw_once(ingress.writer, ingress.revocations)
        async with ingress.http.delete(f"{URL}/mistake", headers=headers_of(Role.OPERATOR)) as answer:
            assert answer.status == 202
        assert ingress.revocations.revokes("u9", "", now_s - 3600)
        assert not ingress.revocations.revokes("u9", "", now_s)


async def test_one_target_takes_a_share_of_the_revocations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(revocation_api, "MAX_OF_TARGET", 2)
    async with served() as ingress:
        first = await revoke(ingress, user="u9", id="r0")
        await revoke(ingress, user="u9", id="r1")
        async with ingress.http.post(URL, json={"user": "u9"}, headers=headers_of(Role.SERVICE)) as answer:
            assert "of the same tokens" in (await problem_of(answer, Code.LIMIT))["detail"]
        assert await revoke(ingress, user="u9", id="r0") == first
        await revoke(ingress, user="u9", device="phone")
        await revoke(ingress, user="u8")
        assert len(ingress.revocations) == 4
