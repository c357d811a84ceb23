"""Golden bytes: what is written today, and what every release has written, which is read as it was
meant.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from devstack.builds import ROOT
from liveroom import __version__
from tests.liveroom import golden
from tests.liveroom.golden import FrozenError, Golden, freeze, is_kept, meaning, write

SAMPLES = [pytest.param(sample, id=sample.file) for sample in golden.EVERY]
TAG = f"v{__version__}"


# ---- today's
@pytest.mark.parametrize("sample", SAMPLES)
def test_a_record_is_written_as_the_bytes_that_are_kept(sample: Golden) -> None:
    assert sample.value == (golden.FOLDER / sample.file).read_bytes(), "see tests/liveroom/golden.py"


@pytest.mark.parametrize("sample", SAMPLES)
def test_the_bytes_that_are_kept_are_read_as_the_record(sample: Golden) -> None:
    assert sample.read((golden.FOLDER / sample.file).read_bytes()) == sample.record


def test_the_folder_has_today_s_files_with_their_meaning_and_no_others() -> None:
    assert {path.name: path.read_bytes() for path in golden.FOLDER.iterdir()} == golden.files()


def test_the_files_are_written_by_the_documented_command(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "next" / "of-a-format-that-is-gone.json").write_text("{}")
    command = (sys.executable, "-m", "tests.liveroom.golden", "--root", str(tmp_path))
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert said.startswith(f"wrote {2 * len(golden.EVERY)} files")
    assert contents(tmp_path / "next") == contents(golden.FOLDER)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- those of tags
def problems_of(folder: Path, readers: Any = golden.READERS) -> list[str]:
    """What is wrong with a tag's folder: files that changed, and files that mean something else
    now.
    """
    found = [] if (folder / golden.SUMS).read_text() == golden.sums(folder) else ["the checksums differ"]
    for path in sorted(folder.iterdir()):
        if path.name == golden.SUMS or path.name.endswith(golden.MEANING):
            continue
        read: Callable[[bytes], Any] | None = readers.get(path.name)
        kept = json.loads((folder / (path.name + golden.MEANING)).read_bytes())
        if read is None:
            found.append(f"{path.name}: nothing reads it")
        elif not is_kept(kept, json.loads(json.dumps(meaning(read(path.read_bytes()))))):
            found.append(f"{path.name}: it means something else")
    return found


def test_the_bytes_of_every_tag_are_read_as_they_were_meant() -> None:
    assert {tag: problems for tag in golden.tags() if (problems := problems_of(golden.ROOT / tag))} == {}


def test_the_bytes_of_a_tag_are_those_in_git() -> None:
    """The checksums of a folder could be written again with it; those in git could not."""
    command = ("git", "tag", "--list", "v[0-9]*")
    for tag in subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split():
        path = (golden.ROOT / tag / golden.SUMS).relative_to(ROOT)
        shown = subprocess.run(("git", "show", f"{tag}:{path}"), cwd=ROOT, check=True, capture_output=True).stdout
        assert shown == (ROOT / path).read_bytes(), tag


def untracked(root: Path, folder: Path) -> list[str]:
    """The files of a folder that the next `git commit -a` leaves out."""
    command = ("git", "ls-files", "--others", str(folder))
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout.split()


def test_git_tracks_every_golden_file() -> None:
    assert untracked(ROOT, golden.ROOT) == [], "a release would not hold these: git add tests/data/golden"


def test_a_folder_is_in_a_release_that_is_made_as_documented(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        settings = ("-c", "user.name=r", "-c", "user.email=r@example.com", "-c", "commit.gpgsign=false")
        return subprocess.run(("git", *settings, *arguments), cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    folder = tmp_path / "tests" / "data" / "golden"
    write(folder)
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "before")
    freeze(TAG, folder)
    assert len(untracked(tmp_path, folder)) == len(contents(folder / TAG))
    steps = (ROOT / "docs" / "development.md").read_text(encoding="utf-8").partition("## How a release is made")[2]
    adding, committing = steps.index("`git add tests/data/golden`"), steps.index('git commit -am "Release X.Y.Z"')
    assert adding < committing
    git("add", "tests/data/golden")
    git("commit", "-qam", f"Release {__version__}")
    assert untracked(tmp_path, folder) == []
    assert len(git("ls-tree", "-r", "--name-only", "HEAD", f"tests/data/golden/{TAG}").split()) == len(contents(folder / TAG))


@pytest.fixture
def frozen(tmp_path: Path) -> Path:
    """A tag's folder that was just frozen."""
    write(tmp_path)
    freeze(TAG, tmp_path)
    return tmp_path / TAG


def test_a_tag_is_frozen_once(frozen: Path) -> None:
    assert problems_of(frozen) == []
    before = contents(frozen)
    command = (sys.executable, "-m", "tests.liveroom.golden", "--root", str(frozen.parent), "--tag", TAG)
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, f"{frozen} is frozen\n")
    assert contents(frozen) == before


def test_only_the_tag_of_this_version_is_frozen(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(FrozenError, match="is not the tag of this version"):
        freeze("v0.0.1", tmp_path)
    assert golden.tags(tmp_path) == []


def test_bytes_that_nobody_looked_at_are_not_frozen(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "next" / "order.json").write_text("{}")
    with pytest.raises(FrozenError, match="look at the difference"):
        freeze(TAG, tmp_path)
    assert golden.tags(tmp_path) == []


@pytest.mark.parametrize("name", ["order.json", "order.json.meaning.json"])
def test_a_changed_file_of_a_tag_is_noticed(name: str, frozen: Path) -> None:
    (frozen / name).write_bytes((frozen / name).read_bytes() + b" ")
    assert problems_of(frozen) == ["the checksums differ"]


def test_a_file_of_a_tag_that_is_removed_or_added_is_noticed(frozen: Path) -> None:
    (frozen / "order.json").unlink()
    (frozen / "order.json.meaning.json").unlink()
    assert problems_of(frozen) == ["the checksums differ"]


def test_a_reader_that_understands_something_else_is_noticed(frozen: Path) -> None:
    def without_reason(value: bytes) -> Any:
        return {**meaning(golden.READERS["order.json"](value)), "reason": "another"}

    assert problems_of(frozen, {**golden.READERS, "order.json": without_reason}) == ["order.json: it means something else"]
    missing = {name: read for name, read in golden.READERS.items() if name != "order.json"}
    assert problems_of(frozen, missing) == ["order.json: nothing reads it"]


@pytest.mark.parametrize(
    ("kept", "found", "same"),
    [
        pytest.param({"a": 1}, {"a": 1, "b": 2}, True, id="a field more"),
        pytest.param({"a": 1, "b": 2}, {"a": 1}, False, id="a field less"),
        pytest.param({"a": 1}, {"a": 2}, False, id="another value"),
        pytest.param({"a": None}, {"b": None}, False, id="another name"),
        pytest.param([{"a": 1}], [{"a": 1, "b": 2}], True, id="a field more in a list"),
        pytest.param([1], [1, 2], False, id="an item more"),
        pytest.param([1], {"a": 1}, False, id="another shape"),
    ],
)
def test_fields_may_be_added_to_what_was_meant_and_nothing_else(kept: Any, found: Any, same: bool) -> None:
    assert is_kept(kept, found) is same
