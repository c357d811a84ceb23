"""The gateway with TLS, on uvloop and on asyncio's own loop: what TLS adds to what the other tests
of this folder try plain and over TLS.
"""

import _ssl
import asyncio
import contextlib
import ctypes
import gc
import hmac
import json
import resource
import socket
import ssl
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from structlog.testing import capture_logs
from websockets.asyncio.client import connect

from edge import tls_guard, tls_server, tls_transport
from edge.certificates import load
from edge.tls_guard import FloodError
from edge.tls_server import Outcome, TlsServer
from edge.tls_transport import TlsTransport
from liveroom import clock, metric_catalog
from liveroom.closecodes import Close
from liveroom.connection_table import END_AT_ONCE
from liveroom.proxy_protocol import SIGNATURE
from liveroom.service import Runtime
from liveroom.settings import HttpSettings
from tests.bench.tls import SSL_OFFSET
from tests.edge.conftest import Secured
from tests.edge.harness import Edge, ask, close_code, line, next_frame, received, running, secured_by, settings_of

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)
    chosen: Run = request.param
    return chosen


def gateway(certificate: Secured, **changes: Any) -> Any:
    return running(settings_of(**certificate.settings, **changes), certificate.trusting)


async def gone(edge: Edge) -> None:
    async with asyncio.timeout(5):
        while edge.gateway.members:  # noqa: ASYNC110 - the edge has no such event
            await asyncio.sleep(0.01)


