"""The jars of Apache Kafka: which ones, where they are cached, and how they are downloaded.

Owns `kafka_jars.lock.json` (every jar's Maven coordinate, size and SHA-256) and the folder of jars
in the user's cache. No dependency is resolved at run time: the jars in the lock are downloaded from
jgo's repository, checked against the lock and cached. A jar that differs is refused. `LocalKafka`
calls `ensure_jars`; `python -m devstack.kafka_jars lock` writes the lock file with jgo.

Two launches at the same time are safe (a file lock), and so is kill -9: a jar gets its name only
once it is complete and checked, so the next start downloads what is missing.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from devstack.folders import cache_dir
from liveroom import clock
from liveroom.errors import ExplainedError

LOCK_FILE: Final = Path(__file__).with_name("kafka_jars.lock.json")
KAFKA_VERSION: Final = "4.4.0"
# The second gives slf4j its log4j: without it the broker logs nothing. The "!" keeps jgo from
# taking its parent's dependency management for all (log4j's would put kafka-clients 3.9.1 into
# Kafka 4.4.0).
COORDINATES: Final = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}+org.apache.logging.log4j:log4j-slf4j-impl:2.25.5!"

_CHECKED: Final = ".checked"  # in the folder of jars: the lock its jars were compared with, byte for byte
_CHUNK_BYTES: Final = 1 << 16
_TIMEOUT_S: Final = 20.0
_ATTEMPTS: Final = 3
_PARALLEL: Final = 6
_MB: Final = 1_000_000


class JarError(ExplainedError):
    """The jars are not available; the message says which ones, why, and what to do."""


class _Cancelled(Exception):  # noqa: N818 - not an error
    """The caller no longer wants the jars."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One jar as the lock names it."""

    group: str
    artifact: str
    version: str
    file: str
    size_bytes: int
    sha256: str

    @property
    def path(self) -> str:
        """Return where the jar lies in a Maven repository."""
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.file}"


@dataclass(frozen=True, slots=True)
class JarLock:
    """The content of a lock file.

    - `title`, `folder`: what the jars are, for messages, and the name of their folder in the cache.
    - `instead`: what else a user can do who cannot download them.
    """

    coordinates: str
    jars: tuple[Jar, ...]
    title: str = f"Apache Kafka {KAFKA_VERSION}"
    folder: str = f"kafka-{KAFKA_VERSION}"
    instead: str = ", or set KAFKA_BOOTSTRAP to a Kafka of your own"

    @property
    def size_bytes(self) -> int:
        """Return the size of all jars."""
        return sum(jar.size_bytes for jar in self.jars)

    @property
    def digest(self) -> str:
        """Return one SHA-256 over all jars' names and SHA-256: it names the state of a folder."""
        return hashlib.sha256("".join(f"{jar.file} {jar.sha256}\n" for jar in self.jars).encode()).hexdigest()


def read_lock(path: Path = LOCK_FILE) -> JarLock:
    """Read the lock file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return JarLock(content["coordinates"], tuple(Jar(**jar) for jar in content["jars"]))


def maven_folder() -> Path:
    """Return the user's local Maven repository; jars that are there are not downloaded."""
    return Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_jars(
    *,
    cache: Path | None = None,
    lock: JarLock | None = None,
    repository: str | None = None,
    maven: Path | None = None,
    cancelled: threading.Event | None = None,
    console: Console | None = None,
) -> list[Path]:
    """Return the paths of all jars, in the lock's order; copy or download what is missing.

    `repository` is the URL of a Maven repository; default: LIVEROOM_MAVEN_URL, else jgo's. `maven`
    is the local repository to copy from. Setting `cancelled` ends the work soon, by an exception.
    Blocks: call it in a thread. Raises JarError where a jar is not available.
    """
    lock = lock or read_lock()
    folder = (cache or cache_dir()) / lock.folder
    paths = [folder / jar.file for jar in lock.jars]
    if _checked(folder, lock):
        return paths
    fetch = _Fetch(
        folder=folder,
        maven=maven or maven_folder(),
        repository=repository or os.environ.get("LIVEROOM_MAVEN_URL"),
        cancelled=cancelled or threading.Event(),
        console=console or Console(stderr=True),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder / ".lock", fetch, lock):
        if not _checked(folder, lock):  # another launch may just have done it
            fetch.all_of(lock)
            (folder / _CHECKED).write_text(lock.digest, encoding="ascii")
    return paths


