"""The local Kafka: the real Apache Kafka, started by us for the demo and the tests.

Owns the brokers' processes, ports, settings and data folders: one broker, or three for fault tests
(each broker and KRaft controller in one process; replication 3, two in sync). Everything listens on
127.0.0.1 only and dies with this process.

Refuses to be a production set-up: no fsync, no encryption, small heaps. `kafka_cluster` is the way
in for the demo and the tests' fixtures: it starts nothing when KAFKA_BOOTSTRAP names a cluster
already. Fault tests use `LocalKafka` itself.
"""

import asyncio
import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
import threading
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from devstack.java import Java, find_java
from devstack.kafka_jars import KAFKA_VERSION, distrust_jars, ensure_jars
from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.errors import ExplainedError
from liveroom.kafka_port import AdminClient, AioKafka, KafkaError
from liveroom.ports import HOST, free_ports
from liveroom.settings import KafkaSettings

READY_TIMEOUT_S: Final = 180.0  # beside busy processors; one that ends is told at once
STOP_TIMEOUT_S: Final = 15.0
HEAP_MB: Final = 384

_LOOK_S: Final = 0.05
_FOLDER_TIMEOUT_S: Final = 20.0
_TEMPORARY: Final = "liveroom-kafka-"
_LEFT_BEHIND_S: Final = 60.0
_PORT_TAKEN: Final = "Address already in use"
_PORT_ATTEMPTS: Final = 3
_TAIL_LINES: Final = 12
_ERROR_LINES: Final = 4
_REQUEST_TIMEOUT_S: Final = 2.0

_LOG4J: Final = """\
status = error
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
logger.config.name = org.apache.kafka.common.config
logger.config.level = warn
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = ${sys:liveroom.log}
appender.file.filePattern = ${sys:liveroom.log}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{yyyy-MM-dd HH:mm:ss.SSS} %p %m (%c{1})%n
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 1
"""


class LocalKafkaError(ExplainedError):
    """The local Kafka does not start, or has ended; the message says why, with the end of the
    broker's log.
    """


class _PortTakenError(LocalKafkaError):
    """Somebody took the port between our look and the broker's bind."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """One broker's node id and ports, which it keeps over its restarts."""

    node_id: int
    port: int
    controller_port: int

    @property
    def bootstrap(self) -> str:
        """Return the address clients use."""
        return f"{HOST}:{self.port}"


@dataclass(slots=True)
class _Broker:
    """One broker: its folder, and its process while it has one."""

    address: BrokerAddress
    folder: Path
    process: Process | None = None
    ended_on_purpose: bool = field(default=True)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def output(self) -> Path:
        return self.folder / "output.log"

    def open_output(self) -> IO[bytes]:
        """Start both logs anew."""
        self.log.unlink(missing_ok=True)
        return self.output.open("wb")

    def tail(self) -> str:
        """Return the first error and the last lines of what the broker logged and printed, without
        Java's stack frames.
        """
        shown: list[str] = []
        for path in (self.log, self.output):
            if path.exists():
                lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
                lines = [line for line in lines if not line.startswith("\t")]
                start = max(0, len(lines) - _TAIL_LINES)
                first = next((i for i, line in enumerate(lines[:start]) if " ERROR " in line or " FATAL " in line), None)
                shown += [] if first is None else [*lines[first : min(first + _ERROR_LINES, start)], "..."]
                shown += lines[start:]
        return "\n".join(f"  {line}" for line in shown) or "  (it logged nothing)"

    def running(self) -> Process:
        """Return the process of a broker that must be running."""
        if self.process is None or self.process.returncode is not None:
            raise LocalKafkaError(f"broker {self.address.node_id} is not running")
        return self.process


