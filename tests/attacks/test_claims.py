"""Requests that claim what is not so: money, other people's rooms and message ids, a name without a
token, a page's origin. Honest users see nothing of them.

All run at the same time on one system, each in a room of its own.
"""

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest

from ingress.openapi import EXAMPLES
from ingress.permissions import BACKENDS, INTERACTIONS
from liveroom.closecodes import Close
from liveroom.kinds import Kind, Role
from liveroom.wire import SUBPROTOCOL
from tests.e2e.harness import Answer, Screen, Stage, seen, staged
from viewer.client import Viewer

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PAID = [interaction for interaction in INTERACTIONS if interaction.claimed_by]
REMEMBERED_S = 11.0  # longer than the ids of likes are remembered


async def shown(stage: Stage, room: str, text: str = "the end") -> Screen:
    """Say a last thing in a room, and return what a newcomer then sees of it."""
    late = await stage.watch(room, "late")
    assert (await stage.say(room, "honest", text)).status == 202
    await seen(lambda: bool(late.of_user("honest")), 30)
    return late


async def claims_of_payment(stage: Stage) -> None:
    """A viewer and hosts send what says that somebody has paid, alone, in a package and in bulk."""
    room = "paid"
    screen = await stage.watch(room, "anna")
    for ingress in (0, 1):
        for role in set(Role) - BACKENDS:
            for interaction in PAID:
                body = {name: value for name, value in EXAMPLES[interaction.kind.value].items() if name != "id"}
                package = {
                    "package": "p",
                    "items": [{"kind": "danmaku", "data": {"text": "a"}}, {"kind": interaction.kind, "data": body}],
                }
                asked: dict[str, Any] = {"user": "mallory", "role": role, "ingress": ingress}
                for path, sent in ((interaction.path, body), ("packages", package)):
                    answer = await stage.call("POST", f"rooms/{room}/{path}", sent, **asked)
                    assert (answer.status, answer.code) == (403, "forbidden"), (role, path, answer)
            items = [{"room": room, "user": "mallory", "kind": "gift", "data": {"gift": "castle", "count": 99_999}}]
            answer = await stage.call("POST", "interactions", {"items": items}, user="mallory", role=role, ingress=ingress)
            assert (answer.status, answer.code) == (403, "forbidden"), (role, answer)
    paid = await stage.call("POST", f"rooms/{room}/gifts", {"gift": "rose", "id": "g1"}, user="shop", role=Role.SERVICE)
    assert paid.status == 202
    await seen(lambda: screen.shows(Kind.GIFT, "g1"), 30)
    await shown(stage, room)
    await seen(lambda: bool(screen.of_user("honest")), 30)
    assert {message.user for message in screen.messages.values()} == {"shop", "honest"}


async def hosts_of_elsewhere(stage: Stage) -> None:
    """A host of another room, one of no room and one whose token names none act in this room."""
    room = "foreign"
    screen = await stage.watch(room, "anna")
    first = (await stage.say(room, "anna", "mine")).body["id"]
    await seen(lambda: screen.shows(Kind.DANMAKU, first), 30)
    commands: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "bans", {"user": "anna"}),
        ("POST", "kicks", {"user": "anna"}),
        ("POST", "clears", {"user": "anna", "message": first}),
        ("PATCH", "modes", {"muted_all": True}),
        ("PUT", "words/mine", {"action": "refuse"}),
        ("POST", "dissolve", {}),
    ]
    for ingress in (0, 1):
        for rooms in (("elsewhere",), (), None):
            for method, path, body in commands:
                asked: dict[str, Any] = {"user": "mallory", "role": Role.STREAMER, "ingress": ingress, "rooms": rooms}
                answer = await stage.call(method, f"rooms/{room}/{path}", body, **asked)
                assert (answer.status, answer.code) == (403, "forbidden"), (rooms, path, answer)
        assert (await stage.say(room, "anna", "mine still", ingress=ingress)).status == 202
    await seen(lambda: len(screen.of_user("anna")) == 3, 30)
    assert (screen.ended, screen.gone, screen.notices) == (None, [], [])


async def ids_of_others(stage: Stage) -> None:
    """Somebody gives a message the id of another user's, and has it cleared."""
    room = "twins"
    screens = [await stage.watch(room, user) for user in ("v1", "v2")]
    host: dict[str, Any] = {"user": "host", "role": Role.MODERATOR}
    for user in ("anna", "mallory"):
        sent = await stage.call("POST", f"rooms/{room}/danmaku", {"text": user, "id": "m1"}, user=user, role=Role.VIEWER)
        assert sent.status == 202
    await seen(lambda: all(len(screen.messages) == 2 for screen in screens), 30)
    assert (await stage.call("POST", f"rooms/{room}/clears", {"user": "mallory", "message": "m1"}, **host)).status == 202
    await seen(lambda: all(not screen.of_user("mallory") for screen in screens), 30)
    for screen in screens:
        assert [message.user for message in screen.gone] == ["mallory"]
        assert [message.id for message in screen.of_user("anna")] == ["m1"]
    late = await stage.watch(room, "late")
    await seen(lambda: late.card is not None, 30)
    assert [json.loads(bytes(line))["user"] for line in late.card.messages] == ["anna"]


