"""What the tests drive is found or brought, or told of at once; none of this is skipped."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from devstack import programs
from devstack.programs import CHROMIUM, KUBECTL, PROMETHEUS, MissingProgramError, cached, find, need
from tests import prepare


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the PATH, nothing in the cache, nothing named."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("LIVEROOM_CACHE_DIR", str(tmp_path / "cache"))
    for program in (*programs.ALL, *programs.PROXIES):
        monkeypatch.delenv(program.variable, raising=False)


def put(path: Path, script: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def kubectl(path: Path, minor: str) -> Path:
    return put(path, f"echo '{json.dumps({'clientVersion': {'major': '1', 'minor': minor}})}'")


def test_a_program_is_found_by_its_variable_then_in_the_path_then_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find(CHROMIUM) is None
    brought = put(cached(CHROMIUM))
    assert find(CHROMIUM) == brought
    own = put(tmp_path / "bin" / "google-chrome")
    assert find(CHROMIUM) == own
    monkeypatch.setenv("LIVEROOM_CHROMIUM", "/opt/mine")
    assert find(CHROMIUM) == Path("/opt/mine")


@pytest.mark.parametrize(
    ("minor", "taken"),
    [
        pytest.param("20", False, id="too old"),
        pytest.param("30", True, id="the oldest"),
        pytest.param("32+", True, id="a vendor's"),
    ],
)
def test_a_kubectl_that_is_too_old_for_the_manifests_is_passed_over(tmp_path: Path, minor: str, taken: bool) -> None:
    brought = kubectl(cached(KUBECTL), "37")
    own = kubectl(tmp_path / "bin" / "kubectl", minor)
    assert find(KUBECTL) == (own if taken else brought)


def test_a_test_that_needs_a_missing_program_fails_and_says_what_to_do() -> None:
    with pytest.raises(MissingProgramError, match=r"no chromium.*python -m tests\.prepare.*apt install.*LIVEROOM_CHROMIUM"):
        need(CHROMIUM)


def test_a_machine_on_which_nothing_can_be_had_is_told_so_at_once_a_line_each(tmp_path: Path) -> None:
    names = ["chromium", "prometheus", "promtool"]
    command = [sys.executable, "-m", "tests.prepare", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert [line.split(",")[0] for line in lines] == [f"prepare: no {name}" for name in names]
    assert all("install it (" in line and "or name it in LIVEROOM_" in line for line in lines)
    assert done.stdout == ""
    assert not (tmp_path / "cache").exists(), "nothing was begun"


def test_a_program_that_does_not_run_is_told_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LIVEROOM_PROMETHEUS", str(put(tmp_path / "broken", "echo no such library >&2; exit 127")))
    assert prepare.main(["prometheus"]) == 1
    assert "no such library" in capsys.readouterr().err
    assert find(PROMETHEUS) == tmp_path / "broken", "what a person names is not exchanged for another"


def test_an_unpacked_program_is_started_with_the_libraries_that_were_unpacked_with_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr/lib/private").mkdir(parents=True)
    (root / "usr/lib/private/libown.so.1").touch()
    (root / "usr/share/fonts").mkdir(parents=True)
    put(root / "usr/bin/own", 'echo "$LD_LIBRARY_PATH $FONTCONFIG_FILE $1"')
    prepare.start_from(cached(CHROMIUM), root, root / "usr/bin/own")
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    told = subprocess.run([cached(CHROMIUM), "--flag"], capture_output=True, text=True, check=True, env=environment)
    assert told.stdout.split() == [str(root / "usr/lib/private"), str(root / "fonts.conf"), "--flag"]
    assert f"<dir>{root}/usr/share/fonts</dir>" in (root / "fonts.conf").read_text()


def test_a_proxy_that_the_distribution_lacks_keeps_none_of_the_others_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "bin" / "apt-get", 'case "$*" in *update*) ;; *hitch*) exit 100 ;; *) : > one.deb ;; esac')
    unpacked = 'for name in haproxy nginx hitch; do echo "#!/bin/sh" > "$3/usr/sbin/$name"; done'
    put(tmp_path / "bin" / "dpkg", f'/bin/mkdir -p "$3/usr/sbin"; {unpacked}; /bin/chmod +x "$3"/usr/sbin/*')
    assert prepare.main(["hitch", "haproxy", "nginx"]) == 1
    assert [find(program) is not None for program in programs.PROXIES] == [
        program.name != "hitch" for program in programs.PROXIES
    ]
    assert "no hitch" in capsys.readouterr().err
