"""The connections of users at a gateway: closed when tokens are revoked, listed, ended."""

import asyncio
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import InvalidStatus

from edge.user_connections import CLOSES_A_SLICE, MAX_LISTED, UserConnections
from liveroom.closecodes import Close
from liveroom.kinds import Role
from liveroom.records.revocations import ConnectionOrder, ConnectionOrderKind, Revocation, UserConnection
from liveroom.tickets import User
from tests.edge.harness import Edge, ask, close_code, next_frame, running, settings_of

ANN, BEN = User("ann", device="tv", issued_s=1000), User("ben", Role.MODERATOR, issued_s=2000)


def revoked(id_: str = "r", user: str = "", device: str = "", before_s: int = 1500) -> Revocation:
    return Revocation(1, id_, 0, before_s, 2**50, user, device)


async def revoke(edge: Edge, *revocations: Revocation) -> None:
    for one in revocations:
        edge.gateway.revocations.apply(one)
    await UserConnections(edge.gateway).on_revoked(revocations)


def order(user: str, kind: ConnectionOrderKind = ConnectionOrderKind.LIST, id_: str = "o") -> ConnectionOrder:
    return ConnectionOrder(1, id_, 0, user, kind)


@pytest.mark.parametrize(
    ("what", "closed"),
    [
        pytest.param(revoked(user="ann"), ["ann"], id="a user"),
        pytest.param(revoked(user="ann", device="tv"), ["ann"], id="a device"),
        pytest.param(revoked(user="ann", device="phone"), [], id="another device"),
        pytest.param(revoked(user="ben"), [], id="a user with a later token"),
        pytest.param(revoked(), ["ann"], id="everybody before a time"),
        pytest.param(revoked(before_s=3000), ["ann", "ben"], id="everybody before a later time"),
    ],
)
async def test_a_revocation_closes_those_whom_it_is_about_whether_in_a_room_or_not(what: Revocation, closed: list[str]) -> None:
    async with running(settings_of()) as edge:
        for has_joined in (True, False):
            async with edge.connect(edge.ticket(ANN)) as ann, edge.connect(edge.ticket(BEN)) as ben:
                sockets = {"ann": ann, "ben": ben}
                for socket in sockets.values():
                    assert (await next_frame(socket))["t"] == "hello"
                    if has_joined:
                        assert (await ask(socket, t="hb"))["t"] == "hb"
                        await socket.send('{"t":"join","room":"r"}')
                        assert (await next_frame(socket))["t"] == "joined"
                await revoke(edge, what)
                for name, socket in sockets.items():
                    if name in closed:
                        assert await close_code(socket) == Close.REVOKED
                    else:
                        assert (await ask(socket, t="hb"))["t"] == "hb"
            edge.gateway.revocations.withdraw("r")


async def test_a_revoked_ticket_opens_no_connection_and_no_event_stream() -> None:
    async with running(settings_of()) as edge, aiohttp.ClientSession() as http:
        await revoke(edge, revoked(user="ann"))
        with pytest.raises(InvalidStatus) as refused:
            async with edge.connect(edge.ticket(ANN)):
                pass
        assert refused.value.response.status_code == 401
        for user, status in ((ANN, 401), (User("ann"), 401), (BEN, 200)):
            async with http.get(
                f"{edge.http}/v1/events", params={"ticket": edge.ticket(user)}, ssl=edge.trusting or True
            ) as answer:
                assert answer.status == status
                if status == 401:
                    assert (await answer.json(content_type=None))["code"] == "revoked"


async def test_many_are_closed_in_slices_between_which_the_loop_goes_on() -> None:
    class Slow:
        """A member of which only what the sweep needs is there."""

        user, user_hash, device, issued_s, close_code = "ann", 1, "", 0, 0

        def close(self, code: Close) -> None:
            closed.append(code)

    closed: list[Close] = []
    turns: list[int] = []

    async def watch() -> None:
        while len(closed) < 10 * CLOSES_A_SLICE:
            turns.append(len(closed))
            await asyncio.sleep(0)

    async with running(settings_of()) as edge:
        members: Any = {Slow(): None for _ in range(10 * CLOSES_A_SLICE)}
        edge.gateway.members, real = members, edge.gateway.members
        await asyncio.gather(revoke(edge, revoked()), watch())
        edge.gateway.members = real
    assert closed == [Close.REVOKED] * 10 * CLOSES_A_SLICE
    assert max(after - before for before, after in pairwise(turns)) <= CLOSES_A_SLICE


async def test_an_order_lists_or_ends_the_connections_of_its_user_alone() -> None:
    async with running(settings_of()) as edge:
        connections = UserConnections(edge.gateway)
        async with edge.connect(edge.ticket(ANN)) as ann, edge.connect(edge.ticket(BEN)) as ben:
            for socket in (ann, ben):
                assert (await next_frame(socket))["t"] == "hello"
            await ben.send('{"t":"join","room":"r"}')
            assert (await next_frame(ben))["t"] == "joined"
            listed = connections.obey([order("ann", id_="1"), order("ben", id_="2"), order("eve", id_="3")])
            assert [(report.id, report.gateway, report.total) for report in listed] == [
                ("1", "e1", 1),
                ("2", "e1", 1),
                ("3", "e1", 0),
            ]
            assert listed[0].connections == (UserConnection(Role.VIEWER, "websocket", (), "tv", 1000),)
            assert listed[1].connections == (UserConnection(Role.MODERATOR, "websocket", ("r",), "", 2000),)
            (ended,) = connections.obey([order("ann", ConnectionOrderKind.END)])
            assert ended.total == 1
            assert await close_code(ann) == Close.KICKED
            assert (await ask(ben, t="hb"))["t"] == "hb"


async def test_a_report_lists_so_many_connections_and_counts_all() -> None:
    async with running(settings_of()) as edge:
        member: Any = type(
            "Some", (), {"user": "ann", "close_code": 0, "role": Role.VIEWER, "rooms": {}, "device": "", "issued_s": 1}
        )
        report = UserConnections(edge.gateway)._obey(order("ann"), [member] * (MAX_LISTED + 1))
        assert (report.total, len(report.connections)) == (MAX_LISTED + 1, MAX_LISTED)
