"""Users whom an identity service names by any text: on the real system they watch, send, are
moderated, come back, and find themselves in what they see.
"""

import asyncio
import json

import pytest
from aiokafka import ConsumerRecord

from liveroom.closecodes import Close
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind, Role
from liveroom.moderation import key_of
from liveroom.records.codec import JsonReader
from liveroom.records.control import Audit, Moderation, rule_of
from liveroom.settings import KafkaSettings
from liveroom.topics import AUDIT, MODERATION, Topic
from liveroom.users import user_id, user_text
from tests.e2e.harness import Screen, Stage, seen, staged
from tests.log import read_all

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
TEXTS = ["auth0|5f7c8ec7", "名前 with space", "ann+tag@example.org", "~tom/#?%41", "\N{PARTY POPPER}" * 32]


async def test_users_of_any_text_send_are_moderated_and_come_back(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, {"RATES": json.dumps({"danmaku": {"user_per_s": 0}})}) as stage:
        screens = {text: await stage.watch("lobby", text) for text in TEXTS}
        witness = await stage.watch("lobby", "witness")
        for text in TEXTS:
            assert (await stage.say("lobby", text, "hello")).status == 202
            gift = {"gift": "rose", "id": "g1"}
            for ingress in (0, 1):  # the same gift twice, and the same id from another user is another gift
                sent = await stage.call("POST", "rooms/lobby/gifts", gift, user=text, role=Role.VIEWER, ingress=ingress)
                assert sent.status == 202
        await seen(lambda: len(witness.messages) == 2 * len(TEXTS))
        by_user = sorted((user_text(message.user), message.kind) for message in witness.messages.values())
        assert by_user == sorted((text, kind) for text in TEXTS for kind in ("danmaku", "gift"))

        first = set(witness.messages)
        for text in TEXTS:
            await _is_moderated(stage, text, screens[text])
        for text in TEXTS:
            await seen(lambda text=text: screens[text].ended == Close.BANNED)  # type: ignore[misc]
            assert screens[text].notices[-1].kind == Kind.BAN
        await seen(lambda: not first & set(witness.messages))

        again = {text: await stage.watch("lobby", text) for text in TEXTS}
        assert [screen.ended for screen in again.values()] == [None] * len(TEXTS)
        stage.system.edges[0].kill()
        await seen(lambda: sum(screen.entered > 1 for screen in again.values()) > 0, 30)
        for text in TEXTS:
            assert (await stage.call("POST", "rooms/lobby/gifts", {"gift": "rose"}, user=text, role=Role.VIEWER)).status == 202
        everyone = {*map(user_id, TEXTS)}
        for screen in (*again.values(), witness):
            await seen(lambda screen=screen: {m.user for m in screen.messages.values()} >= everyone, 30)  # type: ignore[misc]
        rules = [
            (record.key, rule_of(JsonReader(Moderation).read(record.value))) for record in await _records(stage, MODERATION)
        ]
        assert {key for key, _ in rules} >= {f"lobby/ban/{user_id(text)}".encode() for text in TEXTS}
        assert [key for key, rule in rules if key != key_of(rule)] == []
        targets = [JsonReader(Audit).read(record.value).target for record in await _records(stage, AUDIT)]
        assert [targets.count(user_id(text)) for text in TEXTS] == [5] * len(TEXTS)


async def _records(stage: Stage, topic: Topic) -> list[ConsumerRecord]:
    """All records of a topic of this system."""
    system = stage.system
    name = AioKafka(KafkaSettings(prefix=system.prefix)).topic_name(topic)
    return await read_all(system.kafka_bootstrap, name, range(system.partitions))


async def _is_moderated(stage: Stage, text: str, screen: Screen) -> None:
    """Mute and unmute, clear, allow, ban and unban a user; each is in force at both ingresses."""
    user, body = user_id(text), {"user": user_id(text)}
    assert (await stage.call("POST", "rooms/lobby/mutes", body)).status == 202
    for ingress in (0, 1):
        await _until_said(stage, text, "muted", ingress)
    listed = await stage.call("GET", "rooms/lobby/mutes", ingress=1)
    assert [entry["user"] for entry in listed.body["users"]] == [user]
    assert (await stage.call("DELETE", f"rooms/lobby/mutes/{user}", ingress=1)).status == 202
    await seen(lambda: [notice.kind for notice in screen.notices] == [Kind.MUTE, Kind.UNMUTE])

    assert (await stage.call("POST", "rooms/lobby/clears", body)).status == 202
    assert (await stage.call("PATCH", "rooms/lobby/modes", {"muted_all": True, "allow": [user]})).status == 202
    for ingress in (0, 1):
        await _until_said(stage, "somebody", "room_muted", ingress)
        await _until_said(stage, text, "", ingress)
    assert (await stage.call("PATCH", "rooms/lobby/modes", {"muted_all": False, "allow": []})).status == 202

    assert (await stage.call("POST", "rooms/lobby/bans", body)).status == 202
    await _until_said(stage, text, "banned", 1)
    assert (await stage.call("DELETE", f"rooms/lobby/bans/{user}")).status == 202
    for ingress in (0, 1):
        await _until_said(stage, text, "", ingress)


def _users_shown(screen: Screen) -> set[str]:
    """The texts of the users of all messages that a newcomer sees, in the snapshot or after it."""
    lines = screen.card.messages if screen.card is not None else []
    users = {json.loads(bytes(line))["user"] for line in lines} | {message.user for message in screen.messages.values()}
    return set(map(user_text, users))


def _allowed(screen: Screen) -> list[str]:
    """The users that the room's snapshot says may speak while all others are muted."""
    settings = json.loads(bytes(screen.card.settings)) if screen.card is not None else {}
    return list(settings.get("allow", ()))


async def _until_said(stage: Stage, text: str, code: str, ingress: int) -> None:
    """Wait until an ingress answers a danmaku of this user with this code; "": takes it."""
    async with asyncio.timeout(5):
        while (await stage.say("lobby", text, ingress=ingress)).code != code:  # noqa: ASYNC110 - an ingress is asked
            await asyncio.sleep(0.05)


async def test_a_kick_and_a_room_snapshot_know_users_of_any_text(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, ingresses=1) as stage:
        text = TEXTS[0]
        screens = [await stage.watch("lobby", text) for _ in range(4)]
        other = await stage.watch("lobby", TEXTS[1])
        assert (await stage.say("lobby", text, "hello")).status == 202
        await seen(lambda: bool(other.messages))
        late = await stage.watch("lobby", "late")
        await seen(lambda: _users_shown(late) == {text})
        allow = [user_id(f"{number:04}" + "\N{PARTY POPPER}" * 31) for number in range(200)]
        assert (await stage.call("PATCH", "rooms/lobby/modes", {"allow": allow})).status == 202
        await seen(lambda: late.shows(Kind.ROOM))
        newcomer = await stage.watch("lobby", "newcomer")
        await seen(lambda: newcomer.shows(Kind.ROOM) or allow == _allowed(newcomer))
        assert (await stage.call("POST", "rooms/lobby/kicks", {"user": user_id(text)})).status == 202
        await seen(lambda: [screen.ended for screen in screens] == [Close.KICKED] * 4)
        assert other.ended is None
