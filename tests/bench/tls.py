"""What TLS costs a gateway: a push against the plain one and against the least that OpenSSL costs,
memory, handshakes, and what a storm of handshakes does to those who are inside.

Ratios are measured in alternating rounds in one process, in CPU time (of the kernel's part too).
Viewers are processes of their own. Where there is no C compiler, or OpenSSL cannot be reached, the
figure against C is left out with a line that says so.
"""

import _ssl
import asyncio
import contextlib
import ctypes
import gc
import selectors
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import trustme

from edge import certificates
from edge.member import Member
from edge.tls_server import TlsServer
from liveroom import web
from liveroom.records.broadcast import Batch
from liveroom.service import Runtime
from liveroom.settings import EdgeSettings
from liveroom.topics import room_hash
from tests.bench import edge as plain
from tests.bench.edge import MESSAGES, SMALL_BYTES, Way, batch_of, compared, decoded, line, timed
from tests.bench.figure import Figure, rounds
from tests.tickets import OLD, PUBLIC_KEYS

MEMBERS = 1000
IDLE = 2000
HANDSHAKES = 200
STORM = 1000
INSIDE = 20
PUSH_EVERY_S = 0.01
CALM_S = 2.0
ROOM = "bench-tls"
SSL_OFFSET = 24  # of the `SSL *` in CPython's `_ssl._SSLSocket`: behind the object's head and the socket
C_SOURCE = """
typedef int (*writes)(void *, const void *, int);
int fan_out(writes write, void **connections, int count, const char *frame, int size) {
    int sent = 0;
    for (int i = 0; i < count; i++) if (write(connections[i], frame, size) == size) sent++;
    return sent;
}
"""


# ---- the gateway's two ports
class Rig:
    """A gateway with a plain port and one with TLS, in this process."""

    def __init__(self, here: plain.Rig, port: int) -> None:
        self.here = here
        self.port = port
        self.hub = here.gateway.hub

    @asynccontextmanager
    async def viewers(self, count: int) -> AsyncIterator[None]:
        """So many viewers over TLS while the block runs."""
        async with process("sink", "https:127.0.0.1", str(self.port), str(count), OLD.id, ROOM):
            while len(self.joined()) < count:  # noqa: ASYNC110 - the gateway has no such event
                await asyncio.sleep(0.05)
            yield
        while self.joined():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)

    def joined(self) -> list[Member]:
        room = self.hub.rooms.get(room_hash(ROOM))
        return list(room.members) if room is not None else []  # type: ignore[arg-type]

    def deliver(self, batch: Batch) -> None:
        for _ in self.hub.deliver(batch, 0, 1, time.monotonic()):
            pass
        assert not self.here.gateway.queues


@asynccontextmanager
async def process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a client, a module beside this one, while the block runs: from when it is ready."""
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"tests.bench.{module}", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdin is not None
    assert client.stdout is not None
    try:
        if await client.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{module} failed")
        yield client
    finally:
        client.stdin.close()
        await client.wait()


def context(kind: str) -> ssl.SSLContext:
    """Return a gateway's context with a certificate whose key is `p256` or `rsa` (2048 bits)."""
    with tempfile.TemporaryDirectory() as folder:
        cert, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        if kind == "p256":
            made = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert("127.0.0.1", key_type=trustme.KeyType.ECDSA)
        else:
            made = trustme.CA(key_type=trustme.KeyType.RSA).issue_cert("127.0.0.1", key_type=trustme.KeyType.RSA)
        made.private_key_pem.write_to_path(key)
        cert.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
        read = certificates.load(EdgeSettings(ticket_public_keys=PUBLIC_KEYS, tls_cert_file=cert, tls_key_file=key))
    assert read is not None
    return read.context


@asynccontextmanager
async def listening(tls: TlsServer, protocol: Callable[[], asyncio.Protocol]) -> AsyncIterator[int]:
    """Accept TLS connections while the block runs; gives the port."""
    sockets = await web._listen("127.0.0.1", 0, loopback=False)
    await tls.start(protocol, sockets)
    try:
        yield sockets[0].getsockname()[1]
    finally:
        tls.stop()


@asynccontextmanager
async def serving() -> AsyncIterator[Rig]:
    async with plain.serving() as here:
        tls = TlsServer(context("p256"), Runtime("edge").metrics, 5)
        assert here.runner.server is not None
        async with listening(tls, partial(here.connections.accept, here.runner.server)) as port:
            yield Rig(here, port)


