"""The standard output of a command: any encoding, and a reader that may go.

Owns what happens to characters that the output cannot encode (a `?` stands for each), and to output
that nobody reads any more (it is dropped, so that Python does not complain at the end). `cli.main`
prepares it for every command; `cli.watch`, which may print nothing for hours, notices at once that
its reader has gone.
"""

import asyncio
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

BROKEN: Final = 1  # the exit code, as of click and rich, which meet it in what they print


def prepare() -> None:
    """Let standard output and errors take every text; without a reader they take it in vain."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the start
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def finish() -> None:
    """Write what is left; where nobody reads it, exit with `BROKEN` in place of a traceback."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        drop()
        raise SystemExit(BROKEN) from None


def is_broken() -> bool:
    """Return whether nobody reads standard output or errors any more."""
    return any(_is_broken(stream) for stream in (sys.stdout, sys.stderr))


def drop() -> None:
    """Write to nowhere what is still to be written where nobody reads."""
    for stream in (sys.stdout, sys.stderr):
        if _is_broken(stream):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            with suppress(OSError):
                stream.flush()


def is_end_of_output(error: BaseException) -> bool:
    """Return whether `error` says nothing but that output could not be written, as nobody reads
    it: a connection to a service may break too.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_end_of_output, error.exceptions))
    return isinstance(error, BrokenPipeError) and is_broken()


@contextmanager
def reader_watched() -> Iterator[asyncio.Event]:
    """Give an event that is set once the reader of standard output has gone."""
    gone, loop = asyncio.Event(), asyncio.get_running_loop()
    descriptor = _pipe_of(sys.stdout)
    if descriptor is None:
        yield gone
        return

    def look() -> None:
        if _is_broken(sys.stdout):
            loop.remove_reader(descriptor)
            gone.set()

    loop.add_reader(descriptor, look)  # an end of a pipe for writing is never readable but when the other end closes
    try:
        yield gone
    finally:
        loop.remove_reader(descriptor)


def _pipe_of(stream: Any) -> int | None:
    """Return the descriptor of a stream that is a pipe; None for files, terminals and the like."""
    try:
        descriptor = -1 if stream is None else stream.fileno()
        is_pipe = stat.S_ISFIFO(os.fstat(descriptor).st_mode)
    except (OSError, ValueError):
        return None
    return descriptor if is_pipe else None


def _is_broken(stream: Any) -> bool:
    descriptor = _pipe_of(stream)
    if descriptor is None:
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))
