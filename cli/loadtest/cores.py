"""The processor cores of a load test, and how many viewers a machine allows.

The gateway has a core of its own, so that its load does not slow it down.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from cli.loadtest.load import LoadError

OTHER_FILES: Final = 500  # open files of a gateway that are no viewers


def most_viewers() -> int:
    """Return how many viewers this machine lets a gateway have: each is an open file."""
    return max(10, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - OTHER_FILES)


class Cores(NamedTuple):
    """The cores of the load, and the gateway's."""

    load: tuple[int, ...]
    gateway: int


@contextmanager
def divided_cores() -> Iterator[Cores]:
    """Keep this process and all it starts off one core, the gateway's, while the block runs.

    Raises LoadError where the system cannot do that, or has one core only.
    """
    if not hasattr(os, "sched_getaffinity"):
        raise LoadError("a load test gives the gateway a core of its own, and this system has no way to do that")
    before = os.sched_getaffinity(0)
    *others, last = sorted(before)
    if not others:
        raise LoadError("a load test takes two processor cores: one for the gateway, one for the load")
    os.sched_setaffinity(0, others)
    try:
        yield Cores(tuple(others), last)
    finally:
        os.sched_setaffinity(0, before)
