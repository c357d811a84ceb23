"""Fixtures all tests share: one real Kafka a session, fresh topics a test."""

import asyncio
import gc
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from hypothesis import HealthCheck, settings

from devstack.kafka_jars import JarError, ensure_jars
from devstack.local_kafka import kafka_cluster
from liveroom.settings import KafkaSettings
from tests.rates import UNLIMITED
from tests.up import MINE, Up, running_up

PARTITIONS = 4
# No time limit for an example: a busy machine is no defect. Examples are kept nowhere.
settings.register_profile("liveroom", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("liveroom")
for name, value in UNLIMITED.items():
    os.environ.setdefault(f"LIVEROOM_{name}", value)  # services take it from here
SCANNED = [
    "autoscaler",
    "broadcaster",
    "edge",
    "ingress",
    "liveroom",
    "scheduler",
    "viewer",
]  # the command line may wait for a small file


SYSTEM = {"kafka_bootstrap", "kafka_settings"}  # who asks for one of these needs the real Kafka
RUNNING = {"attacks", "browser", "dashboards", "e2e", "faults"}
ALONE = {
    "test_kafka.py",
    "test_local_kafka.py",
    "test_openapi.py",
    "test_broadcast_log.py",
}  # with a Kafka, and of all services one at most


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tell tests of the running system from the others: `make check` runs both at once."""
    for item in items:
        if item.path.name in ALONE:
            continue
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in RUNNING or SYSTEM & set(getattr(item, "fixturenames", ())) or item.get_closest_marker("kafka"):
            item.add_marker("system")
        if folder == "browser":
            item.add_marker("page")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Have Kafka's jars there before the time of any test begins: pytest-timeout counts fixtures, a
    session's too.
    """
    needed = any(item.get_closest_marker("system") or item.path.name in ALONE for item in session.items)
    if needed and not session.config.option.collectonly and not os.environ.get("KAFKA_BOOTSTRAP"):
        with told_at_once(session.config, JarError):
            ensure_jars()


@contextmanager
def told_at_once(config: pytest.Config, failure: type[Exception]) -> Iterator[None]:
    """Prepare something for tests: its progress is seen, and a failure ends the session with its
    one line.
    """
    capturing = config.pluginmanager.getplugin("capturemanager")
    try:
        with capturing.global_and_fixture_disabled() if capturing is not None else nullcontext():
            yield
    except failure as error:
        pytest.exit(str(error), returncode=1)


@pytest.fixture(autouse=True)
def blocking_calls_fail() -> Iterator[BlockBuster]:
    """Fail a test in which our code blocks the event loop: by a sleep, a socket, a file, a lock."""
    with blockbuster_ctx(SCANNED, excluded_modules=["cli", "devstack"]) as blockbuster:
        yield blockbuster


@pytest.fixture
def grpc_channels(blocking_calls_fail: BlockBuster) -> Iterator[None]:
    """Let gRPC's channels take their lock when they are let go of, wherever the collector happens
    to run.
    """
    for name, function in blocking_calls_fail.functions.items():
        if "acquire" in name:
            function.deactivate()
    yield
    gc.collect()


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    """Address of a real broker, started once; `KAFKA_BOOTSTRAP` names another cluster instead."""
    loop = asyncio.new_event_loop()
    started: asyncio.Future[str] = loop.create_future()
    ended = asyncio.Event()

    async def serve() -> None:
        try:
            async with kafka_cluster() as bootstrap:
                started.set_result(bootstrap)
                await ended.wait()
        except BaseException as error:
            if not started.done():
                started.set_exception(error)
            raise

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), name="kafka")
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(_result(started), loop).result(120)
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(30)
        loop.close()


async def _result(future: "asyncio.Future[str]") -> str:
    return await future


@pytest.fixture(scope="session")
def up(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Return a `liveroom up` that runs, started once; a test takes rooms of its own."""
    with running_up(kafka_bootstrap, tmp_path_factory.mktemp("up"), ["--origin", MINE]) as running:
        yield running


@pytest.fixture
def kafka_settings(kafka_bootstrap: str) -> KafkaSettings:
    """Settings with topics of this test's own."""
    return KafkaSettings(bootstrap=kafka_bootstrap, prefix=f"t{secrets.token_hex(4)}.", partitions=PARTITIONS)
