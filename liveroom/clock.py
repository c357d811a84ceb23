"""The only module that reads a clock or waits for one.

Two clocks: `monotonic_s` for durations and deadlines, Unix time (`unix_s`, `unix_ms`, `unix_ns`)
for what leaves the process: records, tickets, tokens, logs. Code asks these functions and never
`time` or `asyncio.sleep`; lint holds it to that. So a test or a simulation sets the time of
everything that it starts with `running_on`, and two services in one process can have clocks that
disagree.

A service that uses Kafka runs on a `KafkaClock`. It gives the machine's time, and Kafka's where the
machine's clock is off by more than `SKEW_S`. So tickets, tokens, rules and delays stay right on a
machine whose clock is wrong. `machine_ms` and `skew_s` are for code that judges that clock.
"""

import asyncio
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, Protocol

from liveroom.far_times import SKEW_S


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


WINDOW_S: Final = 30.0  # reports and acks come once a second, and one of them that is in time suffices
SET_BACK_S: Final = 3.0  # records that are later than a window for as long are in time by another clock


class KafkaClock:
    """A clock that gives the machine's Unix time, or Kafka's where they differ by over `SKEW_S`.

    Kafka's time is that of one broker for all services, the leader of `gateways`. Were it any
    broker that a service happens to write to, services would disagree where one is wrong, and
    refuse each other's tickets. It becomes known by the timestamps of load reports that have just
    been written (`kafka_is_at`).

    Each one is at most Kafka's present time, and reaches us late by its way, so the latest of the
    last `WINDOW_S` counts. Only where all are earlier by more than that for `SET_BACK_S` was the
    clock set back, or has the topic another leader; then services follow at the same time. The
    times are kept relative to the monotonic clock, so a step of the machine's clock is noticed at
    once. Until the first one the machine's clock holds.
    """

    __slots__ = (
        "_ahead_s",
        "_before_s",
        "_latest_s",
        "_set_back_s",
        "_since_s",
        "machine",
        "monotonic_s",
        "sleep",
    )

    def __init__(self, machine: Clock) -> None:
        self.machine = machine
        self.monotonic_s = machine.monotonic_s
        self.sleep = machine.sleep
        self._ahead_s: float | None = None  # Kafka's time less the monotonic clock's, as the next two
        self._latest_s = self._before_s = -math.inf
        self._since_s = -math.inf
        self._set_back_s: float | None = None  # since when every record was earlier by over a window

    def kafka_is_at(self, at_ms: int) -> None:
        """Take Kafka's time, in Unix ms, of a load report that was written a moment ago."""
        now_s = self.monotonic_s()
        ahead_s = at_ms / 1000 - now_s
        if self._ahead_s is None or ahead_s >= self._ahead_s - WINDOW_S:
            self._set_back_s = None
        elif self._set_back_s is None:
            self._set_back_s = now_s
        elif now_s - self._set_back_s >= SET_BACK_S:
            self._latest_s = self._before_s = -math.inf
            self._set_back_s = None
        if now_s - self._since_s > WINDOW_S:
            self._before_s, self._latest_s, self._since_s = self._latest_s, ahead_s, now_s
        elif ahead_s > self._latest_s:
            self._latest_s = ahead_s
        self._ahead_s = max(self._latest_s, self._before_s)

    @property
    def skew_s(self) -> float | None:
        """The machine's time less Kafka's, in seconds; None: Kafka's is not known yet."""
        return None if self._ahead_s is None else self.machine.unix_ns() / 1e9 - self.monotonic_s() - self._ahead_s

    def unix_ns(self) -> int:
        """Return Unix time in nanoseconds."""
        machine_ns = self.machine.unix_ns()
        if self._ahead_s is None:
            return machine_ns
        skew_s = machine_ns / 1e9 - self.monotonic_s() - self._ahead_s
        return machine_ns if -SKEW_S <= skew_s <= SKEW_S else machine_ns - int(skew_s * 1e9)


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


def with_kafka() -> KafkaClock:
    """Return a clock that begins as the current one, for a service that reads Kafka."""
    return KafkaClock(_clock())


def kafka_is_at(at_ms: int) -> None:
    """Take Kafka's time of a load report that was written a moment ago, in Unix milliseconds.

    Nothing happens where the current clock is no `KafkaClock`.
    """
    if isinstance(clock := _clock(), KafkaClock):
        clock.kafka_is_at(at_ms)


def skew_s() -> float | None:
    """Return by how many seconds the machine's clock is ahead of Kafka's; None: unknown."""
    return clock.skew_s if isinstance(clock := _clock(), KafkaClock) else None


def machine_ms() -> int:
    """Return the machine's Unix time in milliseconds, right or wrong, for those who judge it."""
    clock = _clock()
    return (clock.machine if isinstance(clock, KafkaClock) else clock).unix_ns() // 1_000_000


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


def spent_by(thread: int) -> Callable[[], float]:
    """Return a function that returns how many seconds of processor time a thread has spent.

    `thread`: its identifier; it must be alive at every call. Where the system does not count this
    for another thread (macOS), the seconds since some moment take its place.
    """
    if sys.platform == "darwin":
        return time.monotonic
    of_thread = time.pthread_getcpuclockid(thread)
    return lambda: time.clock_gettime(of_thread)
