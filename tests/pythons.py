"""Runs what needs no running system with every other Python: `make pythons`.

The classifiers in pyproject.toml name the versions. A Python is python3.11 and the like in the
PATH, or one of pyenv's; it counts once it has printed its version, since a stand-in of pyenv in the
PATH may have none behind it. They run side by side, at low priority, as many as there are
processors; what each prints comes when it has ended.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import STDOUT
from tempfile import TemporaryFile
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
CLASSIFIER: Final = re.compile(r"Programming Language :: Python :: (3\.\d+)")
# It must be able to make an environment too: Debian keeps `ensurepip` in a package of its own.
ASK: Final = "import ensurepip, ssl, sys; print('%d.%d' % sys.version_info[:2])"


def supported() -> list[str]:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return [match[1] for one in project["classifiers"] if (match := CLASSIFIER.fullmatch(one))]


def candidates(version: str) -> Iterator[str]:
    """Give every program that might be it."""
    for folder in os.get_exec_path():
        if found := shutil.which(f"python{version}", path=folder):
            yield found
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=False).stdout.strip()
        yield from map(str, sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}")))


def find(version: str) -> str | None:
    for program in candidates(version):
        try:
            answer = subprocess.run([program, "-c", ASK], capture_output=True, text=True, timeout=20, check=False)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if answer.stdout.strip() == version:
            return program
    return None


def prepare(version: str, program: str) -> None:
    """Make the environment of one Python: two at once would build the package in one place."""
    subprocess.run(["make", "--no-print-directory", f"PYTHON={program}", f".venv-{version}/.ready"], cwd=CHECKOUT, check=False)


def run(version: str, program: str) -> str:
    """Try one Python; return what came of it, in words."""
    began_s = time.monotonic()
    make = ["nice", "-n", "10", "make", "--no-print-directory", f"PYTHON={program}"]
    with TemporaryFile() as printed:

        def code_of(target: str) -> int:
            return subprocess.run([*make, target], cwd=CHECKOUT, stdout=printed, stderr=STDOUT, check=False).returncode

        code = code_of("alone") and code_of("again")
        printed.seek(0)
        print(f"pythons: {version}, {program}\n{printed.read().decode(errors='replace')}", flush=True)
    return f"{'passed' if code == 0 else 'FAILED'} in {time.monotonic() - began_s:.0f} s ({program})"


def main() -> int:
    own = "{}.{}".format(*sys.version_info[:2])
    told = {own: "the check's own"}
    found = {version: find(version) for version in supported() if version != own}
    programs = {version: program for version, program in found.items() if program is not None}
    for version, program in programs.items():
        prepare(version, program)
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        running = {version: workers.submit(run, version, program) for version, program in programs.items()}
        for version in found:
            told[version] = running[version].result() if version in running else "not on this machine"
    for version in sorted(told):
        print(f"pythons: {version}: {told[version]}", flush=True)
    return 1 if any(text.startswith("FAILED") for text in told.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
