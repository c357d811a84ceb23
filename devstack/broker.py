"""One broker of the local Kafka: its address, settings, folder, process and logs.

Owns what Kafka is configured with and how Java runs it. Broker and KRaft controller are one
process. It refuses to be a production set-up: no fsync, no encryption, small heaps.
`devstack.local_kafka` makes a cluster of brokers.
"""

import asyncio
import json
import os
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, NamedTuple

from devstack.java import Java
from devstack.kafka_jars import KAFKA_VERSION
from liveroom.addresses import url_of
from liveroom.child_process import spawn_tethered, stop_process
from liveroom.errors import ExplainedError
from liveroom.kafka_port import AdminClient, AioKafka
from liveroom.ports import HOST
from liveroom.settings import KafkaSettings

_REQUEST_TIMEOUT_S: Final = 2.0

_STOP_TIMEOUT_S: Final = 15.0
_FORMAT_HEAP_MB: Final = 64
_PORT_TAKEN: Final = "Address already in use"
_TAIL_LINES: Final = 12
_ERROR_LINES: Final = 4

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
    """The local Kafka does not start, or has ended; the message has the end of the broker's log."""


class PortTakenError(LocalKafkaError):
    """Another process took the port after it was found free and before the broker bound it."""


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


class Launch(NamedTuple):
    """What a broker is started with: Java, Kafka's jars, and the heap's limit in MiB."""

    java: Java
    jars: Sequence[Path]
    heap_mb: int


