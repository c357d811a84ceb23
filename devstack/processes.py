"""The services as child processes: started with their settings, awaited, killed, stopped in order,
watched.

Owns the ports, keys, run folder and life of one system's processes. `System` is what `liveroom
demo`, `liveroom up` and every end-to-end and fault test run; Kafka is given to it. Refuses to
restart what died by itself: that is noted in `deaths` and told by `watch()` and at the end. No
child outlives this process, not even by kill -9 (`liveroom.child_process`).
"""

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

import liveroom
from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.errors import ExplainedError
from liveroom.kinds import Role
from liveroom.ports import HOST, free_ports
from liveroom.tickets import User
from liveroom.tokens import sign_user
from liveroom.topics import DEFAULT_PARTITIONS

READY_TIMEOUT_S: Final = 40.0
# A system's services all start at once, perhaps beside a busy processor: they wait for what passes,
# and so do we.
START_TIMEOUT_S: Final = 150.0
TELL_S: Final = 5.0
STOP_TIMEOUT_S: Final = 10.0
TICKET_KEY_ID: Final = "k1"
ROOT: Final = Path(liveroom.__file__).resolve().parents[1]

_LOOK_S: Final = 0.05
_PORT_TAKEN: Final = "address already in use"
_PORT_ATTEMPTS: Final = 3
_TAIL_LINES: Final = 12
_TAIL_BYTES: Final = 16_384
_FOLDER_PREFIX: Final = "liveroom-run-"
_LOCK: Final = ".lock"
_LEFT_BEHIND_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Death:
    """A process that ended unasked, or not in order when asked. `returncode` -9: by signal 9."""

    service: str
    returncode: int
    why: str
    log: Path
    tail: str

    def __str__(self) -> str:
        return f"{self.service} {self.why}; the end of {self.log}:\n{self.tail}"


def importing() -> dict[str, str]:
    """Return this process's environment, such that a child finds our modules."""
    environment = dict(os.environ)
    if (ROOT / "pyproject.toml").is_file():  # a checkout, perhaps not installed; in a wheel this is site-packages
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    return environment


class ServiceError(ExplainedError):
    """A service does not start, or ended by itself; the message holds the end of its log."""


class ServiceDiedError(ServiceError):
    """Processes ended unasked, or not in order when asked: `deaths`."""

    def __init__(self, deaths: Sequence[Death]) -> None:
        super().__init__("\n".join(map(str, deaths)))
        self.deaths = tuple(deaths)