async def repeats(stage: Stage) -> None:
    """A like and a gift are sent again with their ids, at both ingresses: at once, and when the ids
    of likes are forgotten.
    """
    room = "again"
    screen = await stage.watch(room, "anna")

    async def send(path: str, body: dict[str, Any], role: Role, ingress: int) -> Answer:
        return await stage.call("POST", f"rooms/{room}/{path}", body, user="mallory", role=role, ingress=ingress)

    async def send_again() -> None:
        for number in range(4):
            like = await send("likes", {"count": 5, "id": "l1"}, Role.VIEWER, number % 2)
            gift = await send("gifts", {"gift": "rose", "id": "g1"}, Role.SERVICE, number % 2)
            assert (like.status, gift.status) == (202, 202)

    await send_again()
    await seen(lambda: screen.likes == 5 and screen.shows(Kind.GIFT, "g1"), 30)
    await asyncio.sleep(REMEMBERED_S)
    assert screen.likes == 5
    await send_again()
    await seen(lambda: screen.likes == 10, 30)  # as the page on sending says: the ids of likes are kept for 10 s
    await shown(stage, room)
    await seen(lambda: bool(screen.of_user("honest")), 30)
    assert screen.likes == 10
    assert [message.kind for message in screen.messages.values()] == [Kind.GIFT, Kind.DANMAKU]


async def guests(stage: Stage, room: str, refuses: bool) -> None:
    """A banned user comes back without a token."""
    host: dict[str, Any] = {"user": "host", "role": Role.STREAMER}
    honest, rude = await stage.watch(room, "honest"), await stage.watch(room, "rude")
    assert (await stage.call("POST", f"rooms/{room}/bans", {"user": "rude"}, **host)).status == 202
    await seen(lambda: rude.ended == Close.BANNED, 30)

    async with AsyncExitStack() as stack:

        async def come() -> Screen:
            screen = Screen()
            await stack.enter_async_context(
                Viewer(stage.system.scheduler_url, [room], http=stage.http, on_effect=screen.on_effect)
            )
            await seen(lambda: bool(screen.entered or screen.errors), 30)
            return screen

        inside = await come()
        assert (inside.entered, inside.errors) == (1, []), "it watches, and only that"
        async with stage.http.post(f"{stage.system.ingress_url}/v1/rooms/{room}/danmaku", json={"text": "me"}) as answer:
            assert answer.status == 401
        if refuses:
            assert (await stage.call("PATCH", f"rooms/{room}/modes", {"guests": False}, **host)).status == 202
            await seen(lambda: bool(inside.errors) or inside.ended is not None, 30)
            again = await come()
            assert (again.entered, again.errors) == (0, ["forbidden"])
        late = await shown(stage, room)
        await seen(lambda: bool(honest.of_user("honest")), 30)
        assert (honest.ended, honest.errors, late.errors) == (None, [], [])
        if not refuses:
            await seen(lambda: bool(inside.of_user("honest")), 30)
        assert bool(inside.of_user("honest")) is not refuses
        assert not honest.of_user("rude")


async def origins(stage: Stage) -> None:
    """A foreign page connects with a viewer's ticket, at both gateways; programs send no origin."""
    for origin, status in (("https://evil.example", 403), ("null", 403), (None, 101)):
        head = {"Authorization": f"Bearer {stage.token('anna')}"}
        async with stage.http.get(f"{stage.system.scheduler_url}/v1/entry", params={"room": "lobby"}, headers=head) as answer:
            entry = await answer.json()
        for gateway in entry["gateways"]:
            headers = {"Origin": origin} if origin is not None else {}
            try:
                async with stage.http.ws_connect(
                    gateway["url"], params={"ticket": entry["ticket"]}, headers=headers, protocols=[SUBPROTOCOL]
                ):
                    got = 101
            except aiohttp.WSServerHandshakeError as error:
                got = error.status
            assert got == status, (origin, gateway)


async def test_no_claim_takes_anything_from_honest_users(kafka_bootstrap: str) -> None:
    settings = {"VIEWERS_MAY_CLAIM_PAYMENT": "false"}
    async with staged(kafka_bootstrap, settings) as stage, asyncio.TaskGroup() as tasks:
        for attack in (
            claims_of_payment(stage),
            hosts_of_elsewhere(stage),
            ids_of_others(stage),
            repeats(stage),
            guests(stage, "open", refuses=False),
            guests(stage, "closed", refuses=True),
            origins(stage),
        ):
            tasks.create_task(attack)
