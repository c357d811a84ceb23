"""The folders of this user: the cache, and temporary folders whose owner was killed.

Owns where the cache is, and which temporary folders may go. A folder in use has a `.lock` file that
its owner holds; the kernel frees the lock when the owner dies. A folder without that file was kept
on purpose.
"""

import fcntl
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

from liveroom import clock

LOCK: Final = ".lock"
_LEFT_BEHIND_S: Final = 60.0  # a newer folder's owner may be about to take its lock


def cache_dir() -> Path:
    """Return the user's cache folder for liveroom: LIVEROOM_CACHE_DIR, else the platform's."""
    own = os.environ.get("LIVEROOM_CACHE_DIR")
    if own:
        return Path(own).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "liveroom"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(xdg) if Path(xdg).is_absolute() else Path.home() / ".cache") / "liveroom"


def remove_left_behind(prefix: str) -> None:
    """Remove this user's temporary folders named `prefix`... that no living process holds."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # in use (its lock is held), or another launch is removing it
            about = folder.stat()
            if about.st_uid != os.getuid() or clock.unix_s() - about.st_mtime < _LEFT_BEHIND_S:
                continue
            with (folder / LOCK).open("r+", encoding="ascii") as lock:  # kept ones have none
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
