"""Broadcasters die, pause, join, leave: gifts arrive once, in order, in time; the log is exact."""

import asyncio
import signal
import statistics
import time
from random import Random

import pytest

from tests.faults.show import show

pytestmark = pytest.mark.fault
TAKE_OVER_S = 8.0
MEDIAN_S = 5.0


async def test_kill_9_of_the_owner_under_load(kafka_bootstrap: str, chance: Random) -> None:
    async with show(kafka_bootstrap, broadcasters=2) as running:
        await asyncio.sleep(chance.uniform(0, 2))
        victim = running.system.broadcasters[chance.randrange(2)]
        killed_ms = time.time_ns() // 10**6
        victim.kill()
        await asyncio.sleep(8)
        await victim.start_ready()
        await asyncio.sleep(3)
    assert running.exact is not None
    took = running.exact.take_overs(victim.name, killed_ms)
    print(f"taken over after {', '.join(f'{s:.2f}' for s in took)} s")
    assert took
    assert max(took) < TAKE_OVER_S
    assert statistics.median(took) < MEDIAN_S


async def test_an_owner_that_was_paused_writes_and_nobody_sees_it(kafka_bootstrap: str, chance: Random) -> None:
    async with show(kafka_bootstrap, broadcasters=2) as running:
        await asyncio.sleep(chance.uniform(0, 2))
        zombie = running.system.broadcasters[chance.randrange(2)]
        paused_at = time.monotonic()
        zombie.kill(signal.SIGSTOP)
        await asyncio.sleep(15)
        zombie.kill(signal.SIGCONT)
        assert running.given(paused_at, time.monotonic()) > 100, "what is accepted meanwhile is what is judged"
        await asyncio.sleep(5)


@pytest.mark.slow
async def test_an_owner_that_is_paused_again_and_again_for_about_its_session(kafka_bootstrap: str, chance: Random) -> None:
    async with show(kafka_bootstrap, broadcasters=2) as running:
        for _ in range(5):
            zombie = running.system.broadcasters[chance.randrange(2)]
            running.befalls(zombie)
            zombie.kill(signal.SIGSTOP)
            await asyncio.sleep(chance.uniform(2, 5))
            zombie.kill(signal.SIGCONT)
            await asyncio.sleep(chance.uniform(0, 3))
        await asyncio.sleep(3)


async def test_one_broadcaster_becomes_four_and_one_again(kafka_bootstrap: str, chance: Random) -> None:
    async with show(kafka_bootstrap) as running:
        system = running.system
        await asyncio.gather(*(system.add_broadcaster() for _ in range(3)))
        await asyncio.sleep(chance.uniform(1, 4))
        for service in system.broadcasters[:3]:
            assert await service.stop() == 0
            await asyncio.sleep(chance.uniform(0, 2))
        await asyncio.sleep(3)


@pytest.mark.slow
async def test_kill_9_of_one_after_the_other(kafka_bootstrap: str, chance: Random) -> None:
    async with show(kafka_bootstrap, broadcasters=3) as running:
        for _ in range(4):
            victim = running.system.broadcasters[chance.randrange(3)]
            running.befalls(victim)
            victim.kill()
            await asyncio.sleep(chance.uniform(4, 8))
            await victim.start_ready()
            await asyncio.sleep(chance.uniform(0, 2))
        await asyncio.sleep(3)
