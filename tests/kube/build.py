"""Makes the control plane's programs, and the definitions of the manifests, before any test.

Owns a folder in the user's cache, named by its content: programs that Go builds from the module
proxy (minutes; 4 GB on disk meanwhile, 0.3 GB afterwards), and custom resource definitions. `make
kube` calls `python -m tests.kube.build` first, and pytest calls `prepare` once it has collected
tests that need it, so no test's time-out counts any of this.

A second run waits for the first, and costs nothing after it. The folder gets its name when
everything is in it. So an interrupted run leaves nothing half made, and the next one continues with
what Go has downloaded and compiled.
"""

import asyncio
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from devstack.folders import cache_dir
from liveroom.child_process import spawn_tethered, stop_process

VERSION: Final = "1.37.2"  # of Kubernetes, as go.mod has it
SOURCES: Final = Path(__file__).parent / "plane"
PACKAGES: Final = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
}
# What the manifests use that is not Kubernetes' own: module and version -> its definitions.
DEFINITIONS: Final = {
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
    "github.com/kedacore/keda/v2@v2.21.0": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
}
# Other work of the machine goes first.
_GO: Final = ("nice", "-n", "19", "go")


class BuildError(Exception):
    """It cannot be made; the message says in one line what is missing."""


def missing(*, is_built: bool) -> str:
    """Say what this machine lacks to make it; nothing: it has all, or it is made."""
    lacks = []
    if not is_built:
        needed = _needed_version()
        if shutil.which("go") is None:
            lacks.append(f"Go is not installed ({_dotted(needed)} or newer: https://go.dev/dl)")
        elif (found := _go_version()) < needed:
            lacks.append(f"Go is {_dotted(found)}, {_dotted(needed)} or newer is needed: https://go.dev/dl")
    return ", ".join(lacks)


def prepare(console: Console | None = None) -> Path:
    """Make what is not there yet, and return the folder: `bin` has the programs, `definitions` the
    definitions. Blocks.
    """
    cache = cache_dir() / "kube"
    folder = cache / f"{VERSION}-{_digest()}"
    is_built = folder.is_dir()
    if lacks := missing(is_built=is_built):
        raise BuildError(f"no Kubernetes control plane here: {lacks}")
    if is_built:
        return folder
    console = console or Console(stderr=True)
    cache.mkdir(parents=True, exist_ok=True)
    with _only_one(cache / ".lock", console):
        if not folder.is_dir():  # the other one may just have made it
            began_s = time.monotonic()
            asyncio.run(_Build(cache, console).make(folder))
            console.print(f"built in {time.monotonic() - began_s:.0f} s", highlight=False)
    return folder


