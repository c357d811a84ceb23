"""Every kind of interaction: who may send it in which state of the room, and that viewers get it.

The table, on the real system.
"""

import asyncio
import json
import signal
from itertools import count
from typing import Any

import aiohttp
import pytest

from ingress.openapi import EXAMPLES
from ingress.permissions import FREE, INTERACTIONS, Interaction, Restriction
from liveroom.errors import TABLE, Code
from liveroom.kinds import CLASS_OF, Class, Kind, Role
from liveroom.moderation import EVERYWHERE
from tests.e2e.harness import Answer, Stage, seen, staged

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


async def send(stage: Stage, interaction: Interaction, room: str, role: Role, ingress: int = 0, **claims: Any) -> Answer:
    body = {name: value for name, value in EXAMPLES[interaction.kind.value].items() if name != "id"}
    return await stage.call(
        "POST", f"rooms/{room}/{interaction.path}", body, user=f"u-{role.value}", role=role, ingress=ingress, **claims
    )


async def test_every_kind_reaches_viewers_from_those_who_may_and_nobody_else(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screens = [await stage.watch("lobby", "v1"), await stage.watch("lobby", "v2")]
        accepted: dict[Kind, list[str]] = {}
        for interaction in INTERACTIONS:
            for role in Role:
                answer = await send(stage, interaction, "lobby", role, ingress=len(accepted) % 2)
                if not interaction.allows(role, may_claim=True):
                    assert (answer.status, answer.code) == (403, "forbidden"), (interaction.kind, role)
                    continue
                assert (answer.status, answer.body["kind"]) == (202, interaction.kind.value), (interaction.kind, role, answer)
                accepted.setdefault(interaction.kind, []).append(answer.body["id"])
        assert set(accepted) == {interaction.kind for interaction in INTERACTIONS}
        likes = len(accepted[Kind.LIKE]) * EXAMPLES["like"]["count"]
        wanted = {id_ for kind, ids in accepted.items() if CLASS_OF[kind] is not Class.FOLDED for id_ in ids}
        await seen(lambda: all(screen.likes == likes for screen in screens))
        await seen(lambda: all({message.id for message in screen.messages.values()} == wanted for screen in screens))
        for screen in screens:
            for message in screen.messages.values():
                assert (message.rseq > 0) == (CLASS_OF[Kind(message.kind)] is Class.RELIABLE)
                sent = {name: value for name, value in EXAMPLES[message.kind].items() if name != "id"}
                assert json.loads(bytes(message.data)) == sent


SET: dict[Restriction, dict[str, Any]] = {
    Restriction.ROOM_MUTED: {"muted_all": True, "allow": ["allowed"]},
    Restriction.FOLLOWERS: {"followers_only": True},
    Restriction.SUBSCRIBERS: {"subscribers_only": True},
    Restriction.SLOW: {"slow_s": 600},
    Restriction.NO_MEDIA: {"no_media": True},
}
SPARED = {Role.OPERATOR, Role.SERVICE}  # by mutes and bans of an operator
CODES = {
    Restriction.DISSOLVED: Code.ROOM_DISSOLVED,
    Restriction.BANNED: Code.BANNED,
    Restriction.MUTED: Code.MUTED,
    Restriction.ROOM_MUTED: Code.ROOM_MUTED,
    Restriction.FOLLOWERS: Code.FOLLOWERS_ONLY,
    Restriction.SUBSCRIBERS: Code.SUBSCRIBERS_ONLY,
    Restriction.SLOW: Code.SLOW_MODE,
    Restriction.NO_MEDIA: Code.NO_MEDIA,
}


async def bring_about(stage: Stage, state: Restriction, room: str) -> None:
    """Set a state at the first ingress, and wait until the second one must know of it."""
    match state:
        case Restriction.DISSOLVED:
            answers = [await stage.call("POST", f"rooms/{room}/dissolve", {})]
        case Restriction.BANNED | Restriction.MUTED:
            what = "bans" if state is Restriction.BANNED else "mutes"
            answers = [await stage.call("POST", f"rooms/{room}/{what}", {"user": f"u-{role.value}"}) for role in Role]
        case _:
            answers = [await stage.call("PATCH", f"rooms/{room}/modes", SET[state])]
    assert {answer.status for answer in answers} == {202}, answers
    await asyncio.sleep(1)


def forbidden(state: Restriction, interaction: Interaction, role: Role) -> bool:
    """What the table says."""
    if state is Restriction.DISSOLVED:
        return True
    if state not in interaction.stopped_by:
        return False
    return role not in (SPARED if state in {Restriction.BANNED, Restriction.MUTED} else FREE)


async def test_the_states_of_a_room_forbid_what_the_table_says(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        await asyncio.gather(*(bring_about(stage, state, f"room-{state.value}") for state in Restriction))
        for state in Restriction:
            await check_state(stage, state, f"room-{state.value}")
        assert (await stage.say("other", "u-viewer", ingress=1)).status == 202, "other rooms are as they were"


async def check_state(stage: Stage, state: Restriction, room: str) -> None:
    """Send all kinds in all roles to a room that is in a state."""
    for interaction in INTERACTIONS:
        for role in [role for role in Role if interaction.allows(role, may_claim=True)]:
            if state is Restriction.SLOW and Restriction.SLOW in interaction.stopped_by:
                first = await send(stage, interaction, room, role, ingress=1)
                assert first.status == (202 if interaction.kind is Kind.DANMAKU or role in FREE else 429)
            answer = await send(stage, interaction, room, role, ingress=1)
            what = state, interaction.kind, role, answer
            if forbidden(state, interaction, role):
                assert (answer.status, answer.code) == (TABLE[CODES[state]].status, CODES[state].value), what
            else:
                assert answer.status == 202, what
    if state is Restriction.ROOM_MUTED:
        assert (await stage.say(room, "allowed", ingress=1)).status == 202
    if state in {Restriction.FOLLOWERS, Restriction.SUBSCRIBERS}:
        assert (await stage.say(room, "fan", ingress=1, subscriber=True)).status == 202
        follower = await stage.say(room, "follower", ingress=1, follower=True)
        assert follower.code == ("" if state is Restriction.FOLLOWERS else "subscribers_only")


async def test_packages_and_bulk_keep_to_the_same_table(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screen = await stage.watch("lobby", "v1")
        await bring_about(stage, Restriction.MUTED, "lobby")
        items = [{"kind": "gift", "data": {"gift": "rose"}}, {"kind": "danmaku", "data": {"text": "for you"}}]
        package = {"package": "p", "items": items}
        assert (await stage.call("POST", "rooms/lobby/packages", package, user="u-viewer", role=Role.VIEWER)).code == "muted"
        assert (await stage.call("POST", "rooms/lobby/packages", package, user="other", role=Role.VIEWER)).status == 202
        rest: dict[str, Any] = {"room": "lobby", "user": "anna"}
        bulk = [
            rest | {"kind": "gift", "id": "b1", "data": {"gift": "rose"}, "name": "Anna", "level": 9},
            rest | {"kind": "danmaku", "id": "b2", "data": {"text": "hi"}, "user": "u-viewer"},
            rest | {"kind": "danmaku", "id": "b3", "data": {"text": ""}},
            rest | {"kind": "announcement", "id": "b4", "data": {"text": "x"}},
            rest | {"kind": "gift", "id": "b5", "data": {"gift": "rose"}, "room": "a b"},
            rest | {"kind": "mute", "id": "b6", "data": {"user": "x"}},
            rest | {"kind": "danmaku", "id": "b7", "data": {"text": "hi"}, "role": "operator"},
            rest | {"kind": "enter", "id": "b8", "data": {"badge": "captain"}},
            {"kind": "gift"},
        ]
        answer = await stage.call("POST", "interactions", {"items": bulk}, role=Role.SERVICE)
        assert (answer.status, answer.body["accepted"]) == (200, 2)
        told = [item.get("id") or item["code"] for item in answer.body["items"]]
        assert told == ["b1", "muted", "schema", "forbidden", "room_invalid", "forbidden", "schema", "b8", "schema"]
        await seen(lambda: {message.id for message in screen.messages.values()} >= {"b1", "b8"})
        (gift,) = [message for message in screen.messages.values() if message.id == "b1"]
        assert (gift.user, gift.name, gift.level) == ("anna", "Anna", 9)
        assert not {"b2", "b3", "b4", "b6", "b7"} & {message.id for message in screen.messages.values()}
        for role in set(Role) - {Role.SERVICE}:
            assert (await stage.call("POST", "interactions", {"items": bulk}, role=role)).code == "forbidden"


async def test_one_gift_id_sent_a_hundred_times_over_two_ingresses_is_one_gift(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screen = await stage.watch("lobby", "v1")
        gift = {"gift": "rose", "id": "order-1"}
        sends = (
            stage.call("POST", "rooms/lobby/gifts", gift, user="ann", role=Role.VIEWER, ingress=number % 2)
            for number in range(100)
        )
        answers = await asyncio.gather(*sends)
        assert {(answer.status, answer.body["id"]) for answer in answers} == {(202, "order-1")}
        await stage.call("POST", "rooms/lobby/gifts", {"gift": "rose", "id": "last"}, user="ann", role=Role.VIEWER)
        await seen(lambda: screen.shows(Kind.GIFT, "last"))
        assert [message.id for _, message in sorted(screen.messages.items())] == ["order-1", "last"]


async def test_an_ingress_killed_between_the_log_and_the_answer_gives_one_gift(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screen = await stage.watch("lobby", "v1")
        victim = stage.system.ingresses[0]
        unanswered: list[int] = []
        numbers = count()

        async def give() -> None:
            while True:
                number = next(numbers)
                gift = {"gift": "rose", "id": f"g{number}"}
                try:
                    answer = await stage.call("POST", "rooms/lobby/gifts", gift, user="ann", role=Role.VIEWER)
                    assert answer.status == 202
                except (aiohttp.ClientError, OSError):
                    unanswered.append(number)
                    return

        sending = [asyncio.create_task(give()) for _ in range(50)]
        await seen(lambda: screen.shows(Kind.GIFT))
        victim.kill(signal.SIGKILL)
        await asyncio.gather(*sending)
        sent = next(numbers)
        assert len(unanswered) == 50, "all were sending"
        written = {message.id for message in screen.messages.values()}
        again = (
            stage.call(
                "POST", "rooms/lobby/gifts", {"gift": "rose", "id": f"g{number}"}, user="ann", role=Role.VIEWER, ingress=1
            )
            for number in unanswered
        )
        assert {answer.status for answer in await asyncio.gather(*again)} == {202}
        await seen(lambda: {message.id for message in screen.messages.values()} == {f"g{number}" for number in range(sent)})
        assert len(screen.messages) == sent, "each once"
        print(f"{len(unanswered)} unanswered of {sent}, {len(written)} seen before they were sent again")


async def test_an_announcement_reaches_all_rooms_that_are_watched(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, {"ANNOUNCE_ROOMS_PER_S": "1000"}) as stage:
        screens = [await stage.watch(f"room-{number}", "v1") for number in range(12)]
        await asyncio.sleep(1)
        body = {"text": "Maintenance at midnight.", "id": "m1"}
        for role in set(Role) - {Role.OPERATOR}:
            assert (await stage.call("POST", "announcements", body, role=role)).code == "forbidden"
        answers = [await stage.call("POST", "announcements", body, user="op", ingress=ingress) for ingress in (0, 1)]
        assert [(answer.status, answer.body["rooms"]) for answer in answers] == [(202, 12), (202, 12)]
        await seen(lambda: all(screen.shows(Kind.ANNOUNCEMENT, "m1") for screen in screens))
        assert {len(screen.messages) for screen in screens} == {1}, "once, though it was sent twice"
        assert EVERYWHERE == "*"
