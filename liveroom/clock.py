"""The only module that reads a clock or waits for one.

Two clocks: `monotonic_s` for durations and deadlines, Unix time (`unix_s`, `unix_ms`, `unix_ns`)
for what leaves the process: records, tickets, tokens, logs. Code asks these functions and never
`time` or `asyncio.sleep`; lint holds it to that. So a test or a simulation sets the time of
everything that it starts with `running_on`, and two services in one process can have clocks that
disagree.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol


class Clock(Protocol):
    """A source of time."""

    def monotonic_s(self) -> float:
        """Return seconds since some moment; never goes back."""
        ...

    def unix_ns(self) -> int:
        """Return nanoseconds of Unix time; may jump either way."""
        ...

    async def sleep(self, delay_s: float) -> None:
        """Return after `delay_s` seconds; 0 lets every other task that is ready run once."""
        ...


class SystemClock:
    """The machine's clock."""

    __slots__ = ()
    monotonic_s = staticmethod(time.monotonic)
    unix_ns = staticmethod(time.time_ns)
    sleep = staticmethod(asyncio.sleep)


SYSTEM: Final[Clock] = SystemClock()
_running: Final[ContextVar[Clock]] = ContextVar("clock", default=SYSTEM)  # looked up in 15 ns
_clock: Final = _running.get


@contextmanager
def running_on(clock: Clock) -> Iterator[None]:
    """Let this block and every task started in it live by `clock`.

    A thread does so only where it is given this context, as `asyncio.to_thread` gives it.
    """
    token = _running.set(clock)
    try:
        yield
    finally:
        _running.reset(token)


def monotonic_s() -> float:
    """Return seconds since some moment, for durations and deadlines."""
    return _clock().monotonic_s()


def unix_s() -> float:
    """Return Unix time in seconds."""
    return _clock().unix_ns() / 1e9


def unix_ms() -> int:
    """Return Unix time in milliseconds, as records carry it."""
    return _clock().unix_ns() // 1_000_000


def unix_ns() -> int:
    """Return Unix time in nanoseconds, as traces carry it."""
    return _clock().unix_ns()


async def sleep(delay_s: float) -> None:
    """Return after `delay_s` seconds; 0 lets every other task that is ready run once."""
    await _clock().sleep(delay_s)
