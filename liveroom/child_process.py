"""Child processes that cannot outlive their parent.

Owns how `devstack` and the autoscaler's local driver start processes. Each child has a session of
its own: Ctrl-C in the terminal reaches only the parent, which stops the children in order. A pipe
ties it to the parent (see `liveroom.watchdog`), so not even kill -9 of the parent leaves one
behind. This module restarts nothing.
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
) -> Process:
    """Start `command`, and end it when this process ends for whatever reason.

    The command then gets SIGTERM, and SIGKILL `grace_s` seconds later. Returns the command's
    process, with its own `pid` and `returncode`. The caller must keep `stdin` open: it is the
    tether, and closing it ends the command, which itself reads an empty standard input. So do not
    use `asyncio.subprocess.Process.communicate`, which closes it. `stdout` and `stderr` may be
    pipes. On Linux the end of the calling thread counts as the end of this process. Raises
    FileNotFoundError where there is no such program.
    """
    program = await asyncio.to_thread(shutil.which, command[0], path=env.get("PATH") if env is not None else None)
    if program is None:
        raise FileNotFoundError(f"cannot start {os.fspath(command[0])!r}: no such program")
    return await asyncio.create_subprocess_exec(
        *_watched([program, *command[1:]], str(grace_s)),
        stdin=PIPE,
        stdout=stdout,
        stderr=stderr,
        env=env,
        cwd=cwd,
        pass_fds=tuple(pass_fds),
        start_new_session=True,
    )


def spawn_outliving(command: Sequence[str], *, env: Mapping[str, str], output: int, tether: int | None) -> int:
    """Start `command` so that it outlives this process; return its process id. Blocks.

    `command` begins with the path of its program. `output`: the descriptor for its output.
    `tether`: the reading end of a pipe that another process holds; the command ends when the other
    end is closed. None: the command is tied to no process. The caller must reap it (`os.waitpid`).
    """
    out = [(os.POSIX_SPAWN_DUP2, output, 1), (os.POSIX_SPAWN_DUP2, output, 2)]
    if tether is None:
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        return os.posix_spawn(command[0], list(command), env, file_actions=[nothing, *out], setsid=True)
    watched = _watched(command, f"{DEFAULT_GRACE_S}{OUTLIVES}")
    return os.posix_spawn(watched[0], watched, env, file_actions=[(os.POSIX_SPAWN_DUP2, tether, 0), *out], setsid=True)


def _watched(command: Sequence[str | os.PathLike[str]], grace: str) -> list[str]:
    return [sys.executable, "-I", "-S", str(WATCHDOG), grace, *(os.fspath(part) for part in command)]


async def stop_process(process: Process, *, grace_s: float = DEFAULT_GRACE_S) -> int:
    """End a process and return its exit code.

    It gets SIGTERM, and SIGKILL after `grace_s` seconds (0: at once). A stopped process is
    continued first.
    """
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
