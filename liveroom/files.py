"""Files that a service reads again when they change: key sets, word libraries.

Owns the looking (once a second, beside the loop). A file that cannot be used any more is told, and
what was read before stays.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

import structlog

LOOK_S: Final = 1.0
T = TypeVar("T")
log = structlog.get_logger()


def _state(paths: Sequence[Path]) -> list[tuple[int, int, int] | None]:
    """Return what changes when a file does: its place on the disk, time and size; None where it is
    not there.
    """
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
    """Call `read` in a thread when one of the files has changed, and `use` with what it gave, for
    ever.

    `read` raises OSError or ValueError where a file cannot be used. None stands for a file that is
    not asked for.
    """
    paths = [file for file in files if file is not None]
    if not paths:
        return
    seen = await asyncio.to_thread(_state, paths)
    while True:
        await asyncio.sleep(LOOK_S)
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