def distrust_jars(*, cache: Path | None = None) -> None:
    """Make the next `ensure_jars` compare every cached jar's digest again, not its size alone."""
    ((cache or cache_dir()) / f"kafka-{KAFKA_VERSION}" / _CHECKED).unlink(missing_ok=True)


def _checked(folder: Path, lock: JarLock) -> bool:
    """Return whether all jars were checked against this lock, and still have their sizes.

    Takes less than a millisecond.
    """
    try:
        return (folder / _CHECKED).read_text(encoding="ascii") == lock.digest and all(
            (folder / jar.file).stat().st_size == jar.size_bytes for jar in lock.jars
        )
    except FileNotFoundError:
        return False


@dataclass(frozen=True, slots=True)
class _Fetch:
    """One launch's downloads: from where, to where, and on which console they are shown."""

    folder: Path
    maven: Path
    repository: str | None
    cancelled: threading.Event
    console: Console

    def all_of(self, lock: JarLock) -> None:
        """Bring every jar of the lock into the folder."""
        missing = [jar for jar in lock.jars if not self._have(jar) and not self._copy(jar)]
        if not missing:
            return
        total_bytes = sum(jar.size_bytes for jar in missing)
        base_url = self.repository or _jgo("jgo").MAVEN_CENTRAL_URL
        try:
            with (
                self._shown(lock, len(missing), total_bytes) as advance,
                ThreadPoolExecutor(_PARALLEL, thread_name_prefix="jar") as pool,
            ):
                downloads = [pool.submit(self._download, base_url.rstrip("/"), jar, advance) for jar in missing]
                try:
                    for download in downloads:
                        download.result()
                except BaseException:
                    self.cancelled.set()  # one is enough to fail, and the others should not go on for minutes
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
        except OSError as error:  # requests' errors are OSErrors too
            raise self._missing_jars(lock, error) from error

    def _missing_jars(self, lock: JarLock, error: OSError) -> JarError:
        """Return the error that names which jars are missing and the ways to get them."""
        still = [jar for jar in lock.jars if not (self.folder / jar.file).exists()]
        return JarError(
            f"{lock.title} cannot be downloaded: {len(still)} of {len(lock.jars)} jars are missing"
            f" ({sum(jar.size_bytes for jar in still) / _MB:.1f} MB; the first is {still[0].file}): {error}\n"
            f"Try again with a network (finished downloads are kept in {self.folder}), name a mirror of Maven Central in"
            f" LIVEROOM_MAVEN_URL{lock.instead}."
        )

    def _have(self, jar: Jar) -> bool:
        """Return whether the cached jar is there and intact; remove one that is not."""
        path = self.folder / jar.file
        if not path.exists():
            return False
        if sha256_of(path) == jar.sha256:
            return True
        self.console.print(
            f"{path}: differs from the lock file (damaged?); downloading it again", highlight=False, soft_wrap=True
        )
        path.unlink()
        return False

    def _copy(self, jar: Jar) -> bool:
        """Copy the jar from the local Maven repository, if it is there and intact."""
        source = self.maven / jar.path
        if not source.is_file() or source.stat().st_size != jar.size_bytes or sha256_of(source) != jar.sha256:
            return False
        part = self.folder / f"{jar.file}.part"
        shutil.copyfile(source, part)
        part.replace(self.folder / jar.file)
        return True

    def _download(self, base_url: str, jar: Jar, advance: Callable[[int], None]) -> None:
        """Download one jar; retry a broken one, then refuse it."""
        for attempt in range(1, _ATTEMPTS + 1):
            part = self.folder / f"{jar.file}.part"
            got_bytes = 0
            try:
                digest = hashlib.sha256()
                with (
                    _jgo("jgo.util.http").get(f"{base_url}/{jar.path}", stream=True, timeout=_TIMEOUT_S) as response,
                    part.open("wb") as file,
                ):
                    response.raise_for_status()
                    for chunk in response.iter_content(_CHUNK_BYTES):
                        if self.cancelled.is_set():
                            raise _Cancelled
                        file.write(chunk)
                        digest.update(chunk)
                        got_bytes += len(chunk)
                        advance(len(chunk))
                if digest.hexdigest() == jar.sha256:
                    part.replace(self.folder / jar.file)
                    return
                problem = f"{got_bytes} bytes with SHA-256 {digest.hexdigest()}, expected {jar.size_bytes} with {jar.sha256}"
                error: Exception = JarError(f"{jar.file} from {base_url} is not the jar of the lock file: {problem}; refused")
            except OSError as failure:
                error = failure
            part.unlink(missing_ok=True)
            advance(-got_bytes)
            if attempt == _ATTEMPTS or self.cancelled.wait(0.3 * attempt):
                raise error

    @contextmanager
    def _shown(self, lock: JarLock, jar_count: int, total_bytes: int) -> Iterator[Callable[[int], None]]:
        """Show the progress: a bar on a terminal, else one line per quarter."""
        about = f"{lock.title}, {jar_count} jars, once"
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                DownloadColumn(),
                TransferSpeedColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self.console, transient=True) as progress:
                task = progress.add_task(about, total=total_bytes)
                yield lambda count: progress.advance(task, count)
        else:
            lines = _Lines(self.console, total_bytes)
            self.console.print(f"{about}: {total_bytes / _MB:.1f} MB to download", highlight=False, soft_wrap=True)
            yield lines.advance


