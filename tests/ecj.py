"""Compiles Java in tests: the Java that runs the local Kafka has no compiler, so Eclipse's is used.

Owns the jar of it (`python -m tests.prepare ecj` brings it) and the call.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from devstack.java import OLDEST_MAJOR, find_java
from devstack.kafka_jars import Jar, JarLock, ensure_jars

_SHA256: Final = "14c46ddc2e511c46c998da728f6a80f13a689c920f3832402f7ad150f6a6188d"
LOCK: Final = JarLock(
    "org.eclipse.jdt:ecj:3.44.0",
    (Jar("org.eclipse.jdt", "ecj", "3.44.0", "ecj-3.44.0.jar", 3_329_741, _SHA256),),
    title="Eclipse's compiler of Java 3.44.0",
    folder="ecj-3.44.0",
    instead="",
)


def compile_java(source: Path, jars: Sequence[Path], classes: Path) -> None:
    """Compile a source file into the folder `classes`, for the oldest Java that runs Kafka."""
    (ecj,) = ensure_jars(lock=LOCK)
    version, class_path = str(OLDEST_MAJOR), os.pathsep.join(map(str, jars))
    options = ["-source", version, "-target", version, "-classpath", class_path, "-d", str(classes)]
    subprocess.run([find_java().program, "-jar", ecj, *options, source], check=True)
