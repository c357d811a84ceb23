"""Children that cannot outlive their parent.

Owns how `liveroom demo` and the local Kafka start processes: in a session of their own (Ctrl-C in
the terminal reaches only the parent, which stops them in order) and tied to the parent by a pipe
(see `liveroom.watchdog`), so that not even kill -9 of the parent leaves one behind. Refuses to
restart anything, and to guess at a command that is not there.
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
    """Start `command`; it gets SIGTERM, and SIGKILL `grace_s` later, when this process ends in
    whatever way.

    What is returned is the command itself: its `pid` and `returncode` are the command's own. Its
    `stdin` is the tether and the caller's to keep: closing it ends the command, and the command
    itself reads an empty standard input. So do not use `asyncio.subprocess.Process.communicate`,
    which closes it; `stdout` and `stderr` may be pipes and are read as usual. On Linux "this
    process ends" includes the end of the thread that calls.
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
    """Start `command` (its program with its path) so that it outlives this process; return its
    process id. Blocks.

    `tether`: the reading end of a pipe that somebody else holds; the command ends when its other
    end is closed. None: it is tied to nobody. Who calls must reap it (`os.waitpid`).
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
    """End a process by SIGTERM, after `grace_s` (0: at once) by SIGKILL, and return its code; a
    stopped one is continued.
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
