"""Tasks that run beside something else, and what becomes of their failures."""

import asyncio
from typing import Any

import pytest

from liveroom.tasks import BackgroundTasks, beside, call_reported


class OwnError(Exception):
    """A failure that nothing here expects."""


async def fails() -> None:
    raise OwnError("broken")


async def fails_when(moment: asyncio.Event) -> None:
    await moment.wait()
    raise OwnError("broken")


def reports() -> list[dict[str, Any]]:
    """Collect what the loop's exception handler gets."""
    found: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: found.append(context))
    return found


async def test_a_block_that_waits_for_ever_ends_with_the_error_of_a_work_beside_it() -> None:
    moment = asyncio.Event()

    async def waits() -> None:
        async with beside(fails_when(moment), asyncio.sleep(3600)), asyncio.timeout(30):
            moment.set()
            await asyncio.Event().wait()

    with pytest.raises(OwnError, match="broken"):
        await waits()


async def test_works_end_with_their_block_and_may_end_before_it() -> None:
    async with beside(asyncio.sleep(3600), asyncio.sleep(0)) as (long, short):
        await asyncio.wait([short])
    assert long.cancelled()
    assert not short.cancelled()


async def test_the_error_of_a_block_is_raised_as_it_is() -> None:
    with pytest.raises(OwnError) as raised:
        async with beside(asyncio.sleep(3600)):
            raise OwnError("of the block")
    assert str(raised.value) == "of the block"


async def test_a_block_that_raises_what_its_work_ended_with_raises_it_once() -> None:
    async def looks() -> None:
        async with beside(fails()) as (task,):
            await asyncio.wait([task])
            task.result()

    with pytest.raises(OwnError, match="broken"):
        await looks()


async def test_different_errors_of_the_block_and_its_work_are_both_raised() -> None:
    async def fails_too() -> None:
        async with beside(fails()) as (task,):
            try:
                await asyncio.wait([task])
            finally:
                raise ValueError("another")

    with pytest.raises(ExceptionGroup) as raised:
        await fails_too()
    assert {type(error) for error in raised.value.exceptions} == {OwnError, ValueError}


async def test_a_cancelled_block_is_cancelled_and_its_works_too() -> None:
    entered = asyncio.Event()
    found: list[asyncio.Task[Any]] = []

    async def block() -> None:
        async with beside(asyncio.sleep(3600)) as tasks:
            found.extend(tasks)
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert found[0].cancelled()


async def test_a_task_in_the_background_that_fails_is_reported_once_and_kept() -> None:
    found, tasks = reports(), BackgroundTasks("painting")
    failed = tasks.start(fails())
    tasks.start(asyncio.sleep(0))
    await tasks.wait()
    assert [(each["message"], str(each["exception"])) for each in found] == [("painting failed", "broken")]
    assert tasks.failure is failed.exception()
    assert len(tasks) == 0


async def test_waiting_ends_in_time_and_includes_tasks_that_tasks_start() -> None:
    tasks = BackgroundTasks("painting")
    done = asyncio.Event()

    async def outer() -> None:
        async def inner() -> None:
            await asyncio.sleep(0)
            done.set()

        tasks.start(inner())

    tasks.start(outer())
    await tasks.wait()
    assert done.is_set()
    tasks.start(asyncio.sleep(3600))
    await tasks.wait(0.0)
    assert len(tasks) == 1
    await tasks.cancel()
    assert (len(tasks), tasks.failure) == (0, None)


async def test_what_a_callback_raises_is_reported() -> None:
    found = reports()

    def broken(value: int, *, more: str) -> None:
        raise OwnError(f"{value} {more}")

    call_reported("a callback failed", broken, 5, more="times")
    assert [(each["message"], str(each["exception"])) for each in found] == [("a callback failed", "5 times")]
