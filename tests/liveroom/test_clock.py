import asyncio
import time

import pytest

from liveroom import clock


class Still:
    """A clock that moves when somebody sleeps."""

    def __init__(self, unix_s: float) -> None:
        self.at_s = 0.0
        self.unix = unix_s

    def monotonic_s(self) -> float:
        return self.at_s

    def unix_ns(self) -> int:
        return int((self.unix + self.at_s) * 1e9)

    async def sleep(self, delay_s: float) -> None:
        self.at_s += delay_s
        await asyncio.sleep(0)


def test_the_machines_clock_is_the_default() -> None:
    before_s, before_ms = time.monotonic(), time.time_ns() // 1_000_000
    assert before_s <= clock.monotonic_s() <= time.monotonic()
    assert before_ms <= clock.unix_ms() <= time.time_ns() // 1_000_000
    assert before_ms / 1000 <= clock.unix_s() <= time.time()
    assert before_ms * 1_000_000 <= clock.unix_ns() <= time.time_ns()


async def test_two_tasks_live_by_clocks_that_disagree() -> None:
    async def life(unix_s: float) -> tuple[float, int]:
        await clock.sleep(3600)
        return clock.monotonic_s(), clock.unix_ms()

    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        with clock.running_on(Still(1000)):
            first = tasks.create_task(life(1000))
        with clock.running_on(Still(5000)):
            second = tasks.create_task(life(5000))
    assert first.result() == (3600, 4_600_000)
    assert second.result() == (3600, 8_600_000)


async def test_callbacks_know_their_clock() -> None:
    loop, called = asyncio.get_running_loop(), asyncio.Event()
    seen: list[float] = []
    with clock.running_on(Still(0)):
        loop.call_soon(lambda: seen.append(clock.monotonic_s()))
        loop.call_soon(called.set)
    await called.wait()
    seen.append(await asyncio.to_thread(clock.unix_s))  # a thread that is given this context, which is on the machine's clock
    assert seen[0] == 0.0
    assert seen[1] > 1e9
    assert clock.monotonic_s() > 0


def test_a_block_that_fails_gives_the_clock_back() -> None:
    with pytest.raises(ValueError, match="broken"), clock.running_on(Still(0)):
        raise ValueError("broken")
    assert clock.monotonic_s() > 0
