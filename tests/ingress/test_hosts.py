"""Hosts: known from their first request on, in an order, and silent while banned or muted."""

import asyncio
import time
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from ingress.hosts import KNOWN_MS, MAX_HOSTS, HostRecords
from ingress.permissions import COMMAND_ROUTES, Command, CommandRoute
from liveroom.errors import Code
from liveroom.kinds import Kind, Role
from liveroom.moderation import EVERYWHERE, FOR_GOOD, Rules
from liveroom.records.codec import JsonReader
from liveroom.records.control import Moderation, RuleKind, record_of, rule_of
from liveroom.tickets import User
from liveroom.topics import UPLINK
from liveroom.wire import Card, Message, encode_message
from tests.ingress.harness import FakeLogWriter, Served, headers_of, problem_of, served

BODIES: dict[Command, dict[str, Any]] = {
    Command.MUTE: {"user": "target"},
    Command.BAN: {"user": "target"},
    Command.KICK: {"user": "target"},
    Command.CLEAR: {"user": "target", "message": "m1"},
    Command.MODES: {"slow_s": 5},
    Command.SET_ROOM_WORD: {"action": "mask"},
}
ON_USERS = {Command.MUTE, Command.UNMUTE, Command.BAN, Command.UNBAN, Command.KICK, Command.CLEAR}
ROOM_COMMANDS = [route for route in COMMAND_ROUTES if Role.STREAMER in route.roles and route.command is not Command.STATE]
HOSTS = (Role.MODERATOR, Role.STREAMER, Role.OPERATOR)
RANK = {None: 0, Role.VIEWER: 0, Role.MODERATOR: 1, Role.STREAMER: 2, Role.OPERATOR: 3}


async def give(ingress: Served, route: CommandRoute, role: Role, user: str = "host") -> Code | None:
    """Give a command in room r1; return the code of its refusal."""
    path = route.path.format(room="r1", user="target", word="darn")
    body = BODIES.get(route.command, {}) if route.method not in {"GET", "DELETE"} else None
    async with ingress.http.request(route.method, path, json=body, headers=headers_of(role, user=user)) as answer:
        return None if answer.status in {200, 202} else Code((await answer.json(content_type=None))["code"])


async def say(ingress: Served, role: Role, user: str, room: str = "r1") -> None:
    headers = headers_of(role, user=user)
    async with ingress.http.post(f"/v1/rooms/{room}/danmaku", json={"text": "hi"}, headers=headers) as answer:
        assert answer.status == 202


@pytest.mark.parametrize("target", [Role.VIEWER, *HOSTS], ids=lambda role: role.value)
@pytest.mark.parametrize("role", HOSTS, ids=lambda role: role.value)
async def test_the_order_of_hosts_holds_for_every_command(role: Role, target: Role) -> None:
    async with served() as ingress:
        await say(ingress, target, "target")
        for route in ROOM_COMMANDS:
            if role in route.roles:
                refused = route.command in ON_USERS and RANK[role] <= RANK[target]
                assert await give(ingress, route, role) is (Code.FORBIDDEN if refused else None), route.command


@pytest.mark.parametrize(("kind", "code"), [(RuleKind.MUTE, Code.MUTED), (RuleKind.BAN, Code.BANNED)])
@pytest.mark.parametrize("by", HOSTS, ids=lambda role: role.value)
@pytest.mark.parametrize("role", HOSTS, ids=lambda role: role.value)
async def test_a_host_who_is_muted_or_banned_by_a_better_gives_no_command(
    role: Role, by: Role, kind: RuleKind, code: Code
) -> None:
    async with served() as ingress:
        ingress.rules.apply(Moderation(1, "r1", 0, kind, "host", until_ms=FOR_GOOD, by_role=by))
        for route in ROOM_COMMANDS:
            if role in route.roles:
                expected = code if RANK[by] > RANK[role] else None
                assert await give(ingress, route, role) is expected, route.command


# Who sent the newest messages with the id, as (user, role): the data of the clear; None: forbidden
CLEARED_BY_ID_ALONE: dict[tuple[tuple[str, Role], ...], bytes | None] = {
    (): b'{"id":"m1"}',
    (("u", Role.VIEWER),): b'{"id":"m1","sender":"u"}',
    (("u", Role.VIEWER), ("v", Role.GUEST)): b'{"id":"m1"}',
    (("shop", Role.SERVICE),): b'{"id":"m1","sender":"shop"}',
    (("host", Role.MODERATOR),): b'{"id":"m1","sender":"host"}',  # its own
    (("other", Role.MODERATOR),): None,
    (("u", Role.VIEWER), ("star", Role.STREAMER)): None,
}


