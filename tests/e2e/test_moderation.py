"""What hosts do, and how viewers, ingresses and gateways follow it.

On the real system, with two processes of each.
"""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ingress.openapi import EXAMPLES
from ingress.permissions import BY_COMMAND, COMMAND_ROUTES, Command, CommandRoute
from liveroom.closecodes import Close
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind, Role
from liveroom.records.codec import JsonReader
from liveroom.records.control import Audit
from liveroom.settings import KafkaSettings
from liveroom.topics import AUDIT
from tests.e2e.harness import Screen, Stage, seen, staged
from tests.log import read_all

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
PROMISED_S = 1.0  # until a rule holds everywhere


SETS = {  # a lift, and the command that sets what it lifts
    Command.UNMUTE: Command.MUTE,
    Command.UNBAN: Command.BAN,
    Command.DROP_ROOM_WORD: Command.SET_ROOM_WORD,
    Command.DROP_WORD: Command.SET_WORD,
}


async def ask(stage: Stage, route: CommandRoute, role: Role, room: str) -> tuple[int, str]:
    path = route.path.removeprefix("/v1/").replace("{room}", room).replace("{user}", "rude")
    path = path.replace("{word}", "spam").replace("{id}", "r-1")
    body = EXAMPLES.get(route.command.value) if route.method != "GET" else None
    while (answer := await stage.call(route.method, path, body, role=role)).code == "not_ready":  # noqa: ASYNC110 - as it asks
        await asyncio.sleep(1)  # an ingress that has just started does not know the gateways
    return answer.status, answer.code


async def lists(stage: Stage, path: str, name: str, count: int) -> None:
    """Wait until the second ingress lists so many."""
    async with asyncio.timeout(60):
        while len((await stage.call("GET", path, ingress=1)).body[name]) != count:  # noqa: ASYNC110 - an ingress is asked
            await asyncio.sleep(0.05)


async def enters(stage: Stage, user: str) -> Screen:
    """Wait until the room takes a user."""
    async with asyncio.timeout(60):
        while not (screen := await stage.watch("lobby", user)).entered:  # noqa: ASYNC110 - a gateway is asked
            await asyncio.sleep(0.05)
    return screen


async def test_each_role_may_do_what_the_table_says(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, ingresses=1) as stage:
        await stage.watch("watched", "v1")
        for route in COMMAND_ROUTES:
            for role in Role:
                room = f"{route.command.value}-{role.value}"
                if (before := SETS.get(route.command)) is not None:
                    setter = Role.MODERATOR if Role.MODERATOR in BY_COMMAND[before].roles else Role.OPERATOR
                    assert (await ask(stage, BY_COMMAND[before], setter, room))[0] == 202
                status, code = await ask(stage, route, role, room)
                if role in route.roles:
                    assert status in {200, 202}, (route.command, role, status, code)
                else:
                    assert (status, code) == (403, "forbidden"), (route.command, role)


