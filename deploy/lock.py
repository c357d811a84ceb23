# ruff: noqa: INP001, T201 - a script beside the files that it writes
"""Locks the dependencies of the image, with a hash of each file: `make lock`.

Owns deploy/locks: for each Python that the image may have, one file with what the services need;
and one with what builds the package. The image installs nothing else (`pip --require-hashes`). A
locked version stays until it no longer fits pyproject.toml; `make lock ARGS=--upgrade` takes the
newest ones. tests/deploy/test_image.py checks that the locks agree with pyproject.toml.

It runs uv from a throwaway environment, and reads the package index.
"""

import argparse
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCKS: Final = ROOT / "deploy" / "locks"
UV: Final = "uv==0.13.9"
PYTHONS: Final = ("3.13",)
EXTRAS: Final = ("keda", "kubernetes", "server", "tracing")  # of the image
HEADER: Final = "# Written by `make lock`. Do not edit.\n"


def lock_of(python: str) -> Path:
    """Return the file with what the services need under a Python."""
    return LOCKS / f"python-{python}.txt"


BUILD: Final = LOCKS / "build.txt"


def main() -> None:
    """Write the locks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--upgrade", action="store_true", help="take the newest version of everything")
    upgrade = parser.parse_args().upgrade
    LOCKS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder) / "tools"
        subprocess.run([sys.executable, "-m", "venv", str(tools)], check=True)
        subprocess.run([str(tools / "bin" / "pip"), "install", "--quiet", UV], check=True)
        build = Path(folder) / "build.in"
        build.write_text(
            "\n".join(tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]),
            encoding="utf-8",
        )
        uv, more = str(tools / "bin" / "uv"), ["--upgrade"] if upgrade else []
        extras = [word for extra in EXTRAS for word in ("--extra", extra)]
        for python in PYTHONS:
            _compile(uv, ["pyproject.toml", *extras, *more], python, lock_of(python))
        _compile(uv, [str(build), *more], PYTHONS[0], BUILD)


def _compile(uv: str, what: list[str], python: str, to: Path) -> None:
    """Write one lock. Only wheels count, for Linux on any processor."""
    options = ["--generate-hashes", "--no-annotate", "--no-header", "--quiet", "--only-binary", ":all:"]
    target = ["--python-version", python, "--python-platform", "linux", "--output-file", str(to)]
    subprocess.run([uv, "pip", "compile", *what, *options, *target], cwd=ROOT, check=True)
    to.write_text(HEADER + to.read_text(encoding="utf-8").removeprefix(HEADER), encoding="utf-8")
    print(f"wrote {to.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
