"""The processor time of an HTTP server for many requests, and a bare aiohttp server to compare with."""

import asyncio
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

CONNECTIONS = 64


@asynccontextmanager
async def bare() -> AsyncIterator[tuple[int, psutil.Process]]:
    """Run the bare server while the block runs; gives its port and process."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.bench._barehttp", stdout=PIPE)
    try:
        assert process.stdout is not None
        yield int(await process.stdout.readline()), psutil.Process(process.pid)
    finally:
        process.kill()
        await process.wait()


async def cpu_s(process: psutil.Process, port: int, requests: Sequence[bytes], connections: int = CONNECTIONS) -> float:
    """Send all requests over some connections, and return the server's processor time for them."""
    waiting = iter(requests)
    before = used_s(process)
    await asyncio.gather(*(_send(port, waiting) for _ in range(connections)))
    return used_s(process) - before


def used_s(process: psutil.Process) -> float:
    """Return the processor time of a process' threads: in nanoseconds where the kernel tells, else in its ticks of 10 ms."""
    try:
        threads = Path(f"/proc/{process.pid}/task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        times = process.cpu_times()
        return times.user + times.system


async def _send(port: int, waiting: Iterator[bytes]) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for request in waiting:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            status = int(head[9:12])
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            body = await reader.readexactly(length)
            if status not in {200, 202} or b'"code"' in body:
                raise RuntimeError(f"{status}: {body[:200]!r}")
    finally:
        writer.close()