class _Lines:
    """Shows progress in logs: a line for each quarter."""

    def __init__(self, console: Console, total_bytes: int) -> None:
        self._console = console
        self._total_bytes = total_bytes
        self._done_bytes = 0
        self._quarter = 0
        self._turn = threading.Lock()

    def advance(self, count: int) -> None:
        """Count bytes, from any thread; negative when a jar starts over."""
        with self._turn:
            self._done_bytes += count
            quarter = 4 * self._done_bytes // self._total_bytes
            if quarter > self._quarter:
                self._quarter = quarter
                done = f"  {self._done_bytes / _MB:.1f} of {self._total_bytes / _MB:.1f} MB"
                self._console.print(done, highlight=False)


@contextmanager
def _only_one(path: Path, fetch: _Fetch, lock: JarLock) -> Iterator[None]:
    """Hold the folder's lock; wait while another launch has it.

    The kernel frees it when a holder dies.
    """
    with path.open("a", encoding="utf-8") as file:
        was_shown = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not was_shown:
                    fetch.console.print(f"Another launch is downloading {lock.title}; waiting for it", highlight=False)
                    was_shown = True
                if fetch.cancelled.wait(0.1):
                    raise _Cancelled from None
        yield


def _jgo(module: str) -> Any:
    """Import a module of jgo, which only the first start needs."""
    try:
        return import_module(module)
    except ImportError as error:
        raise JarError(
            f"Apache Kafka {KAFKA_VERSION} is not in the cache yet, and its download needs jgo:"
            " pip install 'liveroom[demo]', or set KAFKA_BOOTSTRAP to a Kafka of your own."
        ) from error


def make_lock(path: Path = LOCK_FILE) -> JarLock:
    """Resolve the coordinates through jgo, download all jars and write the lock file."""
    artifacts = _jgo("jgo").resolve(COORDINATES)
    with ThreadPoolExecutor(_PARALLEL) as pool:
        files: list[Path] = list(pool.map(lambda artifact: artifact.resolve(), artifacts))
    jars = [
        Jar(artifact.groupId, artifact.artifactId, artifact.version, artifact.filename, file.stat().st_size, sha256_of(file))
        for artifact, file in zip(artifacts, files, strict=True)
    ]
    lock = JarLock(COORDINATES, tuple(sorted(jars, key=lambda jar: jar.file)))
    content = {"coordinates": lock.coordinates, "jars": [asdict(jar) for jar in lock.jars]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return lock


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the lock file, or fill the cache from it; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m devstack.kafka_jars", description="The jars of the local Kafka.")
    parser.add_argument("what", choices=("lock", "fetch"), help="lock: write the lock file; fetch: fill the cache")
    if parser.parse_args(arguments).what == "lock":
        lock = make_lock()
        print(f"{LOCK_FILE}: {len(lock.jars)} jars, {lock.size_bytes / _MB:.1f} MB")
        return 0
    start_s = clock.monotonic_s()
    try:
        paths = ensure_jars()
    except JarError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{paths[0].parent}: {len(paths)} jars, {clock.monotonic_s() - start_s:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
