"""Runs the few tests that failed beside others once more, alone: the end of `make check`.

As a pytest plugin (`-p tests.again --failures FILE`) it writes a run's failed tests to a file.
`python -m tests.again FILE...` reads the files of all runs. Tests that pass alone are named as
unstable, after the output of their failure, and the check is green. It stays red where a test fails
twice, where more than `MOST` failed, and where anything but a test failed: then a run has no file,
or did not come to its end.
"""

import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
import pytest

MOST: Final = 3
COMPLETE: Final = {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED}


class Failures(msgspec.Struct, frozen=True):
    """A run's end: pytest's exit code, and the ids of the tests that failed, in order."""

    exit_code: int
    tests: list[str]


class _Writer:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed: dict[str, None] = {}  # a test can fail and its clean-up too
        self._tried: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._tried.add(report.nodeid)
        if report.failed:
            self._failed[report.nodeid] = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failed[report.nodeid] = None

    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self._tried != {item.nodeid for item in session.items}:
            return  # with -x or --maxfail it stopped before the others
        self._path.parent.mkdir(exist_ok=True)
        self._path.write_bytes(msgspec.json.encode(Failures(int(exitstatus), list(self._failed))))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the file."""
    parser.addoption("--failures", type=Path, metavar="FILE", help="write the ids of failed tests to FILE, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Register the writer."""
    if (path := config.getoption("--failures")) is not None:
        path.unlink(missing_ok=True)
        config.pluginmanager.register(_Writer(path))


def reason_against(runs: dict[str, Failures | None]) -> str:
    """Return why a second run would not help, or "".

    `runs`: what each run wrote, None where it wrote nothing.
    """
    for name, run in runs.items():
        if run is None or run.exit_code not in COMPLETE:
            return f"{name} did not come to its end"
    failed = sum(len(run.tests) for run in runs.values() if run is not None)
    if not failed:
        return "what failed was no test"
    if failed > MOST:
        return f"{failed} tests failed, and at most {MOST} are tried again"
    return ""


def take(path: Path) -> Failures | None:
    """Return what a run wrote, or None; the file is gone then, so that no later run is taken for
    this one.
    """
    try:
        written = path.read_bytes()
        path.unlink()
        return msgspec.json.decode(written, type=Failures)
    except (OSError, msgspec.DecodeError):
        return None


def main(arguments: list[str]) -> int:
    """Try the failed tests of these files again; return the exit code of the check."""
    runs = {Path(path).stem: take(Path(path)) for path in arguments}
    if reason := reason_against(runs):
        print(f"again: {reason}", flush=True)
        return 1
    tests = [test for run in runs.values() if run is not None for test in run.tests]
    print(f"again: {len(tests)} of the tests failed, and now run once more, alone", flush=True)
    file = Path(arguments[0]).with_name("again.json")
    command = [sys.executable, "-m", "pytest", "-p", "tests.again", "--failures", str(file), "-m", "", *tests]
    code = subprocess.run(command, check=False).returncode
    ended = take(file)
    for test in tests:
        has_failed = ended is None or test in ended.tests
        print(f"again: {'FAILED' if has_failed else 'UNSTABLE'} {test}", flush=True)
    return int(code != 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
