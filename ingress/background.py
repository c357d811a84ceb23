"""Work that a request starts and does not wait for."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from liveroom.tasks import end_tasks


class BackgroundTasks:
    """Tasks that run until they are done; the owner ends them with `wait` or `cancel`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which raises nothing."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Return when all tasks are done."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cancel(self) -> None:
        """Cancel all tasks, and return when they have ended."""
        await end_tasks(*self._tasks)
