"""Who may be in a room: its modes `guests` and `restricted`, and kicks of hosts by their rank."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from edge.bans import Bans
from edge.hub import SLICE, Hub
from liveroom.closecodes import Close
from liveroom.errors import Code
from liveroom.kinds import Kind, Role
from liveroom.moderation import EVERYWHERE, Rules
from liveroom.records.control import Moderation, RuleKind
from liveroom.refusals import RefusalLog
from liveroom.settings import SchedulerSettings
from liveroom.tickets import User
from liveroom.topics import room_hash
from liveroom.wire import Notice, encode_frame
from scheduler.placement import Placement
from tests.edge.harness import Edge, running, settings_of
from tests.edge.test_hub import FakeMember
from tests.scheduler.test_app import TOKEN_KEY, bearer, get, served
from tests.scheduler.test_placement import report
from tests.tickets import PRIVATE_KEYS

NAMED, UNNAMED = ("r",), None
ADMITTED = {
    # role, rooms of the token: in an open room, with guests false, with restricted true
    (Role.GUEST, UNNAMED): (True, False, False),
    (Role.GUEST, NAMED): (True, False, True),
    (Role.VIEWER, UNNAMED): (True, True, False),
    (Role.VIEWER, NAMED): (True, True, True),
    (Role.MODERATOR, NAMED): (True, True, True),
    (Role.STREAMER, NAMED): (True, True, True),
    (Role.OPERATOR, UNNAMED): (True, True, True),
    (Role.OPERATOR, NAMED): (True, True, True),
}
MODES = (None, ("guests", False), ("restricted", True))


def mode(name: str, value: bool, room: str = "r") -> Moderation:
    return Moderation(1, room, 1, RuleKind.MODE, name, value=value)


@asynccontextmanager
async def gateway(*rules: Moderation) -> AsyncIterator[Edge]:
    async with running(settings_of()) as edge:
        for rule in rules:
            edge.gateway.joins._rules.apply(rule)
        sweeping = asyncio.create_task(edge.gateway.bans.run())
        yield edge
        sweeping.cancel()


@asynccontextmanager
async def entrance(edge: Edge) -> AsyncIterator[Callable[[User], Awaitable[str]]]:
    """Serve entries to this gateway; gives a function that returns a ticket for the room."""
    settings, placement = edge.gateway.settings, Placement(3.0)
    entries = SchedulerSettings(token_key=TOKEN_KEY, ticket_signing_keys=PRIVATE_KEYS, guests=True)
    async with served(entries, placement) as (url, _):

        async def ticket(user: User) -> str:
            placement.update(report(settings.instance, generation=edge.gateway.generation), time.monotonic())
            has_token = user.role is not Role.GUEST or user.rooms is not None
            status, body, _ = await get(f"{url}?room=r", bearer(user) if has_token else None)
            assert status == 200, body
            return str(body["ticket"])

        yield ticket


@pytest.mark.parametrize("number", range(len(MODES)), ids=["open", "guests", "restricted"])
async def test_a_mode_decides_who_may_join_and_pull(number: int) -> None:
    rule = MODES[number]
    async with gateway(*([mode(*rule)] if rule else [])) as edge, entrance(edge) as ticket:
        for place, ((role, rooms), expected) in enumerate(ADMITTED.items()):
            async with edge.connect(await ticket(User(f"u{place}", role, rooms=rooms))) as client:
                grant = edge.gateway.grants.find(json.loads(await client.recv())["pull"])
                await client.send('{"t":"join","room":"r"}')
                answer = json.loads(await client.recv())
                refused = edge.gateway.joins.refusal_by_rules(grant.user, grant.role, grant.named_rooms, "r")
            assert (refused is None) == expected[number], (role, rooms)
            if expected[number]:
                assert answer["t"] == "joined", (role, rooms)
            else:
                assert (answer["t"], answer["code"], answer["room"]) == ("error", Code.FORBIDDEN.value, "r")


async def test_an_older_scheduler_names_no_rooms_in_its_tickets() -> None:
    """Its tickets have the rooms that were requested, whatever the token names."""
    async with gateway(mode("restricted", True)) as edge, edge.connect(edge.ticket(User("u", rooms=NAMED))) as client:
        await client.recv()
        await client.send('{"t":"join","room":"r"}')
        assert json.loads(await client.recv())["code"] == Code.FORBIDDEN.value


async def test_a_room_that_becomes_restricted_keeps_those_whose_tokens_name_it() -> None:
    async with gateway() as edge, entrance(edge) as ticket:
        out, stays = await ticket(User("out")), await ticket(User("stays", rooms=NAMED))
        async with edge.connect(out) as leaving, edge.connect(stays) as staying:
            for client in (leaving, staying):
                await client.recv()
                await client.send('{"t":"join","room":"r"}')
                assert json.loads(await client.recv())["t"] == "joined"
            rule = mode("restricted", True)
            edge.gateway.joins._rules.apply(rule)
            edge.gateway.bans.on_rule(rule)
            await leaving.wait_closed()
            assert leaving.close_code == Close.NORMAL
            assert [member.user for member in edge.gateway.hub.rooms[room_hash("r")].members] == ["stays"]


async def test_members_whom_a_new_mode_refuses_are_put_out_and_the_others_stay() -> None:
    async with gateway() as edge:
        guest, viewer = User("g", Role.GUEST), User("v", Role.VIEWER)
        async with edge.connect(edge.ticket(guest)) as out, edge.connect(edge.ticket(viewer)) as stays:
            for client in (out, stays):
                await client.recv()
                await client.send('{"t":"join","room":"r"}')
                assert json.loads(await client.recv())["t"] == "joined"
            rule = mode("guests", False)
            edge.gateway.joins._rules.apply(rule)
            edge.gateway.bans.on_rule(rule)
            frame = json.loads(await out.recv())
            assert (frame["t"], frame["code"], frame["room"]) == ("error", "forbidden", "r")
            await out.wait_closed()
            assert out.close_code == Close.NORMAL
            assert [member.user for member in edge.gateway.hub.rooms[room_hash("r")].members] == ["v"]


class Leaving(FakeMember):
    """May be closed."""

    def close(self, _: Close, __: str = "") -> None:
        """Do nothing."""


def test_a_large_room_is_swept_in_slices() -> None:
    hub, rules = Hub(), Rules()
    for number in range(3 * SLICE):
        hub.add_pending(Leaving(user_hash=number, role=Role.GUEST), "r", 0.0)
    rules.apply(mode("guests", False))
    bans, room = Bans(hub, rules, RefusalLog()), hub.rooms[room_hash("r")]
    assert len(list(bans._sweep(room))) == 3
    assert room.is_empty


# by_role of the kick (empty: a broadcaster of version 0.1), role of the member: is it put out?
KICKS = {
    ("moderator", Role.GUEST): True,
    ("moderator", Role.VIEWER): True,
    ("moderator", Role.MODERATOR): False,
    ("moderator", Role.STREAMER): False,
    ("moderator", Role.OPERATOR): False,
    ("streamer", Role.VIEWER): True,
    ("streamer", Role.MODERATOR): True,
    ("streamer", Role.STREAMER): False,
    ("streamer", Role.OPERATOR): False,
    ("operator", Role.MODERATOR): True,
    ("operator", Role.STREAMER): True,
    ("operator", Role.OPERATOR): False,
    ("", Role.VIEWER): True,
    ("", Role.MODERATOR): True,
    ("", Role.STREAMER): True,
    ("", Role.OPERATOR): False,
}


@pytest.mark.parametrize(("by_role", "role"), KICKS, ids=lambda each: str(each) or "unknown")
@pytest.mark.parametrize("kind", [Kind.KICK, Kind.MUTE])
async def test_a_sanction_reaches_a_host_who_only_watches_from_a_better_alone(kind: Kind, by_role: str, role: Role) -> None:
    hub = Hub()
    member = FakeMember(user_hash=room_hash("u"), role=role)
    hub.add_pending(member, "r", 0.0)
    async with running(settings_of()) as edge:
        edge.gateway.hub._by_user = hub._by_user
        delivered = await edge.notify("r", "u", encode_frame(Notice("r", kind, "n", 1, by_role=by_role)))
        reaches = KICKS[by_role, role]
        assert bool(member.got) == reaches, "nobody is told of what does not hold"
        assert [each for each, _ in delivered.kicked] == ([member] if reaches and kind is Kind.KICK else [])


def test_a_rule_for_all_rooms_is_no_mode_of_a_room() -> None:
    hub, rules = Hub(), Rules()
    Bans(hub, rules, RefusalLog()).on_rule(mode("guests", False, EVERYWHERE))
    assert not hub.rooms
