"""Tasks that run beside something else, and what becomes of their failures."""

import asyncio
import inspect
from typing import Any

import pytest

from liveroom.tasks import BackgroundTasks, CancelledWorkError, beside, call_reported


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


def cancelled() -> "asyncio.Future[None]":
    """Return a future of somebody else, who has cancelled it."""
    future = asyncio.get_running_loop().create_future()
    future.cancel()
    return future


async def waits_for_what_is_cancelled() -> None:
    await cancelled()


async def test_a_work_that_ends_cancelled_though_nobody_cancelled_it_ends_the_block() -> None:
    async def waits() -> None:
        async with asyncio.timeout(30), beside(waits_for_what_is_cancelled()):
            await asyncio.Event().wait()

    with pytest.raises(CancelledWorkError, match="waits_for_what_is_cancelled"):
        await waits()


async def test_a_work_that_is_cancelled_before_it_begins_leaves_nothing() -> None:
    work = fails()
    async with beside(work):
        pass
    assert inspect.getcoroutinestate(work) == inspect.CORO_CLOSED


async def test_a_task_in_the_background_that_ends_cancelled_by_itself_is_reported() -> None:
    found, tasks = reports(), BackgroundTasks("painting")
    tasks.start(waits_for_what_is_cancelled())
    await tasks.wait()
    assert [each["message"] for each in found] == ["painting failed"]
    assert isinstance(tasks.failure, CancelledWorkError)


async def test_a_callback_whose_own_future_was_cancelled_is_reported_and_ends_nothing() -> None:
    found = reports()
    call_reported("a callback failed", cancelled().result)
    assert [type(each["exception"]) for each in found] == [asyncio.CancelledError]


async def test_a_callback_that_never_runs_because_it_is_async_is_reported() -> None:
    found = reports()
    call_reported("a callback failed", fails)
    assert [str(each["exception"]) for each in found] == [
        "fails is `async def`; it must be a plain function, and may start a task"
    ]
