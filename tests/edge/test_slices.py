"""Long work in the loop, in slices that nobody notices."""

import asyncio
import itertools
from collections.abc import Generator

from edge.slices import SLICE_S, Slices
from liveroom import clock
from tests.manual_clock import ManualClock

STEPS = 10  # of a slice


def work(name: str, steps: int, now: ManualClock, done: list[str]) -> Generator[None, None, str]:
    for _ in range(steps):
        now.now_s += SLICE_S / STEPS
        done.append(name)
        yield
    return name


async def test_many_who_work_take_turns_and_leave_the_loop_to_others_after_each_slice() -> None:
    slices, done, now = Slices(), list[str](), ManualClock()
    seen = [0]

    async def other() -> None:
        while True:
            seen.append(len(done))
            await asyncio.sleep(0)

    with clock.running_on(now):
        beside = asyncio.create_task(other())
        results = await asyncio.gather(*(slices.run(work(name, 50, now, done)) for name in "abc"))
        beside.cancel()
    assert results == ["a", "b", "c"]
    assert max(after - before for before, after in itertools.pairwise(seen)) <= STEPS + 1
    ends = [max(place for place, each in enumerate(done) if each == name) for name in "abc"]
    assert min(ends) > 100, "nobody was done before the others had most of theirs"


async def test_work_that_fails_fails_its_own_caller_alone() -> None:
    def broken() -> Generator[None, None, None]:
        yield
        raise ZeroDivisionError

    slices, done, now = Slices(), list[str](), ManualClock()
    with clock.running_on(now):
        working = work("a", 30, now, done)
        results = await asyncio.gather(slices.run(broken()), slices.run(working), return_exceptions=True)
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] == "a"
