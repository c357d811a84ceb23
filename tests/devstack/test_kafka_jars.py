"""The cache of Kafka's jars, against a small Maven repository on this machine."""

import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from rich.console import Console

from devstack import kafka_jars
from devstack.folders import cache_dir
from devstack.kafka_jars import Jar, JarError, JarLock, distrust_jars, ensure_jars, read_lock

CONTENT = {f"jar-{number}.jar": os.urandom(50_000 + number) for number in range(8)}
LOCK = JarLock(
    "org.example:all:1",
    tuple(
        Jar("org.example", name[:-4], "1", name, len(data), hashlib.sha256(data).hexdigest()) for name, data in CONTENT.items()
    ),
)


class Repository:
    """A Maven repository: what it serves (a test may spoil it), and how often each jar was asked
    for.
    """

    def __init__(self) -> None:
        self.content = dict(CONTENT)
        self.asked: Counter[str] = Counter()
        self.spoilt_answers = 0
        self.held = threading.Event()
        self.held.set()
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.rpartition("/")[2]
                repository.asked[name] += 1
                data = repository.content.get(name)
                if data is None or self.path != f"/org/example/{name[:-4]}/1/{name}":
                    self.send_error(404)
                    return
                if repository.spoilt_answers:
                    repository.spoilt_answers -= 1
                    data = b"<html>" + data[6:]
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data[:20_000])
                repository.held.wait(20)
                self.wfile.write(data[20_000:])

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                pass  # a client that was killed

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def repository() -> Iterator[Repository]:
    made = Repository()
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    made.held.set()
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_proxy_and_no_maven_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))


def fetch(cache: Path, url: str, console: Console | None = None) -> list[Path]:
    return ensure_jars(cache=cache, lock=LOCK, repository=url, console=console or Console(file=io.StringIO()))


def assert_complete(paths: list[Path]) -> None:
    assert {path.name: path.read_bytes() for path in paths} == CONTENT
    assert {path.name for path in paths[0].parent.iterdir()} == {*CONTENT, ".lock", ".checked"}


def test_the_lock_names_kafka_itself_and_a_logger_and_no_host() -> None:
    lock = read_lock()
    assert lock.coordinates == kafka_jars.COORDINATES
    by_name = {jar.artifact: jar for jar in lock.jars}
    assert {by_name[name].version for name in ("kafka_2.13", "kafka-clients", "kafka-server", "kafka-raft")} == {"4.4.0"}
    assert "log4j-slf4j-impl" in by_name
    assert len(lock.jars) == 45
    assert all(re.fullmatch("[0-9a-f]{64}", jar.sha256) and jar.size_bytes > 0 for jar in lock.jars)
    assert "://" not in kafka_jars.LOCK_FILE.read_text()


def test_jars_are_downloaded_once(repository: Repository, tmp_path: Path) -> None:
    assert_complete(fetch(tmp_path, repository.url))
    assert_complete(fetch(tmp_path, repository.url))
    distrust_jars(cache=tmp_path)
    assert_complete(fetch(tmp_path, repository.url))
    assert set(repository.asked.values()) == {1}


def test_progress_without_a_terminal_is_a_few_lines_and_on_one_a_bar_that_vanishes(
    repository: Repository, tmp_path: Path
) -> None:
    plain, terminal = io.StringIO(), io.StringIO()
    fetch(tmp_path / "plain", repository.url, Console(file=plain))
    lines = plain.getvalue().splitlines()
    assert lines[0] == "Apache Kafka 4.4.0, 8 jars, once: 0.4 MB to download"
    assert lines[-1] == "  0.4 of 0.4 MB"
    assert len(lines) <= 5
    fetch(tmp_path / "terminal", repository.url, Console(file=terminal, force_terminal=True, width=120))
    assert "kB" in terminal.getvalue()


def test_a_broken_download_is_tried_again(repository: Repository, tmp_path: Path) -> None:
    repository.spoilt_answers = 2
    assert_complete(fetch(tmp_path, repository.url))
    assert repository.asked.total() == len(CONTENT) + 2


def test_a_download_that_differs_from_the_lock_is_refused_by_name_and_not_kept(repository: Repository, tmp_path: Path) -> None:
    repository.content["jar-3.jar"] = b"<html>log in first</html>"
    with pytest.raises(JarError, match=r"jar-3\.jar .* is not the jar of the lock file: 25 bytes with SHA-256 .* refused"):
        fetch(tmp_path, repository.url)
    assert not list(tmp_path.glob("**/jar-3.jar*"))
    repository.content = dict(CONTENT)
    assert_complete(fetch(tmp_path, repository.url))


def test_a_damaged_jar_of_another_size_is_fetched_again_at_the_next_start(repository: Repository, tmp_path: Path) -> None:
    path = fetch(tmp_path, repository.url)[2]
    path.write_bytes(path.read_bytes()[:-1])
    told = io.StringIO()
    assert_complete(fetch(tmp_path, repository.url, Console(file=told)))
    assert f"{path}: differs from the lock file" in told.getvalue()
    assert repository.asked["jar-2.jar"] == 2


