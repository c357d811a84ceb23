"""The README's commands on an empty machine: `make bare`, as root.

Owns a root file system that is made for one run. It has Debian with Python, git, make and
certificates, and the settings by which this machine reaches its package registries (sources,
certificates, proxies, the variables that name them), and nothing else. HEAD is cloned into it. The
commands run there, in name spaces of their own for mounts and processes, so nothing is left however
they end. Whatever the project needs and does not install by itself fails here. It uses the standard
library alone, since it runs before anything is installed.

The user's cache folder keeps the base system, so only the first run makes it.
"""

import argparse
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CHECKOUT: Final = Path(__file__).resolve().parent.parent
COMMANDS: Final = ('make demo ARGS="--duration 20"', "make check")
PACKAGES: Final = "python3,python3-venv,git,make,ca-certificates"
INSIDE: Final = "LIVEROOM_BARE"  # set in the commands' environment
STRANGER: Final = 1000  # the user who is not root, if asked for
BASE_LASTS_S: Final = 30 * 86400
CANNOT: Final = 69  # exit code (EX_UNAVAILABLE): this machine cannot make one

# By which variables package clients are told where to go, and whom to trust.
CARRIED: Final = re.compile(
    r"(PIP_\w+|NPM_CONFIG_\w+|GO(PROXY|SUMDB|NOSUMDB|NOSUMCHECK|PRIVATE|NOPROXY|FLAGS|INSECURE)|\w+_PROXY|LIVEROOM_MAVEN_URL|CI|TERM"
    r"|\w*(CA_BUNDLE|CA_CERTS?|CA_CERTS_FILE|CAINFO|CERT_FILE|CERT_DIR|ROOTS_FILE_PATH))",
    re.IGNORECASE,
)
NOT_CARRIED: Final = re.compile(r"PIP_(CACHE_DIR|TARGET|PREFIX|ROOT|USER|LOG|REQUIRE_VIRTUALENV)", re.IGNORECASE)
SETTINGS: Final = ("/etc/pip.conf", "/etc/npmrc", "/usr/etc/npmrc")
SETTINGS_OF_USER: Final = (".config/pip/pip.conf", ".pip/pip.conf", ".npmrc", ".config/go/env", ".m2/settings.xml")
PATHS: Final = re.compile(r"(?<![\w./:])/[\w./+-]+")


class CannotError(Exception):
    """This machine cannot make an empty one; the message says why."""


def say(text: str) -> None:
    print(f"bare: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m tests.bare", description="Run the README's commands on an empty machine.")
    parser.add_argument("--run", action="append", help="a command to run in the clone instead of the README's; repeatable")
    parser.add_argument("--suite", default=own_suite(), help="suite of Debian (default: this machine's, else stable)")
    parser.add_argument("--stranger", action="store_true", help="run as a user without root's rights and without sudo")
    parser.add_argument("--keep", action="store_true", help="keep the root file system")
    parser.add_argument(
        "--base", action="store_true", help=f"only make the base system; exit code {CANNOT} where that is not possible"
    )
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        return inside(**json.loads(options.inside))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that it cleans up
    try:
        base = make_base(options.suite)
    except CannotError as error:
        print(f"bare: {error}", file=sys.stderr, flush=True)
        return CANNOT
    return 0 if options.base else run_in_new(base, options)


def make_base(suite: str) -> Path:
    """Return the archive of the base system; make it, if there is none yet."""
    if os.environ.get(INSIDE):
        raise CannotError("this is an empty machine already")
    if os.geteuid() != 0:
        raise CannotError("only root can make an empty machine")
    if not shutil.which("unshare") or subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False).returncode:
        raise CannotError("this machine cannot make name spaces (unshare)")
    archive = cache() / f"{suite}-{platform.machine()}.tar"
    if archive.exists() and time.time() - archive.stat().st_mtime < BASE_LASTS_S:
        return archive
    if not shutil.which("debootstrap"):
        install_debootstrap()
    with step(f"the base system ({suite})"), tempfile.TemporaryDirectory(dir=cache()) as folder:
        root = Path(folder) / "root"
        mirrors = [uri for one in (suite, own_suite()) for _, suites, uri in sources(one) if one in suites]
        known = Path(f"/usr/share/debootstrap/scripts/{suite}").exists()
        how = [*mirrors[:1], *([] if known else ["sid"])]  # a suite that is newer than debootstrap is made as `sid` is
        command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(root), *how]
        log = cache() / "debootstrap.log"
        with log.open("wb") as file:
            done = subprocess.run(
                ["unshare", "--mount", *command], stdout=file, stderr=file, stdin=subprocess.DEVNULL, check=False
            )
        if done.returncode:
            raise CannotError(f"debootstrap fails: {log.read_text(errors='replace')[-500:]}\nthe whole log is {log}")
        new = archive.with_suffix(".new")
        subprocess.run(["tar", "-C", str(root), "--numeric-owner", "-cf", str(new), "."], check=True)
        new.replace(archive)
    return archive