@pytest.mark.parametrize("sent", CLEARED_BY_ID_ALONE, ids=str)
async def test_a_message_is_cleared_by_its_id_alone_unless_a_host_of_the_rank_or_above_sent_it(
    sent: tuple[tuple[str, Role], ...],
) -> None:
    """As version 0.1 knows the command; today's names the user."""
    expected = CLEARED_BY_ID_ALONE[sent]
    lines = [
        encode_message(Message(number, Kind.DANMAKU, "m1", user, 1, role=role)) for number, (user, role) in enumerate(sent, 1)
    ]
    lines.append(encode_message(Message(9, Kind.DANMAKU, "other", "best", 1, role=Role.OPERATOR)))
    lines.append(encode_message(Message(10, Kind.CLEAR, "m1", "best", 1, role=Role.OPERATOR)))
    card = Card(messages=[msgspec.Raw(line) for line in lines])

    async def read() -> Card:
        return card

    async with served() as ingress:
        ingress.parts.statuses._cards["r1"] = time.monotonic(), asyncio.create_task(read())
        url, headers = "/v1/rooms/r1/clears", headers_of(Role.MODERATOR, user="host")
        async with ingress.http.post(url, json={"message": "m1"}, headers=headers) as answer:
            if expected is None:
                await problem_of(answer, Code.FORBIDDEN)
            else:
                assert answer.status == 202
        written = [value for topic, _, value in ingress.writer.written if topic is UPLINK and value is not None]
        assert [b'"data":' + expected in value for value in written] == [True] if expected is not None else not written


async def test_a_clear_names_a_user_or_a_message() -> None:
    headers = headers_of(Role.MODERATOR)
    async with served() as ingress:
        async with ingress.http.post("/v1/rooms/r1/clears", json={}, headers=headers) as answer:
            assert "user" in (await problem_of(answer, Code.SCHEMA))["detail"]
        async with ingress.http.post("/v1/rooms/r1/clears", json={"user": "u", "message": "m1"}, headers=headers) as answer:
            assert answer.status == 202
        (value,) = [value for topic, _, value in ingress.writer.written if topic is UPLINK and value is not None]
        assert b'"data":{"id":"m1","sender":"u"}' in value


async def test_a_host_without_rooms_is_told_that_the_token_must_name_them() -> None:
    headers = headers_of(Role.MODERATOR, rooms=None)
    async with served() as ingress, ingress.http.get("/v1/rooms/r1/mutes", headers=headers) as answer:
        assert "must name its rooms" in (await problem_of(answer, Code.FORBIDDEN))["detail"]


async def test_an_operator_is_known_in_all_rooms_and_a_host_in_the_own() -> None:
    async with served() as ingress:
        await say(ingress, Role.OPERATOR, "op", room="elsewhere")
        await say(ingress, Role.MODERATOR, "mod")
        now_ms = int(time.time() * 1000)
        assert ingress.rules.role_of("r1", "op", now_ms) == Role.OPERATOR
        assert ingress.rules.role_of("r1", "mod", now_ms) == Role.MODERATOR
        assert ingress.rules.role_of("r2", "mod", now_ms) is None


# ---- the records
@pytest.mark.parametrize("value", ["moderator", "streamer", "operator", None])
def test_a_record_of_a_host_is_read_as_it_was_meant(value: str | None) -> None:
    rule = Moderation(1, "r", 5, RuleKind.HOST, "u", "u", until_ms=99 if value else 0, value=value, by_role=Role.MODERATOR)
    assert rule_of(record_of(rule)) == rule
    mute = Moderation(1, "r", 5, RuleKind.MUTE, "u", "star", until_ms=FOR_GOOD, by_role=Role.STREAMER)
    assert rule_of(record_of(mute)) == mute


class Recorded:
    """The records of one ingress, and what it wrote."""

    def __init__(self) -> None:
        self.writer, self.rules = FakeLogWriter(), Rules()
        self.hosts = HostRecords(self.writer, self.rules)

    async def note(self, role: Role, user: str = "u", room: str = "r", rooms: tuple[str, ...] | None = None) -> int:
        """Note a request; return how many records it wrote."""
        before = len(self.writer.written)
        await self.hosts.note(room, User(user, role, rooms=rooms))
        return len(self.writer.written) - before

    def role(self, user: str = "u", room: str = "r") -> str | None:
        return self.rules.role_of(room, user, int(time.time() * 1000))


