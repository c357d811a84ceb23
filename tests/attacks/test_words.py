"""A host's words make one danmaku expensive for everybody at the ingress."""

import json
from pathlib import Path

import pytest

from ingress.words import normal
from liveroom.kinds import Role
from tests.e2e.harness import Stage, staged

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
MARKS = [chr(code) for code in range(0x2010, 0x2100) if chr(code).isprintable() and not normal(chr(code))]
WORDS = [f"*a{first}{second}*" for first in MARKS[:25] for second in MARKS[25:45]]
DANMAKU = 150
GENEROUS = {"user_per_s": 1e5, "user_burst": 1e5, "room_per_s": 1e6}
SETTINGS = {"RATES": json.dumps({"danmaku": GENEROUS, "act": GENEROUS}), "WORD_MUTE_HITS": "0"}


def cpu_ticks(pid: int) -> int:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


async def cost(stage: Stage, room: str) -> int:
    """Return what danmaku of 200 characters in a room cost the ingress."""
    pid = stage.system.ingresses[0].pid
    assert pid is not None
    before = cpu_ticks(pid)
    for _ in range(DANMAKU):
        assert (await stage.say(room, "honest", "a" * 200)).status == 202
    return cpu_ticks(pid) - before


async def test_500_words_that_are_all_the_same_make_no_danmaku_expensive(kafka_bootstrap: str) -> None:
    async with staged(kafka_bootstrap, SETTINGS, ingresses=1) as stage:
        for word in WORDS:
            put = await stage.call("PUT", f"rooms/attacked/words/{word}", {"action": "count"}, user="mod", role=Role.MODERATOR)
            assert put.status == 202
        await cost(stage, "plain")  # warm
        plain = await cost(stage, "plain")
        attacked = await cost(stage, "attacked")
        assert attacked <= 2 * plain + 5, (attacked, plain)
