"""Which failures of a check are tried again, and what the check comes to then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.again import Failures, reason_against

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


def run(folder: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return ended.returncode, ended.stdout + ended.stderr


def check(folder: Path, *tests: str, stops: bool = False) -> tuple[int, str]:
    """Run tests, each text a file, as a check does; return the exit code and the output of the
    second run. `stops`: at the first failure.
    """
    for number, text in enumerate(tests):
        (folder / f"test_{number}.py").write_text(text)
    options = ["-x"] if stops else []
    run(folder, "pytest", "-p", "tests.again", "--failures", "alone.json", "-p", "no:cacheprovider", *options)
    return run(folder, "tests.again", "alone.json")


def test_tests_that_pass_alone_make_the_check_green_and_are_named(tmp_path: Path) -> None:
    code, output = check(tmp_path, FAILS_ONCE)
    assert code == 0
    assert "again: UNSTABLE test_0.py::test_once[a b]\nagain: UNSTABLE test_0.py::test_once[c::d]\n" in output
    assert "2 passed" in output


def test_a_test_that_fails_twice_leaves_the_check_red_and_nothing_for_the_next_one(tmp_path: Path) -> None:
    code, output = check(tmp_path, FAILS_ONCE, FAILS)
    assert (code, "again: FAILED test_1.py::test_never" in output) == (1, True), output
    assert "again: UNSTABLE test_0.py::test_once[a b]" in output
    assert run(tmp_path, "tests.again", "alone.json") == (1, "again: alone did not come to its end\n")


def test_a_run_that_cannot_read_a_test_has_not_come_to_its_end(tmp_path: Path) -> None:
    assert check(tmp_path, "import nothing_of_this_name\n") == (1, "again: alone did not come to its end\n")


def test_a_run_that_stops_at_a_failure_has_not_come_to_its_end(tmp_path: Path) -> None:
    assert check(tmp_path, FAILS_ONCE, FAILS, stops=True) == (1, "again: alone did not come to its end\n")


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ({"alone": Failures(1, ["a"]), "system": Failures(0, [])}, ""),
        ({"alone": Failures(1, ["a"]), "system": Failures(1, ["b", "c"])}, ""),
        (
            {"alone": Failures(1, ["a", "b"]), "system": Failures(1, ["c", "d"])},
            "4 tests failed, and at most 3 are tried again",
        ),
        ({"alone": Failures(0, []), "system": Failures(0, [])}, "what failed was no test"),
        ({"alone": None, "system": Failures(1, ["a"])}, "alone did not come to its end"),
        ({"alone": Failures(1, ["a"]), "system": Failures(2, [])}, "system did not come to its end"),
    ],
)
def test_what_is_tried_again(runs: dict[str, Failures | None], reason: str) -> None:
    assert reason_against(runs) == reason