# ---- pushes
def connections_of(members: Sequence[Member]) -> tuple[Any, Any] | None:
    """Return OpenSSL's `SSL_write` and its connection of each member; None where they cannot be
    reached.
    """
    try:
        library = ctypes.CDLL(_ssl.__file__)
        write, descriptor = library.SSL_write, library.SSL_get_fd
    except (AttributeError, OSError, TypeError):
        return None
    descriptor.argtypes = [ctypes.c_void_p]
    found = []
    for member in members:
        assert member.transport is not None
        inner = member.transport.get_extra_info("ssl_object")._sslobj
        found.append(ctypes.c_void_p.from_address(id(inner) + SSL_OFFSET).value)
    if descriptor(found[0]) != members[0].fd:
        return None
    return ctypes.cast(write, ctypes.c_void_p), (ctypes.c_void_p * len(found))(*found)


async def pushes(rig: Rig) -> AsyncIterator[Figure]:
    """One batch to 1,000 members over TLS, against the same to as many plain ones and against loops
    over the same connections.
    """
    text = b'{"seq":1,"kind":"danmaku","id":"0123456789abcdef","user":"u","at":1,"data":{"text":"'
    sizes = {
        "": [text + b"x" * (SMALL_BYTES - len(text) - 60) + b'"}}'],
        "_2kb": [line(seq) for seq in range(1, MESSAGES + 1)],
    }
    members = rig.joined()
    socks = [member.transport.get_extra_info("ssl_object") for member in members if member.transport is not None]
    fan_out = plain.compiled(C_SOURCE)
    reached = connections_of(members) if fan_out is not None else None
    for suffix, lines in sizes.items():
        batch, plain_batch = decoded(batch_of(lines, ROOM)), decoded(batch_of(lines))
        rig.deliver(batch)
        frame = rig.hub.rooms[room_hash(ROOM)].ring[-1].make(1)

        def way(work: Callable[[], object]) -> Way:
            async def once() -> float:
                return timed(work, MEMBERS)

            return once

        def send(frame: bytes = frame) -> None:
            for one in socks:
                one.send(frame)

        def in_c(frame: bytes = frame) -> None:
            assert fan_out is not None
            assert reached is not None
            assert fan_out(*reached, MEMBERS, frame, len(frame)) == MEMBERS

        others = {
            "tls.push_vs_plain": way(lambda plain_batch=plain_batch: rig.here.deliver(plain_batch)),  # type: ignore[misc]
            "tls.push_vs_send": way(send),
        }
        if reached is not None:
            others["tls.push_vs_c"] = way(in_c)
        results = await compared(way(lambda batch=batch: rig.deliver(batch)), *others.values())  # type: ignore[misc]
        for name, (ratio, spread) in zip(others, results, strict=True):
            yield Figure(name + suffix, ratio, "times", f"{len(frame)} bytes to {MEMBERS} members; {spread}")
    if reached is None:
        print("# tls.push_vs_c: left out, there is no C compiler here or OpenSSL is not to be reached", flush=True)


