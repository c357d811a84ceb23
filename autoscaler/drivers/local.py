"""Gateways as processes of this machine: started, restarted after a crash, stopped once empty.

Owns the processes and their ports. Each has a file in `folder`, so that a driver that starts again,
even after a kill -9, finds its gateways running and continues with them. A crashed gateway restarts
after a pause that grows from crash to crash. A lock keeps two drivers from sharing a folder.
"""

import asyncio
import fcntl
import itertools
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec
import psutil
import structlog

from liveroom import clock
from liveroom.child_process import spawn_outliving
from liveroom.nesting import UNDECODABLE
from liveroom.ports import HOST, free_ports, is_free

WATCH_S: Final = 0.2
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0
STABLE_S: Final = 60.0
LOCK: Final = ".driver"
log = structlog.get_logger()


class _Process(msgspec.Struct):
    """One gateway, as its file has it.

    `pid` 0: it does not run. `started_s`: the process's start, as the system has it. `again_s`: a
    crashed gateway restarts no earlier than this Unix time.
    """

    name: str
    port: int
    internal_port: int
    pid: int = 0
    started_s: float = 0.0
    is_leaving: bool = False
    crashes: int = 0
    again_s: float = 0.0

    def find(self) -> psutil.Process | None:
        """Return the process while it lives; None for another process that has its number now.

        Reaps it where it was our child.
        """
        if not self.pid:
            return None
        with suppress(OSError):
            os.waitpid(self.pid, os.WNOHANG)
        try:
            process = psutil.Process(self.pid)
            if process.create_time() != self.started_s or process.status() == psutil.STATUS_ZOMBIE:
                return None
        except psutil.Error:
            return None
        return process


class Share(NamedTuple):
    """What one gateway may use of the machine; None: no limit.

    `nice`: 0 to 19; higher values get less of a busy processor. `memory_bytes`: address space; a
    gateway that needs more ends, and restarts. `files`: open files, which limits viewers too.
    """

    nice: int | None = None
    memory_bytes: int | None = None
    files: int | None = None

    def give(self, process: psutil.Process) -> None:
        """Apply the limits to a running process.

        Raises psutil.Error or OSError where the system does not allow it.
        """
        if self.nice is not None:
            process.nice(self.nice)
        if sys.platform == "linux":
            if self.memory_bytes is not None:
                process.rlimit(psutil.RLIMIT_AS, (self.memory_bytes, self.memory_bytes))
            if self.files is not None:
                process.rlimit(psutil.RLIMIT_NOFILE, (self.files, self.files))


