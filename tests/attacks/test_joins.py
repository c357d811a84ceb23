"""One address opens many connections and joins whatever it can: honest viewers of real rooms notice
nothing, and what is refused is counted by reason.
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack

import aiohttp

from devstack.system import System
from liveroom.tasks import end_tasks
from liveroom.wire import MAX_ROOMS_PER_CONNECTION, SUBPROTOCOL
from tests.attacks.test_invented_names import figure
from tests.e2e.audience import knows_gateways
from tests.e2e.harness import Screen, Stage, seen
from viewer.client import Viewer

ROOMS_OF_GATEWAY = 40
ROOMS_OF_ADDRESS = 15
CONNECTIONS_OF_ADDRESS = 20
SHOWS = 20
HONEST = 3  # viewers of each show
ATTACKER = "198.51.100.9"
PAUSE_S = 0.05
LIMITS = {
    "MAX_LOCAL_ROOMS": str(ROOMS_OF_GATEWAY),
    "MAX_ADDRESS_QUIET_ROOMS": str(ROOMS_OF_ADDRESS),
    "MAX_PER_ADDRESS": str(CONNECTIONS_OF_ADDRESS),
    "MAX_JOINS_PER_S": "50",
    "ADDRESS_CONNECTIONS_PER_S": "20",
    "ADDRESS_CONNECTIONS_BURST": "100",
    "ADDRESS_JOINS_PER_S": "50",
    "ADDRESS_JOINS_BURST": "150",
    "PROXIES": '["127.0.0.0/8"]',
}


async def entry(http: aiohttp.ClientSession, system: System, rooms: list[str]) -> str:
    """Return where a guest connects, with a ticket for rooms of its choice."""
    async with http.get(f"{system.scheduler_url}/v1/entry", params=[("room", room) for room in rooms]) as answer:
        body = await answer.json()
    return f"{body['gateways'][0]['url']}?ticket={body['ticket']}"


async def invade(http: aiohttp.ClientSession, system: System, refused: Counter[str]) -> None:
    """Come as a guest into rooms that nobody has heard of, join them again and again, and come back
    as another guest, for ever; count refusals.
    """

    async def read(socket: aiohttp.ClientWebSocketResponse) -> None:
        async for message in socket:
            frame = json.loads(message.data.split("\n")[0])
            if frame["t"] == "error":
                refused[frame["code"]] += 1

    while True:
        rooms = [f"x{secrets.token_hex(8)}" for _ in range(MAX_ROOMS_PER_CONNECTION)]
        try:
            async with http.ws_connect(await entry(http, system, rooms), protocols=[SUBPROTOCOL]) as socket:
                reading = asyncio.create_task(read(socket))
                for room in rooms * 5:
                    await socket.send_str(json.dumps({"t": "join", "room": room}))
                await asyncio.sleep(1)
                await end_tasks(reading)
        except aiohttp.WSServerHandshakeError as error:
            refused[f"{error.status}"] += 1
            await asyncio.sleep(0.1)


async def connect_on(http: aiohttp.ClientSession, system: System, token: str, statuses: Counter[int]) -> None:
    """Open connections of one user, for ever, and drop them."""
    head = {"Authorization": f"Bearer {token}"}
    while True:
        async with http.get(f"{system.scheduler_url}/v1/entry", params={"room": "lobby"}, headers=head) as answer:
            body = await answer.json()
        if "ticket" not in body:
            statuses[answer.status] += 1
            await asyncio.sleep(0.05)
            continue
        try:
            async with http.ws_connect(f"{body['gateways'][0]['url']}?ticket={body['ticket']}", protocols=[SUBPROTOCOL]):
                statuses[101] += 1
        except aiohttp.WSServerHandshakeError as error:
            statuses[error.status] += 1
        await asyncio.sleep(0.02)


def by_reason(metrics: Mapping[str, float]) -> dict[str, float]:
    head = 'liveroom_edge_limited_total{reason="'
    return {name.removeprefix(head).rstrip('"}'): value for name, value in metrics.items() if name.startswith(head) and value}


async def test_no_honest_join_is_refused_while_one_address_connects_and_joins_without_end(kafka_bootstrap: str) -> None:
    async with (
        System(
            kafka_bootstrap,
            prefix=f"a{secrets.token_hex(4)}.",
            partitions=1,
            edges=1,
            ingresses=1,
            settings_of={"edge": LIMITS},
        ) as system,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers={"X-Forwarded-For": ATTACKER}) as http,
        AsyncExitStack() as stack,
    ):
        await knows_gateways(system, 1)
        (edge,) = system.edges
        stage = Stage(system, http, stack)
        shows = [f"show{number}" for number in range(SHOWS)]
        for show in shows:
            assert (await stage.say(show, "star")).status == 202
        refused, statuses = Counter[str](), Counter[int]()
        screens: list[Screen] = []
        async with asyncio.TaskGroup() as tasks:
            attack = [tasks.create_task(invade(http, system, refused)) for _ in range(CONNECTIONS_OF_ADDRESS)]
            attack += [tasks.create_task(connect_on(http, system, system.token("mallory"), statuses)) for _ in range(2)]
            await asyncio.sleep(1)
            for number, show in enumerate(shows * HONEST):
                own = await stack.enter_async_context(aiohttp.ClientSession(headers={"X-Forwarded-For": f"203.0.113.{number}"}))
                screens.append(Screen())
                token = system.token(f"v{number}")
                await stack.enter_async_context(
                    Viewer(system.scheduler_url, [show], http=own, token=token, on_effect=screens[-1].on_effect)
                )
                await asyncio.sleep(PAUSE_S)
            await seen(lambda: all(screen.entered for screen in screens))
            metrics = await edge.metrics()
            quiet = await figure(edge, "edge_rooms_quiet")
            for task in attack:
                task.cancel()
        for show in shows:
            assert (await stage.say(show, "star", "the end")).status == 202
        await seen(lambda: all(any(b"the end" in bytes(each.data) for each in screen.messages.values()) for screen in screens))
    assert [(screen.entered, screen.errors) for screen in screens] == [(1, [])] * len(screens)
    limited = by_reason(metrics)
    assert limited.keys() >= {"address_connections", "connection_joins", "address_joins", "address_rooms"}
    assert limited.keys() <= {
        *("address_connections", "address_connects", "user_connects", "user_connections"),
        *("address_joins", "address_rooms", "connection_joins", "user_joins"),
    }
    assert set(refused) <= {"full", "rate_user", "rate_address", "429"}
    assert set(statuses) == {101, 429}
    assert sum(refused.values()) > 200
    assert quiet <= ROOMS_OF_GATEWAY - SHOWS
