"""All services of one system as child processes, on a Kafka that is given to it.

Owns the keys, the settings and the run folder of the system, and the order in which its processes
start and stop. `liveroom demo`, `liveroom up` and every end-to-end and fault test run a `System`.
It refuses to restart what died by itself: `deaths` lists that, and `watch` and the end raise it.
"""

import asyncio
import fcntl
import json
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from devstack.builds import THIS, Build
from devstack.folders import LOCK, remove_left_behind
from devstack.processes import STOP_TIMEOUT_S, Death, Service, ServiceDiedError, ServiceError
from liveroom import clock, metric_catalog
from liveroom.chance import Chance, SystemChance
from liveroom.kinds import Role
from liveroom.setting_sources import read_settings
from liveroom.settings import SERVICES
from liveroom.ticket_keys import SEED_BYTES, make_private_key, write_private_keys, write_public_keys
from liveroom.tickets import User
from liveroom.tokens import sign_user
from liveroom.topics import DEFAULT_PARTITIONS
from liveroom.users import user_id

# All services of a system start at once, perhaps beside a busy processor. They wait for what
# passes, so the start does too.
START_TIMEOUT_S: Final = 150.0
GATEWAYS_TIMEOUT_S: Final = 10.0
TICKET_KEY_ID: Final = "k1"
_OPEN_GATEWAYS: Final = f'{metric_catalog.GATEWAYS_KNOWN.name}{{state="open"}}'
_LOOK_S: Final = 0.05
_FOLDER_PREFIX: Final = "liveroom-run-"
USUAL_FIRST_PORT: Final = 8000  # the public ports that services have by default are those after it
# What suits a system on one machine, unless its user says otherwise.
ONE_MACHINE: Final[Mapping[str, str]] = {
    "DRAIN_S": "1",  # 20 s are for the public; the demo and the tests end soon
    "VIEWERS_MAY_CLAIM_PAYMENT": "true",  # no payment service stands beside the demo and the tests
    "ADDRESS_PER_S": "0",  # all viewers of this machine have one address
    "ADDRESS_GUESTS_PER_S": "0",
    "ADDRESS_REQUESTS_PER_S": "0",
    "ADDRESS_PULLS_PER_S": "0",
    "ADDRESS_PULL_BYTES_PER_MIN": "0",
    "ADDRESS_CONNECTIONS_PER_S": "0",
    "ADDRESS_JOINS_PER_S": "0",
    "MAX_PER_ADDRESS": "0",
    "MAX_ADDRESS_QUIET_ROOMS": "0",
    "LOG_FORMAT": "json",
}


