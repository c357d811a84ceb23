"""Which failures of a check are tried again, and what the check comes to then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
FAILS_ONCE = """
from pathlib import Path
import pytest

@pytest.mark.parametrize("what", ["a b", "c::d"])
def test_once(what):
    seen = Path(what.replace(":", "-"))
    was_there = seen.exists()
    seen.touch()
    assert was_there
"""
FAILS = "def test_never(): assert False\n"
PASSES = "def test_always(): pass\n"


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


def check(folder: Path, *tests: str) -> tuple[int, str]:
    """Run tests, each text a file, as a check does; return the exit code and the output of the
    second run.
    """
    for number, text in enumerate(tests):
        (folder / f"test_{number}.py").write_text(text)
    run(folder, "pytest", "-p", "tests.again", "--failures", "alone.json", "-p", "no:cacheprovider")
    return run(folder, "tests.again", "alone.json")


def test_tests_that_pass_alone_make_the_check_green_and_are_named(tmp_path: Path) -> None:
    code, output = check(tmp_path, FAILS_ONCE, PASSES)
    assert code == 0
    assert "again: UNSTABLE test_0.py::test_once[a b]\nagain: UNSTABLE test_0.py::test_once[c::d]\n" in output
    assert "2 passed" in output


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ([FAILS, PASSES], "FAILED test_0.py::test_never"),
        ([FAILS_ONCE, FAILS], "FAILED test_1.py::test_never"),
        ([FAILS_ONCE, FAILS, FAILS], "4 tests failed, and at most 3 are tried again"),
        ([PASSES], "what failed was no test"),
        (["raise KeyboardInterrupt\n", FAILS_ONCE], "alone did not come to its end"),
        (["import nothing_of_this_name\n", FAILS_ONCE], "alone did not come to its end"),
    ],
)
def test_the_check_stays_red(tests: list[str], reason: str, tmp_path: Path) -> None:
    code, output = check(tmp_path, *tests)
    assert (code, f"again: {reason}" in output) == (1, True), output


def test_what_an_earlier_run_wrote_is_not_taken_twice(tmp_path: Path) -> None:
    assert check(tmp_path, FAILS_ONCE)[0] == 0
    code, output = run(tmp_path, "tests.again", "alone.json")
    assert (code, output) == (1, "again: alone did not come to its end\n")
