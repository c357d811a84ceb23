"""Whether another process has ended."""

import psutil


def has_ended(process: psutil.Process | int) -> bool:
    """Return whether a process (or that of a process id) has ended, reaped or not.

    It may end between any two looks at it, so each look may find it gone.
    """
    try:
        if isinstance(process, int):
            process = psutil.Process(process)
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
