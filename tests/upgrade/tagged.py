"""The code of the last release, as git has it, and the interpreter that runs it.

Owns which commit the last release is, and a folder of the user's cache with its files. Refuses a
clone without history (`NoReleaseError`): nothing can be upgraded from there.
"""

import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from devstack.builds import ROOT, Build
from devstack.folders import cache_dir
from liveroom.errors import ExplainedError

TAGS: Final = "v[0-9]*"
SUBJECT: Final = r"^Release [0-9]+\.[0-9]+\.[0-9]+$"  # of the commit of a release, where a clone has no tags
EXTRAS: Final = ("server",)  # what the services of a release need


class NoReleaseError(ExplainedError):
    """This clone does not contain the code of a release; the message says how to get it."""


class Release(NamedTuple):
    """A release: its tag and its commit. `is_tagged` is False where HEAD stands for it."""

    name: str
    commit: str
    is_tagged: bool

    def __str__(self) -> str:
        return self.name if self.is_tagged else f"{self.name}, since there is no release yet"


def last_release() -> Release:
    """Return the newest release before this working tree; HEAD where there is none in its history.

    Raises NoReleaseError where this is no clone, or where the clone has no history to look in.
    """
    if shutil.which("git") is None:
        raise NoReleaseError("git is not installed, and the code of the last release comes from its history")
    if not (ROOT / ".git").exists():
        raise NoReleaseError(f"{ROOT} is no clone of the repository, so it has no release to upgrade from: clone it with git")
    if tag := _git("describe", "--tags", "--abbrev=0", "--match", TAGS):
        return Release(tag, _git("rev-parse", f"{tag}^{{commit}}"), is_tagged=True)
    if found := _git("log", "-1", "--extended-regexp", f"--grep={SUBJECT}", "--format=%H %s"):
        commit, _, subject = found.partition(" ")
        return Release(f"the commit “{subject}”", commit, is_tagged=True)
    if _git("rev-parse", "--is-shallow-repository") == "true":
        raise NoReleaseError(
            "this clone is shallow and has no tag of a release, so there is no code to upgrade from:"
            " run git fetch --unshallow --tags"
        )
    if not (head := _git("rev-parse", "HEAD")):
        raise NoReleaseError(f"git cannot read the repository {ROOT}: run git log there to see why")
    return Release("HEAD", head, is_tagged=False)


def build_of(release: Release) -> Build:
    """Return the build of a release. Its files are unpacked into the cache, once. Blocks.

    A release with other dependencies than the working tree gets an environment of its own.
    """
    folder = cache_dir() / "releases" / release.commit
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        archive = subprocess.run(
            ["git", "archive", "--format=zip", release.commit], cwd=ROOT, capture_output=True, check=True
        ).stdout
        with tempfile.TemporaryDirectory(dir=folder.parent) as part, zipfile.ZipFile(BytesIO(archive)) as files:
            files.extractall(part)
            Path(part).rename(folder)
            Path(part).mkdir()  # for the end of the block
    return Build(release.name, folder, _python_for(folder))


def _python_for(folder: Path) -> str:
    """Return an interpreter that has the dependencies of the code in `folder`."""
    if _dependencies(folder) == _dependencies(ROOT):
        return sys.executable
    environment = folder.with_name(f"{folder.name}-python{sys.version_info.major}.{sys.version_info.minor}")
    made = environment / ".ready"
    if not made.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        wanted = f"{folder}[{','.join(EXTRAS)}]"
        install = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, wanted], check=True)
        made.touch()
    return str(environment / "bin" / "python")


def _dependencies(folder: Path) -> set[str]:
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return {*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])}


def _git(*arguments: str) -> str:
    """Return what git prints; empty where it fails."""
    done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
