"""`liveroom doctor`: what this machine has and lacks for the demo and the services.

Owns a check for each thing that goes wrong in practice; each returns findings with what to do.
Changes nothing. A check takes as arguments what a test must be able to replace.
"""

import asyncio
import errno
import os
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Sequence
from enum import Enum
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

import aiohttp
import psutil

from cli import topics as topics_command
from cli.consoles import plain_console
from cli.endpoints import find_kafka
from devstack.folders import cache_dir
from devstack.java import NoJavaError, find_java
from devstack.kafka_jars import KAFKA_VERSION, JarLock, read_lock
from devstack.programs import ALL as PROGRAMS
from devstack.programs import Program, find
from devstack.running import Running, RuntimeFolderError, find_running
from liveroom.kafka_port import AioKafka, KafkaError
from liveroom.settings import (
    BroadcasterSettings,
    EdgeSettings,
    IngressSettings,
    KafkaSettings,
    SchedulerSettings,
    ServiceSettings,
)
from liveroom.topics import ALL

PACKAGES: Final = ("ingress", "broadcaster", "edge", "scheduler", "viewer")
OLDEST_PYTHON: Final = (3, 11)
FEW_FILES: Final = 256
ENOUGH_FILES: Final = 4096
ENOUGH_MEMORY_MB: Final = 1500
ENOUGH_DISK_MB: Final = 1000
KAFKA_TIMEOUT_S: Final = 6.0
_MB: Final = 1 << 20


