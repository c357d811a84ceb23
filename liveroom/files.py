"""Files that a service reads again when they change: key sets, word libraries, policies.

Owns the polling, once a second and in a thread. When a changed file cannot be used, that is logged
and the content that was read before stays in use.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog

from liveroom import clock

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


async def watch(files: Sequence[Path | None], read: Callable[[], T], use: Callable[[T], None]) -> None:
    """Call `read` in a thread whenever one of `files` changes, then `use` with its result.

    Runs until cancelled. `read` raises OSError or ValueError where a file cannot be used. None
    among `files` stands for an optional file that is not set.
    """
    paths = [file for file in files if file is not None]
    if not paths:
        return
    seen = await asyncio.to_thread(_state, paths)
    while True:
        await clock.sleep(POLL_S)
        now = await asyncio.to_thread(_state, paths)
        if now == seen:
            continue
        seen = now
        names = [path.name for path in paths]
        try:
            use(await asyncio.to_thread(read))
        except (OSError, ValueError) as error:
            log.error("file_not_usable", files=names, error=str(error), then="what was read before stays")  # noqa: TRY400
        else:
            log.info("files_read", files=names)
