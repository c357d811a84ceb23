"""Tasks that run beside something else: none fails unseen.

Owns what becomes of the failure of a task: it ends the block beside which the task runs
(`beside`), or the event loop's exception handler reports it (`BackgroundTasks`). That handler logs
it, unless the application has set one of its own.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class CancelledWorkError(Exception):
    """A work ended cancelled although nobody cancelled it: what it waited for was."""


def is_cancelled() -> bool:
    """Return whether somebody has cancelled the task that runs now."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def end_tasks(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and return when all have ended, however they end."""
    ending = [task for task in tasks if task is not None]
    for task in ending:
        task.cancel()
    await asyncio.gather(*ending, return_exceptions=True)


@asynccontextmanager
async def beside(*works: Coroutine[Any, Any, Any]) -> AsyncIterator[list[asyncio.Task[Any]]]:
    """Run works while the block runs; give their tasks, and cancel them at the block's end.

    A work that fails cancels the block and the other works, and its error is raised. A work may
    end early without one. One that ends cancelled while nobody cancelled it fails with
    CancelledWorkError: a task group alone would pass over it.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_unless_cancelled(work)) for work in works]
            try:
                yield tasks
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as failed:
        first, *others = failed.exceptions
        if any(other is not first for other in others):  # the block may raise what a work ended with
            raise
        raise first  # noqa: B904 - the group says nothing more
    finally:
        for work in works:
            work.close()  # one that was cancelled before it began


async def _unless_cancelled(work: Coroutine[Any, Any, T]) -> T:
    try:
        return await work
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise CancelledWorkError(f"{getattr(work, '__qualname__', work)} ended cancelled, and nobody cancelled it") from error


def report_failure(about: str, error: BaseException) -> None:
    """Hand an error to the event loop's exception handler; `about` says in words what failed."""
    asyncio.get_running_loop().call_exception_handler({"message": about, "exception": error})


def call_reported(about: str, callback: Callable[P, object], *given: P.args, **more: P.kwargs) -> None:
    """Call what an application gave: an error that it raises is reported, and ends nothing here.

    So is an `async def`, of which nothing would run.
    """
    try:
        refuse_coroutine(callback(*given, **more))
    except asyncio.CancelledError as error:  # of a future of the application's
        if is_cancelled():
            raise
        report_failure(about, error)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the application's
        report_failure(about, error)


def refuse_coroutine(returned: object) -> None:
    """Raise TypeError where a function that must be a plain one has returned a coroutine."""
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError(f"{returned.__qualname__} is `async def`; it must be a plain function, and may start a task")


class BackgroundTasks:
    """Tasks that run until they are done; the owner ends them with `wait` or `cancel`.

    `about` says in words what they do. A failure is reported, and `failure` keeps the first one:
    an owner that cannot go on without its tasks raises it.
    """

    def __init__(self, about: str) -> None:
        self.failure: BaseException | None = None
        self._about = about
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[asyncio.Task[Any]]:
        return iter(tuple(self._tasks))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run `work` and return its task."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error: BaseException | None
        if not task.cancelled():
            error = task.exception()
        else:
            error = None if task.cancelling() else CancelledWorkError("it ended cancelled, and nobody cancelled it")
        if error is not None:
            self.failure = self.failure or error
            report_failure(f"{self._about} failed", error)

    async def wait(self, timeout_s: float | None = None) -> None:
        """Return when all tasks are done, those too that these start, or after `timeout_s`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def cancel(self) -> None:
        """Cancel all tasks, and return when they have ended."""
        await end_tasks(*self._tasks)