class Level(Enum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """One line: how bad it is, what was checked, what was found, what to do."""

    level: Level
    about: str
    found: str
    todo: str = ""


async def examine(settings: KafkaSettings | None) -> list[Finding]:
    """Run all checks.

    `settings` name the cluster to check; None: demo and up will start a local one.
    """
    findings = [check_python(sys.version_info[:3]), check_packages(PACKAGES)]
    findings.append(await asyncio.to_thread(check_java, needed=settings is None))
    findings.append(await asyncio.to_thread(check_jars, read_lock(), cache_dir(), needed=settings is None))
    findings += await asyncio.to_thread(lambda: [check_program(program) for program in PROGRAMS])
    findings.append(check_files(resource.getrlimit(resource.RLIMIT_NOFILE)))
    findings.append(check_memory(psutil.virtual_memory().available))
    findings.append(check_disk(Path(tempfile.gettempdir())))
    findings.append(check_ports(_default_ports()))
    findings += await check_running()
    if settings is None:
        findings.append(Finding(Level.OK, "Kafka", "KAFKA_BOOTSTRAP is not set: demo and up start their own"))
    else:
        findings += await check_kafka(settings)
    return findings


def check_python(version: Sequence[int]) -> Finding:
    """Check Python's version."""
    text = ".".join(map(str, version))
    if tuple(version[:2]) < OLDEST_PYTHON:
        return Finding(Level.FAIL, "Python", f"{text} is too old", "use Python 3.11 or newer")
    return Finding(Level.OK, "Python", f"{text} at {sys.executable}")


def check_packages(names: Iterable[str]) -> Finding:
    """Check that the services can be imported: they start as `python -m NAME`."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        return Finding(
            Level.FAIL, "Packages", f"missing: {', '.join(missing)}", "install the project: pip install -e '.[demo]'"
        )
    return Finding(Level.OK, "Packages", "all services are installed")


def check_java(*, needed: bool) -> Finding:
    """Check the Java of the local Kafka."""
    try:
        java = find_java()
    except NoJavaError as error:
        level = Level.FAIL if needed else Level.OK
        return Finding(level, "Java", str(error) if needed else "none; a Kafka of your own needs none")
    return Finding(Level.OK, "Java", f"{java.major} from {java.origin}: {java.program}")


def check_jars(lock: JarLock, cache: Path, *, needed: bool) -> Finding:
    """Check the cached jars of Apache Kafka, by name and size."""
    folder = cache / f"kafka-{KAFKA_VERSION}"
    missing = [jar for jar in lock.jars if not _has_size(folder / jar.file, jar.size_bytes)]
    if not missing:
        return Finding(Level.OK, "Kafka's jars", f"{KAFKA_VERSION}, all {len(lock.jars)} in {folder}")
    if not needed:
        return Finding(Level.OK, "Kafka's jars", "not all cached; a Kafka of your own needs none")
    size_mb = sum(jar.size_bytes for jar in missing) / 1e6
    found = f"{len(missing)} of {len(lock.jars)} are not cached yet ({size_mb:.0f} MB)"
    if find_spec("jgo") is None:
        return Finding(Level.FAIL, "Kafka's jars", found, "their download needs jgo: pip install 'liveroom[demo]'")
    return Finding(Level.WARN, "Kafka's jars", found, "the first start downloads them over the network")


def check_program(program: Program) -> Finding:
    """Check a program that only tests need, and download when they first do."""
    about = program.name.capitalize()
    if found := find(program):
        return Finding(Level.OK, about, str(found))
    return Finding(Level.OK, about, f"missing; only {program.purpose} need it, and make check downloads it")


def _has_size(path: Path, size_bytes: int) -> bool:
    try:
        return path.stat().st_size == size_bytes
    except OSError:
        return False


def check_files(limits: tuple[int, int]) -> Finding:
    """Check how many files, so connections, a process may open."""
    soft, hard = (limit if limit != resource.RLIM_INFINITY else sys.maxsize for limit in limits)
    if hard < FEW_FILES:
        return Finding(Level.FAIL, "Open files", f"at most {hard} a process", f"raise the hard limit to {ENOUGH_FILES} or more")
    if hard < ENOUGH_FILES:
        todo = f"enough for about {hard - FEW_FILES // 2} viewers a gateway; for more raise the hard limit (ulimit -Hn)"
        return Finding(Level.WARN, "Open files", f"at most {hard} a process", todo)
    if soft < ENOUGH_FILES:
        return Finding(Level.OK, "Open files", f"{soft}; demo and up raise it to the hard limit of {_many(hard)}")
    return Finding(Level.OK, "Open files", f"{_many(soft)} a process")


def _many(limit: int) -> str:
    return "unlimited" if limit == sys.maxsize else str(limit)


def check_memory(available_bytes: int) -> Finding:
    """Check the memory: Kafka takes about 400 MB, and there are five Python processes."""
    available_mb = available_bytes // _MB
    if available_mb < ENOUGH_MEMORY_MB:
        todo = f"the demo takes about {ENOUGH_MEMORY_MB} MB: end other programs first"
        return Finding(Level.WARN, "Memory", f"{available_mb} MB available", todo)
    return Finding(Level.OK, "Memory", f"{available_mb} MB available")


def check_disk(folder: Path) -> Finding:
    """Check the disk space for logs and Kafka's data."""
    try:
        free_mb = shutil.disk_usage(folder).free // _MB
    except OSError as error:
        return Finding(Level.FAIL, "Disk", f"{folder}: {error.strerror}", "set TMPDIR to a writable folder")
    if not os.access(folder, os.W_OK):
        return Finding(Level.FAIL, "Disk", f"{folder} is not writable", "set TMPDIR to a writable folder")
    if free_mb < ENOUGH_DISK_MB:
        return Finding(Level.WARN, "Disk", f"{free_mb} MB free in {folder}", "Kafka's log grows there: set TMPDIR elsewhere")
    return Finding(Level.OK, "Disk", f"{free_mb} MB free in {folder}")


def _default_ports() -> dict[int, str]:
    """Return the services' default ports, with what each is for."""
    models: dict[str, type[ServiceSettings]] = {
        "ingress": IngressSettings,
        "broadcaster": BroadcasterSettings,
        "edge": EdgeSettings,
        "scheduler": SchedulerSettings,
    }
    found: dict[int, str] = {}
    for name, model in models.items():
        for port_field in ("port", "internal_port"):
            if port := int(model.model_fields[port_field].default):
                found[port] = f"{name} ({port_field.replace('_', ' ')})"
    return found


def check_ports(wanted: dict[int, str]) -> Finding:
    """Check the default ports of `up` and of services started by hand; the demo takes free ones."""
    taken: list[str] = []
    for port, about in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                    return Finding(
                        Level.FAIL, "Ports", f"127.0.0.1 cannot be used: {error.strerror}", "check the loopback interface"
                    )
                taken.append(f"{port} of {about}")
    if taken:
        todo = (
            "unless your own up has them: up takes others by --ports, and services started by hand by LIVEROOM_PORT and"
            " LIVEROOM_INTERNAL_PORT; the demo chooses free ones"
        )
        return Finding(Level.WARN, "Ports", f"taken: {', '.join(taken)}", todo)
    return Finding(Level.OK, "Ports", f"free: {', '.join(map(str, wanted))}")


async def check_running() -> list[Finding]:
    """Check whether each running demo and up of this user answers."""
    try:
        systems = await asyncio.to_thread(find_running)
    except RuntimeFolderError as error:
        return [Finding(Level.FAIL, "Runtime folder", str(error))]
    return [await _check_system(running) for running in systems] or [Finding(Level.OK, "Running", "no demo or up of this user")]


async def _check_system(running: Running) -> Finding:
    about = f"Running {running.what}"
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=3)) as session:
            for url in (f"{running.ingress}/", f"{running.scheduler}/"):
                async with session.get(url):
                    pass  # any answer will do
    except (aiohttp.ClientError, TimeoutError) as error:
        return Finding(Level.FAIL, about, f"process {running.pid}: {error!r}", f"see its logs: {running.logs}")
    return Finding(Level.OK, about, f"process {running.pid}, page {running.page}, logs {running.logs}")


