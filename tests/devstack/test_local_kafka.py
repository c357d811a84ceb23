"""The local Kafka: the real one, started, stopped, killed, orphaned."""

import asyncio
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from devstack import local_kafka
from devstack.broker import Broker, BrokerAddress, Launch, LocalKafkaError, PortTakenError, server_settings
from devstack.java import find_java
from devstack.local_kafka import LocalKafka, kafka_cluster
from liveroom.cluster_health import ClusterHealth, TopicHealth, health_of
from liveroom.kafka_port import AioKafka
from liveroom.ports import free_ports
from liveroom.settings import KafkaSettings
from tests.ended import has_ended
from tests.locked_kafka import SCRAM_WITH_RULES

pytestmark = pytest.mark.kafka
DEADLINE_S = 90.0  # for what hangs: a busy machine takes long to start a JVM


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - processes end without an event of ours
            await asyncio.sleep(0.05)


async def listens(port: int) -> bool:
    return await Broker(BrokerAddress(1, port, 0), Path(), Launch(find_java(), [], 0)).accepts()


def pid_of(kafka: LocalKafka, index: int = 0) -> int:
    pid = kafka.processes[index]
    assert pid is not None
    return pid


async def make_topic(bootstrap: str, name: str, replicas: int = 1, partitions: int = 1) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(name, partitions, replicas)])
    finally:
        await admin.close()


async def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True, request_timeout_ms=3000) as producer:
        async with asyncio.timeout(DEADLINE_S):
            for value in values:
                await producer.send_and_wait(topic, value, partition=0)


async def everything(bootstrap: str, topic: str, count: int) -> list[bytes]:
    """Read a topic from its beginning, without a group."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest") as consumer:
        consumer.assign([TopicPartition(topic, 0)])
        async with asyncio.timeout(DEADLINE_S):
            return [(await consumer.getone()).value for _ in range(count)]


@pytest.fixture
async def kafka() -> AsyncIterator[LocalKafka]:
    async with LocalKafka() as started:
        yield started


async def test_a_record_comes_back_through_a_group_whose_session_is_three_seconds(kafka: LocalKafka) -> None:
    folder = kafka.logs[0].parent.parent
    await make_topic(kafka.bootstrap, "round")
    await produce(kafka.bootstrap, "round", [b"danmaku"])
    async with AIOKafkaConsumer(
        "round",
        bootstrap_servers=kafka.bootstrap,
        group_id="readers",
        session_timeout_ms=3000,
        heartbeat_interval_ms=1000,
        auto_offset_reset="earliest",
    ) as consumer:
        async with asyncio.timeout(DEADLINE_S):
            assert (await consumer.getone()).value == b"danmaku"
    listening = {entry.laddr.ip for entry in psutil.Process(pid_of(kafka)).net_connections("tcp") if entry.status == "LISTEN"}
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert kafka.logs[0].read_text()
    assert kafka.logs[0].with_name("output.log").read_text() == ""
    await kafka.stop()
    assert kafka.processes == [None]
    assert not folder.exists()


async def test_a_given_folder_keeps_the_data_over_restarts_at_any_port_and_serves_one_cluster_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_kafka, "_FOLDER_TIMEOUT_S", 0.2)
    folder = tmp_path / "with a space, ünd more"
    async with LocalKafka(folder) as kafka:
        await make_topic(kafka.bootstrap, "kept")
        await produce(kafka.bootstrap, "kept", [b"one"])
        with pytest.raises(LocalKafkaError, match="is in use by another local Kafka"):
            await LocalKafka(folder).start()
    for port in free_ports(3):  # another process may take one before Kafka has it
        with suppress(PortTakenError):
            async with LocalKafka(folder, port=port) as kafka:
                assert kafka.bootstrap == f"127.0.0.1:{port}"
                assert await everything(kafka.bootstrap, "kept", 1) == [b"one"]
                break
    else:
        pytest.fail("each of the ports was taken")
    with pytest.raises(LocalKafkaError, match="holds the data of 1 brokers, so it cannot serve 3"):
        await LocalKafka(folder, brokers=3).start()


async def test_a_broker_comes_back_on_its_port_and_data_and_a_death_nobody_ordered_is_told(kafka: LocalKafka) -> None:
    addresses = kafka.addresses
    await make_topic(kafka.bootstrap, "back")
    await produce(kafka.bootstrap, "back", [b"one"])
    await kafka.stop_broker()
    assert kafka.processes == [None]
    await kafka.start_broker()
    await kafka.kill_broker()
    await kafka.start_broker()
    with pytest.raises(LocalKafkaError, match="running already"):
        await kafka.start_broker()
    assert kafka.addresses == addresses
    assert await everything(kafka.bootstrap, "back", 1) == [b"one"]
    watch = asyncio.create_task(kafka.watch())
    psutil.Process(pid_of(kafka)).kill()
    async with asyncio.timeout(DEADLINE_S):
        with pytest.raises(LocalKafkaError, match=r"broker 1, ended with code -9; its log \(.*server\.log\) ends:\n .*INFO"):
            await watch


async def test_kill_9_of_the_parent_leaves_no_broker_and_the_next_start_has_the_folder(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys; from pathlib import Path; from devstack.local_kafka import LocalKafka\n"
        "async def main():\n"
        "    async with LocalKafka(Path(sys.argv[1])) as kafka:\n"
        "        print(*kafka.processes, flush=True)\n"
        "        await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, str(tmp_path), stdout=PIPE)
    assert parent.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        broker = psutil.Process(int(await parent.stdout.readline()))
    assert "kafka.Kafka" in broker.cmdline()
    parent.send_signal(signal.SIGKILL)
    await parent.wait()
    async with LocalKafka(tmp_path):  # at once, so while the old broker is still ending
        assert has_ended(broker)


async def test_a_cluster_runs_for_the_block_and_a_port_that_somebody_took_meanwhile_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KAFKA_BOOTSTRAP", raising=False)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        choices = [[other.getsockname()[1], free_ports(1)[0]]]
        monkeypatch.setattr(local_kafka, "free_ports", lambda count: choices.pop() if choices else free_ports(count))
        async with kafka_cluster() as bootstrap:
            host, _, port = bootstrap.partition(":")
            assert host == "127.0.0.1"
            assert int(port) != other.getsockname()[1]
            assert await listens(int(port))
        assert not choices
        assert not await listens(int(port))


async def test_a_broker_that_does_not_start_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path, settings={"num.io.threads": "none"})
    with pytest.raises(LocalKafkaError, match=r"(?s)cannot be made \(exit code 1\):\n.*num\.io\.threads"):
        await kafka.start()
    assert kafka.processes == [None]


async def test_a_broker_that_dies_while_it_starts_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    kafka = LocalKafka(tmp_path, settings={"metric.reporters": "no.such.Reporter"})
    with pytest.raises(LocalKafkaError, match=r"(?s)ended with code 1; .*no\.such\.Reporter"):
        await kafka.start()


async def test_kafka_bootstrap_is_used_as_it_stands_and_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "kafka.example:9092")
    async with kafka_cluster() as bootstrap:
        assert bootstrap == "kafka.example:9092"


async def health(kafka: LocalKafka) -> ClusterHealth:
    """What a service makes of the brokers' answer about two topics."""
    living = ",".join(each.bootstrap for each, process in zip(kafka.addresses, kafka.processes, strict=True) if process)
    admin = AioKafka(KafkaSettings(bootstrap=living)).admin()
    await admin.start()
    try:
        return health_of(await admin.describe_cluster(["safe", "alone"]))
    finally:
        await admin.close()


