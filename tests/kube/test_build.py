"""The preparation of the control plane, with a program in Go's place that is done in a moment."""

import asyncio
import io
import os
import signal
import sys
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from devstack.builds import ROOT
from tests.kube.build import BuildError, prepare

# It notes how it is called. The file `slow` has it hang in the middle of building, `away` has it
# fail as without a network.
GO = """#!/bin/sh
here=$(dirname "$0")
echo "$1" >> "$here/calls"
case "$1 $2" in
"env GOVERSION") cat "$here/version" ;;
"mod download")
    [ -e "$here/away" ] && { echo "go: downloading a v1" >&2; echo '{"Error": "a@v1: connection refused"}'; exit 1; }
    shift 3
    for module in "$@"; do
        folder="$GOMODCACHE/$module"
        mkdir -p "$folder/example/prometheus-operator-crd" "$folder/config/crd/bases"
        touch "$folder/example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml"
        touch "$folder/example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"
        touch "$folder/config/crd/bases/keda.sh_scaledobjects.yaml"
        printf '{"Path": "%s",\n "Version": "%s",\n "Dir": "%s"}\n' "${module%@*}" "${module#*@}" "$folder"
    done ;;
"build "*)
    while [ "$1" != -o ]; do shift; done
    echo half > "$2kube-apiserver"
    mkdir -p "$GOCACHE"
    [ -e "$here/slow" ] && { echo $$ > "$here/pid"; touch "$here/hangs"; exec sleep 600; }
    for name in server kube-apiserver kube-controller-manager kube-scheduler; do echo whole > "$2$name"; done ;;
esac
"""


@pytest.fixture
def go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the program in Go's place, first in the PATH; the cache is this test's."""
    folder = tmp_path / "programs"
    folder.mkdir()
    (folder / "go").write_text(GO)
    (folder / "go").chmod(0o755)
    (folder / "version").write_text("go1.99.1\n")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("LIVEROOM_CACHE_DIR", str(tmp_path / "cache"))
    return folder


def calls(go: Path) -> list[str]:
    return (go / "calls").read_text().split()


async def started() -> asyncio.subprocess.Process:
    """A preparation in a process of its own."""
    pipe = asyncio.subprocess.PIPE
    # Where the tests were started in the background of a shell, SIGINT is ignored, by all who come
    # after, too.
    code = (
        "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
        " runpy.run_module('tests.kube.build', {}, '__main__')"
    )
    return await asyncio.create_subprocess_exec(sys.executable, "-c", code, cwd=ROOT, stdout=pipe, stderr=pipe)


async def there(path: Path) -> None:
    async with asyncio.timeout(60):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.02)


def test_it_is_made_once_and_what_only_making_needs_is_removed(go: Path, tmp_path: Path) -> None:
    shown = io.StringIO()
    folder = prepare(Console(file=shown))
    assert {path.name for path in (folder / "bin").iterdir()} == {
        "etcd",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-scheduler",
    }
    assert len(list((folder / "definitions").iterdir())) == 3
    assert {path.name for path in (tmp_path / "cache" / "kube").iterdir()} >= {folder.name, ".lock"}
    assert not (tmp_path / "cache" / "kube" / "gocache").exists()
    assert "is built by Go, once" in shown.getvalue()
    before = calls(go)
    again = io.StringIO()
    assert (prepare(Console(file=again)), again.getvalue(), calls(go)) == (folder, "", before)


def test_without_go_one_line_says_so(go: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(go.parent))
    with pytest.raises(BuildError, match=r"^no Kubernetes control plane here: Go is not installed .*$"):
        prepare()


def test_an_old_go_is_told_by_its_version(go: Path) -> None:
    (go / "version").write_text("go1.9.7\n")
    with pytest.raises(BuildError, match=r"Go is 1\.9\.7, 1\.\d+\.\d+ or newer is needed"):
        prepare()


def test_without_a_network_the_line_says_what_go_said_and_the_next_one_makes_it(go: Path) -> None:
    (go / "away").touch()
    with pytest.raises(BuildError, match=r"^fetching definitions failed \(is there a network.*: a@v1: connection refused$"):
        prepare(Console(file=io.StringIO()))
    (go / "away").unlink()
    assert (prepare(Console(file=io.StringIO())) / "bin" / "etcd").read_text() == "whole\n"


async def test_one_that_is_broken_off_leaves_nothing_half_made_and_no_go_behind(go: Path) -> None:
    (go / "slow").touch()
    process = await started()
    await there(go / "hangs")
    process.send_signal(signal.SIGKILL)
    await process.wait()
    async with asyncio.timeout(60):
        while psutil.pid_exists(int((go / "pid").read_text())):  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)
    (go / "slow").unlink()
    folder = await asyncio.to_thread(prepare, Console(file=io.StringIO()))
    assert (folder / "bin" / "kube-apiserver").read_text() == "whole\n"


async def test_of_two_at_once_one_builds_and_the_other_waits(go: Path) -> None:
    (go / "slow").touch()
    first = await started()
    await there(go / "hangs")
    second = await started()
    assert second.stderr is not None
    assert b"waiting for it" in await second.stderr.readline()
    (go / "slow").unlink()
    first.send_signal(signal.SIGINT)
    await first.wait()
    out, err = await second.communicate()
    assert second.returncode == 0, err
    assert b"the Kubernetes control plane" in out
    assert calls(go).count("build") == 2, "the one that was broken off, and the one that went on"
