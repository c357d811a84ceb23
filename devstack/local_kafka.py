"""The local Kafka: the real Apache Kafka, started for the demo and the tests.

Owns the cluster's folder and ports, and when a cluster is ready. A cluster has one broker, or three
for fault tests (replication 3, two replicas in sync). Everything listens on 127.0.0.1 only and ends
with this process.

`kafka_cluster` is the way in for the demo and the tests' fixtures: where KAFKA_BOOTSTRAP names a
cluster, it starts nothing. Fault tests use `LocalKafka` itself.
"""

import asyncio
import base64
import fcntl
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from devstack.broker import Broker, BrokerAddress, Launch, LocalKafkaError, PortTakenError, admin_of
from devstack.folders import LOCK, remove_left_behind
from devstack.java import find_java
from devstack.kafka_jars import distrust_jars, ensure_jars
from liveroom import clock
from liveroom.chance import Chance, SystemChance
from liveroom.kafka_port import KafkaError
from liveroom.ports import free_ports

READY_TIMEOUT_S: Final = 180.0  # beside busy processors; a broker that ends is reported at once
HEAP_MB: Final = 384

_LOOK_S: Final = 0.05
_FOLDER_TIMEOUT_S: Final = 20.0
_TEMPORARY: Final = "liveroom-kafka-"
_PORT_ATTEMPTS: Final = 3


