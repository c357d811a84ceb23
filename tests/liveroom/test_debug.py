"""Looking into a running process."""

import asyncio
import gc
import re
import signal
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from liveroom.debug import sample
from liveroom.service import Runtime
from liveroom.web import serve

KEY = "secret-of-operators"


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with serve(Runtime("edge").internal_app(KEY), "127.0.0.1", 0) as (_, port):
        yield f"http://127.0.0.1:{port}"


async def ask(url: str, key: str = KEY) -> tuple[int, str]:
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as http, http.get(url) as answer:
        return answer.status, await answer.text()


async def busy_with_nothing() -> None:
    await asyncio.Event().wait()


async def test_tasks_are_told_with_what_they_wait_for(url: str) -> None:
    waiting = [asyncio.create_task(busy_with_nothing()) for _ in range(3)]
    await asyncio.sleep(0)
    status, text = await ask(f"{url}/debug/tasks")
    assert status == 200
    assert re.search(r"^3 x busy_with_nothing\n  .*test_debug.py:\d+ busy_with_nothing$", text, re.MULTILINE), text
    for task in waiting:
        task.cancel()


class Hoarded:
    """What there is much of."""


async def test_memory_is_told_by_type(url: str) -> None:
    kept = [Hoarded() for _ in range(200_000)]
    gc.collect()
    status, text = await ask(f"{url}/debug/memory")
    assert status == 200
    assert re.search(r"^resident [\d,]+ bytes$", text, re.MULTILINE)
    assert re.search(r"^ *200,000  Hoarded$", text, re.MULTILINE), text
    assert len(kept) == 200_000


async def test_a_profile_shows_where_the_time_goes_while_the_process_works_on(url: str) -> None:
    def spin() -> None:
        end = time.perf_counter() + 0.002
        while time.perf_counter() < end:
            pass

    async def work() -> None:
        while True:
            spin()
            await asyncio.sleep(0)

    working = asyncio.create_task(work())
    status, text = await ask(f"{url}/debug/profile?seconds=0.5")
    working.cancel()
    assert status == 200
    counts = {stack: int(count) for stack, _, count in (line.rpartition(" ") for line in text.splitlines())}
    spinning = sum(count for stack, count in counts.items() if "spin" in stack)
    assert spinning > sum(counts.values()) / 2, text


async def test_an_idle_process_says_so_and_the_timer_is_gone_afterwards(url: str) -> None:
    told = [await ask(f"{url}/debug/profile?seconds=0.1") for _ in range(2)]
    assert all(status == 200 for status, _ in told)
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert await sample(0.05) is not None


@pytest.mark.parametrize("path", ["tasks", "memory", "profile"])
async def test_nobody_else_finds_anything_there(url: str, path: str) -> None:
    assert (await ask(f"{url}/debug/{path}", "guess"))[0] == 404
    assert (await ask(f"{url}/debug/{path}", "schlüssel"))[0] == 404
    async with serve(Runtime("edge").internal_app(), "127.0.0.1", 0) as (_, port):
        assert (await ask(f"http://127.0.0.1:{port}/debug/{path}", ""))[0] == 404


async def test_nonsense_is_refused(url: str) -> None:
    assert (await ask(f"{url}/debug/profile?seconds=soon"))[0] == 400