async def test_a_host_is_written_once() -> None:
    recorded = Recorded()
    assert [await recorded.note(Role.MODERATOR) for _ in range(3)] == [1, 0, 0]
    _, key, value = recorded.writer.written[0]
    assert key == b"r/host/u"
    record = JsonReader(Moderation).read(value)
    assert (record.kind, record.name, record.until_ms) == (RuleKind.MUTE, "!u", 0), "earlier versions see no rule in it"
    assert rule_of(record) == recorded.rules.host("r", "u", int(time.time() * 1000))
    assert [await recorded.note(Role.VIEWER, "v"), await recorded.note(Role.SERVICE, "s")] == [0, 0]


async def test_the_latest_token_decides() -> None:
    recorded = Recorded()
    for role in (Role.MODERATOR, Role.STREAMER):
        await recorded.note(role)
        assert recorded.role() == role
    assert await recorded.note(Role.SERVICE) == 0, "a service is no user"
    await recorded.note(Role.OPERATOR)
    assert (recorded.role(), recorded.role(room="other")) == (Role.OPERATOR, Role.OPERATOR)
    await recorded.note(Role.MODERATOR)
    assert (recorded.role(), recorded.role(room="other")) == (Role.MODERATOR, None)
    await recorded.note(Role.VIEWER)
    assert recorded.role() is None


async def test_an_operator_of_some_rooms_is_recorded_in_these() -> None:
    recorded = Recorded()
    assert await recorded.note(Role.OPERATOR, rooms=("r",)) == 1
    assert (recorded.role(), recorded.role(room="other")) == (Role.OPERATOR, None)
    assert await recorded.note(Role.VIEWER) == 1
    assert recorded.role() is None


@pytest.mark.parametrize("rooms", [pytest.param((), id="no room"), pytest.param(("r1",), id="one room")])
async def test_an_operator_whose_token_names_rooms_gives_no_command_about_all_rooms(rooms: tuple[str, ...]) -> None:
    everywhere = [route for route in COMMAND_ROUTES if "{room}" not in route.path and route.command is not Command.BULK]
    assert {Command.SET_WORD, Command.ANNOUNCE} <= {route.command for route in everywhere}
    headers = headers_of(Role.OPERATOR, rooms=rooms)
    async with served() as ingress:
        for route in everywhere:
            given: dict[str, str] | None = {} if route.method not in {"GET", "DELETE"} else None
            path = route.path.format(word="w", id="x", user="u")
            async with ingress.http.request(route.method, path, json=given, headers=headers) as answer:
                await problem_of(answer, Code.FORBIDDEN)
        assert ingress.writer.written == []


async def test_a_host_with_a_role_of_a_later_version_is_acted_on_by_nobody() -> None:
    until_ms = int(time.time() * 1000) + KNOWN_MS
    async with served() as ingress:
        record = JsonReader(Moderation).read(
            b'{"v":1,"room":"r1","at_ms":5,"kind":"mute","name":"!target","host":"emperor","host_until_ms":%d}' % until_ms
        )
        ingress.rules.apply(rule_of(record))
        for route in ROOM_COMMANDS:
            if route.command in ON_USERS:
                assert await give(ingress, route, Role.OPERATOR) is Code.FORBIDDEN, route.command


async def test_commands_about_all_rooms_record_an_operator_once() -> None:
    recorded = Recorded()
    assert [await recorded.note(Role.OPERATOR, room=EVERYWHERE) for _ in range(2)] == [1, 0]
    assert recorded.role() == Role.OPERATOR


async def test_a_record_is_renewed_in_its_second_half_and_ends() -> None:
    recorded, now_ms = Recorded(), int(time.time() * 1000)
    rule = Moderation(1, "r", now_ms, RuleKind.HOST, "u", until_ms=now_ms + KNOWN_MS // 2 - 1000, value="moderator")
    recorded.rules.apply(rule)
    assert await recorded.note(Role.MODERATOR) == 1
    assert await recorded.note(Role.MODERATOR) == 0
    assert recorded.rules.role_of("r", "u", now_ms + KNOWN_MS + 60_000) is None


async def test_the_hosts_of_a_room_are_capped() -> None:
    recorded, now_ms = Recorded(), int(time.time() * 1000)
    for number in range(MAX_HOSTS):
        recorded.rules.apply(Moderation(1, "r", 0, RuleKind.HOST, f"m{number}", until_ms=now_ms + KNOWN_MS, value="moderator"))
    with capture_logs() as logged:
        assert await recorded.note(Role.MODERATOR) == 0
    assert [event["event"] for event in logged] == ["host_not_recorded"]
    assert await recorded.note(Role.STREAMER, "m0") == 1, "who is known stays known"
