"""A host invents users whom it mutes and bans, and words, as fast as an ingress takes them: the
room's caps and the host's rates refuse it by name, hosts of other rooms notice nothing.
"""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections import Counter
from typing import Any

import psutil
import pytest

from ingress.moderation import MAX_ROOM_WORDS, MAX_SANCTIONS
from liveroom import metric_catalog
from liveroom.kinds import Role
from liveroom.records.control import RuleKind
from tests.attacks.test_pulls import ROOT, obey
from tests.e2e.harness import Stage, seen, staged

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
BURST = 6000  # commands of a user at one ingress, enough for the caps; by default (100) it takes minutes
SETTINGS = {"RATES": json.dumps({"act": {"user_per_s": 20, "user_burst": BURST}, "danmaku": {"user_per_s": 0}})}
CAPS = {"mutes": MAX_SANCTIONS[RuleKind.MUTE], "bans": MAX_SANCTIONS[RuleKind.BAN], "words": MAX_ROOM_WORDS}
RACES = 500  # commands at several ingresses at once, each within the cap by what it knew
MOST_BYTES = 60 * 1024 * 1024  # for all that the caps admit
MOST_GROWTH_BYTES = 10 * 1024 * 1024  # afterwards


async def moderate(stage: Stage, statuses: Counter[str]) -> None:
    """Moderate another room as its honest host does, at both ingresses, for ever."""
    number = 0
    while True:
        number += 1
        room, ingress = f"show{number % 5}", number % 2
        host: dict[str, Any] = {"user": f"host-{room}", "role": Role.STREAMER, "ingress": ingress}
        asked = await stage.call("POST", f"rooms/{room}/mutes", {"user": "rude"}, **host)
        statuses[f"mute {asked.status}"] += 1
        asked = await stage.call("DELETE", f"rooms/{room}/mutes/rude", **host)
        statuses[f"unmute {asked.status}"] += 1
        statuses[f"say {(await stage.say(room, 'anna', ingress=ingress)).status}"] += 1
        await asyncio.sleep(0.1)


def memory(stage: Stage) -> dict[str, int]:
    """Return the memory of the services that keep rules."""
    system = stage.system
    return {service.name: psutil.Process(service.pid).memory_info().rss for service in (*system.ingresses, *system.edges)}


async def test_a_host_that_invents_users_and_words_is_refused_at_the_caps_and_rates_alone(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, SETTINGS) as stage, asyncio.TaskGroup() as tasks:
        system = stage.system
        targets = {
            "ingresses": [ingress.port for ingress in system.ingresses],
            "token": system.token("mallory", Role.STREAMER, rooms=("attacked",)),
            "room": "attacked",
        }
        screen = await stage.watch("show0", "viewer")
        honest = Counter[str]()
        moderating = tasks.create_task(moderate(stage, honest))
        attacker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.attacks.flooding", json.dumps(targets)), cwd=ROOT, stdin=PIPE, stdout=PIPE
        )
        assert attacker.stdout is not None
        assert (await attacker.stdout.readline()) == b"ready\n"
        before, got = memory(stage), Counter[str]()
        async with asyncio.timeout(150):
            while any(got[f"{what} 409 limit"] < 50 for what in CAPS) or got["mutes 429 rate_user"] < 100:
                got += await obey(attacker, "rules 2\n")
        full = memory(stage)
        got += await obey(attacker, "rules 4\n")
        after = memory(stage)
        said = honest["say 202"]
        await seen(lambda: honest["say 202"] > said + 1)
        moderating.cancel()
        metrics = [await ingress.metrics() for ingress in system.ingresses]
        gateways = [await edge.metrics() for edge in system.edges]
        attacker.terminate()
        await attacker.wait()
    grown = {name: full[name] - before[name] for name in before}
    later = {name: after[name] - full[name] for name in before}
    print(dict(got), dict(honest), grown, later)
    # Honest users.
    assert set(honest) == {"mute 202", "unmute 202", "say 202"}
    assert len(screen.messages) >= 3
    # The attacker.
    for what, cap in CAPS.items():
        assert got[f"{what} 202"] <= cap + RACES, what
        refused = {f"{what} 409 limit", f"{what} 429 rate_user", f"{what} closed"}  # an answer may end its connection
        assert {name for name in got if name.startswith(what)} <= {f"{what} 202"} | refused
    # Who was refused and why, and what is kept.
    for code, answer in (("limit", "409 limit"), ("rate_user", "429 rate_user")):
        counted = sum(each[f'{metric_catalog.REFUSALS.name}{{code="{code}"}}'] for each in metrics)
        assert counted == sum(value for name, value in got.items() if name.endswith(answer)), code
    for service in (*metrics, *gateways):
        for kind, what in ((RuleKind.MUTE, "mutes"), (RuleKind.BAN, "bans"), (RuleKind.WORD, "words")):
            held = service.get(f'{metric_catalog.RULES.name}{{kind="{kind.value}"}}', 0.0)
            assert held <= CAPS[what] + RACES, kind
    assert max(grown.values()) <= MOST_BYTES, grown
    assert max(later.values()) <= MOST_GROWTH_BYTES, later