class _Build:
    """One making of the folder, while it has the cache's lock."""

    def __init__(self, cache: Path, console: Console) -> None:
        self._cache = cache
        self._console = console
        # Go's own folders are its user's; these are removed when all is built.
        self._modules, self._compiled = cache / "gomod", cache / "gocache"
        self._environment = os.environ | {
            "GOMODCACHE": str(self._modules),
            "GOCACHE": str(self._compiled),
            "GOTOOLCHAIN": "local",
            "GOFLAGS": "-modcacherw",
            "CGO_ENABLED": "0",
        }

    async def make(self, folder: Path) -> None:
        """Fetch, compile and link; then give the folder its name."""
        new = self._cache / "new"
        shutil.rmtree(new, ignore_errors=True)
        (new / "bin").mkdir(parents=True)
        (new / "definitions").mkdir()
        about = f"Kubernetes {VERSION} is built by Go, once: some ten minutes on two cores, 4 GB on disk until it is done"
        self._console.print(about, highlight=False, soft_wrap=True)
        await self._fetch(new / "definitions")
        await self._compile(new / "bin")
        shutil.rmtree(folder, ignore_errors=True)
        new.rename(folder)
        await self._go("cleaning up", "clean", "-modcache")
        shutil.rmtree(self._compiled, ignore_errors=True)

    async def _fetch(self, definitions: Path) -> None:
        """Fetch all sources, and keep the definitions."""
        modules = len(re.findall(r"^\t\S+ v\S+", (SOURCES / "go.mod").read_text(), re.MULTILINE))
        with _shown(self._console, "modules fetched", modules + len(DEFINITIONS)) as advance:

            def heard(line: str) -> None:
                if line.startswith("go: downloading "):
                    advance()

            told = await self._go(
                "fetching definitions", "mod", "download", "-json", *DEFINITIONS, heard=heard, where=self._cache
            )
            await self._go("fetching Kubernetes", "list", "-deps", *PACKAGES.values(), heard=heard)
        decoder, at = json.JSONDecoder(), 0
        while at < len(told.rstrip()):
            module, at = decoder.raw_decode(told, at)
            at += len(told[at:]) - len(told[at:].lstrip())
            for path in DEFINITIONS[f"{module['Path']}@{module['Version']}"]:
                shutil.copyfile(Path(module["Dir"]) / path, definitions / Path(path).name)

    async def _compile(self, programs: Path) -> None:
        """Build all programs at once: most of their packages are the same."""
        stale = await self._go("compiling", "list", "-deps", "-f", "{{if .Stale}}{{.ImportPath}}{{end}}", *PACKAGES.values())
        version = "k8s.io/component-base/version"
        major, minor, _ = VERSION.split(".")
        stamps = {"gitVersion": f"v{VERSION}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
        flags = "-s -w " + " ".join(f"-X {version}.{key}={value}" for key, value in stamps.items())
        with _shown(self._console, "packages compiled", len(stale.split())) as advance:

            def heard(line: str) -> None:
                if re.fullmatch(r"[\w.\-/~]+", line):
                    advance()

            options = ("-v", "-buildvcs=false", f"-ldflags={flags}", "-o", f"{programs}/")
            await self._go("compiling", "build", *options, *PACKAGES.values(), heard=heard)
        (programs / "server").rename(programs / "etcd")  # Go names it by its folder

    async def _go(self, doing: str, *arguments: str, heard: Callable[[str], object] = str, where: Path = SOURCES) -> str:
        """Run Go, which ends with this process; return what it printed."""
        process = await spawn_tethered([*_GO, *arguments], env=self._environment, cwd=where, stdout=PIPE, stderr=PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        said: list[str] = []

        async def listen(lines: asyncio.StreamReader) -> None:
            async for line in lines:
                said.append(line.decode(errors="replace").strip())
                heard(said[-1])

        try:
            printed, _ = await asyncio.gather(process.stdout.read(), listen(process.stderr))
            code = await process.wait()
        finally:
            await stop_process(process)
        if code != 0:
            errors = [line for line in said if line and not line.startswith("go: downloading ")]
            errors += re.findall(r'"Error": "(.*)"', printed.decode())  # where it was asked for JSON
            why = errors[-1] if errors else f"exit code {code}"
            raise BuildError(f"{doing} failed (is there a network, and room in {self._cache}?): {why}")
        return printed.decode()


def _digest() -> str:
    """Name what is made by all that it is made of."""
    made_of = [
        *(path.read_bytes() for path in (SOURCES / "go.mod", SOURCES / "go.sum")),
        repr((PACKAGES, DEFINITIONS)).encode(),
    ]
    return hashlib.sha256(b"\0".join(made_of)).hexdigest()[:12]


def _go_version() -> tuple[int, ...]:
    environment = os.environ | {"GOTOOLCHAIN": "local"}
    said = subprocess.run(
        ("go", "env", "GOVERSION"), cwd="/", env=environment, capture_output=True, text=True, check=False
    ).stdout
    return _numbers(re.search(r"go(\d+(?:\.\d+)*)", said))


def _needed_version() -> tuple[int, ...]:
    return _numbers(re.search(r"^go (\d+(?:\.\d+)*)$", (SOURCES / "go.mod").read_text(), re.MULTILINE))


def _numbers(found: re.Match[str] | None) -> tuple[int, ...]:
    return tuple(map(int, found[1].split("."))) if found is not None else ()


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version)) or "of an unknown version"


@contextmanager
def _shown(console: Console, what: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how far something is: a bar on a terminal, else a line when another tenth is done."""
    if console.is_terminal:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(what, total=total)
            yield lambda: progress.advance(task)
        return
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done * 10 // total > (done - 1) * 10 // total:
            console.print(f"  {what}: {done} of {total}", highlight=False)

    yield advance


@contextmanager
def _only_one(path: Path, console: Console) -> Iterator[None]:
    """Hold the cache's lock, which the kernel frees when its holder dies."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("The control plane is being built by another run; waiting for it", highlight=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Prepare, and say where."""
    try:
        folder = prepare()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{folder}: the Kubernetes control plane")
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