async def check_kafka(settings: KafkaSettings) -> list[Finding]:
    """Check that the cluster answers, and its topics."""
    try:
        async with asyncio.timeout(KAFKA_TIMEOUT_S):
            cluster = await topics_command.read_cluster(AioKafka(settings))
    except (KafkaError, OSError, TimeoutError, ValueError) as error:
        why = str(error) or type(error).__name__
        todo = "start it, or correct its address (KAFKA_BOOTSTRAP, LIVEROOM_KAFKA__...)"
        return [Finding(Level.FAIL, "Kafka", f"{settings.bootstrap} does not answer: {why}", todo)]
    brokers = f"{cluster.brokers} broker{'s' if cluster.brokers != 1 else ''}"
    return [Finding(Level.OK, "Kafka", f"{settings.bootstrap}: {brokers}"), *check_topics(settings, cluster.partitions)]


def check_topics(settings: KafkaSettings, partitions: dict[str, int]) -> list[Finding]:
    """Check that the topics exist, with the partitions of the settings."""
    findings: list[Finding] = []
    names = {topic.name: settings.prefix + topic.name for topic in ALL}
    missing = [names[topic.name] for topic in ALL if not partitions.get(names[topic.name])]
    if missing:
        todo = "the services create them when they start"
        findings.append(Finding(Level.WARN, "Topics", f"missing: {', '.join(missing)}", todo))
    for topic in ALL:
        have, need = partitions.get(names[topic.name], 0), topic.partitions or settings.partitions
        if have not in {0, need}:
            found = f"{names[topic.name]} has {have} partitions, the setting says {need}: services would look in the wrong ones"
            todo = f"set LIVEROOM_KAFKA__PARTITIONS={have}, or another LIVEROOM_KAFKA__PREFIX"
            if topic.partitions:
                todo = "delete the topic; the services create it again"
            findings.append(Finding(Level.FAIL, "Topics", found, todo))
    if not findings:
        findings.append(Finding(Level.OK, "Topics", f"all {len(ALL)}, {settings.partitions} partitions for rooms"))
    return findings


_STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


async def show_health(kafka: str, prefix: str | None) -> int:
    """Print all findings and return the exit code: 1 if one of them is a failure."""
    console = plain_console()
    findings = await examine(find_kafka(kafka, prefix))
    for finding in findings:
        console.print(f"{finding.level.value:<5}", style=_STYLES[finding.level], end="")
        console.print(f"{finding.about}: {finding.found}", soft_wrap=True)
        if finding.todo:
            console.print(f"     -> {finding.todo}", soft_wrap=True)
    worst = {finding.level for finding in findings}
    if Level.FAIL in worst:
        console.print("Mend the lines with fail first.")
        return 1
    console.print("Demo and up will run; see the lines with warn." if Level.WARN in worst else "Everything is in order.")
    return 0