@dataclass(slots=True)
class Broker:
    """One broker: its folder, and its process while it has one.

    `scram_users`: the users and passwords (SCRAM-SHA-512) that a new cluster knows from its start.
    """

    address: BrokerAddress
    folder: Path
    launch: Launch
    process: Process | None = None
    ended_on_purpose: bool = field(default=True)
    scram_users: Mapping[str, str] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        """Kafka's data folder."""
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """What the broker logs."""
        return self.folder / "server.log"

    @property
    def output(self) -> Path:
        """What the broker prints."""
        return self.folder / "output.log"

    @property
    def pid(self) -> int | None:
        """The process id of Java itself; None while it does not run."""
        return self.process.pid if self.process is not None and self.process.returncode is None else None

    def lay_out(self, cluster: Sequence[BrokerAddress], settings: Mapping[str, str]) -> None:
        """Write the broker's configuration; `settings` override ours.

        Blocks: call it in a thread.
        """
        self.folder.mkdir(exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        wanted = server_settings(self.address, cluster) | dict(settings)
        properties = "".join(f"{name}={_escaped(value)}\n" for name, value in wanted.items())
        (self.folder / "server.properties").write_text(properties, encoding="latin-1")
        (self.folder / "log4j2.properties").write_text(_LOG4J, encoding="ascii")

    def cluster_id(self) -> str | None:
        """Return the cluster id of the data in the folder; None where there are none."""
        meta = self.data / "meta.properties"
        lines = meta.read_text(encoding="latin-1").splitlines() if meta.exists() else []
        return next((line.removeprefix("cluster.id=") for line in lines if line.startswith("cluster.id=")), None)

    async def format(self, cluster_id: str) -> None:
        """Let Kafka's own tool write the empty data folder, unless there is one."""
        if await asyncio.to_thread((self.data / "meta.properties").exists):
            return
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", cluster_id, "--config", "server.properties"]
        for user, password in self.scram_users.items():
            tool += ["--add-scram", f"SCRAM-SHA-512=[name={user},password={password}]"]
        process = await self._spawn(tool, _FORMAT_HEAP_MB)
        try:
            code = await process.wait()
        finally:
            await stop_process(process)
        if code != 0:
            tail = await asyncio.to_thread(self.tail)
            raise LocalKafkaError(f"the data folder {self.data} cannot be made (exit code {code}):\n{tail}")

    async def start(self, folder_lock: int) -> None:
        """Start the process and return at once.

        The process inherits the descriptor `folder_lock`, so the folder is locked until it ends.
        """
        self.process = await self._spawn(("kafka.Kafka", "server.properties"), self.launch.heap_mb, (folder_lock,))
        self.ended_on_purpose = False

    async def stop(self, *, kill: bool) -> None:
        """End the process by SIGTERM, and after 15 s by SIGKILL; `kill`: by SIGKILL at once."""
        self.ended_on_purpose = True
        if self.process is not None:
            await stop_process(self.process, grace_s=0 if kill else _STOP_TIMEOUT_S)

    def running(self) -> Process:
        """Return the process; raise LocalKafkaError where it does not run."""
        if self.process is None or self.process.returncode is not None:
            raise LocalKafkaError(f"broker {self.address.node_id} is not running")
        return self.process

    def death(self) -> LocalKafkaError:
        """Return the error that tells how the process ended. Blocks: call it in a thread."""
        code = self.process.returncode if self.process is not None else None
        taken = self.log.exists() and _PORT_TAKEN in self.log.read_text(encoding="utf-8", errors="replace")
        kind = PortTakenError if taken else LocalKafkaError
        return kind(
            f"Apache Kafka {KAFKA_VERSION}, broker {self.address.node_id}, ended with code {code};"
            f" its log ({self.log}) ends:\n{self.tail()}"
        )

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

    async def accepts(self) -> bool:
        """Return whether something listens on the port.

        Ask this before making a client, which would log every failure.
        """
        try:
            _, writer = await asyncio.open_connection(HOST, self.address.port)
        except OSError:
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    async def known_brokers(self) -> frozenset[int]:
        """Ask the broker for the cluster's node ids; empty while it knows no controller."""
        client = admin_of(self.address.bootstrap)
        try:
            await client.start()
            cluster = await client.describe_cluster()
        finally:
            await client.close()
        return frozenset() if cluster.controller is None else cluster.brokers

    def _open_output(self) -> IO[bytes]:
        """Begin both logs again."""
        self.log.unlink(missing_ok=True)
        return self.output.open("wb")

    async def _spawn(self, main: Sequence[str], heap_mb: int, pass_fds: Sequence[int] = ()) -> Process:
        """Run a class of Kafka's in Java, in the broker's folder.

        All paths are relative to it, so no letter of theirs can be a comma in Kafka's list of
        folders. In the C locale Java could not read a path with letters beyond ASCII.
        """
        java, jars, _ = self.launch
        command: list[str | Path] = [
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
            f"-Dliveroom.log={self.log.name}",
            *main,
        ]
        environment = os.environ | {"CLASSPATH": os.pathsep.join(map(str, jars)), "LC_ALL": "C.UTF-8"}
        with await asyncio.to_thread(self._open_output) as output:
            return await spawn_tethered(
                command, env=environment, cwd=self.folder, stdout=output, stderr=output, pass_fds=pass_fds
            )


def admin_of(bootstrap: str) -> AdminClient:
    """Return an admin client that does not wait long: a broker may be stopped on purpose."""
    return AioKafka(KafkaSettings(bootstrap=bootstrap)).admin(request_timeout_s=_REQUEST_TIMEOUT_S)


def server_settings(address: BrokerAddress, cluster: Sequence[BrokerAddress]) -> dict[str, str]:
    """Return one broker's server.properties."""
    replicas = str(min(3, len(cluster)))
    client = url_of("CLIENT", HOST, address.port)
    in_sync = "2" if len(cluster) >= 3 else "1"  # noqa: PLR2004
    return {
        "process.roles": "broker,controller",
        "node.id": str(address.node_id),
        "controller.quorum.voters": ",".join(f"{node.node_id}@{HOST}:{node.controller_port}" for node in cluster),
        "listeners": ",".join((client, url_of("CONTROLLER", HOST, address.controller_port))),
        "advertised.listeners": client,
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


def _escaped(value: str) -> str:
    """Write a value so that Java's reader of properties reads it back."""
    return json.dumps(value)[1:-1].replace('\\"', '"')