class LocalKafka:
    """A Kafka cluster of this process: `async with LocalKafka() as kafka: ... kafka.bootstrap`.

    `data_dir` None: a temporary folder, removed afterwards. A given one is kept, and its data are
    there again at the next start with the same number of brokers. `settings` are added to every
    broker's server.properties, over ours.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        brokers: int = 1,
        *,
        settings: Mapping[str, str] | None = None,
        heap_mb: int = HEAP_MB,
        cache: Path | None = None,
        repository: str | None = None,
        chance: Chance | None = None,
    ) -> None:
        if brokers < 1:
            raise ValueError("a cluster has at least one broker")
        self.bootstrap = ""
        self._given_dir = data_dir
        self._broker_count = brokers
        self._settings = dict(settings or {})
        self._heap_mb = heap_mb
        self._cache = cache
        self._repository = repository
        self._chance = chance or SystemChance()
        self._folder: Path | None = None
        self._folder_lock: IO[str] | None = None
        self._brokers: list[_Broker] = []
        self._java: Java | None = None
        self._jars: list[Path] = []

    @property
    def addresses(self) -> list[BrokerAddress]:
        """Return the brokers' addresses, in the order in which the methods below count them."""
        return [broker.address for broker in self._brokers]

    @property
    def processes(self) -> list[int | None]:
        """Return the process ids of the brokers (of Java itself); None for one that is not
        running.
        """
        return [
            broker.process.pid if broker.process is not None and broker.process.returncode is None else None
            for broker in self._brokers
        ]

    @property
    def logs(self) -> list[Path]:
        """Return the paths of the brokers' logs."""
        return [broker.log for broker in self._brokers]

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start all brokers and return once they form a cluster."""
        if self._folder is not None:
            raise LocalKafkaError("started already")
        self._java = await asyncio.to_thread(find_java)
        self._jars = await self._get_jars()
        try:
            await self._take_folder()
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                self._brokers = await asyncio.to_thread(self._lay_out)
                self.bootstrap = ",".join(address.bootstrap for address in self.addresses)
                try:
                    await self._start_all()
                    break
                except _PortTakenError:
                    await asyncio.gather(*(self._stop(broker, kill=True) for broker in self._brokers))
                    if attempt == _PORT_ATTEMPTS:
                        raise
        except BaseException as error:
            await self.stop()
            if isinstance(error, LocalKafkaError):  # perhaps by a damaged jar: look at all of them at the next start
                await asyncio.to_thread(distrust_jars, cache=self._cache)
            raise

    async def stop(self) -> None:
        """Stop all brokers and remove a temporary folder. Harmless when stopped.

        By SIGTERM, after a deadline by SIGKILL; at once by SIGKILL if the data go anyway: three
        brokers that lose their quorum while they stop take 5 s to end in order.
        """
        try:
            await asyncio.gather(*(self._stop(broker, kill=self._given_dir is None) for broker in self._brokers))
        finally:
            if self._folder is not None and self._given_dir is None:
                await asyncio.to_thread(shutil.rmtree, self._folder)
            self._folder = None
            if self._folder_lock is not None:
                self._folder_lock.close()
                self._folder_lock = None

    async def stop_broker(self, index: int = 0) -> None:
        """Stop one broker in order."""
        await self._stop(self._brokers[index], kill=False)

    async def start_broker(self, index: int = 0) -> None:
        """Start a broker that was stopped or killed, on its port and data, and return once it
        serves in the cluster.
        """
        broker = self._brokers[index]
        if broker.process is not None and broker.process.returncode is None:
            raise LocalKafkaError(f"broker {broker.address.node_id} is running already")
        await self._spawn(broker)
        await self._ready([broker])

    async def kill_broker(self, index: int = 0, number: signal.Signals = signal.SIGKILL) -> None:
        """Send one broker a signal: SIGKILL (returns when it is dead), SIGSTOP, SIGCONT, ..."""
        broker = self._brokers[index]
        process = broker.running()
        if number in {signal.SIGKILL, signal.SIGTERM}:
            broker.ended_on_purpose = True
        process.send_signal(number)
        if number == signal.SIGKILL:
            await process.wait()

    async def in_sync(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once every partition has all its replicas in sync: the moment when the next single
        fault may come.
        """
        deadline = clock.monotonic_s() + timeout_s
        client = _admin(self.bootstrap)
        await client.start()
        try:
            while True:
                behind = [
                    f"{topic.name}-{each.partition}"
                    for topic in await client.describe_topics()
                    for each in topic.partitions
                    if each.in_sync < each.replicas
                ]
                if not behind:
                    return
                if clock.monotonic_s() > deadline:
                    raise LocalKafkaError(f"after {timeout_s:.0f} s replicas are not in sync: {', '.join(sorted(behind))}")
                await clock.sleep(_LOOK_S)
        finally:
            await client.close()

    async def watch(self) -> None:
        """Wait until a broker ends that nobody stopped or killed through us, and raise.

        Never returns: run it as a task.
        """
        while True:
            for broker in self._brokers:
                if not broker.ended_on_purpose and broker.process is not None and broker.process.returncode is not None:
                    raise await asyncio.to_thread(self._ended, broker)
            await clock.sleep(10 * _LOOK_S)

    async def _get_jars(self) -> list[Path]:
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(ensure_jars, cache=self._cache, repository=self._repository, cancelled=cancelled)
        except asyncio.CancelledError:
            cancelled.set()  # or the thread would go on downloading, and the loop wait for it
            raise

    async def _take_folder(self) -> None:
        """Make the folder ours alone.

        The brokers hold the lock too: a dead parent's brokers keep it until they have ended.
        """
        self._folder = await asyncio.to_thread(_make_folder, self._given_dir)
        self._folder_lock = await asyncio.to_thread((self._folder / ".lock").open, "a", encoding="ascii")
        deadline = clock.monotonic_s() + _FOLDER_TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._folder_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if clock.monotonic_s() > deadline:
                    raise LocalKafkaError(f"{self._folder} is in use by another local Kafka") from None
            await clock.sleep(_LOOK_S)

    def _lay_out(self) -> list[_Broker]:
        """Choose ports and write every broker's settings."""
        folder = self._folder
        assert folder is not None  # noqa: S101 - start() took it
        ports = free_ports(2 * self._broker_count)
        brokers = [
            _Broker(BrokerAddress(i + 1, ports[2 * i], ports[2 * i + 1]), folder / f"broker-{i + 1}")
            for i in range(self._broker_count)
        ]
        made = {path.parent.parent for path in folder.glob("broker-*/data/meta.properties")}
        if made and made != {broker.folder for broker in brokers}:
            raise LocalKafkaError(f"{folder} holds the data of {len(made)} brokers, so it cannot serve {len(brokers)}")
        addresses = [broker.address for broker in brokers]
        for broker in brokers:
            broker.folder.mkdir(exist_ok=True)
            (broker.folder / "tmp").mkdir(exist_ok=True)
            settings = server_settings(broker.address, addresses) | self._settings
            properties = "".join(f"{name}={_escaped(value)}\n" for name, value in settings.items())
            (broker.folder / "server.properties").write_text(properties, encoding="latin-1")
            (broker.folder / "log4j2.properties").write_text(_LOG4J, encoding="ascii")
        return brokers

    async def _start_all(self) -> None:
        cluster_id = await asyncio.to_thread(self._cluster_id)
        await asyncio.gather(*(self._format(broker, cluster_id) for broker in self._brokers))
        for broker in self._brokers:
            await self._spawn(broker)
        await self._ready(self._brokers)

    def _cluster_id(self) -> str:
        """Return the cluster id of the data that are there, or a new one."""
        for broker in self._brokers:
            meta = broker.data / "meta.properties"
            if meta.exists():
                for line in meta.read_text(encoding="latin-1").splitlines():
                    if line.startswith("cluster.id="):
                        return line.removeprefix("cluster.id=")
        return base64.urlsafe_b64encode(b"\x01" + self._chance.token_bytes(15)).decode().rstrip("=")  # never starts with a "-"

    def _command(self, broker: _Broker, *, heap_mb: int) -> list[str | Path]:
        """Return how Java is called, in the broker's folder, up to the name of the class."""
        java = self._java
        assert java is not None  # noqa: S101 - start() found it
        return [
            java.program,
            f"-Xmx{heap_mb}m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",  # to the 240,000th record: starts 0.5 s sooner, half the CPU, p99 of a send 3 ms for 5
            "-XX:-UsePerfData",
            "-XX:+ExitOnOutOfMemoryError",
            *java.quiet_flags(),
            "-Djava.awt.headless=true",
            "-Djava.io.tmpdir=tmp",  # native libraries are unpacked there
            "-Dlog4j2.configurationFile=log4j2.properties",
            f"-Dliveroom.log={broker.log.name}",
        ]

    def _environment(self) -> dict[str, str]:
        """Return Java's environment.

        In the C locale it could not read a path with letters beyond ASCII.
        """
        return os.environ | {"CLASSPATH": os.pathsep.join(str(jar) for jar in self._jars), "LC_ALL": "C.UTF-8"}

    async def _format(self, broker: _Broker, cluster_id: str) -> None:
        """Have Kafka's own tool write the empty data folder, if it is not there."""
        if await asyncio.to_thread((broker.data / "meta.properties").exists):
            return
        with await asyncio.to_thread(broker.open_output) as output:
            process = await spawn_tethered(
                [
                    *self._command(broker, heap_mb=64),
                    "kafka.tools.StorageTool",
                    *("format", "--cluster-id", cluster_id, "--config", "server.properties"),
                ],
                env=self._environment(),
                cwd=broker.folder,
                stdout=output,
                stderr=output,
            )
            try:
                code = await process.wait()
            finally:
                await stop_process(process)
        if code != 0:
            tail = await asyncio.to_thread(broker.tail)
            raise LocalKafkaError(f"the data folder {broker.data} cannot be made (exit code {code}):\n{tail}")

    async def _spawn(self, broker: _Broker) -> None:
        assert self._folder_lock is not None  # noqa: S101 - start() took it
        with await asyncio.to_thread(broker.open_output) as output:
            broker.process = await spawn_tethered(
                [*self._command(broker, heap_mb=self._heap_mb), "kafka.Kafka", "server.properties"],
                env=self._environment(),
                cwd=broker.folder,  # so all paths are relative, and no letter in them can be a comma in Kafka's list of folders
                stdout=output,
                stderr=output,
                pass_fds=(self._folder_lock.fileno(),),
            )
        broker.ended_on_purpose = False

    async def _ready(self, brokers: list[_Broker]) -> None:
        """Return when these brokers serve, know a controller and each other; raise when one ends or
        the time is over.
        """
        deadline = clock.monotonic_s() + READY_TIMEOUT_S
        wanted = {broker.address.node_id for broker in brokers}
        for broker in brokers:
            problem = "does not accept connections"
            while True:
                if broker.process is None or broker.process.returncode is not None:
                    raise await asyncio.to_thread(self._ended, broker)
                if clock.monotonic_s() > deadline:
                    tail = await asyncio.to_thread(broker.tail)
                    raise LocalKafkaError(
                        f"broker {broker.address.node_id} is not ready after {READY_TIMEOUT_S:.0f} s ({problem}):\n{tail}"
                    )
                if await _accepts(broker.address.port):
                    try:
                        known = await _known_brokers(broker.address)
                    except (KafkaError, OSError, TimeoutError) as error:
                        problem = repr(error)
                    else:
                        if wanted <= known:
                            break
                        problem = f"it knows brokers {sorted(known)} of {sorted(wanted)}"
                await clock.sleep(_LOOK_S)

    def _ended(self, broker: _Broker) -> LocalKafkaError:
        assert broker.process is not None  # noqa: S101 - it ended
        tail = broker.tail()
        taken = broker.log.exists() and _PORT_TAKEN in broker.log.read_text(encoding="utf-8", errors="replace")
        kind = _PortTakenError if taken else LocalKafkaError
        return kind(
            f"Apache Kafka {KAFKA_VERSION}, broker {broker.address.node_id}, ended with code {broker.process.returncode};"
            f" its log ({broker.log}) ends:\n{tail}"
        )

    async def _stop(self, broker: _Broker, *, kill: bool) -> None:
        broker.ended_on_purpose = True
        if broker.process is not None:
            await stop_process(broker.process, grace_s=0 if kill else STOP_TIMEOUT_S)


