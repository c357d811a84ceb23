"""A broker that answers everything but fetches: a proxy in front of the real one that can keep
fetch requests to itself.

Clients are led to it because it puts its own port for the broker's into what names brokers
(metadata, coordinators).
"""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from liveroom.ports import HOST
from liveroom.tasks import end_tasks

FETCH: Final = 1


class Proxy:
    """`hangs`: fetches get no answer; all else does."""

    def __init__(self, broker_port: int) -> None:
        self.hangs = False
        self.held = 0
        self.port = 0
        self._broker_port = broker_port
        self._tasks: set[asyncio.Task[None]] = set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            to_reader, to_writer = await asyncio.open_connection(HOST, self._broker_port)
            back = asyncio.create_task(self._answers(to_reader, writer))
            back.add_done_callback(lambda _: writer.close())
            try:
                while True:
                    request = await _frame(reader)
                    (api,) = struct.unpack_from(">h", request, 4)
                    if api == FETCH and self.hangs:
                        self.held += 1
                        continue
                    to_writer.write(request)
            finally:
                await end_tasks(back)
                to_writer.close()
        writer.close()
        self._tasks.discard(task)

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        named = struct.pack(">h", len(HOST)) + HOST.encode()
        broker, ours = named + struct.pack(">i", self._broker_port), named + struct.pack(">i", self.port)
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                writer.write((await _frame(reader)).replace(broker, ours))

    async def close(self) -> None:
        await end_tasks(*self._tasks)


@asynccontextmanager
async def kafka_proxy(bootstrap: str) -> AsyncIterator[Proxy]:
    """Run one in front of the broker while the block runs."""
    proxy = Proxy(int(bootstrap.rpartition(":")[2]))
    server = await asyncio.start_server(proxy.take, HOST, 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(int.from_bytes(head, "big"))
