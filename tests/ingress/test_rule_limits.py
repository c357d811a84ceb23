"""How many rules a room may have: beyond that a command is refused, and the refusal names what to
lift.
"""

from typing import Any

import pytest

from ingress.moderation import MAX_ROOM_WORDS, MAX_SANCTIONS, MAX_WORDS
from liveroom import clock
from liveroom.errors import Code
from liveroom.kinds import Role
from liveroom.moderation import EVERYWHERE, FOR_GOOD, Rules
from liveroom.records.control import Moderation, RuleKind
from liveroom.topics import MODERATION
from tests.ingress.harness import headers_of, problem_of, served

HOST = headers_of(Role.MODERATOR, rooms=("r",))


def fill(rules: Rules, kind: RuleKind, number: int, room: str = "r", **more: Any) -> None:
    for each in range(number):
        rules.apply(Moderation(1, room, 1, kind, f"x{each}", **more))


@pytest.mark.parametrize("kind", [RuleKind.MUTE, RuleKind.BAN])
async def test_a_room_has_so_many_mutes_and_bans_until_one_is_lifted(kind: RuleKind) -> None:
    path, most = f"/v1/rooms/r/{kind.value}s", MAX_SANCTIONS[kind]
    async with served() as ingress:
        fill(ingress.rules, kind, most, until_ms=FOR_GOOD)
        answer = await ingress.http.post(path, json={"user": "troll"}, headers=HOST)
        problem = await problem_of(answer, Code.LIMIT)
        assert problem["detail"] == f"at most {most} {kind.value}s in a room; lift one first (DELETE {path}/{{user}})"
        assert not [key for _, key, _ in ingress.writer.written if f"/{kind.value}/".encode() in key]
        assert ingress.count("liveroom_ingress_refusals_total", code="limit") == 1
        again = await ingress.http.post(path, json={"user": "x1", "for_s": 60}, headers=HOST)
        assert again.status == 202, "it replaces a rule"
        assert (await ingress.http.delete(f"{path}/x0", headers=HOST)).status == 202
        assert (await ingress.http.post(path, json={"user": "troll"}, headers=HOST)).status == 202
        other = headers_of(Role.MODERATOR, rooms=("s",))
        assert (await ingress.http.post(f"/v1/rooms/s/{kind.value}s", json={"user": "troll"}, headers=other)).status == 202


async def test_mutes_that_have_ended_make_space() -> None:
    async with served() as ingress:
        fill(ingress.rules, RuleKind.MUTE, MAX_SANCTIONS[RuleKind.MUTE], until_ms=clock.unix_ms() - 1)
        answer = await ingress.http.post("/v1/rooms/r/mutes", json={"user": "troll"}, headers=HOST)
        assert answer.status == 202
        while ingress.rules.expire(clock.unix_ms()):
            pass
        assert ingress.rules.numbers[RuleKind.MUTE] == 1, "they take no memory any more"


@pytest.mark.parametrize(
    ("room", "path", "most"),
    [
        pytest.param("r", "/v1/rooms/r/words", MAX_ROOM_WORDS, id="of a room"),
        pytest.param(EVERYWHERE, "/v1/words", MAX_WORDS, id="of all rooms"),
    ],
)
async def test_there_are_so_many_words_until_one_is_removed(room: str, path: str, most: int) -> None:
    operator, body = headers_of(Role.OPERATOR), {"action": "mask"}
    async with served() as ingress:
        fill(ingress.rules, RuleKind.WORD, most, room, value="mask")
        await problem_of(await ingress.http.put(f"{path}/darn", json=body, headers=operator), Code.LIMIT)
        assert (await ingress.http.put(f"{path}/x1", json={"action": "refuse"}, headers=operator)).status == 202
        assert (await ingress.http.delete(f"{path}/x0", headers=operator)).status == 202
        assert (await ingress.http.put(f"{path}/darn", json=body, headers=operator)).status == 202
        assert {topic for topic, *_ in ingress.writer.written} >= {MODERATION}
