"""Files that a service reads again when they change: key sets, word libraries, policies.

Owns the polling, once a second and in a thread. A file that is being written is left alone until
two looks in a row find it the same. When a changed file cannot be used, that is logged and the
content that was read before stays in use.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from liveroom import clock
from liveroom.service import StartError

POLL_S: Final = 1.0
T = TypeVar("T")
log = structlog.get_logger()


def _state(paths: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """Return inode, modification time and size of each file; None for a file that is missing."""
    found: list[tuple[int, int, int] | None] = []
    for path in paths:
        try:
            about = path.stat()  # through links: Kubernetes swaps a link to change a mounted secret
        except OSError:
            found.append(None)
        else:
            found.append((about.st_ino, about.st_mtime_ns, about.st_size))
    return found


def _result(found: T | BaseException) -> T:
    if isinstance(found, BaseException):
        raise found
    return found


class Watched(Generic[T]):
    """Files that are read at the start and again whenever one of them changes.

    None among `files` stands for an optional file that is not set. `read` reads them all, in a
    thread; it raises OSError or ValueError where a file cannot be used.
    """

    def __init__(self, files: Sequence[Path | None], read: Callable[[], T]) -> None:
        self._paths = [file for file in files if file is not None]
        self._read = read
        self._seen: list[tuple[int, int, int] | None] = []

    async def first(self) -> T:
        """Read the files for the start of a service; `watch` takes up what changes from here on.

        Raises StartError where they cannot be used.
        """
        self._seen = await asyncio.to_thread(_state, self._paths)  # before it reads: a start may take long
        try:
            return await asyncio.to_thread(self._read)
        except (OSError, ValueError, RecursionError) as error:
            raise StartError(str(error)) from error

    async def watch(self, use: Callable[[T], None]) -> None:
        """Call `use` with what is read whenever one of the files has changed since `first`.

        What is read counts only if the files stayed as they are from one look to the next and while
        they were read: a half-written file may well be a valid one. Runs until cancelled.
        """
        if not self._paths:
            return
        names = [path.name for path in self._paths]
        now = self._seen
        while True:
            await clock.sleep(POLL_S)
            before, now = now, await asyncio.to_thread(_state, self._paths)
            if now == self._seen or now != before:
                continue
            [found] = await asyncio.gather(asyncio.to_thread(self._read), return_exceptions=True)
            if await asyncio.to_thread(_state, self._paths) != now:
                continue
            self._seen = now
            try:
                use(_result(found))
            except (OSError, ValueError, RecursionError) as error:
                log.error("file_not_usable", files=names, error=str(error), then="what was read before stays")  # noqa: TRY400
            else:
                log.info("files_read", files=names)
