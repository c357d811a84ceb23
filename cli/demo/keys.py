"""Single keys from the terminal, without waiting for a line."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def keys(actions: Mapping[str, Callable[[], object]]) -> Iterator[None]:
    """Call the action of each key that is pressed while the block runs.

    `actions` has lower-case letters; upper case does the same. Without a terminal nothing is read.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        yield
        return
    import termios  # noqa: PLC0415 - not available on every platform
    import tty  # noqa: PLC0415

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def on_key() -> None:
        for key in os.read(descriptor, 16).decode("ascii", "replace").lower():
            if key in actions:
                actions[key]()

    tty.setcbreak(descriptor, termios.TCSANOW)
    loop.add_reader(descriptor, on_key)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSANOW, before)