class System:
    """All services on a given Kafka: `async with System(bootstrap) as system: ...`.

    They start at once and are ready when the block begins. The numbers say how many processes of
    each service there are. `folder` is the run folder; None: a temporary one, which is removed at
    the end unless `keep_logs` is set or something failed. `settings` go to every service,
    `settings_of` to those of one module. Their names are those of the environment, with or without
    the prefix LIVEROOM_: `{"edge": {"MAX_CONNECTIONS": "10"}}`. `on_step` is called with a line for
    each step of the start. `chance` draws the keys; None: the system's. `build` is the code that
    the services run; an upgrade changes that of each service (`Service.build`).

    `token_key`, `debug_key` and `log_key`: keys that are given; empty: made here. `first_port`: the
    processes get the ports that services have by default, moved by as much as it differs from 8000;
    0: any free ones. `taken`: the settings, without LIVEROOM_, that come from the environment and
    the files of this process, in place of what suits a single machine.

    The end of the block raises ServiceDiedError if a process ended by itself.
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
        build: Build = THIS,
        token_key: str = "",
        debug_key: str = "",
        log_key: str = "",
        first_port: int = 0,
        taken: Collection[str] = (),
    ) -> None:
        self.kafka_bootstrap = kafka_bootstrap
        self.prefix = prefix
        self.partitions = partitions
        chance = chance or SystemChance()
        self.token_key = token_key or chance.token_hex(32)
        self.debug_key = debug_key or chance.token_hex(32)
        self.log_key = log_key or chance.token_hex(32)
        self._first_port = first_port
        self._taken = frozenset(taken)
        ticket_keys = [make_private_key(TICKET_KEY_ID, chance.token_bytes(SEED_BYTES))]
        self.ticket_signing_keys = write_private_keys(ticket_keys)
        self._ticket_public_keys = write_public_keys(ticket_keys)
        self._hmac_ticket_keys = {TICKET_KEY_ID: chance.token_hex(32)}
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
        self._build = build
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
        """The address for interactions."""
        return self.ingress.url

    @property
    def scheduler_url(self) -> str:
        """The addresses at which viewers ask for a gateway, separated by commas."""
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
        text: str,
        role: Role = Role.VIEWER,
        *,
        name: str = "",
        level: int = 0,
        ttl_s: int = 3600,
        rooms: tuple[str, ...] | None = None,
        follower: bool = False,
        subscriber: bool = False,
        device: str = "",
    ) -> str:
        """Return a user token that this system's services accept, valid for `ttl_s` seconds.

        `text` names the user as an identity service would. A streamer's or moderator's token is
        good in `rooms` only; without them it is good nowhere. Raises UserIdError if the text has no
        user id.
        """
        who = User(user_id(text), role, level, name, rooms, follower, subscriber, device)
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
        """Make the run folder and the services without starting them; `start` calls it."""
        if self.services:
            raise ServiceError("started already")
        self._folder, self._lock = await asyncio.to_thread(_take_folder, self._given_folder)
        self.ingresses = [self._service("ingress", i + 1) for i in range(self._counts["ingress"])]
        self.schedulers = [self._service("scheduler", i + 1) for i in range(self._counts["scheduler"])]
        self.broadcasters = [self._service("broadcaster", i + 1) for i in range(self._counts["broadcaster"])]
        self.edges = [self._service("edge", i + 1) for i in range(self._counts["edge"])]
        if self._counts["autoscaler"]:
            self._pool_tether = socket.socketpair()  # gateways that an autoscaler starts outlive it, and end with us
            self.autoscalers = [self._autoscaler(i + 1) for i in range(self._counts["autoscaler"])]
        self.canaries = [self._canary(i + 1) for i in range(self._counts["canary"])]

    async def start(self) -> None:
        """Start all services at once and return when all are ready; raise ServiceError if not."""
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
        """Stop the services in order: ingress, broadcasters, edges, scheduler. Idempotent.

        A process that does not end within `grace_s` seconds is killed. The caller stops viewers
        before, and Kafka afterwards.
        """
        await self._stop_all(grace_s)

    def check(self) -> None:
        """Raise ServiceDiedError if a process ended by itself, or not in order."""
        if self.deaths:
            raise ServiceDiedError(self.deaths)

    async def watch(self) -> None:
        """Wait until a process ends by itself, and raise ServiceDiedError.

        Never returns: run it as a task.
        """
        await self._died.wait()
        self.check()

    async def knows_gateways(self, count: int, timeout_s: float = GATEWAYS_TIMEOUT_S) -> None:
        """Return when every scheduler can send viewers to `count` gateways.

        A gateway that is ready is not yet known: its first load report is still under way. Viewers
        that ask before all go to the gateways whose reports came first. Raises TimeoutError after
        `timeout_s` seconds.
        """
        async with asyncio.timeout(timeout_s):
            for scheduler in self.schedulers:
                while (await scheduler.metrics()).get(_OPEN_GATEWAYS, 0) < count:
                    await clock.sleep(_LOOK_S)

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

    def ports(self) -> dict[str, Sequence[int]]:
        """Return the ports of each process by its name, where they are not any free ones."""
        if not self._first_port:
            return {}
        names = [(module, number + 1) for module, count in self._counts.items() for number in range(count)]
        return {f"{module}-{number}": self._ports_of(module, number) for module, number in names}

    def _ports_of(self, module: str, number: int) -> tuple[int, int]:
        """Return the public and the internal port of a process, with the ports fixed."""
        defaults = SERVICES[module].model_fields
        moved = self._first_port - USUAL_FIRST_PORT + number - 1
        internal = int(defaults["internal_port"].default) + moved
        public = int(defaults["port"].default)
        return (public + moved if public else internal), internal  # a broadcaster has no public port

    def check_settings(self) -> None:
        """Raise UnusableSettingsError where a service would not take its settings."""
        for module, count in self._counts.items():
            if count:
                read_settings(SERVICES[module], self._settings_for(module))

    def _service(self, module: str, number: int) -> Service:
        port, internal_port = self._ports_of(module, number) if self._first_port else (0, 0)
        taken = {port for service in self.services for port in (service.port, service.internal_port)}
        while True:
            service = Service(
                f"{module}-{number}",
                module,
                self.folder,
                self._settings_for(module),
                on_death=self._note,
                build=self._build,
                port=port,
                internal_port=internal_port,
                keeps_ports=bool(self._first_port),
            )
            if service.keeps_ports or not taken & {service.port, service.internal_port}:
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
            "DEBUG_KEY": self.debug_key,
            "LOG_KEY": self.log_key,
            "ORIGINS": json.dumps(self._origins),
            "REPLICAS": str(self._counts["scheduler"]),
        }
        ours |= {name: value for name, value in ONE_MACHINE.items() if name not in self._taken}
        if module == "scheduler":
            ours["TICKET_SIGNING_KEYS"] = self.ticket_signing_keys
        elif module in {"edge", "autoscaler"}:  # which starts gateways with its own environment
            ours["TICKET_PUBLIC_KEYS"] = self._ticket_public_keys
        if self._build is not THIS and module in {"scheduler", "edge"}:  # liveroom 0.1 knows no other ones
            ours["TICKET_KEYS"] = json.dumps(self._hmac_ticket_keys)
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
    """End all processes that hold `theirs`, and wait until none is left."""
    theirs.close()
    ours.setblocking(False)
    with ours, suppress(TimeoutError):
        ours.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(grace_s):
            await asyncio.get_running_loop().sock_recv(ours, 1)


def _take_folder(given: Path | None) -> tuple[Path, IO[str]]:
    """Return the run folder and its lock, held where the folder is a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given.absolute(), (given / LOCK).open("a", encoding="ascii")
    remove_left_behind(_FOLDER_PREFIX)
    made = Path(tempfile.mkdtemp(prefix=_FOLDER_PREFIX))
    lock = (made / LOCK).open("a", encoding="ascii")
    fcntl.flock(lock, fcntl.LOCK_EX)
    return made, lock


def _leave_folder(folder: Path, keep: bool) -> None:
    if keep:
        (folder / LOCK).unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
