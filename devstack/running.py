"""The running systems of this user: how `liveroom send` and others find `liveroom demo` and `up`.

Owns a file for each running system in the user's runtime folder, readable by that user alone: the
addresses of the services, the key that signs tokens, and the keys of /debug and of users in logs.
The next reader removes the file of a process that is gone (kill -9). A folder that somebody else
could write to is refused.
"""

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec
import psutil

from liveroom.errors import ExplainedError
from liveroom.nesting import UNDECODABLE

_FORBIDDEN: Final = stat.S_IRWXG | stat.S_IRWXO
_SAME_START_S: Final = 2.0


class Running(msgspec.Struct, frozen=True):
    """One running system. `started_s` is its process's start: process ids are reused.

    `edge` is the public address of the first gateway that it started itself; empty: an autoscaler
    starts them. `internal` are the internal addresses by the names of the processes. `owns_kafka`:
    its Kafka ends with it.
    """

    what: str
    pid: int
    started_s: float
    ingress: str
    scheduler: str
    page: str
    token_key: str
    kafka: str
    prefix: str
    partitions: int
    rooms: list[str]
    logs: str
    autoscaler: str = ""
    debug_key: str = ""
    edge: str = ""
    internal: dict[str, str] = {}
    owns_kafka: bool = False
    log_key: str = ""


class RuntimeFolderError(ExplainedError):
    """The runtime folder is not this user's alone."""


def runtime_dir() -> Path:
    """Return the user's runtime folder for liveroom.

    It is LIVEROOM_RUNTIME_DIR, the session's folder, or one in the temporary folder.
    """
    if own := os.environ.get("LIVEROOM_RUNTIME_DIR"):
        return Path(own).expanduser()
    xdg = os.environ.get("XDG_RUNTIME_DIR", "")
    if sys.platform != "darwin" and Path(xdg).is_absolute() and os.access(xdg, os.W_OK):
        return Path(xdg) / "liveroom"
    return Path(tempfile.gettempdir()) / f"liveroom-{os.getuid()}"


def make_runtime_dir() -> Path:
    """Make the runtime folder where there is none, and return it.

    Raises RuntimeFolderError where it cannot be made, or is not this user's alone.
    """
    folder = runtime_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise RuntimeFolderError(
            f"the folder {folder} cannot be made: {error.strerror}; set LIVEROOM_RUNTIME_DIR to another one"
        ) from error
    _check(folder)
    return folder


@contextmanager
def announced(running: Running) -> Iterator[None]:
    """Let other commands find a system while the block runs."""
    folder = make_runtime_dir()
    path = folder / f"{running.pid}.json"
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(msgspec.json.encode(running))
    part.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def find_running() -> list[Running]:
    """Return this user's running systems, the newest first."""
    folder = runtime_dir()
    if not folder.is_dir():
        return []
    _check(folder)
    found = []
    for path in folder.glob("*.json"):
        with suppress(OSError, *UNDECODABLE):
            running = msgspec.json.decode(path.read_bytes(), type=Running)
            if _lives(running):
                found.append(running)
            else:
                path.unlink(missing_ok=True)
    return sorted(found, key=lambda running: running.started_s, reverse=True)


def start_of_this_process_s() -> float:
    """Return the start of this process, for `Running`."""
    return psutil.Process().create_time()


def _lives(running: Running) -> bool:
    with suppress(psutil.Error):
        return abs(psutil.Process(running.pid).create_time() - running.started_s) < _SAME_START_S
    return False


def _check(folder: Path) -> None:
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid() or about.st_mode & _FORBIDDEN:
        raise RuntimeFolderError(
            f"{folder} is not a folder of this user alone (mode 700), so no keys are kept in it;"
            " remove it, or set LIVEROOM_RUNTIME_DIR"
        )
