"""Starts that wait: what passes by itself is waited for and told, anything else ends the service
with one line.

Owns the one judgement (`passes`) of what is worth another attempt, and the loop of attempts. Used
by every service's start, mostly as `liveroom.kafka.waiting`; the readiness that it tells is the
runtime's.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from liveroom import clock
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
    """What passes by itself; the message says what is waited for."""


def passes(error: BaseException) -> bool:
    """Say whether another attempt may succeed without anybody doing anything about it."""
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


def in_words(error: BaseException) -> str:
    """Return in one line what went wrong."""
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(dict.fromkeys(map(in_words, error.exceptions)))
    text = " ".join(str(error).split())
    return text or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


class Waiting:
    """Attempts at one part of a start, for as long as it takes.

    `name`: what is waited for; where that is a condition of readiness, `/readyz` tells why.
    `look_first`: done before each attempt.
    """

    def __init__(self, runtime: Runtime, name: str, look_first: Callable[[], Awaitable[None]] | None = None) -> None:
        self._runtime = runtime
        self._name = name
        self._look_first = look_first

    async def until(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempt until it succeeds, and return what that gives.

        Raises StartError for what does not pass, unless the service was ready once: one that runs
        ends for nothing of this. When the service is to stop, it is cancelled: at once, not after
        the attempt.
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
        if self._look_first is not None:
            await self._look_first()
        return await attempt()

    async def _unless_stopping(self, work: Coroutine[Any, Any, Any]) -> Any:
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._runtime.stopping.wait())
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not working.done():
                working.add_done_callback(_look)
                working.cancel()
                await asyncio.wait({working}, timeout=CANCEL_S)
        if self._runtime.stopping.is_set() and (not working.done() or working.cancelled()):
            raise asyncio.CancelledError
        if working.cancelled():
            raise PassingError("the attempt was broken off")  # by a client that cancels a task of its own
        return working.result()


def _look(ended: "asyncio.Task[Any]") -> None:
    """Look at the end of what nobody waits for any more: an error that nobody has seen is logged as
    a defect.
    """
    if not ended.cancelled():
        ended.exception()