def test_a_damaged_jar_of_the_same_size_is_fetched_again_once_distrusted(repository: Repository, tmp_path: Path) -> None:
    path = fetch(tmp_path, repository.url)[2]
    path.write_bytes(bytes(path.stat().st_size))
    distrust_jars(cache=tmp_path)
    assert_complete(fetch(tmp_path, repository.url))
    assert repository.asked["jar-2.jar"] == 2


def test_a_new_lock_has_every_jar_compared_again(repository: Repository, tmp_path: Path) -> None:
    fetch(tmp_path, repository.url)
    other = JarLock(LOCK.coordinates, LOCK.jars[1:])
    paths = ensure_jars(cache=tmp_path, lock=other, repository=repository.url, console=Console(file=io.StringIO()))
    assert [path.name for path in paths] == [jar.file for jar in other.jars]
    assert set(repository.asked.values()) == {1}


def test_right_jars_of_the_local_maven_repository_are_copied_and_wrong_ones_are_not(
    repository: Repository, tmp_path: Path
) -> None:
    for jar in LOCK.jars:
        path = tmp_path / "m2" / jar.path
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT[jar.file] if jar.file != "jar-5.jar" else bytes(jar.size_bytes))
    assert_complete(fetch(tmp_path / "cache", repository.url))
    assert repository.asked == {"jar-5.jar": 1}


def test_without_a_network_the_error_says_what_is_missing_and_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: refused
        with pytest.raises(JarError) as caught:
            fetch(tmp_path, f"http://127.0.0.1:{nobody.getsockname()[1]}")
    told = str(caught.value)
    for part in ("8 of 8 jars are missing", "0.4 MB", "jar-0.jar", "KAFKA_BOOTSTRAP", "LIVEROOM_MAVEN_URL", str(tmp_path)):
        assert part in told


def test_a_launch_killed_half_way_is_continued_by_the_next(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "lock.json").write_text(lock_text())
    for jar in LOCK.jars[:2]:  # two are there already
        path = tmp_path / "m2" / jar.path
        path.parent.mkdir(parents=True)
        path.write_bytes(CONTENT[jar.file])
    repository.held.clear()
    script = (
        "from devstack.kafka_jars import *; from pathlib import Path; import sys\n"
        "ensure_jars(cache=Path(sys.argv[1]), lock=read_lock(Path(sys.argv[2])), repository=sys.argv[3])"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cache"), str(tmp_path / "lock.json"), repository.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert b"6 jars" in process.stderr.readline()
        folder = tmp_path / "cache" / "kafka-4.4.0"
        while len(list(folder.glob("*.part"))) < len(CONTENT) - 2 and process.poll() is None:
            threading.Event().wait(0.01)
        process.send_signal(signal.SIGKILL)
    repository.held.set()
    assert {path.name for path in folder.glob("*.jar")} == {"jar-0.jar", "jar-1.jar"}
    assert list(folder.glob("*.part"))
    assert_complete(fetch(tmp_path / "cache", repository.url))


def test_two_launches_at_once_download_each_jar_once(repository: Repository, tmp_path: Path) -> None:
    told = [io.StringIO(), io.StringIO()]
    with ThreadPoolExecutor(2) as pool:
        for paths in pool.map(lambda text: fetch(tmp_path, repository.url, Console(file=text)), told):
            assert_complete(paths)
    assert set(repository.asked.values()) == {1}


def test_a_cancelled_download_ends_soon(repository: Repository, tmp_path: Path) -> None:
    repository.held.clear()
    cancelled = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        console = Console(file=io.StringIO())
        future = pool.submit(
            ensure_jars, cache=tmp_path, lock=LOCK, repository=repository.url, cancelled=cancelled, console=console
        )
        cancelled.set()
        repository.held.set()
        with pytest.raises(kafka_jars._Cancelled):
            future.result(10)


def test_jgo_is_needed_only_for_a_download_and_its_absence_is_told(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("jgo", "jgo.util.http"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(JarError, match=r"needs jgo: pip install 'liveroom\[demo\]'"):
        fetch(tmp_path, repository.url)
    monkeypatch.undo()
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    fetch(tmp_path, repository.url)
    monkeypatch.setitem(sys.modules, "jgo", None)
    assert_complete(fetch(tmp_path, repository.url))


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        pytest.param("linux", {"LIVEROOM_CACHE_DIR": "/own"}, "/own", id="said"),
        pytest.param("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/liveroom", id="xdg"),
        pytest.param("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/liveroom", id="xdg-must-be-absolute"),
        pytest.param("linux", {}, "/home/me/.cache/liveroom", id="default"),
        pytest.param("darwin", {}, "/home/me/Library/Caches/liveroom", id="macos"),
    ],
)
def test_the_cache_lies_where_the_platform_wants_it(
    platform: str, environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("LIVEROOM_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "HOME": "/home/me"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_dir() == Path(expected)


def lock_text() -> str:
    """Return the test's lock as a lock file."""
    jars = ",".join(
        f'{{"group":"{jar.group}","artifact":"{jar.artifact}","version":"{jar.version}","file":"{jar.file}",'
        f'"size_bytes":{jar.size_bytes},"sha256":"{jar.sha256}"}}'
        for jar in LOCK.jars
    )
    return f'{{"coordinates":"{LOCK.coordinates}","jars":[{jars}]}}'
