"""The doctor, on good and bad machines."""

import os
import resource
import socket
import time
from pathlib import Path

import pytest

from cli import doctor
from cli.doctor import Level
from devstack.java import Java, NoJavaError
from devstack.kafka_jars import KAFKA_VERSION, Jar, JarLock, read_lock
from devstack.programs import PROMETHEUS
from devstack.running import Running, announced, start_of_this_process_s
from liveroom.settings import KafkaSettings
from liveroom.topics import ALL

LOCK = JarLock("a:b:1", (Jar("a", "b", "1", "b-1.jar", 3, "00"), Jar("a", "c", "1", "c-1.jar", 4, "00")))


@pytest.fixture(autouse=True)
def _own_runtime_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("version", "level"),
    [
        pytest.param((3, 10, 9), Level.FAIL, id="too old"),
        pytest.param((3, 11, 0), Level.OK, id="the oldest"),
        pytest.param((4, 0, 0), Level.OK, id="newer"),
    ],
)
def test_python(version: tuple[int, int, int], level: Level) -> None:
    assert doctor.check_python(version).level is level


def test_a_missing_package_is_named() -> None:
    found = doctor.check_packages(["liveroom", "no_such_service"])
    assert (found.level, found.found) == (Level.FAIL, "missing: no_such_service")
    assert doctor.check_packages(["liveroom"]).level is Level.OK


@pytest.mark.parametrize(
    ("needed", "level"), [pytest.param(True, Level.FAIL, id="needed"), pytest.param(False, Level.OK, id="not needed")]
)
def test_no_java_fails_only_where_the_local_kafka_is_used(needed: bool, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> Java:
        raise NoJavaError("none found; get one by pip")

    monkeypatch.setattr(doctor, "find_java", none)
    assert doctor.check_java(needed=needed).level is level


def test_a_java_is_told_with_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_java", lambda: Java(Path("/opt/java"), 21, "PATH"))
    assert doctor.check_java(needed=True).found == "21 from PATH: /opt/java"


def test_jars_are_missing_then_cached(tmp_path: Path) -> None:
    missing = doctor.check_jars(LOCK, tmp_path, needed=True)
    assert missing.level is Level.WARN
    assert missing.found.startswith("2 of 2")
    assert doctor.check_jars(LOCK, tmp_path, needed=False).level is Level.OK
    folder = tmp_path / f"kafka-{KAFKA_VERSION}"
    folder.mkdir()
    (folder / "b-1.jar").write_bytes(b"123")
    (folder / "c-1.jar").write_bytes(b"12")
    assert doctor.check_jars(LOCK, tmp_path, needed=True).found.startswith("1 of 2")
    (folder / "c-1.jar").write_bytes(b"1234")
    assert doctor.check_jars(LOCK, tmp_path, needed=True).level is Level.OK


def test_missing_jars_without_the_means_to_fetch_them_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda _: None)
    assert doctor.check_jars(LOCK, tmp_path, needed=True).level is Level.FAIL


@pytest.mark.parametrize(
    ("limits", "level", "words"),
    [
        pytest.param((64, 128), Level.FAIL, "at most 128", id="hopeless"),
        pytest.param((256, 1024), Level.WARN, "at most 1024", id="few"),
        pytest.param((1024, 1 << 20), Level.OK, "raise it", id="soft limit is raised"),
        pytest.param((resource.RLIM_INFINITY, resource.RLIM_INFINITY), Level.OK, "unlimited", id="no limit"),
    ],
)
def test_open_files(limits: tuple[int, int], level: Level, words: str) -> None:
    found = doctor.check_files(limits)
    assert found.level is level
    assert words in found.found


def test_little_memory_is_a_warning() -> None:
    assert doctor.check_memory(1 << 30).level is Level.WARN
    assert doctor.check_memory(1 << 34).level is Level.OK


def test_a_folder_that_is_not_there_or_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_disk(tmp_path / "nowhere").level is Level.FAIL
    monkeypatch.setattr(doctor, "ENOUGH_DISK_MB", 1 << 60)
    assert doctor.check_disk(tmp_path).level is Level.WARN
    monkeypatch.setattr(doctor, "ENOUGH_DISK_MB", 0)
    assert doctor.check_disk(tmp_path).level is Level.OK


def test_a_taken_port_is_named_with_its_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = doctor.check_ports({port: "ingress (port)"})
        assert found.level is Level.WARN
        assert f"{port} of ingress (port)" in found.found
    assert doctor.check_ports({port: "ingress (port)"}).level is Level.OK


def test_topics_missing_right_and_with_other_partitions() -> None:
    settings = KafkaSettings(bootstrap="x:1", prefix="p.", partitions=4)
    right = {f"p.{topic.name}": topic.partitions or 4 for topic in ALL}
    assert [finding.level for finding in doctor.check_topics(settings, right)] == [Level.OK]
    (missing,) = doctor.check_topics(settings, {name: count for name, count in right.items() if name != "p.uplink"})
    assert (missing.level, missing.found) == (Level.WARN, "missing: p.uplink")
    (wrong,) = doctor.check_topics(settings, right | {"p.uplink": 8})
    assert wrong.level is Level.FAIL
    assert "LIVEROOM_KAFKA__PARTITIONS=8" in wrong.todo
    (odd,) = doctor.check_topics(settings, right | {"p.gateways": 2})
    assert "delete the topic" in odd.todo


async def test_a_kafka_that_does_not_answer_fails_soon(unused_tcp_port: int) -> None:
    began_s = time.monotonic()
    (found,) = await doctor.check_kafka(KafkaSettings(bootstrap=f"127.0.0.1:{unused_tcp_port}"))
    assert found.level is Level.FAIL
    assert "does not answer" in found.found
    assert time.monotonic() - began_s < doctor.KAFKA_TIMEOUT_S + 2


async def test_a_running_system_that_does_not_answer_fails_and_none_is_fine(unused_tcp_port: int) -> None:
    assert [finding.level for finding in await doctor.check_running()] == [Level.OK]
    dead = f"http://127.0.0.1:{unused_tcp_port}"
    running = Running("demo", os.getpid(), start_of_this_process_s(), dead, dead, dead, "k" * 64, "x:1", "", 16, ["r"], "/logs")
    with announced(running):
        (found,) = await doctor.check_running()
    assert found.level is Level.FAIL
    assert "/logs" in found.todo


async def test_a_runtime_folder_others_can_write_to_fails(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o777)
    (tmp_path / "run").chmod(0o777)
    (found,) = await doctor.check_running()
    assert found.level is Level.FAIL


def test_the_whole_lock_file_can_be_looked_up(tmp_path: Path) -> None:
    assert doctor.check_jars(read_lock(), tmp_path, needed=True).level is Level.WARN


def test_a_program_that_only_tests_need_is_told_and_its_lack_is_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LIVEROOM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv(PROMETHEUS.variable, raising=False)
    lacking = doctor.check_program(PROMETHEUS)
    assert lacking.level is Level.OK
    assert lacking.found.startswith("missing; only the tests of the dashboards")
    monkeypatch.setenv(PROMETHEUS.variable, "/opt/prometheus")
    assert doctor.check_program(PROMETHEUS).found == "/opt/prometheus"
