"""The child's side of a tether: becomes the command, and leaves a watchdog that ends it with its
parent.

Run as a script by `liveroom.child_process`, never imported by it: `python -I -S watchdog.py
GRACE_S[+] COMMAND...`. Standard input is the tether, a pipe whose other end only the parent holds.
The script forks the watchdog and then *execs* the command, so the command keeps the process id, the
exit code and the signals that the parent sees. The watchdog waits for the end of the pipe (the
parent closed it, or died, even by kill -9: works on every Unix), sends SIGTERM, and SIGKILL after
the grace.

On Linux the kernel also sends SIGTERM when the parent dies (PR_SET_PDEATHSIG), in case somebody
kills the watchdog first.

It imports the standard library alone and nothing heavy: it runs before every child, for 20 ms. It
is a script without the package, so it reads the system's clock itself.
"""

import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_LOOK_S = 5.0
_STEP_S = 0.05


def _watch(target: int, tether: int, alive: int, grace_s: float) -> None:
    """Return once `target` is gone; end it when the tether is closed.

    `alive` is a pipe whose other end `target` holds, so it is closed when the target ends. It only
    wakes the watchdog. The verdict is getppid(): the watchdog is the target's child and gets
    another parent the moment the target dies, so it never signals a process id that was reused.
    """
    watched, look_s = [tether, alive], _LOOK_S
    while os.getppid() == target:
        ready, _, _ = select.select(watched, [], [], look_s)
        look_s = min(look_s * 2, _LOOK_S)
        if alive in ready:
            watched.remove(alive)  # the target is just ending, so look again soon; or it closed the pipe and lives on
            look_s = _STEP_S
        if tether in ready and not os.read(tether, 4096):
            break
    deadline = time.monotonic() + grace_s
    if os.getppid() == target:
        os.kill(target, signal.SIGTERM)
    while os.getppid() == target and time.monotonic() < deadline:
        time.sleep(_STEP_S)
    if os.getppid() == target:
        os.killpg(target, signal.SIGKILL)  # it leads its own group: take along what it may have started


def _watchdog(target: int, alive: int, grace_s: float) -> None:
    """Detach the watchdog from all that belongs to the command, then watch."""
    os.setsid()  # a signal for the command's group is not for us
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # we end when the command does
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # a reader of the command's output must see its end
        os.dup2(null, descriptor)
    os.dup2(alive, 3)
    os.closerange(4, min(os.sysconf("SC_OPEN_MAX"), 1 << 16))
    _watch(target, 0, 3, grace_s)


def _main(grace: str, command: list[str]) -> None:
    grace_s = float(grace.rstrip("+"))
    if sys.platform == "linux" and not grace.endswith("+"):  # with it the tether is somebody else's, and the parent may die
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    target = os.getpid()
    alive, held_by_command = os.pipe()
    if os.fork() == 0:
        os.close(held_by_command)
        try:
            _watchdog(target, alive, grace_s)
        finally:
            os._exit(0)
    os.close(alive)
    os.set_inheritable(held_by_command, True)  # noqa: FBT003 - the system call has no names
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores these, and what is ignored stays so over an exec
    os.execvp(command[0], command)  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