@dataclass(eq=False, slots=True)
class Service:
    """One service process: `start()`, `ready()`, `kill()`, `stop()`; after an end `start()` starts
    it anew on the same ports.

    `name` is its instance name and its log's; `module` is what `python -m MODULE` runs (`command`
    instead: any program, for tests). `environment` is added to this process's own. `url` and
    `internal_url` have no slash at the end.
    """

    name: str
    module: str
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    command: Sequence[str] | None = None
    on_death: Callable[[Death], None] | None = None
    port: int = 0
    internal_port: int = 0
    pass_fds: Sequence[int] = ()
    process: Process | None = None
    _asked: bool = field(default=False, init=False)
    _reaper: asyncio.Task[None] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.port:
            self.take_ports()

    def take_ports(self) -> None:
        """Choose ports that are free right now."""
        self.port, self.internal_port = free_ports(2)

    @property
    def url(self) -> str:
        """Address of the public port."""
        return f"http://{HOST}:{self.port}"

    @property
    def internal_url(self) -> str:
        """Address of /livez, /readyz and /metrics."""
        return f"http://{HOST}:{self.internal_port}"

    @property
    def log(self) -> Path:
        """What the service wrote, over all its starts."""
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
        """Start the process; returns at once, see `ready`."""
        if self.running:
            raise ServiceError(f"{self.name} is running already")
        command = self.command or (sys.executable, "-P", "-m", self.module)  # -P: the working directory is no place for modules
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
        """Return once /readyz says yes; raise ServiceError with what is missing when it ends first
        or the time is over.

        `on_wait` is told what is missing after a while, and then each time that changes.
        """
        began = clock.monotonic_s()
        deadline = began + timeout_s
        last, told = "it does not answer", ""
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
                if clock.monotonic_s() - began > TELL_S and last != told:
                    told = last
                    on_wait("; ".join(last.splitlines()))
                await clock.sleep(_LOOK_S)
        raise ServiceError(f"{self.name} was not ready after {timeout_s:.0f} s ({last}):\n{await self.tail()}")

    async def start_ready(self, timeout_s: float = READY_TIMEOUT_S, on_wait: Callable[[str], None] = lambda _: None) -> None:
        """Start and wait for /readyz; on a first start with other ports if somebody just took
        ours.
        """
        first = self.process is None
        for attempt in range(1, _PORT_ATTEMPTS + 1):
            await self.start()
            self._asked = True  # an end before it was ready is told by `ready`
            try:
                await self.ready(timeout_s, on_wait)
            except ServiceError as error:
                if not first or attempt == _PORT_ATTEMPTS or self.running or _PORT_TAKEN not in str(error):
                    raise
                self.take_ports()
            else:
                self._asked = False
                return

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal (SIGKILL, SIGTERM, SIGSTOP, SIGCONT, ...); an end by it is not counted as a
        death.
        """
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
        environment = importing()
        environment |= {"LIVEROOM_INSTANCE": self.name, "LIVEROOM_HOST": HOST, "LIVEROOM_INTERNAL_HOST": HOST}
        environment |= {"LIVEROOM_PORT": str(self.port), "LIVEROOM_INTERNAL_PORT": str(self.internal_port)}
        return environment | dict(self.environment)

    async def _reap(self, process: Process) -> None:
        code = await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if not self._asked and self.on_death is not None:
            self.on_death(Death(self.name, code, f"{_ended(code)} unasked", self.log, await self.tail()))


class System:
    """All services on a given Kafka, as many of each as wanted: `async with System(bootstrap) as
    system: ...`.

    All are started at once and ready when the block begins. `folder` None: a temporary one, removed
    at the end unless `keep_logs` or something failed. `settings` go to every service, `settings_of`
    to those of one module; names are those of the environment, the prefix LIVEROOM_ may be left
    out: `{"edge": {"MAX_CONNECTIONS": "10"}}`. At the end of the block ServiceDiedError is raised
    if a process ended unasked.
    """

    def __init__(
        self,
        kafka_bootstrap: str,
        *,
        prefix: str = "",
        partitions: int = DEFAULT_PARTITIONS,
        edges: int = 2,
        broadcasters: int = 1,
        ingresses: int = 1,
        schedulers: int = 1,
        autoscalers: int = 0,
        canaries: int = 0,
        origins: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
        settings_of: Mapping[str, Mapping[str, str]] | None = None,
        folder: Path | None = None,
        keep_logs: bool = False,
        on_step: Callable[[str], None] | None = None,
        chance: Chance | None = None,
    ) -> None:
        self.kafka_bootstrap = kafka_bootstrap
        self.prefix = prefix
        self.partitions = partitions
        chance = chance or SystemChance()
        self.token_key = chance.token_hex(32)
        self.ticket_keys = {TICKET_KEY_ID: chance.token_hex(32)}
        self.deaths: list[Death] = []
        self.keep_logs = keep_logs
        self._folder = folder
        self._given_folder = folder
        self._lock: IO[str] | None = None
        self._origins = list(origins)
        self._settings = dict(settings or {})
        self._settings_of = dict(settings_of or {})
        self._counts = {"broadcaster": broadcasters, "edge": edges, "ingress": ingresses}
        self._counts |= {"scheduler": schedulers, "autoscaler": autoscalers, "canary": canaries}
        self._on_step = on_step or (lambda _: None)
        self._died = asyncio.Event()
        self.ingresses: list[Service] = []
        self.autoscalers: list[Service] = []
        self.canaries: list[Service] = []
        self._pool_tether: tuple[socket.socket, socket.socket] | None = None
        self.schedulers: list[Service] = []
        self.broadcasters: list[Service] = []
        self.edges: list[Service] = []

    @property
    def folder(self) -> Path:
        """The run folder, with one log per service."""
        if self._folder is None:
            raise ServiceError("the system was not started")
        return self._folder

    @property
    def ingress(self) -> Service:
        """The first ingress process."""
        if not self.ingresses:
            raise ServiceError("the system was not started")
        return self.ingresses[0]

    @property
    def scheduler(self) -> Service:
        """The first scheduler process."""
        if not self.schedulers:
            raise ServiceError("the system was not started")
        return self.schedulers[0]

    @property
    def ingress_url(self) -> str:
        """Where interactions are sent to."""
        return self.ingress.url

    @property
    def scheduler_url(self) -> str:
        """Where viewers ask for a gateway: all schedulers, with commas between."""
        return ",".join(scheduler.url for scheduler in self.schedulers)

    @property
    def services(self) -> list[Service]:
        """Return all processes, in the order in which they are stopped."""
        return [
            *self.canaries,
            *self.autoscalers,
            *self.ingresses,
            *self.broadcasters,
            *self.edges,
            *self.schedulers,
        ]

    def token(
        self,
        user: str,
        role: Role = Role.VIEWER,
        *,
        name: str = "",
        level: int = 0,
        ttl_s: int = 3600,
        rooms: tuple[str, ...] = (),
        follower: bool = False,
        subscriber: bool = False,
    ) -> str:
        """Return a user token that this system's services take."""
        who = User(user, role, level, name, rooms, follower, subscriber)
        return sign_user(who, self.token_key.encode(), int(clock.unix_s()), ttl_s)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, asyncio.CancelledError):  # that is Ctrl-C
            self.keep_logs = True
        await self.stop()
        if error is None:
            self.check()

    async def prepare(self) -> None:
        """Make the run folder and what is to be started; `start` does it too."""
        if self.services:
            raise ServiceError("started already")
        self._folder, self._lock = await asyncio.to_thread(_make_folder, self._given_folder)
        self.ingresses = [self._service("ingress", i + 1) for i in range(self._counts["ingress"])]
        self.schedulers = [self._service("scheduler", i + 1) for i in range(self._counts["scheduler"])]
        self.broadcasters = [self._service("broadcaster", i + 1) for i in range(self._counts["broadcaster"])]
        self.edges = [self._service("edge", i + 1) for i in range(self._counts["edge"])]
        if self._counts["autoscaler"]:
            self._pool_tether = socket.socketpair()  # gateways that an autoscaler starts outlive it, and end with us
            self.autoscalers = [self._autoscaler(i + 1) for i in range(self._counts["autoscaler"])]
        self.canaries = [self._canary(i + 1) for i in range(self._counts["canary"])]

    async def start(self) -> None:
        """Start all services at once and return when all are ready."""
        await self.prepare()
        try:
            async with asyncio.TaskGroup() as tasks:
                for service in self.services:
                    tasks.create_task(self._start(service))
        except BaseException as error:
            self.keep_logs = self.keep_logs or isinstance(error, Exception)  # not for Ctrl-C
            await self._stop_all(grace_s=2)
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None  # the first to fail; the others were cancelled
            raise

    async def stop(self, grace_s: float = STOP_TIMEOUT_S) -> None:
        """Stop in order: ingress, broadcasters, edges, scheduler.

        Harmless when stopped. Viewers and Kafka are the caller's.
        """
        await self._stop_all(grace_s)

    def check(self) -> None:
        """Raise ServiceDiedError if a process ended unasked, or not in order when it was
        stopped.
        """
        if self.deaths:
            raise ServiceDiedError(self.deaths)

    async def watch(self) -> None:
        """Wait until a process ends unasked, and raise ServiceDiedError.

        Never returns: run it as a task.
        """
        await self._died.wait()
        self.check()

    async def add_edge(self) -> Service:
        """Start one more gateway and return it when it is ready."""
        self.edges.append(self._service("edge", len(self.edges) + 1))
        await self._start(self.edges[-1])
        return self.edges[-1]

    async def add_broadcaster(self) -> Service:
        """Start one more broadcaster and return it when it is ready."""
        self.broadcasters.append(self._service("broadcaster", len(self.broadcasters) + 1))
        await self._start(self.broadcasters[-1])
        return self.broadcasters[-1]

    def _service(self, module: str, number: int) -> Service:
        taken = {port for service in self.services for port in (service.port, service.internal_port)}
        while True:
            service = Service(f"{module}-{number}", module, self.folder, self._settings_for(module), on_death=self._note)
            if not taken & {service.port, service.internal_port}:
                return service

    def _autoscaler(self, number: int) -> Service:
        service = self._service("autoscaler", number)
        assert self._pool_tether is not None  # noqa: S101 - made before
        reading = self._pool_tether[1].fileno()
        ours = {"LIVEROOM_LOCAL_FOLDER": str(self.folder / "pool"), "LIVEROOM_LOCAL_TETHER": str(reading)}
        service.environment = ours | dict(service.environment)
        service.pass_fds = (reading,)
        return service

    def _canary(self, number: int) -> Service:
        service = self._service("viewer.canary", number)
        service.name = f"canary-{number}"
        urls = {"LIVEROOM_INGRESS_URL": self.ingress_url, "LIVEROOM_SCHEDULER_URL": self.scheduler_url}
        service.environment = urls | dict(service.environment)
        return service

    def _settings_for(self, module: str) -> dict[str, str]:
        ours = {
            "KAFKA__BOOTSTRAP": self.kafka_bootstrap,
            "KAFKA__PREFIX": self.prefix,
            "KAFKA__PARTITIONS": str(self.partitions),
            "TOKEN_KEY": self.token_key,
            "TICKET_KEYS": json.dumps(self.ticket_keys),
            "DEBUG_KEY": self.token_key,
            "ORIGINS": json.dumps(self._origins),
            "DRAIN_S": "1",  # 20 s are for the public; the demo and the tests end soon
            "REPLICAS": str(self._counts["scheduler"]),
            "ADDRESS_PER_S": "0",  # all viewers of this machine have one address
            "LOG_FORMAT": "json",
        }
        wanted = self._settings | dict(self._settings_of.get(module, {}))
        ours |= {name.removeprefix("LIVEROOM_"): value for name, value in wanted.items()}
        return {f"LIVEROOM_{name}": value for name, value in ours.items()}

    async def _start(self, service: Service) -> None:
        await service.start_ready(START_TIMEOUT_S, lambda why: self._on_step(f"{service.name} waits: {why}"))
        self._on_step(f"{service.name} is ready")

    async def _stop_all(self, grace_s: float) -> None:
        try:
            for module in ("viewer.canary", "autoscaler", "ingress", "broadcaster", "edge", "scheduler"):
                await asyncio.gather(*(service.stop(grace_s) for service in self.services if service.module == module))
            if self._pool_tether is not None:
                await _let_go(*self._pool_tether, grace_s)
                self._pool_tether = None
        finally:
            if self._folder is not None and self._lock is not None:
                keep = self.keep_logs or bool(self.deaths) or self._given_folder is not None
                await asyncio.to_thread(_leave_folder, self._folder, keep)
                self._lock.close()
                self._lock = None

    def _note(self, death: Death) -> None:
        self.deaths.append(death)
        self._died.set()


async def _let_go(ours: socket.socket, theirs: socket.socket, grace_s: float) -> None:
    """Tell all that hold `theirs` to end, and wait until none is left."""
    theirs.close()
    ours.setblocking(False)
    with ours, suppress(TimeoutError):
        ours.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(grace_s):
            await asyncio.get_running_loop().sock_recv(ours, 1)


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


def _make_folder(given: Path | None) -> tuple[Path, IO[str]]:
    """Make the run folder, and remove the temporary ones whose owner was killed before it could."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given.absolute(), (given / _LOCK).open("a", encoding="ascii")
    for folder in Path(tempfile.gettempdir()).glob(f"{_FOLDER_PREFIX}*"):
        with suppress(OSError):  # another user's, in use (the lock is held), or just being removed
            about = folder.stat()
            if about.st_uid != os.getuid() or clock.unix_s() - about.st_mtime < _LEFT_BEHIND_S:
                continue
            with (folder / _LOCK).open("r+", encoding="ascii") as lock:  # kept ones have none
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
    made = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    lock = (made / _LOCK).open("a", encoding="ascii")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return made, lock


def _leave_folder(folder: Path, keep: bool) -> None:
    if keep:
        (folder / _LOCK).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