def install_debootstrap() -> None:
    """Install it with apt-get."""
    if not shutil.which("apt-get"):
        raise CannotError("debootstrap is missing: install it")
    with step("debootstrap"):
        for command in (["update"], ["install", "-y", "--no-install-recommends", "debootstrap"]):
            apt = ["apt-get", "-q", "-o", "Dpkg::Use-Pty=0", *command]
            subprocess.run(apt, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, stdin=subprocess.DEVNULL, check=False)
    if not shutil.which("debootstrap"):
        raise CannotError("debootstrap cannot be installed (see apt-get's output above)")


def run_in_new(base: Path, options: argparse.Namespace) -> int:
    """Make an empty machine, run the commands in it, remove it."""
    root = Path(tempfile.mkdtemp(prefix="root-", dir=cache()))
    root.chmod(0o755)
    home = "/home/stranger" if options.stranger else "/root"
    try:
        with step(f"an empty machine in {root}"):
            subprocess.run(["tar", "-C", str(root), "--numeric-owner", "-xf", str(base)], check=True)
            carry_sources(root, options.suite)
            carry_settings(root, home)
            clone(root / home.lstrip("/") / "liveroom")
        given = {
            "root": str(root),
            "home": home,
            "user": STRANGER if options.stranger else 0,
            "environment": environment(root, home),
            "commands": options.run or COMMANDS,
        }
        own = [sys.executable, "-m", "tests.bare", "--inside", json.dumps(given)]
        names = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
        return subprocess.run([*names, *own], cwd=CHECKOUT, check=False).returncode
    finally:
        if options.keep:
            say(f"kept: {root}")
        else:
            remove(root)


def inside(root: str, home: str, user: int, environment: dict[str, str], commands: list[str]) -> int:
    """Mount what a machine has and run the commands; this process is the first of its own name
    space.
    """
    for kind, folder in (("proc", "proc"), ("sysfs", "sys")):
        subprocess.run(["mount", "-t", kind, kind, f"{root}/{folder}"], check=True)
    subprocess.run(["mount", "--rbind", "/dev", f"{root}/dev"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", f"{root}/dev/shm"], check=True)
    for name in ("resolv.conf", "hosts"):
        shutil.copyfile(f"/etc/{name}", f"{root}/etc/{name}")
    os.chroot(root)
    os.chdir("/")
    os.environ.clear()
    os.environ.update(environment)
    subprocess.run(["update-ca-certificates"], stdout=subprocess.DEVNULL, check=True)
    if user:
        subprocess.run(["useradd", "--uid", str(user), "--no-create-home", "--home-dir", home, "stranger"], check=True)
        subprocess.run(["chown", "-R", f"{user}:{user}", home], check=True)
    for command in commands:
        with step(command):
            code = run_as(user, command, f"{home}/liveroom")
        if code:
            say(f"{command} ended with {code}")
            return code
    say("all passed")
    return 0


def run_as(user: int, command: str, folder: str) -> int:
    """Run a command and return its exit code; meanwhile see every orphan off, as the first process
    of a machine must.
    """
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
            os.chdir(folder)
            os.execv("/bin/sh", ["sh", "-c", command])
        finally:
            os._exit(127)
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def clone(folder: Path) -> None:
    """Clone HEAD, and say what is not in it."""
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=CHECKOUT, capture_output=True, text=True, check=True).stdout
    if changed:
        say(f"{len(changed.splitlines())} files are not committed, so not in the clone")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The whole history: the upgrade begins at the last release.
    subprocess.run(["git", "clone", "--quiet", f"file://{CHECKOUT}", str(folder)], check=True)


def sources(suite: str) -> Iterator[tuple[str, list[str], str]]:
    """Give this machine's sources of packages that are of this suite: the entry, its suites, its
    address.

    Others, of whatever is installed here beside the distribution, are no part of an empty machine.
    """
    folder = Path("/etc/apt")
    for file in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]:
        text = file.read_text() if file.is_file() else ""
        for entry in text.splitlines() if file.suffix == ".list" else re.split(r"\n\s*\n", text):
            if line := re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", entry):
                uri, suites = line[1], [line[2]]
            elif (named := re.search(r"^Suites:(.*)", entry, re.MULTILINE)) and (
                address := re.search(r"^URIs:\s*(\S+)", entry, re.MULTILINE)
            ):
                uri, suites = address[1], named[1].split()
            else:
                continue
            if any(re.split("[-/]", one)[0] == suite for one in suites):
                yield entry, suites, uri


