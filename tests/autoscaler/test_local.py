"""Gateways as real processes of this machine, without a Kafka to talk to."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from autoscaler.drivers import local
from autoscaler.drivers.local import LocalDriver, Share
from liveroom.ports import HOST, free_ports

ENVIRONMENT = {"LIVEROOM_TICKET_KEYS": json.dumps({"k1": "a" * 32}), "LIVEROOM_KAFKA__BOOTSTRAP": "127.0.0.1:1"}


@asynccontextmanager
async def driving(folder: Path, share: Share | None = None) -> AsyncIterator[LocalDriver]:
    """Have a driver at work while the block runs; its gateways stay."""
    driver = LocalDriver(folder, ENVIRONMENT, None, share)
    assert await driver.take()
    watching = asyncio.create_task(driver.watch())
    try:
        yield driver
    finally:
        watching.cancel()
        driver.release()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Give a folder; what runs of it at the end is killed."""
    folder = tmp_path / "pool"
    folder.mkdir()
    yield folder
    for known in local._read(folder).values():
        if (process := known.find()) is not None:
            process.kill()


async def pids(driver: LocalDriver) -> dict[str, int]:
    """The running gateways of a driver."""
    found = {name: await asyncio.to_thread(known.find) for name, known in driver._processes.items()}
    return {name: process.pid for name, process in found.items() if process is not None}


async def until(holds: Callable[[], bool], timeout_s: float = 15) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():  # noqa: ASYNC110 - processes are looked at
            await asyncio.sleep(0.05)


async def test_gateways_outlive_their_driver_and_the_next_one_finds_them(folder: Path) -> None:
    async with driving(folder) as driver:
        await driver.grow(2, "a test")
        assert driver.running() == ["pool-1", "pool-2"]
        before = await pids(driver)
        assert sorted(before) == ["pool-1", "pool-2"]
    await asyncio.sleep(0.5)
    async with driving(folder) as driver:
        assert await pids(driver) == before
        assert driver.running() == ["pool-1", "pool-2"]
        await driver.grow(1, "a test")
        assert "pool-3" in driver.running()
        assert await driver.leave("pool-1", "a test")
        assert (driver.running(), driver.leaving()) == (["pool-2", "pool-3"], ["pool-1"])
    async with driving(folder) as driver:
        assert driver.leaving() == ["pool-1"], "that it is being emptied is remembered too"
        await driver.end("pool-1", "a test")
        await until(lambda: driver.leaving() == [])
        assert sorted(await pids(driver)) == ["pool-2", "pool-3"]
        await driver.grow(1, "a test")
        assert "pool-1" in driver.running(), "names are used again"


async def test_two_drivers_never_work_on_one_folder(folder: Path) -> None:
    async with driving(folder):
        assert not await LocalDriver(folder, ENVIRONMENT).take()
    other = LocalDriver(folder, ENVIRONMENT)
    assert await other.take()
    other.release()


async def test_a_crashed_gateway_comes_back_later_each_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "FIRST_PAUSE_S", 0.2)
    async with driving(folder) as driver:
        await driver.grow(1, "a test")
        pauses = []
        for _ in range(3):
            gone = {0, (await pids(driver))["pool-1"]}
            os.kill(max(gone), signal.SIGKILL)
            began_s = asyncio.get_running_loop().time()
            await until(lambda gone=gone: driver._processes["pool-1"].pid not in gone)  # type: ignore[misc]
            pauses.append(asyncio.get_running_loop().time() - began_s)
        assert driver.running() == ["pool-1"]
        assert pauses[2] > 0.8, "0.2, 0.4, 0.8 s"


async def test_a_crashed_gateway_comes_back_though_the_clock_was_set_back_meanwhile(folder: Path) -> None:
    """The time of its next start is on disk, by a clock that was ahead."""
    port, internal_port = free_ports(2)
    known = {"name": "pool-1", "port": port, "internal_port": internal_port, "crashes": 1, "again_s": 4e9}
    (folder / "pool-1.json").write_text(json.dumps(known))
    async with driving(folder) as driver:
        await until(lambda: driver._processes["pool-1"].pid != 0)


async def test_one_that_was_leaving_is_not_started_again(folder: Path) -> None:
    async with driving(folder) as driver:
        await driver.grow(1, "a test")
        assert await driver.leave("pool-1", "a test")
        os.kill((await pids(driver))["pool-1"], signal.SIGKILL)
        await until(lambda: driver.leaving() == [])
        assert await pids(driver) == {}
    async with driving(folder) as driver:
        assert driver.leaving() == []


async def test_a_taken_port_is_not_waited_for(folder: Path) -> None:
    port, internal_port = free_ports(2)
    (folder / "pool-1.json").write_text(json.dumps({"name": "pool-1", "port": port, "internal_port": internal_port}))
    with socket.socket() as taken:
        taken.bind((HOST, port))
        taken.listen()
        async with driving(folder) as driver:
            await until(lambda: driver._processes["pool-1"].pid != 0)
            assert driver._processes["pool-1"].port != port


async def test_files_that_are_no_gateways_are_passed_over(folder: Path) -> None:
    (folder / "pool-1.json").write_text("{")
    (folder / "pool-2.json").write_text('{"name": 5}')
    async with driving(folder) as driver:
        assert driver.running() == []
        await driver.grow(1, "a test")
        assert "pool-1" in driver.running()


async def test_another_process_with_the_number_of_a_gateway_is_left_alone(folder: Path) -> None:
    ports = dict(zip(("port", "internal_port"), free_ports(2), strict=True))
    told = {"name": "pool-1", "pid": os.getpid(), "started_s": 1.0, "is_leaving": True, **ports}
    (folder / "pool-1.json").write_text(json.dumps(told))
    async with driving(folder) as driver:
        await driver.end("pool-1", "a test")
        await until(lambda: driver.leaving() == [])


@pytest.mark.skipif(not hasattr(psutil.Process, "rlimit"), reason="limits of other processes: Linux alone")
async def test_a_gateway_gets_its_share_of_the_machine(folder: Path) -> None:
    nice = os.nice(0) + 2  # only root may ask for more of the processor than it was given itself
    async with driving(folder, Share(nice=nice, memory_bytes=2 * 1024**3, files=777)) as driver:
        await driver.grow(1, "a test")
        process = psutil.Process((await pids(driver))["pool-1"])
        assert process.nice() == nice
        assert process.rlimit(psutil.RLIMIT_AS)[0] == 2 * 1024**3
        assert process.rlimit(psutil.RLIMIT_NOFILE) == (777, 777)