@asynccontextmanager
async def kafka_cluster(data_dir: Path | None = None, brokers: int = 1, *, chance: Chance | None = None) -> AsyncIterator[str]:
    """Yield the address of a cluster: KAFKA_BOOTSTRAP as it stands, else a local one for as long as
    the block runs.
    """
    given = os.environ.get("KAFKA_BOOTSTRAP", "").strip()
    if given:
        yield given
    else:
        async with LocalKafka(data_dir, brokers, chance=chance) as kafka:
            yield kafka.bootstrap


def server_settings(address: BrokerAddress, cluster: list[BrokerAddress]) -> dict[str, str]:
    """Return one broker's server.properties."""
    replicas = str(min(3, len(cluster)))
    in_sync = "2" if len(cluster) >= 3 else "1"  # noqa: PLR2004
    return {
        "process.roles": "broker,controller",
        "node.id": str(address.node_id),
        "controller.quorum.voters": ",".join(f"{node.node_id}@{HOST}:{node.controller_port}" for node in cluster),
        "listeners": f"CLIENT://{HOST}:{address.port},CONTROLLER://{HOST}:{address.controller_port}",
        "advertised.listeners": f"CLIENT://{HOST}:{address.port}",
        "listener.security.protocol.map": "CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENT",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": "data",
        "auto.create.topics.enable": "false",
        "default.replication.factor": replicas,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": replicas,
        "offsets.topic.num.partitions": "8",  # 50 by default: more files to make before the first group works
        "transaction.state.log.replication.factor": replicas,
        "transaction.state.log.min.isr": in_sync,
        "transaction.state.log.num.partitions": "8",
        "share.coordinator.state.topic.replication.factor": replicas,
        "share.coordinator.state.topic.min.isr": in_sync,
        "share.coordinator.state.topic.num.partitions": "8",
        "group.min.session.timeout.ms": "3000",  # 6 s by default: a dead owner's partitions must move sooner
        "group.initial.rebalance.delay.ms": "0",  # 3 s by default, before the first member of a group gets anything
        "message.max.bytes": "1048588",  # Kafka's default, written down: the checks of sizes rely on it
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": str(8 << 20),  # 128 MiB of heap by default
        # Until its session with the controller ends a broker that was killed leads its partitions,
        # and cannot come back (the controller refuses it as a duplicate: 11 s, measured): after 9 s
        # by default, nearly all of the failure budget.
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        # A stopped (not dead) controller or leader holds what the others asked it for that long, by
        # default 30 s. Measured with SIGSTOP on the controller: new producers got their id after 30
        # s; with 2 s, within the clients' own time-outs.
        "controller.socket.timeout.ms": "2000",
        "replica.socket.timeout.ms": "2000",
    }


