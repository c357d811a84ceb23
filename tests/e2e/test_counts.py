"""How many users viewers are shown, over gateways that die, on real services."""

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from devstack.system import System
from liveroom.chance import SystemChance
from liveroom.kinds import Role
from liveroom.wire import SUBPROTOCOL
from tests.e2e.harness import seen
from viewer.entry import ask_entry

pytestmark = pytest.mark.kafka
ROOM = "r"
WAIT_S = 40.0


class Viewers:
    """Connections of users to gateways of their choice, and all counts that they were shown."""

    def __init__(self, system: System, http: aiohttp.ClientSession, tasks: asyncio.TaskGroup) -> None:
        self.shown: list[tuple[float, int, int]] = []
        self._system = system
        self._http = http
        self._tasks = tasks
        self._connections: list[ClientConnection] = []
        self._newest: dict[ClientConnection, tuple[int, int] | None] = {}

    def all_show(self, counts: tuple[int, int]) -> bool:
        """Whether every connection that is open was shown these counts last."""
        return set(self._newest.values()) == {counts}

    async def enter(self, user: str, edge: int, connections: int = 1) -> None:
        for _ in range(connections):
            token = self._system.token(user, Role.OPERATOR)
            name = self._system.edges[edge].name
            entry = await ask_entry(self._http, self._system.scheduler_url, [ROOM], SystemChance(), token, gateway=name)
            url = f"{entry.urls[0]}?ticket={entry.ticket}"
            connection = await connect(url, subprotocols=[Subprotocol(SUBPROTOCOL)])
            self._connections.append(connection)
            self._newest[connection] = None
            self._tasks.create_task(self._read(connection))

    async def leave(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self._connections))

    async def _read(self, connection: ClientConnection) -> None:
        try:
            with contextlib.suppress(ConnectionClosed):
                await self._note_counts(connection)
        finally:
            del self._newest[connection]

    async def _note_counts(self, connection: ClientConnection) -> None:
        heartbeat_s = json.loads(await connection.recv())["heartbeat_s"]
        await connection.send(json.dumps({"t": "join", "room": ROOM}))
        while True:
            try:
                text = await asyncio.wait_for(connection.recv(), heartbeat_s)
            except TimeoutError:
                await connection.send(json.dumps({"t": "hb"}))
                continue
            for line in str(text).split("\n"):
                frame = json.loads(line)
                if viewers := frame.get("viewers") if frame.get("t") == "batch" else None:
                    users, connections = viewers
                    self.shown.append((time.monotonic(), users, connections))
                    self._newest[connection] = (users, connections)


@asynccontextmanager
async def watching(bootstrap: str, edges: int) -> AsyncIterator[tuple[System, Viewers]]:
    prefix = f"c{secrets.token_hex(4)}."
    async with (
        System(bootstrap, prefix=prefix, partitions=2, edges=edges) as system,
        aiohttp.ClientSession() as http,
        asyncio.TaskGroup() as tasks,
    ):
        await system.knows_gateways(edges)
        viewers = Viewers(system, http, tasks)
        yield system, viewers
        await viewers.leave()


async def test_one_user_with_8_connections_on_three_gateways_is_one(kafka_bootstrap: str) -> None:
    async with watching(kafka_bootstrap, 3) as (_, viewers):
        for edge, connections in enumerate((3, 3, 2)):
            await viewers.enter("ann", edge, connections)
        await seen(lambda: viewers.all_show((1, 8)), WAIT_S)
        assert {users for _, users, _ in viewers.shown} == {1}


async def test_after_kill_9_of_a_gateway_nobody_counts_twice_and_who_does_not_come_back_leaves_the_sum(
    kafka_bootstrap: str,
) -> None:
    async with watching(kafka_bootstrap, 3) as (system, viewers):
        for number in range(8):
            await viewers.enter(f"u{number}", 0 if number else 1)
        await viewers.enter("u0", 2)
        await seen(lambda: viewers.all_show((8, 9)), WAIT_S)
        system.edges[0].kill()
        for number in range(1, 8):
            await viewers.enter(f"u{number}", 1)
        await seen(lambda: viewers.all_show((8, 9)), WAIT_S)
        assert max(users for _, users, _ in viewers.shown) == 8
        began = time.monotonic()
        system.edges[1].kill()
        await seen(lambda: viewers.all_show((1, 1)), WAIT_S)
        print(f"what is shown fell {viewers.shown[-1][0] - began:.2f} s after the kill")
        await system.edges[0].start_ready()
        await system.knows_gateways(2)
        await viewers.enter("u1", 0)
        await seen(lambda: viewers.all_show((2, 2)), WAIT_S)


async def test_a_broadcaster_that_takes_over_shows_no_other_number(kafka_bootstrap: str) -> None:
    async with watching(kafka_bootstrap, 2) as (system, viewers):
        for number in range(6):
            await viewers.enter(f"u{number}", number % 2)
        await viewers.enter("u0", 1)
        await seen(lambda: viewers.all_show((6, 7)), WAIT_S)
        before = len(viewers.shown)
        system.broadcasters[0].kill()
        await system.add_broadcaster()
        await seen(lambda: len(viewers.shown) > before, WAIT_S)
        assert {users for _, users, _ in viewers.shown[before:]} == {6}
