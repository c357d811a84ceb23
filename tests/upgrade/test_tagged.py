"""Which code an upgrade begins with, in clones of every kind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.upgrade import tagged
from tests.upgrade.tagged import NoReleaseError, build_of, last_release

PROJECT = '[project]\ndependencies = ["{}"]\n[project.optional-dependencies]\nserver = []\n'


def git(folder: Path, *arguments: str) -> str:
    command = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-C", str(folder), *arguments)
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def commit(folder: Path, subject: str, dependency: str = "a") -> str:
    (folder / "pyproject.toml").write_text(PROJECT.format(dependency))
    (folder / "subject").write_text(subject)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", subject)
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a repository without a release, and have the upgrade begin there."""
    folder = tmp_path / "clone"
    git(tmp_path, "init", "-q", str(folder))
    commit(folder, "Something works")
    monkeypatch.setattr(tagged, "ROOT", folder)
    monkeypatch.setenv("LIVEROOM_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def test_the_newest_tag_before_the_working_tree_is_the_last_release(clone: Path) -> None:
    git(clone, "tag", "v0.1.0")
    released = commit(clone, "More works")
    git(clone, "tag", "-am", "0.2.0", "v0.2.0")
    commit(clone, "Still more works")
    git(clone, "tag", "nightly")
    release = last_release()
    assert (release.name, release.commit, str(release)) == ("v0.2.0", released, "v0.2.0")


def test_a_clone_without_tags_begins_with_the_commit_of_the_release(clone: Path) -> None:
    commit(clone, "Release notes are written")
    released = commit(clone, "Release 0.1.0")
    commit(clone, "More works")
    assert last_release().commit == released


def test_before_the_first_release_the_head_stands_for_it_and_that_is_said(clone: Path) -> None:
    release = last_release()
    assert release.commit == git(clone, "rev-parse", "HEAD")
    assert str(release) == "HEAD, since there is no release yet"


def test_a_shallow_clone_is_refused_with_the_command_that_helps(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(clone, "Release 0.1.0")
    commit(clone, "More works")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{clone}", str(tmp_path / "shallow"))
    monkeypatch.setattr(tagged, "ROOT", tmp_path / "shallow")
    with pytest.raises(NoReleaseError, match="git fetch --unshallow --tags"):
        last_release()


def test_a_folder_that_is_no_clone_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagged, "ROOT", tmp_path)
    with pytest.raises(NoReleaseError, match="no clone"):
        last_release()


def test_the_build_of_a_release_has_its_files_and_the_interpreter_where_dependencies_are_the_same(clone: Path) -> None:
    release = last_release()
    commit(clone, "More works")
    for _ in range(2):  # unpacked, then found
        build = build_of(release)
        assert (build.folder / "subject").read_text() == "Something works"
        assert build.python == sys.executable


def test_a_release_with_other_dependencies_gets_an_environment_of_its_own(clone: Path, tmp_path: Path) -> None:
    release = last_release()
    commit(clone, "More works", dependency="b")
    folder = tmp_path / "cache" / "releases" / release.commit
    made = folder.with_name(f"{folder.name}-python{sys.version_info.major}.{sys.version_info.minor}")
    made.mkdir(parents=True)
    (made / ".ready").touch()  # as an earlier run left it
    assert build_of(release).python == str(made / "bin" / "python")