# ---- handshakes
class Byte(asyncio.Protocol):
    """Sends a byte, so that the client gets its ticket, and waits for the end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.write(b"x")  # type: ignore[attr-defined]


def bare(listening_: socket.socket, used: ssl.SSLContext, count: int) -> None:
    """Accept so many connections and shake hands in a bare loop; send a byte, wait for the end, and
    end as TLS has it.
    """
    selector = selectors.DefaultSelector()
    selector.register(listening_, selectors.EVENT_READ)
    ended = 0
    while ended < count:
        for key, _ in selector.select():
            if key.fileobj is listening_:
                raw, _ = listening_.accept()
                raw.setblocking(False)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock = used.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
                selector.register(sock, selectors.EVENT_READ, True)
                continue
            sock = key.fileobj  # type: ignore[assignment]
            with contextlib.suppress(ssl.SSLWantReadError):
                if key.data:
                    sock.do_handshake()
                    sock.send(b"x")
                    selector.modify(sock, selectors.EVENT_READ, False)
                elif not sock.recv(100):
                    selector.unregister(sock)
                    with contextlib.suppress(OSError):
                        sock.unwrap()
                        socket.socket.shutdown(sock, socket.SHUT_WR)
                    sock.close()
                    ended += 1
    selector.close()


async def handshakes(kind: str) -> AsyncIterator[Figure]:
    """Handshakes by the gateway's accept loop, against a bare loop and against resumed ones."""
    used = context(kind)
    tls = TlsServer(used, Runtime("edge").metrics, 5)
    beside = socket.create_server(("127.0.0.1", 0))
    async with listening(tls, Byte) as port:

        def way(how: str) -> Way:
            async def once() -> float:
                began = time.process_time()
                async with process("_handshakes", str(port), str(HANDSHAKES), how):
                    return (time.process_time() - began) / HANDSHAKES

            return once

        def by_bare_loop(how: str) -> Way:
            async def once() -> float:
                began = time.process_time()
                working = asyncio.create_task(asyncio.to_thread(bare, beside, used, HANDSHAKES))
                async with process("_handshakes", str(beside.getsockname()[1]), str(HANDSHAKES), how):
                    await working
                    return (time.process_time() - began) / HANDSHAKES

            return once

        [(ratio, spread)] = await compared(way("full"), by_bare_loop("full"))
        yield Figure(f"tls.handshake_vs_bare_{kind}", ratio, "times", f"{HANDSHAKES} full handshakes; {spread}")
        [(ratio, spread)] = await compared(way("resumed"), way("full"))
        [(least, _)] = await compared(by_bare_loop("resumed"), by_bare_loop("full"))
        about = f"{HANDSHAKES} handshakes; {spread}; {least:.3f} in the bare loop"
        yield Figure(f"tls.resumed_vs_full_{kind}", ratio, "times", about)
    beside.close()


async def storm(rig: Rig) -> AsyncIterator[Figure]:
    """A thousand handshakes at once, and how late batches come to those inside meanwhile."""
    stormy: list[float] = []
    calm: list[float] = []
    took: list[float] = []
    for _ in range(rounds(3)):
        async with process("_inside", str(rig.port), OLD.id, str(INSIDE), ROOM) as inside:
            while len(rig.joined()) < INSIDE:  # noqa: ASYNC110 - the gateway has no such event
                await asyncio.sleep(0.05)
            pushing = asyncio.create_task(push_on(rig))
            await asyncio.sleep(CALM_S)
            before = time.monotonic()
            async with process("_handshakes", str(rig.port), str(STORM), "storm"):
                took.append(time.monotonic() - before)
            pushing.cancel()
            assert inside.stdin is not None
            assert inside.stdout is not None
            inside.stdin.close()
            delays = [float(text) for text in (await inside.stdout.read()).split()]
            of_calm = int(CALM_S / (CALM_S + took[-1]) * len(delays))
            calm += delays[:of_calm]
            stormy += delays[of_calm:]
        while rig.joined():  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    about = f"99% of pushes to {INSIDE} viewers; in a calm {percentile(calm):.1f} ms; not a ratio: of this machine alone"
    yield Figure("tls.storm_delay_ms", percentile(stormy), "ms", f"{STORM} handshakes at once in {max(took):.1f} s; {about}")


def percentile(delays: Sequence[float]) -> float:
    """Return the 99th of a hundred."""
    return statistics.quantiles(delays, n=100)[-1]


async def push_on(rig: Rig) -> None:
    """Deliver the time for ever."""
    number = 0
    while True:
        number += 1
        text = b'{"seq":%d,"kind":"danmaku","id":"i","user":"u","at":1,"data":{"text":"%d"}}' % (number, time.monotonic_ns())
        rig.deliver(decoded(batch_of([text], ROOM, number)))
        await asyncio.sleep(PUSH_EVERY_S)


async def measure() -> AsyncIterator[Figure]:
    """Measure all."""
    async with serving() as rig:
        async with rig.viewers(100):
            pass  # what is made once
        gc.collect()
        before = psutil.Process().memory_info().rss
        async with rig.viewers(IDLE):
            gc.collect()
            kib = (psutil.Process().memory_info().rss - before) / IDLE / 1024
            yield Figure("tls.kib_per_viewer", kib, "KiB", f"resident memory for each of {IDLE} joined viewers")
        async with rig.here.viewers(MEMBERS), rig.viewers(MEMBERS):
            async for figure in pushes(rig):
                yield figure
        async for figure in storm(rig):
            yield figure
    for kind in ("p256", "rsa"):
        async for figure in handshakes(kind):
            yield figure