async def leader_of(kafka: LocalKafka, topic: str) -> int:
    """Return which broker leads, as LocalKafka counts them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.bootstrap)
    await admin.start()
    try:
        (about,) = await admin.describe_topics([topic])
    finally:
        await admin.close()
    node_id = about["partitions"][0]["leader"]
    return [address.node_id for address in kafka.addresses].index(node_id)


@pytest.mark.fault
async def test_three_brokers_survive_the_loss_of_the_one_that_leads_dead_or_stopped() -> None:
    async with LocalKafka(brokers=3) as kafka:
        await make_topic(kafka.bootstrap, "safe", replicas=3)
        await make_topic(kafka.bootstrap, "alone", partitions=3)
        while (await health(kafka)).topics != {"safe": TopicHealth(0, 0), "alone": TopicHealth(0, 0)}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # not every broker knows a new topic yet
        await produce(kafka.bootstrap, "safe", [b"before"])
        leader = await leader_of(kafka, "safe")
        await kafka.kill_broker(leader)
        assert kafka.processes[leader] is None
        await produce(kafka.bootstrap, "safe", [b"one is dead"])
        while not (found := await health(kafka)).away:  # noqa: ASYNC110 - the brokers are asked
            await asyncio.sleep(0.1)
        assert (found.brokers, found.away) == (2, frozenset({kafka.addresses[leader].node_id}))
        while (await health(kafka)).topics != {"safe": TopicHealth(1, 0), "alone": TopicHealth(1, 1)}:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        await kafka.start_broker(leader)
        await kafka.in_sync()
        leader = await leader_of(kafka, "safe")
        others = ",".join(address.bootstrap for address in kafka.addresses if address != kafka.addresses[leader])
        await kafka.kill_broker(leader, signal.SIGSTOP)
        await produce(others, "safe", [b"one is stopped"])
        await kafka.kill_broker(leader, signal.SIGCONT)
        assert await everything(others, "safe", 3) == [b"before", b"one is dead", b"one is stopped"]


def test_three_local_brokers_are_set_as_those_in_production_must_be() -> None:
    text = (Path(__file__).parents[2] / "deploy" / "kafka" / "broker.properties").read_text(encoding="ascii")
    wanted = dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))
    nodes = [BrokerAddress(number, 2 * number, 2 * number + 1) for number in (1, 2, 3)]
    rights = dict(line.split("=", 1) for line in SCRAM_WITH_RULES.splitlines() if "=" in line)  # see tests/e2e/test_access.py
    have = rights | server_settings(nodes[0], nodes)
    assert {name: have.get(name) for name in wanted} == wanted
