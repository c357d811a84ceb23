"""One service as a child process: started with its settings, awaited, killed, stopped, watched.

Owns a process's ports, log and life. It refuses to restart what died by itself: the death goes to
`on_death`. No child outlives this process, not even by kill -9 (`liveroom.child_process`).
`devstack.system` and tests use it.
"""

import asyncio
import signal
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from devstack.builds import THIS, Build
from liveroom import clock
from liveroom.addresses import url_of
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.errors import ExplainedError
from liveroom.ports import HOST, free_ports

READY_TIMEOUT_S: Final = 40.0
REPORT_S: Final = 5.0
STOP_TIMEOUT_S: Final = 10.0

_LOOK_S: Final = 0.05
_PORT_TAKEN: Final = "address already in use"
_PORT_ATTEMPTS: Final = 3
_TAIL_LINES: Final = 12
_TAIL_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended by itself, or not in order when it was stopped.

    `returncode` -9: ended by signal 9.
    """

    service: str
    returncode: int
    why: str
    log: Path
    tail: str

    def __str__(self) -> str:
        return f"{self.service} {self.why}; the end of {self.log}:\n{self.tail}"


class ServiceError(ExplainedError):
    """A service does not start, or ended by itself; the message has the end of its log."""


class ServiceDiedError(ServiceError):
    """Processes ended by themselves, or not in order when they were stopped: `deaths`."""

    def __init__(self, deaths: Sequence[Death]) -> None:
        super().__init__("\n".join(map(str, deaths)))
        self.deaths = tuple(deaths)


@dataclass(eq=False, slots=True)
class Service:
    """One service process: `start()`, `ready()`, `kill()`, `stop()`.

    After its end `start()` starts it again on the same ports. `name` is its instance name and its
    log's. `module` is what `python -m MODULE` runs, with the code of `build`, which may be another
    one at each start; tests give any program as `command` instead. `environment` is added to this
    process's own. `keeps_ports`: where its ports are taken it does not start. `url` and
    `internal_url` have no slash at the end.
    """

    name: str
    module: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] | None = None
    on_death: Callable[[Death], None] | None = None
    build: Build = THIS
    port: int = 0
    internal_port: int = 0
    keeps_ports: bool = False
    pass_fds: Sequence[int] = ()
    process: Process | None = None
    _asked: bool = field(default=False, init=False)
    _reaper: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.port:
            self.take_ports()

    def take_ports(self) -> None:
        """Choose ports that are free at present."""
        self.port, self.internal_port = free_ports(2)

    @property
    def url(self) -> str:
        """Address of the public port."""
        return url_of("http", HOST, self.port)

    @property
    def internal_url(self) -> str:
        """Address of /livez, /readyz and /metrics."""
        return url_of("http", HOST, self.internal_port)

    @property
    def log(self) -> Path:
        """The service's log, over all its starts."""
        return self.folder / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    @property
    def running(self) -> bool:
        """Whether the process lives (a stopped one does)."""
        return self.pid is not None

    @property
    def returncode(self) -> int | None:
        """Exit code of the last process; None while it runs. -9: killed."""
        return self.process.returncode if self.process is not None else None

    async def start(self) -> None:
        """Start the process and return at once; `ready` waits for it."""
        if self.running:
            raise ServiceError(f"{self.name} is running already")
        command = self.command or self.build.command(self.module)
        self._asked = False
        file = await asyncio.to_thread(self.log.open, "ab")
        try:
            self.process = await spawn_tethered(
                command, env=self._environment(), stdout=file, stderr=file, pass_fds=self.pass_fds
            )
        finally:
            file.close()
        self._reaper = asyncio.create_task(self._reap(self.process), name=f"reap {self.name}")

    async def ready(self, timeout_s: float = READY_TIMEOUT_S, on_wait: Callable[[str], None] = lambda _: None) -> None:
        """Return once /readyz answers 200.

        After some seconds `on_wait` is called with what is missing, and then whenever that changes.
        Raises ServiceError with what is missing when the process ends first, or after `timeout_s`.
        """
        began = clock.monotonic_s()
        deadline = began + timeout_s
        last, reported = "it does not answer", ""
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while clock.monotonic_s() < deadline:
                if not self.running:
                    raise ServiceError(f"{self.name} {_ended(self.returncode)} before it was ready:\n{await self.tail()}")
                try:
                    async with session.get(f"{self.internal_url}/readyz") as response:
                        if response.status == HTTPStatus.OK:
                            return
                        last = (await response.text()).strip()
                except (aiohttp.ClientError, TimeoutError, OSError):
                    last = "it does not answer"
                if clock.monotonic_s() - began > REPORT_S and last != reported:
                    reported = last
                    on_wait("; ".join(last.splitlines()))
                await clock.sleep(_LOOK_S)
        raise ServiceError(f"{self.name} was not ready after {timeout_s:.0f} s ({last}):\n{await self.tail()}")

    async def start_ready(self, timeout_s: float = READY_TIMEOUT_S, on_wait: Callable[[str], None] = lambda _: None) -> None:
        """Start the process and wait until it is ready.

        On a first start it takes other ports where another process has just bound ours, unless it
        `keeps_ports`. Raises
        ServiceError as `ready` does.
        """
        may_move = self.process is None and not self.keeps_ports
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            await self.start()
            self._asked = True  # `ready` raises for an end before it was ready
            try:
                await self.ready(timeout_s, on_wait)
            except ServiceError as error:
                if not may_move or attempt == _PORT_ATTEMPTS or self.running or _PORT_TAKEN not in str(error):
                    raise
                self.take_ports()
            else:
                self._asked = False
                return

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal (SIGKILL, SIGTERM, SIGSTOP, SIGCONT, ...); an end by it is no death."""
        if self.process is None or self.process.returncode is not None:
            raise ServiceError(f"{self.name} is not running")
        if number not in {signal.SIGSTOP, signal.SIGCONT}:
            self._asked = True
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait until the process has ended and return its exit code."""
        if self.process is None:
            raise ServiceError(f"{self.name} was never started")
        return await self.process.wait()

    async def stop(self, grace_s: float = STOP_TIMEOUT_S) -> int | None:
        """End it by SIGTERM, after `grace_s` by SIGKILL; return the exit code.

        One that does not exit with 0 is a death.
        """
        process = self.process
        if process is None:
            return None
        was_running, self._asked = self.running, True
        code = await stop_process(process, grace_s=grace_s)
        if self._reaper is not None:
            await asyncio.wait([self._reaper])
        if was_running and code != 0 and grace_s > 0 and self.on_death is not None:
            slow = f"did not end within {grace_s:.0f} s of SIGTERM" if code == -signal.SIGKILL else f"{_ended(code)} on SIGTERM"
            self.on_death(Death(self.name, code, slow, self.log, await self.tail()))
        return code

    async def tail(self) -> str:
        """Return the last lines of the log."""
        return await asyncio.to_thread(_tail, self.log)

    async def metrics(self) -> dict[str, float]:
        """Read /metrics: {'name{label="value",...}': value}, labels in the order of their names."""
        timeout = aiohttp.ClientTimeout(total=5)
        async with (
            aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
            session.get(f"{self.internal_url}/metrics") as response,
        ):
            text = await response.text()
        return {
            sample.name + _labels(sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def _environment(self) -> dict[str, str]:
        environment = self.build.environment()
        environment |= {"LIVEROOM_INSTANCE": self.name, "LIVEROOM_HOST": HOST, "LIVEROOM_INTERNAL_HOST": HOST}
        environment |= {"LIVEROOM_PORT": str(self.port), "LIVEROOM_INTERNAL_PORT": str(self.internal_port)}
        return environment | dict(self.environment)

    async def _reap(self, process: Process) -> None:
        code = await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if not self._asked and self.on_death is not None:
            self.on_death(Death(self.name, code, f"{_ended(code)} unexpectedly", self.log, await self.tail()))


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _labels(labels: Mapping[str, str]) -> str:
    return "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}" if labels else ""


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    except FileNotFoundError:
        lines = []
    return "\n".join(f"  {line}" for line in lines) or "  (it wrote nothing)"
