"""Debug endpoints of a running process: its tasks, its memory, and a profile of its event loop.

`/debug/tasks`, `/debug/memory` and `/debug/profile?seconds=5` of the internal port. Every request
gets 404 unless a key is set (LIVEROOM_DEBUG_KEY) and the request carries it. Costs nothing between
requests.
"""

import asyncio
import gc
import hmac
import signal
from collections import Counter
from traceback import extract_stack, walk_stack
from types import FrameType
from typing import Final

import psutil
from aiohttp import web

from liveroom import clock

SAMPLE_S: Final = 0.01
LONGEST_S: Final = 60.0
TYPES: Final = 40
FRAMES: Final = 12


class Debug:
    """The routes. `key`: the bearer key of operators; empty: the routes do not exist."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._one_at_a_time = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the routes to `app`, if there is a key."""
        if self._key:
            app.router.add_get("/debug/tasks", self._tasks)
            app.router.add_get("/debug/memory", self._memory)
            app.router.add_get("/debug/profile", self._profile)

    def _check(self, request: web.Request) -> None:
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise web.HTTPNotFound

    async def _tasks(self, request: web.Request) -> web.Response:
        """Answer with what every task waits for; tasks that wait at the same place are counted."""
        self._check(request)
        counted = Counter(_where(task) for task in asyncio.all_tasks())
        lines = [f"{len(asyncio.all_tasks())} tasks", *(f"\n{count} x {where}" for where, count in counted.most_common())]
        return web.Response(text="\n".join(lines) + "\n")

    async def _memory(self, request: web.Request) -> web.Response:
        """Answer with the number of objects by type. Stops the process for a moment."""
        self._check(request)
        rss = await asyncio.to_thread(lambda: psutil.Process().memory_info().rss)
        counted = Counter(type(one).__qualname__ for one in gc.get_objects())
        lines = [f"resident {rss:,} bytes", f"collected {gc.get_count()}, frozen {gc.get_freeze_count():,}"]
        lines += [f"{count:>10,}  {name}" for name, count in counted.most_common(TYPES)]
        return web.Response(text="\n".join(lines) + "\n")

    async def _profile(self, request: web.Request) -> web.Response:
        """Sample the event loop; answer with collapsed stacks for flame graph tools."""
        self._check(request)
        try:
            seconds = min(LONGEST_S, max(0.1, float(request.query.get("seconds", "5"))))
        except ValueError:
            raise web.HTTPBadRequest(text="seconds: a number\n") from None
        async with self._one_at_a_time:
            stacks = await sample(seconds)
        text = "".join(f"{stack} {count}\n" for stack, count in stacks.most_common())
        return web.Response(text=text or "(idle) 1\n")


async def sample(seconds: float) -> Counter[str]:
    """Sample the stack of this thread for `seconds`, every 10 ms of processor time.

    Returns how often each stack was found. A signal samples, not another thread: a thread would
    see this one only where it releases the interpreter lock.
    """
    found: Counter[str] = Counter()

    def take_sample(_: int, frame: FrameType | None) -> None:
        names = [f"{at.f_code.co_filename.rpartition('/')[2]}:{at.f_code.co_qualname}" for at, _ in walk_stack(frame)]
        found[";".join(reversed(names))] += 1

    before = signal.signal(signal.SIGPROF, take_sample)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
    try:
        await clock.sleep(seconds)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return found


def _where(task: "asyncio.Task[object]") -> str:
    frames = task.get_stack(limit=FRAMES)
    lines = [f"  {at.filename}:{at.lineno} {at.name}" for frame in frames for at in extract_stack(frame, limit=1)]
    return "\n".join([getattr(task.get_coro(), "__qualname__", str(task.get_coro())), *lines])
