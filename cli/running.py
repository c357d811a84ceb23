"""Runs a command and turns its end into an exit code.

0: success. 1: the command ran and found something wrong, as its help defines. 2: a wrong option, or
something that it needs is missing, or its output cannot be written; one line names it. 130: Ctrl-C.
Where nobody reads the output any more, a command ends quietly with 1, and `watch` with 0.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

import typer

from cli import output
from liveroom.errors import ExplainedError


def run(work: Coroutine[None, None, int]) -> None:
    """Run a command and exit with its code; an error that explains itself is one line."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = 130
    except ExplainedError as error:
        code = output.explain(error)
    except BaseException as error:
        if (failure := output.failure_in(error)) is not None:
            raise typer.Exit(output.explain(failure)) from None
        if not output.is_end_of_output(error):
            raise
        output.drop()
        code = output.BROKEN
    raise typer.Exit(code)


@contextmanager
def explained_exit() -> Iterator[None]:
    """End a command that needs no event loop: an error that explains itself is one line."""
    try:
        yield
    except ExplainedError as error:
        raise typer.Exit(output.explain(error)) from None