def _admin(bootstrap: str) -> AdminClient:
    return AioKafka(KafkaSettings(bootstrap=bootstrap)).admin(request_timeout_s=_REQUEST_TIMEOUT_S)


async def _known_brokers(address: BrokerAddress) -> frozenset[int]:
    """Ask a broker for the cluster; the empty set while it knows no controller."""
    client = _admin(address.bootstrap)
    try:
        await client.start()
        cluster = await client.describe_cluster()
    finally:
        await client.close()
    return frozenset() if cluster.controller is None else cluster.brokers


async def _accepts(port: int) -> bool:
    """Whether something listens on the port; looked at before a client is made, which would log
    every failure.
    """
    try:
        _, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


def _make_folder(given: Path | None) -> Path:
    """Make the data folder, and remove the temporary ones whose owner was killed before it
    could.
    """
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given.absolute()
    now_s = clock.unix_s()
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        with suppress(FileNotFoundError, BlockingIOError):  # removed by another launch; in use
            about = folder.stat()
            if about.st_uid != os.getuid() or now_s - about.st_mtime < _LEFT_BEHIND_S:
                continue  # another user's; or so new that its owner may be about to take its lock
            with (folder / ".lock").open("a", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
    return Path(tempfile.mkdtemp(prefix=_TEMPORARY))


def _escaped(value: str) -> str:
    """Write a value so that Java's reader of properties reads it back."""
    return json.dumps(value)[1:-1].replace('\\"', '"')
