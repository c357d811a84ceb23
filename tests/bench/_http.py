"""The processor time of an HTTP server for many requests, and bare aiohttp servers to compare
with.
"""

import asyncio
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import psutil

CONNECTIONS = 64


@asynccontextmanager
async def bare(module: str = "_barehttp", *arguments: str) -> AsyncIterator[tuple[int, psutil.Process]]:
    """Run a bare server, a module beside this one, while the block runs; gives its port and
    process.
    """
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", f"tests.bench.{module}", *arguments, stdout=PIPE)
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
    """Return the processor time of a process, all its threads together: in nanoseconds where there
    is a clock of it.
    """
    try:
        return time.clock_gettime(~process.pid << 3 | 2)  # what clock_getcpuclockid(3) would return, of Linux
    except (AttributeError, OSError):
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
