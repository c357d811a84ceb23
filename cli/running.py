"""Runs a command and turns its end into an exit code.

0: it did what it should. 1: it ran, and its own rule says no (each command's help names it).
2: a wrong option, or something that it needs is missing; one line says what. 130: Ctrl-C.
"""

import asyncio
import sys
from collections.abc import Coroutine

import typer

from liveroom.errors import ExplainedError


def run(work: Coroutine[None, None, int]) -> None:
    """Run a command and exit with its code; an error that explains itself is one line."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = 130
    except ExplainedError as error:
        print(f"liveroom: {error}", file=sys.stderr)
        code = 2
    raise typer.Exit(code)
