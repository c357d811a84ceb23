"""The standard output of a command: any encoding, a reader that may go, and a disk that is full.

Owns what happens to characters that the output cannot encode (a `?` stands for each), and to output
that nobody reads any more (it is dropped, so that Python does not complain at the end). `cli.main`
prepares it for every command; `cli.watch`, which may print nothing for hours, notices at once that
its reader has gone. Output that cannot be written for another reason ends the command with one
line.
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

from liveroom.errors import ExplainedError

BROKEN: Final = 1  # the exit code, as of click and rich, which meet it in what they print

UNUSABLE: Final = 2  # the exit code where something that the command needs is missing


class OutputError(ExplainedError):
    """Standard output has a reader, and cannot be written: the disk is full, say."""


class _Output(io.TextIOWrapper):
    """Standard output. An error that its writer cannot have caused explains itself."""

    failed = False

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._fail(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.failed = True
        if isinstance(error, BrokenPipeError):
            raise error
        raise OutputError(f"standard output cannot be written: {error.strerror or error}") from None


class _Errors(_Output):
    """The error stream. Where it cannot be written there is no place to complain."""

    def _fail(self, error: OSError) -> None:
        self.failed = True
        if isinstance(error, BrokenPipeError):
            raise error


def prepare() -> None:
    """Let standard output and errors take every text; without a reader they take it in vain."""
    for name, kind in (("stdout", _Output), ("stderr", _Errors)):
        stream = getattr(sys, name)
        if stream is None:  # it was closed before the start
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process
        elif type(stream) is io.TextIOWrapper:
            encoding, by_line, at_once = stream.encoding, stream.line_buffering, stream.write_through
            given = kind(stream.detach(), encoding, "replace", line_buffering=by_line, write_through=at_once)
            setattr(sys, name, given)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def finish() -> None:
    """Write what is left; where that fails, exit with a code in place of a traceback.

    The code is `BROKEN` where nobody reads the output, and `UNUSABLE` where it cannot be written.
    """
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        drop()
        raise SystemExit(BROKEN) from None
    except OutputError as error:
        raise SystemExit(explain(error)) from None


def explain(error: ExplainedError) -> int:
    """Print the line of an error that ends a command; return the exit code."""
    with suppress(BrokenPipeError):
        print(f"liveroom: {error}", file=sys.stderr)
    if isinstance(error, OutputError):
        drop()
    return UNUSABLE


def failure_in(error: BaseException) -> OutputError | None:
    """Return the OutputError where `error` says nothing but that output cannot be written."""
    if isinstance(error, BaseExceptionGroup):
        found = [failure_in(each) for each in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, OutputError) else None


def is_broken() -> bool:
    """Return whether nobody reads standard output or errors any more."""
    return any(_is_broken(stream) for stream in (sys.stdout, sys.stderr))


def drop() -> None:
    """Write to nowhere what is still to be written where nobody reads or nothing can be written."""
    for stream in (sys.stdout, sys.stderr):
        if _is_broken(stream):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            with suppress(OSError, OutputError):
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
    if getattr(stream, "failed", False):
        return True
    descriptor = _pipe_of(stream)
    if descriptor is None:
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(0))
