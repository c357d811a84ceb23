"""What an empty machine is given of this one. The machine itself: `make bare`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import bare


def test_variables_by_which_package_clients_find_their_way_are_carried_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, ours = tmp_path / "root", tmp_path / "ours.pem"
    ours.write_text("a certificate")
    given = {
        "REQUESTS_CA_BUNDLE": str(ours),
        "NODE_EXTRA_CA_CERTS": str(ours),
        "https_proxy": "http://127.0.0.1:3128",
        "PIP_DEFAULT_TIMEOUT": "180",
        "GOPROXY": "off",
    }
    others = {"PIP_CACHE_DIR": str(tmp_path), "SSL_CERT_FILE": "/no/such/file", "JAVA_HOME": "/opt/java", "SECRET_TOKEN": "s"}
    for name in set(os.environ):
        monkeypatch.delenv(name)
    for name, value in (given | others).items():
        monkeypatch.setenv(name, value)
    carried = bare.environment(root, "/root")
    assert {name: carried.get(name) for name in given} == given
    assert not set(others) & set(carried)
    assert (root / str(ours).lstrip("/")).read_text() == "a certificate"
    assert carried["HOME"] == "/root"


def test_an_empty_machine_makes_no_other_and_says_so_with_an_exit_code_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.bare", "--base"],
        env=os.environ | {bare.INSIDE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (bare.CANNOT, "", "bare: this is an empty machine already\n")


def test_the_clone_has_the_history_and_the_tags_that_an_upgrade_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        command = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "tag.gpgSign=false", *arguments)
        return subprocess.run(command, cwd=tmp_path / "checkout", capture_output=True, text=True, check=True).stdout

    (tmp_path / "checkout").mkdir()
    git("init", "-q")
    for subject in ("first", "second"):
        git("commit", "-q", "--allow-empty", "-m", subject)
    git("tag", "-am", "0.1.0", "v0.1.0", "HEAD~1")
    monkeypatch.setattr(bare, "CHECKOUT", tmp_path / "checkout")
    bare.clone(tmp_path / "machine" / "clone")
    assert git("-C", str(tmp_path / "machine" / "clone"), "describe", "--tags", "--abbrev=0") == "v0.1.0\n"
