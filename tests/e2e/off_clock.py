"""Runs a service on a machine whose clock is off.

`python -m tests.e2e.off_clock MODULE` runs a service whose machine's Unix time is off by the
seconds in the file that has the service's instance name, in the folder that LIVEROOM_OFF_CLOCKS
names. No file: the clock is right. The file may change while the service runs; so a step of the
clock is tried. All else is real.
"""

import os
import runpy
import sys
import threading
import time
from pathlib import Path

from liveroom.clock import SystemClock

FOLDER = "LIVEROOM_OFF_CLOCKS"
LOOK_S = 0.02


def run(module: str) -> None:
    """Run a service's module on a clock that is off."""
    path = Path(os.environ.pop(FOLDER)) / os.environ["LIVEROOM_INSTANCE"]
    off_ns = 0

    def read() -> None:
        nonlocal off_ns
        try:
            off_ns = int(float(path.read_text()) * 1e9)
        except (FileNotFoundError, ValueError):  # it is being written
            return

    def follow() -> None:
        while True:
            time.sleep(LOOK_S)
            read()

    read()
    threading.Thread(target=follow, daemon=True).start()
    SystemClock.unix_ns = staticmethod(lambda: max(0, time.time_ns() + off_ns))
    sys.argv[:] = [module]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run(sys.argv[1])