class LocalDriver:
    """The gateways of this machine.

    `environment` has the settings of all of them. `tether` is the reading end of a pipe: gateways
    end when its other end is closed; None: they run until they are stopped.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], tether: int | None = None, share: Share | None = None
    ) -> None:
        self.can_act = True
        self._folder = folder
        self._environment = dict(environment)
        self._tether = tether
        self._share = share or Share()
        self._processes: dict[str, _Process] = {}
        self._lock: IO[str] | None = None
        self._turn = asyncio.Lock()  # a start takes a while, and no gateway must start twice

    async def take(self, *, may_act: bool = True) -> bool:
        """Take over the running gateways; return False while another driver holds the folder."""
        del may_act  # it changes nothing
        if self._lock is None:
            self._lock = await asyncio.to_thread(_locked, self._folder)
            if self._lock is not None:
                self._processes = await asyncio.to_thread(_read, self._folder)
                log.info("gateways_found", names=list(self._processes))
        return self._lock is not None

    def release(self) -> None:
        """Let go of the folder; the gateways keep running."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def running(self) -> list[str]:
        """Return the gateways that do not drain, those included that have just crashed."""
        return [known.name for known in self._processes.values() if not known.is_leaving]

    def leaving(self) -> list[str]:
        """Return the gateways that drain."""
        return [known.name for known in self._processes.values() if known.is_leaving]

    async def grow(self, count: int, why: str) -> bool:
        """Start `count` more gateways; return True."""
        free = (name for number in itertools.count(1) if (name := f"pool-{number}") not in self._processes)
        names = list(itertools.islice(free, count))
        async with self._turn:
            for name in names:
                port, internal_port = free_ports(2)
                made = self._processes[name] = _Process(name, port, internal_port)
                await self._launch(made)
        log.info("grown", names=names, why=why)
        return True

    async def leave(self, name: str, why: str) -> bool:
        """Mark a gateway as draining; it no longer restarts after a crash."""
        if (known := self._processes.get(name)) is not None and not known.is_leaving:
            known.is_leaving = True
            await self._keep(known)
            log.info("leaving", gateway=name, why=why)
        return known is not None

    async def end(self, name: str, why: str) -> None:
        """Stop a gateway with SIGTERM."""
        known = self._processes.get(name)
        if known is not None and await asyncio.to_thread(_terminated, known):
            log.info("gateway_stopped", gateway=name, why=why)

    async def watch(self) -> None:
        """Restart crashed gateways and forget those that have left. Never returns."""
        while True:
            await clock.sleep(WATCH_S)
            if self._lock is None:
                continue
            async with self._turn:
                for known in list(self._processes.values()):
                    await self._check(known, clock.unix_s())

    async def _check(self, known: _Process, now_s: float) -> None:
        if await asyncio.to_thread(known.find) is not None:
            if known.crashes and now_s - known.started_s > STABLE_S:
                known.crashes = 0
        elif known.is_leaving:
            del self._processes[known.name]
            await asyncio.to_thread((self._folder / f"{known.name}.json").unlink, missing_ok=True)
        elif known.pid:
            await self._again(known, "it ended unexpectedly")
        elif not now_s < known.again_s <= now_s + LONGEST_PAUSE_S:  # beyond that: the clock was set back
            await self._launch(known)

    async def _again(self, known: _Process, why: str) -> None:
        """Schedule a restart, after a longer pause each time."""
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(known.crashes, 10))
        known.pid, known.crashes, known.again_s = 0, known.crashes + 1, clock.unix_s() + pause_s
        log.error("gateway_crashed", gateway=known.name, why=why, again_in_s=pause_s, times=known.crashes)
        await self._keep(known)

    async def _launch(self, known: _Process) -> None:
        if not (is_free(known.port) and is_free(known.internal_port)):
            known.port, known.internal_port = free_ports(2)
        environment = os.environ | self._environment
        environment |= {"LIVEROOM_INSTANCE": known.name, "LIVEROOM_HOST": HOST, "LIVEROOM_INTERNAL_HOST": HOST}
        environment |= {"LIVEROOM_PORT": str(known.port), "LIVEROOM_INTERNAL_PORT": str(known.internal_port)}
        try:
            with await asyncio.to_thread((self._folder / f"{known.name}.log").open, "ab") as file:
                pid = await asyncio.to_thread(self._spawn, environment, file.fileno())
        except OSError as error:
            await self._again(known, repr(error))
            return
        known.pid, known.started_s = pid, await asyncio.to_thread(_started_s, pid, self._share)
        log.info("gateway_started", gateway=known.name, port=known.port, pid=known.pid)
        await self._keep(known)

    def _spawn(self, environment: Mapping[str, str], output: int) -> int:
        command = (sys.executable, "-P", "-m", "edge")
        return spawn_outliving(command, env=environment, output=output, tether=self._tether)

    async def _keep(self, known: _Process) -> None:
        await asyncio.to_thread(_write, self._folder / f"{known.name}.json", msgspec.json.encode(known))


def _started_s(pid: int, share: Share) -> float:
    """Return when a process was started and apply its limits; 0 where it has ended already."""
    try:
        process = psutil.Process(pid)
        started_s = process.create_time()
    except psutil.NoSuchProcess:
        return 0.0
    try:
        share.give(process)
    except (psutil.Error, OSError, ValueError) as error:
        log.warning("share_not_given", pid=pid, error=repr(error))
    return started_s


def _terminated(known: _Process) -> bool:
    """Send SIGTERM to a process; return whether there was one."""
    process = known.find()
    with suppress(psutil.Error):
        if process is not None:
            process.send_signal(signal.SIGTERM)
    return process is not None


def _write(file: Path, data: bytes) -> None:
    new = file.with_suffix(".new")
    new.write_bytes(data)
    new.replace(file)  # never half a file


def _locked(folder: Path) -> IO[str] | None:
    folder.mkdir(parents=True, exist_ok=True)
    lock = (folder / LOCK).open("a", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    return lock


def _read(folder: Path) -> dict[str, _Process]:
    found = {}
    for file in sorted(folder.glob("*.json")):
        try:
            known = msgspec.json.decode(file.read_bytes(), type=_Process)
        except (OSError, *UNDECODABLE) as error:
            log.warning("gateway_file_not_usable", file=file.name, error=str(error))
            continue
        found[known.name] = known
    return found
