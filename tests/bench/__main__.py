"""`python -m tests.bench [GROUP]`: runs the benchmarks and prints one line a figure, `figure NAME
VALUE UNIT`.

A group is a module beside this one with `async def measure() -> AsyncIterator[Figure]`. Figures are
mostly ratios against a baseline of the same run: an absolute time on a shared machine proves
nothing.
"""

import argparse
import importlib
import pkgutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import uvloop

from tests.bench.figure import Figure

GROUPS = sorted(
    module.name
    for module in pkgutil.iter_modules([str(Path(__file__).parent)])
    if not module.name.startswith(("_", "test_")) and module.name not in {"figure", "sink"}
)


async def run(group: str) -> None:
    """Measure one group and print its figures as they come."""
    measure: Callable[[], AsyncIterator[Figure]] = importlib.import_module(f"tests.bench.{group}").measure
    began = time.perf_counter()
    print(f"# {group}", flush=True)
    async for figure in measure():
        print(figure, flush=True)
    print(f"# {group}: {time.perf_counter() - began:.0f} s", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("groups", nargs="*", help=f"one or more of: {', '.join(GROUPS)} (default: all)")
    wanted = parser.parse_args().groups or GROUPS
    if unknown := [group for group in wanted if group not in GROUPS]:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are: {', '.join(GROUPS)}")
    for group in wanted:
        uvloop.run(run(group))


if __name__ == "__main__":
    main()