class LocalKafka:
    """A Kafka cluster of this process: `async with LocalKafka() as kafka: ... kafka.bootstrap`.

    `data_dir` is the folder of the data. It is kept, and the next start with the same number of
    brokers finds its data there again. None: a temporary folder that is removed at the end.
    `settings` go into every broker's server.properties and override ours. `heap_mb` limits each
    broker's heap, in MiB. `cache` and `repository` are `ensure_jars`'. `chance` draws a new
    cluster's id; None: the system's. `port` is the first broker's; 0: any free one.
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
        port: int = 0,
    ) -> None:
        if brokers < 1:
            raise ValueError("a cluster has at least one broker")
        self.bootstrap = ""
        self._given_dir = data_dir
        self._broker_count = brokers
        self._port = port
        self._settings = dict(settings or {})
        self._heap_mb = heap_mb
        self._cache = cache
        self._repository = repository
        self._chance = chance or SystemChance()
        self._folder: Path | None = None
        self._folder_lock: IO[str] | None = None
        self._brokers: list[Broker] = []

    @property
    def addresses(self) -> list[BrokerAddress]:
        """Return the brokers' addresses, in the order in which the methods below count them."""
        return [broker.address for broker in self._brokers]

    @property
    def processes(self) -> list[int | None]:
        """Return the process ids of the brokers' Java; None for a broker that is not running."""
        return [broker.pid for broker in self._brokers]

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
        """Start all brokers and return once they form a cluster; raise LocalKafkaError if not."""
        if self._folder is not None:
            raise LocalKafkaError("started already")
        java = await asyncio.to_thread(find_java)
        launch = Launch(java, await self._get_jars(), self._heap_mb)
        try:
            folder, lock = await self._take_folder()
            for attempt in range(1, _PORT_ATTEMPTS + 1):
                self._brokers = await asyncio.to_thread(self._lay_out, folder, launch)
                self.bootstrap = ",".join(address.bootstrap for address in self.addresses)
                try:
                    await self._start_all(lock)
                    break
                except PortTakenError:
                    await asyncio.gather(*(broker.stop(kill=True) for broker in self._brokers))
                    if attempt == _PORT_ATTEMPTS:
                        raise
        except BaseException as error:
            await self.stop()
            if isinstance(error, LocalKafkaError):  # a damaged jar may be why: the next start compares all of them
                await asyncio.to_thread(distrust_jars, cache=self._cache)
            raise

    async def stop(self) -> None:
        """Stop all brokers and remove a temporary folder. Idempotent.

        Brokers end by SIGTERM, and after a deadline by SIGKILL. Where the folder goes anyway they
        end by SIGKILL at once: three brokers that lose their quorum as they stop take 5 s to end in
        order.
        """
        try:
            await asyncio.gather(*(broker.stop(kill=self._given_dir is None) for broker in self._brokers))
        finally:
            if self._folder is not None and self._given_dir is None:
                await asyncio.to_thread(shutil.rmtree, self._folder)
            self._folder = None
            if self._folder_lock is not None:
                self._folder_lock.close()
                self._folder_lock = None

    async def stop_broker(self, index: int = 0) -> None:
        """Stop one broker in order."""
        await self._brokers[index].stop(kill=False)

    async def start_broker(self, index: int = 0) -> None:
        """Start a broker that was stopped or killed, on its port and data.

        Returns once it serves in the cluster. Raises LocalKafkaError where it runs already.
        """
        broker = self._brokers[index]
        if self._folder_lock is None:
            raise LocalKafkaError("the cluster is not running")
        if broker.pid is not None:
            raise LocalKafkaError(f"broker {broker.address.node_id} is running already")
        await broker.start(self._folder_lock.fileno())
        await self._ready([broker])

    async def kill_broker(self, index: int = 0, number: signal.Signals = signal.SIGKILL) -> None:
        """Send one broker a signal: SIGKILL (returns once it is dead), SIGSTOP, SIGCONT, ..."""
        broker = self._brokers[index]
        process = broker.running()
        if number in {signal.SIGKILL, signal.SIGTERM}:
            broker.ended_on_purpose = True
        process.send_signal(number)
        if number == signal.SIGKILL:
            await process.wait()

    async def in_sync(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Return once every partition has all its replicas in sync, so that one may fail again.

        Raises LocalKafkaError after `timeout_s` seconds.
        """
        deadline = clock.monotonic_s() + timeout_s
        client = admin_of(self.bootstrap)
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
                if not broker.ended_on_purpose and broker.pid is None:
                    raise await asyncio.to_thread(broker.death)
            await clock.sleep(10 * _LOOK_S)

    async def _get_jars(self) -> list[Path]:
        cancelled = threading.Event()
        try:
            return await asyncio.to_thread(ensure_jars, cache=self._cache, repository=self._repository, cancelled=cancelled)
        except asyncio.CancelledError:
            cancelled.set()  # or the thread would go on downloading, and the loop wait for it
            raise

    async def _take_folder(self) -> tuple[Path, IO[str]]:
        """Return the data folder and its lock, held.

        The brokers hold the lock too: those of a dead parent keep it until they have ended.
        """
        folder = self._folder = await asyncio.to_thread(_make_folder, self._given_dir)
        lock = self._folder_lock = await asyncio.to_thread((folder / LOCK).open, "a", encoding="ascii")
        deadline = clock.monotonic_s() + _FOLDER_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if clock.monotonic_s() > deadline:
                    raise LocalKafkaError(f"{folder} is in use by another local Kafka") from None
            else:
                return folder, lock
            await clock.sleep(_LOOK_S)

    def _lay_out(self, folder: Path, launch: Launch) -> list[Broker]:
        """Choose ports and write every broker's settings."""
        ports = free_ports(2 * self._broker_count)
        ports[0] = self._port or ports[0]
        brokers = [
            Broker(BrokerAddress(i + 1, ports[2 * i], ports[2 * i + 1]), folder / f"broker-{i + 1}", launch)
            for i in range(self._broker_count)
        ]
        made = {path.parent.parent for path in folder.glob("broker-*/data/meta.properties")}
        if made and made != {broker.folder for broker in brokers}:
            raise LocalKafkaError(f"{folder} holds the data of {len(made)} brokers, so it cannot serve {len(brokers)}")
        for broker in brokers:
            broker.lay_out([each.address for each in brokers], self._settings)
        return brokers

    async def _start_all(self, lock: IO[str]) -> None:
        cluster_id = await asyncio.to_thread(self._cluster_id)
        await asyncio.gather(*(broker.format(cluster_id) for broker in self._brokers))
        for broker in self._brokers:
            await broker.start(lock.fileno())
        await self._ready(self._brokers)

    def _cluster_id(self) -> str:
        """Return the cluster id of the data that are there, or a new one."""
        known = next(filter(None, (broker.cluster_id() for broker in self._brokers)), None)
        # The first byte keeps it from starting with a "-".
        return known or base64.urlsafe_b64encode(b"\x01" + self._chance.token_bytes(15)).decode().rstrip("=")

    async def _ready(self, brokers: list[Broker]) -> None:
        """Return when these brokers serve, know a controller and each other.

        Raises when one of them ends, or the time is over.
        """
        deadline = clock.monotonic_s() + READY_TIMEOUT_S
        wanted = {broker.address.node_id for broker in brokers}
        for broker in brokers:
            while problem := await _problem(broker, wanted):
                if broker.pid is None:
                    raise await asyncio.to_thread(broker.death)
                if clock.monotonic_s() > deadline:
                    tail = await asyncio.to_thread(broker.tail)
                    raise LocalKafkaError(
                        f"broker {broker.address.node_id} is not ready after {READY_TIMEOUT_S:.0f} s ({problem}):\n{tail}"
                    )
                await clock.sleep(_LOOK_S)


async def _problem(broker: Broker, wanted: set[int]) -> str:
    """Return what keeps a broker from serving in a cluster of the `wanted` ones; empty: nothing."""
    if broker.pid is None:
        return "it does not run"
    if not await broker.accepts():
        return "it does not accept connections"
    try:
        known = await broker.known_brokers()
    except (KafkaError, OSError, TimeoutError) as error:
        return repr(error)
    return "" if wanted <= known else f"it knows brokers {sorted(known)} of {sorted(wanted)}"


@asynccontextmanager
async def kafka_cluster(data_dir: Path | None = None, brokers: int = 1, *, chance: Chance | None = None) -> AsyncIterator[str]:
    """Yield a cluster's address: KAFKA_BOOTSTRAP as it is, else a local one's.

    The local one runs as long as the block; the arguments are those of `LocalKafka`.
    """
    given = os.environ.get("KAFKA_BOOTSTRAP", "").strip()
    if given:
        yield given
    else:
        async with LocalKafka(data_dir, brokers, chance=chance) as kafka:
            yield kafka.bootstrap


def _make_folder(given: Path | None) -> Path:
    """Make the data folder; a temporary one takes the place of those left behind."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        return given.absolute()
    remove_left_behind(_TEMPORARY)
    return Path(tempfile.mkdtemp(prefix=_TEMPORARY))