async def test_a_mute_is_told_on_all_devices_holds_everywhere_and_ends(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        devices = [await stage.watch("lobby", "rude") for _ in range(4)]
        other = await stage.watch("lobby", "other")
        muted = await stage.call("POST", "rooms/lobby/mutes", {"user": "rude", "for_s": 4, "why": "spam", "id": "m1"})
        assert muted.status == 202
        told_s = time.monotonic()
        await seen(lambda: all(device.notices for device in devices))
        assert time.monotonic() - told_s < PROMISED_S
        for device in devices:
            (notice,) = device.notices
            assert (notice.kind, notice.why, notice.id) == (Kind.MUTE, "spam", "m1")
            assert notice.until_ms == muted.body["until_ms"]
        assert other.notices == []
        for ingress in (0, 1):
            refused = await stage.say("lobby", "rude", ingress=ingress)
            assert (refused.status, refused.code, refused.body["detail"]) == (403, "muted", "spam")
            assert 0 < refused.body["retry_after_s"] <= 4
        assert (await stage.say("elsewhere", "rude")).status == 202
        late = await stage.watch("lobby", "rude")
        await seen(lambda: [notice.kind for notice in late.notices] == [Kind.MUTE])
        listed = await stage.call("GET", "rooms/lobby/mutes")
        assert [(entry["user"], entry["by"], entry["why"]) for entry in listed.body["users"]] == [("rude", "operator", "spam")]
        await asyncio.sleep(max(0.0, muted.body["until_ms"] / 1000 - time.time()))
        for ingress in (0, 1):
            assert (await stage.say("lobby", "rude", ingress=ingress)).status == 202
        assert (await stage.call("GET", "rooms/lobby/mutes")).body["users"] == []

        await stage.call("POST", "rooms/lobby/mutes", {"user": "rude"})
        assert (await stage.say("lobby", "rude")).code == "muted"
        assert (await stage.call("DELETE", "rooms/lobby/mutes/rude", ingress=1)).status == 202
        await seen(lambda: devices[0].notices[-1].kind == Kind.UNMUTE)
        assert (await stage.say("lobby", "rude", ingress=1)).status == 202
        async with asyncio.timeout(5):
            while (await stage.say("lobby", "rude")).status != 202:  # noqa: ASYNC110 - an ingress is asked
                await asyncio.sleep(0.05)


async def test_a_ban_is_effective_everywhere_within_1_s_under_load_and_clears_what_was_on_its_way(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screens = [await stage.watch("lobby", f"v{number}") for number in range(6)]
        devices = [await stage.watch("lobby", "rude") for _ in range(4)]
        ended = asyncio.Event()
        sent = 0

        async def crowd() -> None:
            """1,000 danmaku a second by many, published in bulk; and the rude one among them, at
            both ingresses.
            """
            nonlocal sent
            began = time.monotonic()
            while not ended.is_set():
                items = [
                    {"room": "lobby", "user": f"c{number % 97}", "kind": "danmaku", "data": {"text": f"{sent + number}"}}
                    for number in range(50)
                ]
                answer = await stage.call("POST", "interactions", {"items": items}, role=Role.SERVICE, ingress=sent // 50 % 2)
                assert answer.body["accepted"] == 50
                sent += 50
                await asyncio.sleep(max(0.0, began + sent / 1000 - time.monotonic()))

        last_accepted_s = [0.0, 0.0]
        refused = [0, 0]  # how often in a row, by each ingress

        async def rant(ingress: int) -> None:
            while not ended.is_set():
                asked_s = time.monotonic()
                if (await stage.say("lobby", "rude", "!!!", ingress=ingress)).status == 202:
                    last_accepted_s[ingress] = asked_s
                    refused[ingress] = 0
                else:
                    refused[ingress] += 1
                await asyncio.sleep(0.002)

        tasks = [asyncio.create_task(work) for work in (crowd(), rant(0), rant(1))]
        await seen(lambda: all(len(screen.of_user("rude")) > 20 for screen in screens))
        banned = await stage.call("POST", "rooms/lobby/bans", {"user": "rude", "why": "enough"}, role=Role.MODERATOR)
        banned_s = time.monotonic()
        assert (banned.status, banned.body["until_ms"]) == (202, -1)
        await seen(lambda: all(device.ended is not None for device in devices), 60)
        assert [device.ended for device in devices] == [Close.BANNED] * 4
        await seen(lambda: min(refused) > 100, 60)
        await seen(lambda: all(len(screen.messages) > 1000 for screen in screens), 60)
        ended.set()
        await asyncio.gather(*tasks)
        assert max(last_accepted_s) - banned_s < PROMISED_S
        assert max(device.ended_s for device in devices) - banned_s < PROMISED_S
        for device in devices:
            assert device.notices[-1].kind == Kind.BAN
        assert min(refused) > 100, "nothing was accepted again"
        await seen(lambda: not any(screen.of_user("rude") for screen in screens), 60)  # everything is off the screens
        again = await stage.watch("lobby", "rude")
        assert (again.ended, again.errors, again.entered) == (Close.BANNED, ["banned"], 0)
        print(f"{sent} danmaku; last one of the banned accepted {max(last_accepted_s) - banned_s:.3f} s after the 202")

        lifted = await stage.call("DELETE", "rooms/lobby/bans/rude", role=Role.STREAMER)
        assert lifted.status == 202
        await enters(stage, "rude")


async def test_a_request_with_an_id_that_was_done_is_answered_again_and_does_nothing(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screen = await stage.watch("lobby", "rude")
        body = {"user": "rude", "for_s": 600, "id": "m1"}
        first = await stage.call("POST", "rooms/lobby/mutes", body)
        await lists(stage, "rooms/lobby/mutes", "users", 1)
        assert (await stage.call("POST", "rooms/lobby/mutes", body, ingress=1)) == first
        await stage.call("DELETE", "rooms/lobby/mutes/rude")
        await lists(stage, "rooms/lobby/mutes", "users", 0)
        assert (await stage.call("POST", "rooms/lobby/mutes", body, ingress=1)) == first
        assert (await stage.say("lobby", "rude", ingress=1)).status == 202, "it does not mute again"
        await seen(lambda: len(screen.notices) >= 2, 60)
        assert [notice.kind for notice in screen.notices] == [Kind.MUTE, Kind.UNMUTE]


async def test_messages_are_cleared_and_users_put_out(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screen, rude = await stage.watch("lobby", "v1"), await stage.watch("lobby", "rude")
        ids = [(await stage.say("lobby", "rude", f"{number}")).body["id"] for number in range(3)]
        kept = (await stage.say("lobby", "nice")).body["id"]
        await seen(lambda: len(screen.messages) == 4)
        await stage.call("POST", "rooms/lobby/clears", {"user": "rude", "message": ids[1]})
        await seen(lambda: not screen.shows(Kind.DANMAKU, ids[1]))
        assert screen.shows(Kind.DANMAKU, ids[0])
        await stage.call("POST", "rooms/lobby/clears", {"user": "rude"})
        await seen(lambda: not screen.of_user("rude"))
        assert screen.shows(Kind.DANMAKU, kept)
        late = await stage.watch("lobby", "v2")
        await seen(lambda: late.card is not None)
        shown = [json.loads(bytes(line))["id"] for line in late.card.messages]
        assert shown == [kept], "who enters does not see it either"

        await stage.call("POST", "rooms/lobby/kicks", {"user": "rude", "why": "cool down"})
        await seen(lambda: rude.ended == Close.KICKED)
        assert [(notice.kind, notice.why) for notice in rude.notices] == [(Kind.KICK, "cool down")]
        assert (await stage.watch("lobby", "rude")).entered == 1, "it may come back"


async def test_modes_are_seen_by_viewers_and_told_to_backends(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screen = await stage.watch("lobby", "v1")
        changes: tuple[dict[str, Any], ...] = (
            {"slow_s": 5},
            {"no_media": True, "limit_per_s": 50},
            {"muted_all": True},
            {"slow_s": 0},
        )
        answers = await asyncio.gather(
            *(stage.call("PATCH", "rooms/lobby/modes", change, ingress=n % 2) for n, change in enumerate(changes[:3]))
        )
        assert {answer.status for answer in answers} == {202}, "two hosts at once both get what they want"
        await stage.call("PATCH", "rooms/lobby/modes", changes[3])
        await seen(lambda: sum(message.kind == Kind.ROOM for message in screen.messages.values()) == 4)
        await stage.say("lobby", "star", role=Role.STREAMER)
        await stage.call("POST", "rooms/lobby/likes", {"count": 5}, role=Role.STREAMER)
        await stage.call("POST", "rooms/lobby/mutes", {"user": "rude"})
        await seen(lambda: screen.likes == 5)
        wanted = {"no_media": True, "limit_per_s": 50, "muted_all": True}
        for ingress in (0, 1):
            state = await stage.call("GET", "rooms/lobby", role=Role.SERVICE, ingress=ingress)
            assert state.status == 200
            assert state.body["settings"] == wanted
            assert (state.body["seq"], state.body["rseq"], state.body["likes"]) == (5, 4, 5)
            assert (state.body["users"], state.body["mutes"], state.body["bans"]) == (1, 1, 0)
        late = await stage.watch("lobby", "v2")
        shown: dict[str, Any] = {}
        await seen(lambda: late.card is not None)
        shown |= json.loads(bytes(late.card.settings))
        for _, message in sorted(late.messages.items()):
            shown |= json.loads(bytes(message.data)) if message.kind == Kind.ROOM else {}
        assert {name: value for name, value in shown.items() if value} == wanted


async def test_a_dissolved_room_puts_all_out_takes_nobody_and_opens_again(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        screens = [await stage.watch("lobby", f"v{number}") for number in range(6)]
        assert (await stage.call("POST", "rooms/lobby/dissolve", {"why": "over"}, role=Role.MODERATOR)).code == "forbidden"
        assert (await stage.call("POST", "rooms/lobby/dissolve", {"why": "over"}, role=Role.STREAMER)).status == 202
        await seen(lambda: all(screen.ended == Close.ROOM_DISSOLVED for screen in screens), 5)
        assert all(screen.shows(Kind.DISSOLVE) for screen in screens)
        assert (await stage.watch("lobby", "v9")).ended == Close.ROOM_DISSOLVED
        assert (await stage.say("lobby", "ann", ingress=1)).status == 410
        assert (await stage.call("POST", "rooms/lobby/reopen", {}, role=Role.STREAMER, ingress=1)).status == 202
        screen = await enters(stage, "v9")
        assert (await stage.say("lobby", "ann")).status == 202
        await seen(lambda: screen.shows(Kind.DANMAKU))


async def test_words_are_refused_masked_counted_and_mute(kafka_bootstrap: str, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("# what no room takes\nrefuse badword\nmask darn\n")
    settings = {"WORD_FILES": json.dumps([str(file)]), "WORD_MUTE_HITS": "3", "WORD_MEDIA_HITS": "4"}
    async with staged(kafka_bootstrap, settings) as stage:
        screen = await stage.watch("lobby", "v1")
        refused = await stage.say("lobby", "u1", "a b.a.d.w.o.r.d here")
        assert (refused.status, refused.code) == (403, "words")
        masked = await stage.say("lobby", "u1", "well DARN it")
        assert (masked.status, masked.body["text"]) == (202, "well **** it")
        await seen(lambda: [json.loads(bytes(m.data))["text"] for m in screen.messages.values()] == ["well **** it"])

        assert (await stage.call("PUT", "words/secret", {"action": "refuse"}, user="op")).status == 202
        assert (await stage.call("PUT", "rooms/lobby/words/spoiler", {"action": "count"}, role=Role.STREAMER)).status == 202
        await lists(stage, "words", "words", 1)
        await lists(stage, "rooms/lobby/words", "words", 1)
        assert (await stage.call("GET", "words", ingress=1)).body == {"words": {"secret": "refuse"}}
        assert (await stage.call("GET", "rooms/lobby/words", ingress=1)).body == {"words": {"spoiler": "count"}}
        assert (await stage.say("other", "u2", "a SECRET", ingress=1)).code == "words"
        assert (await stage.say("lobby", "u2", "spoiler", ingress=1)).status == 202
        assert (await stage.call("DELETE", "words/secret", user="op")).status == 202
        file.write_text("refuse newword\n")
        for ingress in (0, 1):
            async with asyncio.timeout(60):
                while (await stage.say("lobby", f"w{ingress}", "newword", ingress=ingress)).code != "words":  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
            assert (await stage.say("lobby", "u3", "badword secret", ingress=ingress)).status == 202, "taken off the lists"
            assert (await stage.say("lobby", "u4", "newword", ingress=ingress)).code == "words"

        hits = [await stage.say("lobby", "u5", "newword") for _ in range(3)]
        assert {hit.code for hit in hits} == {"words"}
        async with asyncio.timeout(10):
            while (await stage.say("lobby", "u5", ingress=1)).code != "muted":  # noqa: ASYNC110 - an ingress is asked
                await asyncio.sleep(0.05)
        (mute,) = (await stage.call("GET", "rooms/lobby/mutes")).body["users"]
        assert (mute["user"], mute["by"], mute["why"]) == ("u5", "system", "forbidden words")
        sticker = {"type": "sticker", "body": {}}
        async with asyncio.timeout(10):
            while (await stage.call("POST", "rooms/lobby/custom", sticker, user="u6", role=Role.VIEWER)).code != "no_media":  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_everything_hosts_do_is_put_down(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, ingresses=1) as stage:
        asked = [
            ("POST", "mutes", {"user": "rude", "for_s": 60, "why": "spam"}),
            ("DELETE", "mutes/rude", None),
            ("POST", "bans", {"user": "rude"}),
            ("DELETE", "bans/rude", None),
            ("POST", "kicks", {"user": "rude"}),
            ("POST", "clears", {"user": "rude"}),
            ("PATCH", "modes", {"slow_s": 3}),
            ("PUT", "words/spam", {"action": "mask"}),
            ("DELETE", "words/spam", None),
            ("POST", "dissolve", {"why": "over"}),
            ("POST", "reopen", {}),
        ]
        for method, path, body in asked:
            assert (await stage.call(method, f"rooms/lobby/{path}", body, user="star", role=Role.STREAMER)).status == 202
        system = stage.system
        name = AioKafka(KafkaSettings(prefix=system.prefix)).topic_name(AUDIT)
        records = [
            JsonReader(Audit).read(record.value)
            for record in await read_all(system.kafka_bootstrap, name, range(system.partitions))
        ]
        acts = [
            Command.MUTE,
            Command.UNMUTE,
            Command.BAN,
            Command.UNBAN,
            Command.KICK,
            Command.CLEAR,
            Command.MODES,
            Command.SET_ROOM_WORD,
            Command.DROP_ROOM_WORD,
        ]
        assert [record.action for record in records] == [act.value for act in (*acts, Command.DISSOLVE, Command.REOPEN)]
        assert {(record.room, record.by, record.role) for record in records} == {("lobby", "star", Role.STREAMER)}
        assert (records[0].target, records[0].why) == ("rude", "spam")
        assert records[6].what == {"slow_s": 3}
