"""Failures as logs show them: where, and of which types, without the words of the error.

The message of an error may quote what the code worked on: a text, a token, a record. So a log has
the frames with their lines of code, and no message but that of the system (OSError) and of errors
that explain themselves (`liveroom.errors.ExplainedError`). Pure. Called by `service` for the log.
"""

import traceback
from collections.abc import Iterator
from typing import Final, TextIO

from liveroom.errors import ExplainedError

_OWN: Final = (OSError, ExplainedError)


def named(error: BaseException) -> str:
    """Return the type of an error, with its message where that quotes nothing.

    Of an answer that a client of HTTP refuses the status is told: its message has the whole URL,
    with a ticket or a password in it.
    """
    text = " ".join(str(error).split()) if isinstance(error, _OWN) else ""
    if isinstance(status := getattr(error, "status", None), int):
        text = f"HTTP {status}"
    return f"{type(error).__qualname__}: {text}" if text else type(error).__qualname__


def traceback_of(error: BaseException) -> str:
    """Return an error's traceback: causes first, and the errors of a group below it."""
    return "\n".join(_lines(error, set()))


def write_traceback(out: TextIO, failure: tuple[object, BaseException, object]) -> None:
    """Write a traceback to a console, as structlog's renderer wants it."""
    out.write("\n" + traceback_of(failure[1]))


def _lines(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and id(cause) not in seen:
        yield from _lines(cause, seen)
        yield "and then:" if error.__cause__ is None else "which caused:"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    yield named(error)
    if isinstance(error, BaseExceptionGroup):
        for number, inner in enumerate(error.exceptions, 1):
            yield f"  {number} of {len(error.exceptions)}:"
            yield from (f"  {line}" for part in _lines(inner, seen) for line in part.split("\n"))