# ---- members
def test_batches_and_the_close_code_arrive(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with gateway(certificate) as edge, edge.connect() as watching:
            assert (await next_frame(watching))["t"] == "hello"
            assert (await ask(watching, t="join", room="r"))["t"] == "joined"
            (member,) = edge.gateway.members
            assert not member.blocked  # it writes past the transport
            for seq in range(1, 200):
                await edge.deliver("r", [line(seq, "x" * 1000)], seq)
                assert (await next_frame(watching))["seq"] == [seq, seq]
            assert (edge.gateway.queues.size, len(edge.gateway.queues)) == (0, 0)
            await watching.send("no frame")
            assert await close_code(watching) == Close.BAD_FRAME
            await gone(edge)

    run(scenario())


def test_a_viewer_that_does_not_read_is_ended(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with gateway(certificate, slow_unsent_bytes=32_768, max_unsent_bytes=131_072) as edge:
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", edge.port))
            url = edge.url(edge.ticket())
            slow = await connect(url, ssl=edge.trusting, sock=raw, server_hostname="127.0.0.1", max_queue=1, compression=None)
            async with edge.connect() as watching:
                for viewer in (slow, watching):
                    assert (await next_frame(viewer))["t"] == "hello"
                    assert (await ask(viewer, t="join", room="r"))["t"] == "joined"
                slow.transport.pause_reading()
                seq = 0
                async with asyncio.timeout(20):
                    while len(edge.gateway.members) > 1:
                        seq += 1
                        await edge.deliver("r", [line(seq, f"{seq}" * 500)], seq, reliable=True)
                        assert (await next_frame(watching))["seq"] == [seq, seq]
                assert edge.gateway.queues.size == 0
            slow.transport.abort()
            await gone(edge)

    run(scenario())


# ---- one transport, between a protocol and a client
class Recording(asyncio.Protocol):
    """A protocol that keeps what it is given."""

    transport: TlsTransport

    def __init__(self) -> None:
        self.data = b""
        self.paused: list[bool] = []
        self.has_eof = False
        self.stays_open = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.transport = transport

    def fail(self, transport: TlsTransport) -> None:
        self.transport = transport
        raise ZeroDivisionError

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.has_eof = True
        return self.stays_open

    def pause_writing(self) -> None:
        self.paused.append(True)

    def resume_writing(self) -> None:
        self.paused.append(False)

    def connection_lost(self, _: Exception | None) -> None:
        self.lost.set()

    async def has(self, size: int) -> None:
        async with asyncio.timeout(30):
            while len(self.data) < size:  # noqa: ASYNC110 - the tests' protocol needs no such event
                await asyncio.sleep(0.005)


class Listening:
    """A TLS server whose protocols record. `made`: those of the handshakes that are done."""

    def __init__(self, tls: TlsServer, runtime: Runtime, port: int, made: list[Recording], trusting: ssl.SSLContext) -> None:
        self.tls = tls
        self.port = port
        self.made = made
        self.trusting = trusting
        self._runtime = runtime

    def count(self, outcome: Outcome) -> float:
        return float(self._runtime.metrics.counter(metric_catalog.TLS_HANDSHAKES, outcome.value)._value.get())

    def floods(self) -> float:
        return float(self._runtime.metrics.counter(metric_catalog.TLS_FLOODS)._value.get())

    async def raw(self, *, receive_bytes: int = 0, address: str = "") -> socket.socket:
        """Return a connection that has sent nothing."""
        raw = socket.socket()
        if address:
            raw.bind((address, 0))
        if receive_bytes:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", self.port))
        return raw

    async def client(self, *, receive_bytes: int = 0) -> tuple[ssl.SSLSocket, Recording]:
        """Return a client whose handshake is done, and the protocol at the other end."""
        before = len(self.made)
        client = await secured_by(self.trusting, await self.raw(receive_bytes=receive_bytes))
        await until(lambda: len(self.made) > before)
        return client, self.made[-1]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what the tests wait for has no such event
            await asyncio.sleep(0.005)


@asynccontextmanager
async def listening(
    certificate: Secured,
    timeout_s: float = 5,
    max_pending: int = tls_server.MAX_PENDING,
    max_by_address: int = tls_server.MAX_PENDING_BY_ADDRESS,
) -> AsyncIterator[Listening]:
    runtime = Runtime("edge")
    read = await asyncio.to_thread(load, settings_of(**certificate.settings))
    assert read is not None
    assert certificate.trusting is not None
    tls = TlsServer(read.context, runtime.metrics, timeout_s, max_pending=max_pending, max_by_address=max_by_address)
    made: list[Recording] = []

    def protocol() -> Recording:
        made.append(Recording())
        return made[-1]

    one = socket.create_server(("127.0.0.1", 0), backlog=1024)
    port = int(one.getsockname()[1])
    await tls.start(protocol, [one])
    try:
        yield Listening(tls, runtime, port, made, certificate.trusting)
    finally:
        tls.stop()
        for protocol_ in made:
            protocol_.transport.abort()
        await asyncio.sleep(0)


def test_what_came_with_the_end_of_the_handshake_is_read(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            incoming, outgoing = Heard(), ssl.MemoryBIO()
            client = here.trusting.wrap_bio(incoming.bio, outgoing, server_hostname="127.0.0.1")
            raw = await here.raw()
            await shake_hands(client, incoming, outgoing, raw)
            client.write(b"x" * 40_000)
            raw.send(outgoing.read())  # the client's Finished, and what is behind it
            await until(lambda: bool(here.made))
            await here.made[0].has(40_000)
            raw.close()

    run(scenario())


def test_what_openssl_holds_while_reading_pauses_is_read_on_resumption(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            protocol.transport.pause_reading()
            client.send(b"x" * 10_000)
            await asyncio.sleep(0.05)
            assert protocol.data == b""
            # OpenSSL decrypts a whole record, of which this takes a part: the descriptor is silent
            part = protocol.transport.get_extra_info("ssl_object").read(100)
            protocol.transport.resume_reading()
            await protocol.has(10_000 - len(part))
            client.close()

    run(scenario())


def test_a_turn_that_stops_early_goes_on_by_itself(run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            client.send(b"x" * 16_000)
            await protocol.has(16_000)
            client.close()

    monkeypatch.setattr(tls_transport, "RECORD_BYTES", 1000)  # a record takes four turns
    run(scenario())


def test_bytes_that_do_not_go_at_once_stay_first_and_count_until_they_are_sent(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client(receive_bytes=4096)
            transport = protocol.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            transport.set_write_buffer_limits(0)
            sent, number = b"", 0
            while not transport.get_write_buffer_size():
                number += 1
                frame = f"{number:06}".encode() * 500
                taken = transport.write_now(0, frame)
                sent += frame
                if taken < len(frame):
                    transport.write(frame[taken:])
            assert 0 < transport.get_write_buffer_size() <= len(frame)
            assert protocol.paused == [True]
            transport.write(b"behind it")
            assert transport.get_write_buffer_size() > len("behind it")
            sent += b"behind it"
            got = b""
            while len(got) < len(sent):
                got += await received(client, 65_536)
            assert got == sent
            await until(lambda: protocol.paused == [True, False])
            assert transport.get_write_buffer_size() == 0
            client.close()

    run(scenario())


@pytest.mark.parametrize("size", [16_384, 16_385, 200_000, 1_000_001])
def test_a_large_frame_goes_record_by_record(run: Run, certificate: Secured, size: int) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client(receive_bytes=65_536)
            protocol.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65_536)
            frame = bytes(range(256)) * (size // 256) + b"!" * (size % 256)
            taken = protocol.transport.write_now(0, frame)
            assert taken == size or (taken > 0 and taken % 16_384 == 0), "a slow viewer's progress is seen"
            if taken < size:
                protocol.transport.write(frame[taken:])
            end = bytearray(b"end")
            protocol.transport.write(end)
            end[:] = b"???"  # its owner may use it again
            got = b""
            while len(got) < size + 3:
                got += await received(client, 65_536)
            assert got == frame + b"end"
            client.close()

    run(scenario())


def test_keys_change_while_a_write_waits(run: Run, certificate: Secured) -> None:
    """The answer to a KeyUpdate must not come between the parts of a record."""

    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client(receive_bytes=4096)
            transport = protocol.transport
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            frames = [b"%05d" % number * 200 for number in range(1000)]
            for frame in frames:
                transport.write(frame)
            assert transport.get_write_buffer_size() > 100_000
            ask_for_new_keys(client)
            client.send(b"x" * 1000)
            await protocol.has(1000)
            assert transport.get_write_buffer_size() > 100_000
            got = b""
            while len(got) < 1_000_000:
                got += await received(client, 65_536)
            assert got == b"".join(frames)
            for turn in range(2, 5):
                ask_for_new_keys(client)
                client.send(b"x" * 1000)
                await protocol.has(1000 * turn)
                assert transport.write_now(0, b"behind") == 6
                assert await received(client, 100) == b"behind"
            client.close()

    run(scenario())


def ask_for_new_keys(client: ssl.SSLSocket) -> None:
    """Send a KeyUpdate that asks for one (RFC 8446, 4.6.3), for which Python has no function."""
    inner = client._sslobj  # type: ignore[attr-defined]
    connection = ctypes.c_void_p.from_address(id(inner) + SSL_OFFSET)
    library = ctypes.CDLL(_ssl.__file__)
    assert library.SSL_get_fd(connection) == client.fileno()
    assert library.SSL_key_update(connection, 1) == 1
    client.do_handshake()


# ---- floods
def changes_of_keys(client: ssl.SSLObject, outgoing: ssl.MemoryBIO, count: int) -> bytes:
    """Return so many KeyUpdates that ask for none."""
    connection = ctypes.c_void_p.from_address(id(client._sslobj) + SSL_OFFSET)  # type: ignore[attr-defined]
    library = ctypes.CDLL(_ssl.__file__)
    for _ in range(count):
        assert library.SSL_key_update(connection, 0) == 1
        client.do_handshake()
    return outgoing.read()


def hello_in_single_bytes(trusting: ssl.SSLContext) -> bytes:
    """Return a ClientHello of the longest kind, each byte of which is a record."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        trusting.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1").do_handshake()
    body = outgoing.read()[9:]
    size = 131_000
    message = b"\x01" + size.to_bytes(3, "big") + body + bytes(size - len(body))
    return b"".join(b"\x16\x03\x01\x00\x01" + message[at : at + 1] for at in range(len(message)))


async def shake_hands(client: ssl.SSLObject, incoming: "Heard", outgoing: ssl.MemoryBIO, raw: socket.socket) -> None:
    """End a client's handshake, whose last message is left in `outgoing`."""
    while True:
        try:
            client.do_handshake()
        except ssl.SSLWantReadError:
            if outgoing.pending:
                raw.send(outgoing.read())
            incoming.write(await received(raw, 65_536))
        else:
            return


def send_all(raw: socket.socket, data: bytes) -> None:
    """Send from a thread, until the other side has enough of it."""
    raw.setblocking(True)
    with contextlib.suppress(OSError):
        raw.sendall(data)
    with contextlib.suppress(OSError):
        while raw.recv(65_536):
            pass


def refused_handshakes(master: bytes, client_random: bytes, server_random: bytes, count: int) -> bytes:
    """Return so many records of TLS 1.2 that each ask for a new handshake (RFC 5246; RFC 5288)."""
    seed, block, at = b"key expansion" + server_random + client_random, b"", b""
    while len(block) < 40:
        at = hmac.digest(master, at or seed, "sha256")
        block += hmac.digest(master, at + seed, "sha256")
    cipher, salt = AESGCM(block[:16]), block[32:36]
    records = []
    for number in range(1, count + 1):  # the client's Finished was number 0
        sequence = number.to_bytes(8, "big")
        hello = cipher.encrypt(salt + sequence, b"\x01\x00\x00\x00", sequence + b"\x16\x03\x03\x00\x04")
        records.append(b"\x16\x03\x03" + (8 + len(hello)).to_bytes(2, "big") + sequence + hello)
    return b"".join(records)


async def flood_of(kind: str, trusting: ssl.SSLContext, raw: socket.socket, keys: Path) -> bytes:
    """Begin what a flood needs; return the bytes of it."""
    if kind == "hello":
        return hello_in_single_bytes(trusting)
    incoming, outgoing, context = Heard(), ssl.MemoryBIO(), trusting
    if kind == "handshakes":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256")
        context.keylog_filename = str(keys)
    client = context.wrap_bio(incoming.bio, outgoing, server_hostname="127.0.0.1")
    await shake_hands(client, incoming, outgoing, raw)
    if kind == "keys":
        return await asyncio.to_thread(changes_of_keys, client, outgoing, 60_000)
    raw.send(outgoing.read())
    client_random, master = map(bytes.fromhex, (await asyncio.to_thread(keys.read_text)).split()[-2:])
    return await asyncio.to_thread(refused_handshakes, master, client_random, incoming.data[11:43], 60_000)


class Heard:
    """What a client has received, also as what its TLS reads."""

    def __init__(self) -> None:
        self.bio = ssl.MemoryBIO()
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data
        self.bio.write(data)


@pytest.mark.parametrize("kind", ["keys", "handshakes", "hello"])
def test_records_that_bring_no_data_do_not_keep_the_loop(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    if kind == "hello":  # what OpenSSL takes of it takes 0.1 s, in however many calls
        monkeypatch.setattr(tls_server, "HANDSHAKE_S", 0.005)

    async def scenario() -> None:
        async with listening(certificate) as here:
            raw = await here.raw()
            data = await flood_of(kind, here.trusting, raw, tmp_path / "keys")
            await asyncio.to_thread(send_all, raw, data)
            await until(lambda: here.floods() == 1)
            raw.close()
            if kind == "hello":
                assert (here.count(Outcome.FLOOD), here.tls.pending()) == (1, 0)
            else:
                await asyncio.wait_for(here.made[0].lost.wait(), 5)
            other, others = await here.client()
            other.send(b"fine")
            await others.has(4)
            other.close()

    run(scenario())


def test_an_address_with_many_floods_is_refused_and_others_are_not(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_server, "FLOODS_PER_S", 0.001)
    monkeypatch.setattr(tls_server, "FLOODS_BURST", 3.0)

    async def scenario() -> None:
        async with listening(certificate) as here:
            client, _ = await here.client()
            for _ in range(3):
                here.tls._on_flood(("127.0.0.1", 1))
            refused = await here.raw()
            async with asyncio.timeout(5):
                assert await received(refused, 100) == b""
            assert here.count(Outcome.REFUSED) == 1
            refused.close()
            client.send(b"fine")
            await here.made[0].has(4)
            before = len(here.made)
            from_elsewhere = await secured_by(here.trusting, await here.raw(address="127.0.0.9"))
            await until(lambda: len(here.made) > before)
            from_elsewhere.close()
            client.close()

    run(scenario())


class Wasteful:
    """A client that changes its keys many times before each byte of data."""

    def __init__(self, trusting: ssl.SSLContext, raw: socket.socket) -> None:
        self._trusting = trusting
        self._raw = raw
        self._incoming = Heard()
        self._outgoing = ssl.MemoryBIO()

    async def enter(self) -> None:
        self._client = self._trusting.wrap_bio(self._incoming.bio, self._outgoing, server_hostname="127.0.0.1")
        await shake_hands(self._client, self._incoming, self._outgoing, self._raw)
        self._raw.send(self._outgoing.read())

    async def waste_until_ended(self, protocol: Recording) -> None:
        for turn in range(1, 2000):
            changes = changes_of_keys(self._client, self._outgoing, 200)
            self._client.write(b"x")
            with contextlib.suppress(OSError):
                self._raw.send(changes + self._outgoing.read())
            await until(lambda turn=turn: len(protocol.data) >= turn or protocol.lost.is_set())  # type: ignore[misc]
            if protocol.lost.is_set():
                break
        assert protocol.lost.is_set()
        self._raw.close()


def test_what_short_calls_waste_adds_up_on_a_connection(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "WASTE_S", 0.01)
    monkeypatch.setattr(tls_guard, "POLL_S", 60.0)  # no call is too long by itself

    async def scenario() -> None:
        async with listening(certificate) as here:
            wasteful = Wasteful(here.trusting, await here.raw())
            await wasteful.enter()
            await until(lambda: bool(here.made))
            await wasteful.waste_until_ended(here.made[0])
            assert here.floods() == 1
            other, others = await here.client()
            other.send(b"fine")
            await others.has(4)
            other.close()

    run(scenario())


def test_an_address_that_has_used_up_its_floods_loses_the_connections_that_waste_more(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_server, "FLOODS_PER_S", 0.001)
    monkeypatch.setattr(tls_server, "FLOODS_BURST", 3.0)
    monkeypatch.setattr(tls_transport, "WASTE_S", 1000.0)
    monkeypatch.setattr(tls_guard, "POLL_S", 60.0)

    async def scenario() -> None:
        async with listening(certificate) as here:
            honest, protocol = await here.client()
            wasteful = Wasteful(here.trusting, await here.raw())
            await wasteful.enter()
            await until(lambda: len(here.made) == 2)
            for _ in range(3):
                here.tls._on_flood(("127.0.0.1", 1))
            await wasteful.waste_until_ended(here.made[1])
            assert here.floods() == 4
            honest.send(b"fine")
            await protocol.has(4)
            honest.close()

    run(scenario())


def test_what_connections_waste_counts_for_their_address(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_server, "FLOODS_PER_S", 0.001)
    monkeypatch.setattr(tls_server, "FLOODS_BURST", 2.0)
    monkeypatch.setattr(tls_server, "FLOOD_S", 0.005)
    monkeypatch.setattr(tls_transport, "WASTE_S", 1000.0)
    monkeypatch.setattr(tls_guard, "POLL_S", 60.0)

    async def scenario() -> None:
        async with listening(certificate) as here:
            wasteful = Wasteful(here.trusting, await here.raw())
            await wasteful.enter()
            await until(lambda: bool(here.made))
            await wasteful.waste_until_ended(here.made[0])
            refused = await here.raw()
            async with asyncio.timeout(30):
                assert await received(refused, 100) == b""
            assert here.count(Outcome.REFUSED) == 1
            refused.close()
            before = len(here.made)
            from_elsewhere = await secured_by(here.trusting, await here.raw(address="127.0.0.9"))
            await until(lambda: len(here.made) > before)
            from_elsewhere.close()

    run(scenario())


def test_a_first_message_in_single_bytes_adds_up_however_it_is_paced(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_server, "HANDSHAKE_S", 0.005)
    monkeypatch.setattr(tls_guard, "POLL_S", 60.0)

    async def scenario() -> None:
        async with listening(certificate, timeout_s=60) as here:
            raw = await here.raw()
            data = hello_in_single_bytes(here.trusting)
            for at in range(0, len(data), 6000):
                with contextlib.suppress(OSError):
                    await asyncio.get_running_loop().sock_sendall(raw, data[at : at + 6000])
                if here.floods():
                    break
            await until(lambda: here.floods() == 1)
            assert (here.count(Outcome.FLOOD), here.tls.pending()) == (1, 0)
            raw.close()

    run(scenario())


def test_keys_that_change_now_and_then_and_large_records_are_no_flood(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            for turn in range(1, 101):
                ask_for_new_keys(client)
                client.send(b"x" * 16_384)
                await protocol.has(16_384 * turn)
            assert here.floods() == 0
            client.close()

    run(scenario())


def test_reads_of_many_connections_that_take_long_share_a_turn(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            loop = asyncio.get_running_loop()
            turn, reads = 0, list[int]()

            def count_turns() -> None:
                nonlocal turn
                turn += 1
                if len(reads) < 20:
                    loop.call_soon(count_turns)

            clients = [(await here.client())[0] for _ in range(20)]
            for protocol in here.made:
                protocol.data_received = lambda _: reads.append(turn)  # type: ignore[method-assign, assignment]
            monkeypatch.setattr(tls_guard, "FREE_S", 0.0)
            monkeypatch.setattr(tls_guard, "TURN_S", 1e-9)  # every read is a long one
            monkeypatch.setattr(tls_guard.Guard, "settle", lambda *_: None)
            for client in clients:
                client.send(b"x")
            count_turns()
            await until(lambda: len(reads) == 20)
            assert max(reads.count(one) for one in reads) <= 2  # what counts turns is before or behind a read
            for client in clients:
                client.close()

    run(scenario())


def test_the_debt_of_an_address_is_bounded(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            for _ in range(1000):
                here.tls._on_flood(("127.0.0.1", 1))
            wait_s = here.tls._floods.wait_s("127.0.0.1", clock.monotonic_s())
            assert 0 < wait_s <= (tls_server.FLOODS_BURST + 1) / tls_server.FLOODS_PER_S

    run(scenario())


@pytest.mark.parametrize("goes_on", [True, False], ids=["works", "waits"])
def test_a_long_call_is_ended_only_while_it_spends_processor_time(*, goes_on: bool) -> None:
    one, other = socket.socketpair()
    guard = tls_guard.Guard(lambda _: None, lambda _, __: False, lambda _: None)
    spent_s, looks = 0.0, 0
    caller = threading.get_ident()

    def spent() -> float:
        nonlocal spent_s, looks
        if threading.get_ident() != caller:
            looks += 1
            if looks == 2 or (goes_on and looks > 2):  # a garbage collection lets nobody look until it is over
                spent_s += 1.0
        return spent_s

    def call() -> None:
        ended_or_many = threading.Event()
        while looks < 10 and guard._flooded == 0:
            ended_or_many.wait(0.001)

    guard._spent_s = spent
    guard.start()
    try:
        with pytest.raises(FloodError) if goes_on else contextlib.nullcontext():
            guard.run(one, tls_guard.READ_S, call)  # type: ignore[arg-type]  # it shuts any socket down
    finally:
        guard.stop()
        one.close()
        other.close()


def test_a_garbage_collection_within_a_call_is_no_waste() -> None:
    wasted: list[float] = []
    one, other = socket.socketpair()

    def on_waste(_: object, wasted_s: float) -> bool:
        wasted.append(wasted_s)
        return False

    guard = tls_guard.Guard(lambda _: None, on_waste, lambda _: None)
    guard.start()
    kept = [[[]] for _ in range(300_000)]  # type: ignore[var-annotated]
    try:
        guard.read(one, tls_guard.Account(1000.0), None, gc.collect)  # type: ignore[arg-type]
        assert guard._collected_s > 0
        assert sum(wasted) < guard._collected_s / 2
    finally:
        guard.stop()
        del kept
        one.close()
        other.close()


class Odd:
    """A TLS socket that first wants something else of the descriptor, as OpenSSL may."""

    def __init__(self, sock: ssl.SSLSocket, wants: type[ssl.SSLError]) -> None:
        self._sock = sock
        self._wants = wants
        self.left = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def _try(self) -> None:
        if self.left:
            self.left -= 1
            raise self._wants


class OddWriter(Odd):
    def write(self, data: bytes) -> int:
        self._try()
        return self._sock.write(data)


class OddReader(Odd):
    def read(self, size: int) -> bytes:
        self._try()
        return self._sock.read(size)


@pytest.mark.parametrize("is_reading", [True, False], ids=["reading", "paused"])
def test_a_write_that_must_read_first_goes_on_when_something_comes(run: Run, certificate: Secured, *, is_reading: bool) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            transport = protocol.transport
            if not is_reading:
                transport.pause_reading()
            transport._sock = OddWriter(transport._sock, ssl.SSLWantReadError)  # type: ignore[assignment]
            assert transport.write_now(0, b"first ") == 0
            transport.write(b"first ")
            transport.write(b"second")
            assert transport.get_write_buffer_size() == 12
            await asyncio.sleep(0.05)
            client.send(b"something")
            got = b""
            while len(got) < 12:
                got += await received(client, 100)
            assert got == b"first second"
            if is_reading:
                await protocol.has(9)
            else:
                assert protocol.data == b""
            client.close()

    run(scenario())


def test_a_read_that_must_write_first_goes_on_when_the_descriptor_takes_bytes(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            transport = protocol.transport
            odd = OddReader(transport._sock, ssl.SSLWantWriteError)
            transport._sock = odd  # type: ignore[assignment]
            client.send(b"something")
            await protocol.has(9)
            assert odd.left == 0
            client.close()

    run(scenario())


def test_the_end_of_our_side_is_a_close_notify_and_what_comes_is_still_read(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            protocol.stays_open = True
            protocol.transport.write(b"goodbye")
            protocol.transport.write_eof()
            assert await received(client, 100) == b"goodbye"
            client.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # an end without a close_notify would raise
            assert await received(client, 100) == b""
            client.send(b"and to you")
            await protocol.has(len("and to you"))
            assert not protocol.lost.is_set()
            protocol.transport.write(b"not sent: our side has ended")
            protocol.transport.close()
            await asyncio.wait_for(protocol.lost.wait(), 5)
            assert socket.socket.recv(client, 100) == b""
            client.close()

    run(scenario())


def test_an_end_without_close_notify_is_an_end(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            client.send(b"last")
            socket.socket.shutdown(client, socket.SHUT_WR)
            await asyncio.wait_for(protocol.lost.wait(), 5)
            assert (protocol.data, protocol.has_eof) == (b"last", True)
            client.close()

    run(scenario())


def test_nothing_is_taken_or_sent_in_the_clear_after_both_sides_have_ended(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            failed: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
            protocol.stays_open = True
            with pytest.raises(ssl.SSLWantReadError):
                client.unwrap()
            await until(lambda: protocol.has_eof)
            protocol.transport.write_eof()
            client.setblocking(True)
            raw = await asyncio.to_thread(client.unwrap)
            raw.setblocking(False)
            raw.send(b"in the clear")
            with pytest.raises(BrokenPipeError):
                protocol.transport.write_now(0, b"secret")
            await asyncio.sleep(0.05)
            assert (protocol.data, failed) == (b"", [])
            assert raw.recv(100) == b""
            raw.close()

    run(scenario())


def test_bytes_in_the_clear_behind_an_end_that_was_not_read_yet_are_dropped(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            failed: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
            with pytest.raises(ssl.SSLWantReadError):
                client.unwrap()
            socket.socket.send(client, b"in the clear")
            protocol.transport.write_eof()  # it takes the other side's end, before the loop does
            await asyncio.sleep(0.05)
            assert (protocol.data, failed, protocol.lost.is_set()) == (b"", [], False)
            socket.socket.shutdown(client, socket.SHUT_WR)
            await asyncio.wait_for(protocol.lost.wait(), 5)
            client.close()

    run(scenario())


def test_an_answer_that_nobody_reads_does_not_keep_a_closing_connection(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "CLOSE_S", 0.2)

    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client(receive_bytes=4096)
            protocol.transport.write(b"x" * 10_000_000)
            protocol.transport.close()
            assert protocol.transport.is_closing()
            await asyncio.wait_for(protocol.lost.wait(), 5)
            client.close()

    run(scenario())


def test_an_answer_that_is_read_slowly_arrives_whole_on_a_closing_connection(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_transport, "CLOSE_S", 1.0)

    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client(receive_bytes=4096)
            protocol.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
            protocol.transport.write(b"x" * 400_000)
            protocol.transport.close()
            got = 0
            while data := await received(client, 16_384):
                got += len(data)
                await asyncio.sleep(0.1)  # a slow line: the whole takes more than twice as long as may pass without progress
            assert got == 400_000
            client.close()

    run(scenario())


def test_what_a_connection_had_is_free_without_the_collector(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            left = [weakref.ref(protocol), weakref.ref(protocol.transport.get_extra_info("ssl_object"))]
            lost = protocol.lost
            here.made.clear()
            del protocol
            client.close()
            await asyncio.wait_for(lost.wait(), 5)
            await asyncio.sleep(0.01)
            assert [one() for one in left] == [None, None]

    gc.collect()
    gc.disable()
    try:
        run(scenario())
    finally:
        gc.enable()


def test_a_protocol_that_fails_ends_its_own_connection_only(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            client, protocol = await here.client()
            other, others = await here.client()
            asked: list[dict[str, Any]] = []
            asyncio.get_running_loop().set_exception_handler(lambda _, context: asked.append(context))
            protocol.data_received = lambda _: 1 / 0  # type: ignore[method-assign, assignment]
            client.send(b"x")
            await asyncio.wait_for(protocol.lost.wait(), 5)
            with monkeypatch.context() as failing:
                failing.setattr(Recording, "connection_made", lambda protocol, transport: protocol.fail(transport))
                third, lost = await here.client()
                await asyncio.wait_for(lost.lost.wait(), 5)
                third.close()
            assert [type(context["exception"]) for context in asked] == [ZeroDivisionError] * 2
            other.send(b"fine")
            await others.has(4)
            client.close()
            other.close()

    run(scenario())


# ---- handshakes
def test_a_silent_connection_and_one_that_stops_midway_are_ended_in_time(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate, timeout_s=0.3) as here:
            silent, halfway = await here.raw(), await here.raw()
            hello = ssl.MemoryBIO()
            client = here.trusting.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            halfway.send(hello.read())
            assert (await received(halfway, 65_536)) != b""
            async with asyncio.timeout(5):
                assert await received(silent, 100) == b""
                while await received(halfway, 65_536):
                    pass
            assert (here.count(Outcome.LATE), here.tls.pending()) == (2, 0)
            silent.close()
            halfway.close()

    run(scenario())


def test_handshakes_that_are_late_together_end_a_few_in_each_turn(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    most_in_a_turn = 0
    sweep = TlsServer._sweep

    def counted(tls: TlsServer) -> None:
        nonlocal most_in_a_turn
        before = tls.pending()
        sweep(tls)
        most_in_a_turn = max(most_in_a_turn, before - tls.pending())

    async def scenario() -> None:
        async with listening(certificate, timeout_s=600) as here:
            silent = [await here.raw() for _ in range(600)]
            await until(lambda: here.tls.pending() == 600)
            for pending in here.tls._pending.all:
                pending.until_s = 0
            await until(lambda: here.tls.pending() == 0)
            assert here.count(Outcome.LATE) == 600
            assert 0 < most_in_a_turn <= END_AT_ONCE
            for one in silent:
                one.close()

    monkeypatch.setattr(TlsServer, "_sweep", counted)
    run(scenario())


@pytest.mark.parametrize("bounds", [{"max_pending": 5}, {"max_by_address": 5}], ids=["in all", "by address"])
def test_silent_connections_lock_nobody_out(run: Run, certificate: Secured, bounds: dict[str, int]) -> None:
    async def scenario() -> None:
        async with listening(certificate, **bounds) as here:
            silent = [await here.raw() for _ in range(20)]
            await until(lambda: here.count(Outcome.CROWDED_OUT) == 15)
            assert here.tls.pending() == 5
            for _ in range(10):
                client, _ = await here.client()
                client.close()
            assert here.count(Outcome.FULL) == 10
            assert here.tls.pending() < 6
            for one in silent:
                one.close()
            await until(lambda: here.tls.pending() == 0)
            assert here.count(Outcome.GONE) + here.count(Outcome.CROWDED_OUT) == 20

    run(scenario())


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff", bytes(300)], ids=["http", "cut", "zeros"])
def test_what_is_not_tls_is_refused_and_counted(run: Run, certificate: Secured, said: bytes) -> None:
    async def scenario() -> None:
        async with listening(certificate, timeout_s=0.5) as here:
            raw = await here.raw()
            raw.send(said)
            await until(lambda: here.count(Outcome.FAILED) + here.count(Outcome.LATE) == 1)
            assert here.tls.pending() == 0
            raw.close()

    run(scenario())


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_viewer_that_comes_back_resumes(run: Run, certificate: Secured, version: ssl.TLSVersion) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.minimum_version = context.maximum_version = version
            session: ssl.SSLSession | None = None
            for turn in range(3):
                raw = await here.raw()
                client = context.wrap_socket(raw, do_handshake_on_connect=False, session=session)
                await done(client)
                await until(lambda turn=turn: len(here.made) == turn + 1)  # type: ignore[misc]
                here.made[-1].transport.write(b"x")
                assert await received(client, 1) == b"x"  # a ticket comes before it
                session = client.session
                assert client.session_reused is (turn > 0)
                assert client.version() == version.name.replace("_", ".")
                client.close()
            assert (here.count(Outcome.FULL), here.count(Outcome.RESUMED)) == (1, 2)

    run(scenario())


async def done(client: ssl.SSLSocket) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                await asyncio.sleep(0.002)
            else:
                return


def test_tls_1_1_is_refused(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            read = await asyncio.to_thread(load, settings_of(**certificate.settings))
            assert read is not None
            assert read.context.minimum_version == ssl.TLSVersion.TLSv1_2
            assert read.context.options & ssl.OP_NO_RENEGOTIATION
            hello = bytearray(
                b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x02" + bytes(32) + b"\x00\x00\x04\xc0\x13\x00\x2f\x01\x00"
            )
            raw = await here.raw()
            raw.send(bytes(hello))
            assert (await received(raw, 100))[:1] == b"\x15"  # an alert
            await until(lambda: here.count(Outcome.FAILED) == 1)
            raw.close()

    run(scenario())


def test_a_process_without_descriptors_accepts_again_later(
    run: Run, certificate: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_server, "PAUSE_S", 0.1)

    async def scenario() -> None:
        async with listening(certificate) as here:
            raw = socket.socket()
            raw.setblocking(False)
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (raw.fileno() + 1, hard))  # it has the lowest free one
            try:
                with capture_logs() as logs:
                    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", here.port))
                    await until(lambda: bool(logs))
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert [entry["event"] for entry in logs] == ["no_descriptors"]
            client = await secured_by(here.trusting, raw)
            client.close()

    run(scenario())


def test_a_storm_of_handshakes_leaves_turns_to_others(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with listening(certificate) as here:
            loop = asyncio.get_running_loop()
            hellos = []
            for _ in range(100):
                hello = ssl.MemoryBIO()
                client = here.trusting.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
                with pytest.raises(ssl.SSLWantReadError):
                    client.do_handshake()
                hellos.append(hello.read())
            raws = [await here.raw() for _ in hellos]
            for raw, hello_ in zip(raws, hellos, strict=True):
                raw.send(hello_)
            turns = 0
            unanswered = set(raws)
            began = loop.time()
            while unanswered:
                await asyncio.sleep(0)
                turns += 1
                for raw in list(unanswered):
                    try:
                        raw.recv(65_536)
                    except BlockingIOError:
                        continue
                    unanswered.discard(raw)
            took_s = loop.time() - began
            assert turns >= took_s / 0.1, "the loop turned between handshakes"
            for raw in raws:
                raw.close()

    run(scenario())


def test_a_request_over_tls_knows_that_it_is_secure(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with gateway(certificate) as edge:
            reader, writer = await edge.open()
            writer.write(b"GET /v1/live HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 426 " in head.splitlines()[0]
            size = int(head.lower().partition(b"content-length: ")[2].split()[0])
            assert json.loads(await reader.readexactly(size))["code"] == "upgrade_required"
            writer.close()

    run(scenario())


# ---- behind a proxy that announces its callers
V1 = b"PROXY TCP4 203.0.113.7 192.168.0.11 56324 443\r\n"
V2 = SIGNATURE + b"\x21\x11\x00\x0c" + bytes([203, 0, 113, 7, 192, 168, 0, 11]) + b"\xdc\x04\x01\xbb"
BEHIND = {"http": HttpSettings(proxy_protocol=True), "proxies": ("127.0.0.1/32",)}


async def announced(edge: Edge, *pieces: bytes, address: str = "") -> socket.socket:
    """Return a connection that has sent these bytes, each on its own."""
    raw = socket.socket()
    if address:
        raw.bind((address, 0))
    raw.setblocking(False)
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", edge.port))
    for piece in pieces:
        raw.send(piece)
        await asyncio.sleep(0)
    return raw


async def ended(raw: socket.socket) -> None:
    """Wait until the other side ends a connection without an answer."""
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionError):
            assert await received(raw, 100) == b""
    raw.close()


async def enters(edge: Edge, *pieces: bytes) -> str:
    """Connect as a viewer behind these bytes; return the address that the gateway counts."""
    assert edge.trusting is not None
    raw = await announced(edge, *pieces)
    url = edge.url(edge.ticket())
    async with connect(url, ssl=edge.trusting, sock=raw, server_hostname="127.0.0.1") as watching:
        assert (await next_frame(watching))["t"] == "hello"
        (member,) = edge.gateway.members
        address = member.address
    await gone(edge)
    return address


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param((V1,), "203.0.113.7", id="v1"),
        pytest.param((V2,), "203.0.113.7", id="v2"),
        pytest.param(tuple(V1[at : at + 1] for at in range(len(V1))), "203.0.113.7", id="v1 in single bytes"),
        pytest.param((V2[:14], V2[14:20], V2[20:]), "203.0.113.7", id="v2 in pieces"),
        pytest.param((SIGNATURE + b"\x20\x00\x00\x00",), "", id="a proxy's own connection"),
        pytest.param((b"PROXY UNKNOWN\r\n",), "", id="a caller that the proxy does not know"),
    ],
)
def test_a_proxy_header_before_the_handshake_names_the_caller(
    run: Run, certificate: Secured, pieces: tuple[bytes, ...], expected: str
) -> None:
    async def scenario() -> None:
        async with gateway(certificate, **BEHIND) as edge:
            assert await enters(edge, *pieces) == expected

    run(scenario())


@pytest.mark.parametrize(
    "said", [b"", V1[1:], b"PROXY TCP4 1.2.3.4\r\n", b"\x16\x03\x01\x02\x00\x01"], ids=["none", "cut", "short", "tls"]
)
def test_without_a_whole_proxy_header_there_is_no_handshake(run: Run, certificate: Secured, said: bytes) -> None:
    async def scenario() -> None:
        async with gateway(certificate, **BEHIND, handshake_timeout_s=0.5) as edge:
            await ended(await announced(edge, said))
        async with gateway(certificate, **BEHIND) as edge:
            assert await enters(edge, V1) == "203.0.113.7"

    run(scenario())


def test_a_proxy_header_is_believed_from_proxies_only(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        async with gateway(certificate, **BEHIND) as edge:
            await ended(await announced(edge, address="127.0.0.9"))

    run(scenario())


def test_handshakes_behind_a_proxy_are_bounded_by_the_address_that_it_names(run: Run, certificate: Secured) -> None:
    async def scenario() -> None:
        read = await asyncio.to_thread(load, settings_of(**certificate.settings))
        assert read is not None
        runtime = Runtime("edge")
        tls = TlsServer(
            read.context,
            runtime.metrics,
            600,
            key_of=lambda address: None if address == "127.0.0.1" else address,
            takes_header=True,
            max_by_address=3,
        )
        one = socket.create_server(("127.0.0.1", 0))
        await tls.start(Recording, [one])
        other = V2.replace(bytes([203, 0, 113, 7]), bytes([203, 0, 113, 8]))
        silent = []
        for header in [V1] * 5 + [V2] * 5 + [other] * 2 + [b""] * 4:
            raw = socket.create_connection(one.getsockname())
            raw.send(header)
            silent.append(raw)
        await until(lambda: runtime.metrics.counter(metric_catalog.TLS_HANDSHAKES, "crowded_out")._value.get() == 7)
        expected = {"203.0.113.7": 3, "203.0.113.8": 2}
        await until(lambda: {key: len(of_key) for key, of_key in tls._pending.of.items()} == expected)
        await until(lambda: tls.pending() == 9)
        tls.stop()
        for raw in silent:
            raw.close()

    run(scenario())