def carry_sources(root: Path, suite: str) -> None:
    """Have apt in the new machine fetch as it does in this one."""
    apt = root / "etc/apt"
    entries = [entry for entry, _, _ in sources(suite)]
    lines = [entry for entry in entries if entry.startswith("deb")]
    stanzas = [entry for entry in entries if not entry.startswith("deb")]
    if entries:
        (apt / "sources.list").write_text("\n".join(lines) + "\n")
        (apt / "sources.list.d/machine.sources").write_text("\n\n".join(stanzas) + "\n")
        for entry in entries:
            copy_named(entry, root)
    told = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False).stdout
    settings = [line for line in told.splitlines() if line.endswith(";") and not line.endswith('"";')]
    (apt / "apt.conf.d/99machine").write_text("\n".join(settings) + "\n")


def carry_settings(root: Path, home: str) -> None:
    """Copy the settings of package clients, the files that they name, and the certificates that
    were added to this machine.
    """
    own = Path.home()
    files = {Path(name): Path(name) for name in SETTINGS} | {own / name: Path(home) / name for name in SETTINGS_OF_USER}
    for source, target in files.items():
        if source.is_file():
            copy(source, target, root)
            copy_named(source.read_text(errors="replace"), root)
    for certificate in Path("/usr/local/share/ca-certificates").glob("**/*.crt"):
        copy(certificate, certificate, root)


def environment(root: Path, home: str) -> dict[str, str]:
    """Return the variables for the commands, and copy what they name; of a folder that is in the
    base system, nothing.
    """
    found = {
        name: value
        for name, value in os.environ.items()
        if CARRIED.fullmatch(name)
        and not NOT_CARRIED.fullmatch(name)
        and not (value.startswith("/") and not Path(value).exists())
    }
    for value in found.values():
        copy_named(value, root)
        if value.startswith("/") and Path(value).is_dir() and not (root / value.lstrip("/")).exists():
            shutil.copytree(value, root / value.lstrip("/"))
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return found | {"PATH": path, "HOME": home, "LANG": "C.UTF-8", INSIDE: "1"}


def copy_named(text: str, root: Path) -> None:
    """Copy the files that a setting names: certificates, keys."""
    for name in PATHS.findall(text):
        if Path(name).is_file():
            copy(Path(name), Path(name), root)


def copy(source: Path, target: Path, root: Path) -> None:
    here = root / str(target).lstrip("/")
    here.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, here)


def remove(root: Path) -> None:
    """Remove it, but never through a mount: the name space that had them ended with its last
    process.
    """
    if str(root) in Path("/proc/self/mountinfo").read_text():
        say(f"{root} stays: something is still mounted in it")
        return
    with step(f"removing {root}"):
        subprocess.run(["rm", "-rf", "--one-file-system", str(root)], check=False)


def own_suite() -> str:
    """Return this machine's suite, if it is a Debian."""
    told = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    return told.get("VERSION_CODENAME", "stable") if told.get("ID") == "debian" else "stable"


def cache() -> Path:
    folder = Path(os.environ.get("LIVEROOM_CACHE_DIR") or Path.home() / ".cache" / "liveroom") / "bare"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def step(about: str) -> Iterator[None]:
    """Say what begins, and how long it took."""
    say(f"{about} ...")
    began_s = time.monotonic()
    try:
        yield
    finally:
        say(f"{about}: {time.monotonic() - began_s:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
