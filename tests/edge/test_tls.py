"""The gateway with TLS: the same protocol, by way of the transport.

On uvloop and on asyncio's own loop.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trustme
import uvloop
from websockets.asyncio.client import ClientConnection, connect

from edge.__main__ import tls_context
from liveroom.closecodes import Close
from tests.edge.harness import Edge, ask, close_code, line, next_frame, running, settings_of

Run = Callable[[Coroutine[Any, Any, None]], None]


class Certificate(NamedTuple):
    """The gateway's certificate, and the authority that viewers trust."""

    settings: dict[str, Any]
    trusting: ssl.SSLContext


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    chosen: Run = request.param
    return chosen


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    authority = trustme.CA()
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in made.cert_chain_pems:
        blob.write_to_path(tmp_path / "cert.pem", append=True)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    return Certificate({"tls_cert_file": tmp_path / "cert.pem", "tls_key_file": tmp_path / "key.pem"}, trusting)


def viewer(edge: Edge, certificate: Certificate, **options: Any) -> connect:
    return connect(edge.url(edge.ticket()).replace("ws:", "wss:"), ssl=certificate.trusting, **options)


async def in_room(socket_: ClientConnection) -> None:
    assert (await next_frame(socket_))["t"] == "hello"
    assert (await ask(socket_, t="join", room="r"))["t"] == "joined"


def test_batches_and_the_close_code_arrive(run: Run, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)

    async def scenario() -> None:
        settings = settings_of(**certificate.settings)
        async with running(settings, tls=tls_context(settings)) as edge, viewer(edge, certificate) as watching:
            await in_room(watching)
            for seq in range(1, 200):
                await edge.deliver("r", [line(seq, "x" * 1000)], seq)
                assert (await next_frame(watching))["seq"] == [seq, seq]
            assert (edge.gateway.queues.size, len(edge.gateway.queues)) == (0, 0)
            await watching.send("no frame")
            assert await close_code(watching) == Close.BAD_FRAME
            await gone(edge)

    run(scenario())


def test_a_viewer_that_does_not_read_is_ended(run: Run, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)

    async def scenario() -> None:
        settings = settings_of(**certificate.settings, slow_unsent_bytes=32_768, max_unsent_bytes=131_072)
        async with running(settings, tls=tls_context(settings)) as edge:
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.setblocking(False)
            await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", edge.port))
            slow = await viewer(edge, certificate, sock=raw, server_hostname="127.0.0.1", max_queue=1, compression=None)
            async with viewer(edge, certificate) as watching:
                await in_room(slow)
                await in_room(watching)
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


async def gone(edge: Edge) -> None:
    async with asyncio.timeout(5):
        while edge.gateway.members:  # noqa: ASYNC110 - the edge has no such event
            await asyncio.sleep(0.01)
