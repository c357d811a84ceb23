"""A moderator turns against the other hosts, at two ingresses and two gateways."""

import asyncio
from typing import Any

import pytest

from liveroom.kinds import Kind, Role
from tests.e2e.harness import Answer, Stage, seen, staged

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
KNOWN_S = 1.0  # within which every ingress and gateway knows a rule
COVERED_S = 2.5  # a ban covers what its user says within 2 s, whoever the user is


async def attack(stage: Stage, attacker: str, target: str, **claims: Any) -> list[Answer]:
    """Give every command on a user in room lobby, at both ingresses."""
    commands: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "kicks", {"user": target}),
        ("POST", "mutes", {"user": target}),
        ("POST", "bans", {"user": target}),
        ("POST", "clears", {"user": target}),
        ("DELETE", f"mutes/{target}", None),
        ("DELETE", f"bans/{target}", None),
    ]
    answers = []
    for ingress in (0, 1):
        for method, path, body in commands:
            asked: dict[str, Any] = {"user": attacker, "role": Role.MODERATOR, "ingress": ingress} | claims
            answers.append(await stage.call(method, f"rooms/lobby/{path}", body, **asked))
    return answers


async def test_a_moderator_does_nothing_to_the_streamer_an_operator_or_a_moderator(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        hosts = {"star": Role.STREAMER, "op": Role.OPERATOR, "friend": Role.MODERATOR}
        screens = {user: await stage.watch("lobby", user, role=role, rooms=("lobby",)) for user, role in hosts.items()}
        honest = await stage.watch("lobby", "honest")
        for user, role in hosts.items():
            assert (await stage.say("lobby", user, role=role)).status == 202
        await asyncio.sleep(KNOWN_S)
        for user in hosts:
            refused = {(answer.status, answer.code) for answer in await attack(stage, "mod", user)}
            assert refused == {(403, "forbidden")}, user
        for ingress, (user, role) in enumerate(hosts.items()):
            assert (await stage.say("lobby", user, "still here", ingress=ingress % 2, role=role)).status == 202
        await seen(lambda: all(len(honest.of_user(user)) == 2 for user in hosts))
        assert honest.gone == []
        assert all(screen.ended is None and screen.errors == [] for screen in screens.values())


async def test_mutes_and_bans_of_a_moderator_do_not_hold_for_a_host_whom_no_ingress_knew(kafka_bootstrap: str) -> None:
    """The role in the target's own token decides, so it needs no record."""
    async with staged(kafka_bootstrap) as stage:
        star = await stage.watch("lobby", "star", role=Role.STREAMER, rooms=("lobby",))
        for path in ("mutes", "bans"):
            asked = await stage.call("POST", f"rooms/lobby/{path}", {"user": "star"}, user="mod", role=Role.MODERATOR)
            assert asked.status == 202, "nobody knew yet"
        await asyncio.sleep(COVERED_S)
        for ingress in (0, 1):
            assert (await stage.say("lobby", "star", ingress=ingress, role=Role.STREAMER, rooms=("lobby",))).status == 202
        again = await stage.watch("lobby", "star", role=Role.STREAMER, rooms=("lobby",))
        await seen(lambda: star.shows(Kind.DANMAKU) and again.entered > 0)
        assert (star.ended, again.ended) == (None, None)


async def test_a_banned_moderator_gives_no_command_and_does_not_lift_the_own_ban(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap) as stage:
        asked: dict[str, Any] = {"user": "star", "role": Role.STREAMER}
        assert (await stage.call("POST", "rooms/lobby/bans", {"user": "mod"}, **asked)).status == 202
        await asyncio.sleep(KNOWN_S)
        for target in ("mod", "honest"):
            assert {answer.code for answer in await attack(stage, "mod", target)} == {"banned"}
        for ingress in (0, 1):
            listed = await stage.call("GET", "rooms/lobby/bans", user="mod", role=Role.MODERATOR, ingress=ingress)
            assert listed.code == "banned"

        assert (await stage.say("lobby", "honest", ingress=1)).status == 202


async def test_a_token_of_a_host_without_rooms_and_one_with_an_empty_list_are_good_nowhere(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, ingresses=1) as stage:
        for claims in (
            {"role": Role.MODERATOR, "rooms": None},
            {"role": Role.OPERATOR, "rooms": ()},
            {"role": Role.VIEWER, "rooms": ()},
        ):
            assert (await stage.call("GET", "rooms/lobby/bans", user="u", **claims)).code == "forbidden"
            assert (await stage.say("lobby", "u", **claims)).code == "forbidden"
            head = {"Authorization": f"Bearer {stage.token('u', **claims)}"}
            async with stage.http.get(f"{stage.system.scheduler_url}/v1/entry?room=lobby", headers=head) as answer:
                assert answer.status == 403
