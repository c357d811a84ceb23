"""Children that cannot outlive their parent.

Owns how `liveroom demo` and the local Kafka start processes: in a session of their own (Ctrl-C in the terminal reaches only the
parent, which stops them in order) and tied to the parent by a pipe (see `liveroom.watchdog`), so that not even kill -9 of
the parent leaves one behind. Refuses to restart anything, and to guess at a command that is not there.
"""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

WATCHDOG: Final = Path(__file__).with_name("watchdog.py")
DEFAULT_GRACE_S: Final = 5.0
OUTLIVES: Final = "+"


async def spawn_tethered(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | IO[bytes] | None = None,
    stderr: int | IO[bytes] | None = None,
    pass_fds: Collection[int] = (),
    grace_s: float = DEFAULT_GRACE_S,
    tether: int | None = None,
) -> Process:
    """Start `command`; it gets SIGTERM, and SIGKILL `grace_s` later, when this process ends in whatever way.

    What is returned is the command itself: its `pid` and `returncode` are the command's own. Its `stdin` is the tether and the
    caller's to keep: closing it ends the command, and the command itself reads an empty standard input. So do not use
    `communicate()`, which closes it; `stdout` and `stderr` may be pipes and are read as usual. On Linux "this process ends"
    includes the end of the thread that calls.

    `tether`: the reading end of a pipe that somebody else holds. The command is then tied to that one, and outlives us.
    """
    program = await asyncio.to_thread(shutil.which, command[0], path=env.get("PATH") if env is not None else None)
    if program is None:
        raise FileNotFoundError(f"cannot start {os.fspath(command[0])!r}: no such program")
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-S",
        WATCHDOG,
        f"{grace_s}{'' if tether is None else OUTLIVES}",
        program,
        *command[1:],
        stdin=PIPE if tether is None else tether,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )


async def stop_process(process: Process, *, grace_s: float = DEFAULT_GRACE_S) -> int:
    """End a process by SIGTERM, after `grace_s` (0: at once) by SIGKILL, and return its code; a stopped one is continued."""
    if process.returncode is None and grace_s <= 0:
        with suppress(ProcessLookupError):
            process.kill()
    elif process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            async with asyncio.timeout(grace_s):
                return await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
    return await process.wait()
