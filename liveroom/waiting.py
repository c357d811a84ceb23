"""Starts that wait: a failure that passes by itself is reported and tried again, any other ends the
service with one line.

Owns the judgement whether another attempt may succeed (`passes`), and the loop of attempts. Used by
every service's start, mostly as `liveroom.kafka.waiting`. The runtime holds the readiness.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from liveroom import clock
from liveroom.errors import in_words
from liveroom.kafka_port import LASTING_ERRORS, KafkaError
from liveroom.service import Runtime, StartError
from liveroom.web import ListenError

FIRST_PAUSE_S: Final = 0.2
LONGEST_PAUSE_S: Final = 1.0
CANCEL_S: Final = 1.0  # a Kafka client may swallow a cancellation
T = TypeVar("T")

_PASSING_IN_TLS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)  # the other side went away
_LASTING_HERE: Final = (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ListenError)


class PassingError(Exception):
    """A failure that passes by itself. The message says what the start waits for."""


def passes(error: BaseException) -> bool:
    """Return whether another attempt may succeed although nobody changes anything."""
    match error:
        case BaseExceptionGroup():
            return all(map(passes, error.exceptions))
        case KafkaError():
            # All others pass: elections, topics just made, coordinators and controllers that move,
            # time-outs, too few brokers for the replication (one of them is away).
            return not isinstance(error, LASTING_ERRORS)
        case ssl.SSLError():
            return isinstance(error, _PASSING_IN_TLS)
        case OSError():  # a name that is not resolved and a time-out too
            return not isinstance(error, _LASTING_HERE)
        case _:
            return isinstance(error, PassingError)


class Waiting:
    """Repeats the attempts at one part of a start for as long as they need.

    `name`: what the start waits for; where it is a condition of readiness, `/readyz` shows the
    reason. `probe`: awaited before each attempt.
    """

    def __init__(self, runtime: Runtime, name: str, probe: Callable[[], Awaitable[None]] | None = None) -> None:
        self._runtime = runtime
        self._name = name
        self._probe = probe

    async def until(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Call `attempt` until it succeeds, and return its result.

        Raises StartError for a failure that does not pass, unless the service was ready once: a
        running service does not end for one. On shutdown it raises CancelledError at once, not
        after the attempt.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                result: T = await self._unless_stopping(self._try(attempt))
            except (KafkaError, OSError, StartError, PassingError, ExceptionGroup) as error:
                if not passes(error) and not self._runtime.was_ready:
                    if isinstance(error, KafkaError | OSError):
                        raise StartError(f"{self._name}: {in_words(error)}") from error
                    raise
                self._runtime.waits(self._name, in_words(error))
            else:
                return result
            await self._unless_stopping(clock.sleep(pause_s))
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)

    async def _try(self, attempt: Callable[[], Awaitable[T]]) -> T:
        if self._probe is not None:
            await self._probe()
        return await attempt()

    async def _unless_stopping(self, work: Coroutine[Any, Any, Any]) -> Any:
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not working.done():
                working.add_done_callback(_take_result)
                working.cancel()
                await asyncio.wait({working}, timeout=CANCEL_S)
        if self._runtime.stopping.is_set() and (not working.done() or working.cancelled()):
            raise asyncio.CancelledError
        if working.cancelled():
            raise PassingError("the attempt was cancelled")  # by a client that cancels a task of its own
        return working.result()


def _take_result(ended: "asyncio.Task[Any]") -> None:
    """Take the result of a task that nobody awaits: asyncio logs an error that is not taken."""
    if not ended.cancelled():
        ended.exception()
