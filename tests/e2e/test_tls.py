"""A running gateway with TLS: viewers come, its certificate is renewed under them, and it ends."""

import asyncio
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from devstack.system import System
from tests.e2e.audience import knows_gateways

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


def write(authority: trustme.CA, folder: Path) -> None:
    """Write a certificate for 127.0.0.1 and its key."""
    made = authority.issue_cert("127.0.0.1")
    made.private_key_pem.write_to_path(folder / "key.pem")
    made.cert_chain_pems[0].write_to_path(folder / "cert.pem")


async def test_a_certificate_is_renewed_while_viewers_stay_and_others_come(kafka_bootstrap: str, tmp_path: Path) -> None:
    authority = trustme.CA()
    await asyncio.to_thread(write, authority, tmp_path)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    files = {"TLS_CERT_FILE": str(tmp_path / "cert.pem"), "TLS_KEY_FILE": str(tmp_path / "key.pem")}
    async with (
        System(
            kafka_bootstrap,
            prefix=f"t{secrets.token_hex(4)}.",
            partitions=1,
            edges=1,
            broadcasters=1,
            ingresses=0,
            settings_of={"edge": files},
            folder=tmp_path,
        ) as system,
        aiohttp.ClientSession() as http,
    ):
        await knows_gateways(system, 1)

        @asynccontextmanager
        async def viewer() -> AsyncIterator[tuple[aiohttp.ClientWebSocketResponse, str]]:
            """A viewer that has its hello, and the serial number of the gateway's certificate."""
            async with http.get(f"{system.scheduler.url}/v1/entry?room=lobby") as answer:
                entry = await answer.json()
            url = entry["gateways"][0]["url"]
            assert url.startswith("wss://")
            async with http.ws_connect(
                url, params={"ticket": entry["ticket"]}, protocols=["liveroom.v1.json"], ssl=trusting
            ) as socket:
                hello = json.loads(await socket.receive_str(timeout=5))
                assert hello["t"] == "hello"
                yield socket, socket.get_extra_info("peercert")["serialNumber"]

        async with viewer() as (first, old):
            await asyncio.to_thread(write, authority, tmp_path)
            now = old
            async with asyncio.timeout(10):
                while now == old:
                    await asyncio.sleep(0.5)
                    async with viewer() as (_, now):
                        pass
            await first.send_str('{"t":"join","room":"lobby"}')
            while json.loads(await first.receive_str(timeout=5))["t"] != "joined":
                pass
            metrics = await system.edges[0].metrics()
            done = sum(metrics.get(f'liveroom_edge_tls_handshakes_total{{outcome="{how}"}}', 0) for how in ("full", "resumed"))
            assert done >= 2
            assert metrics["liveroom_edge_tls_certificate_expires_seconds"] > 1e9
        events = [json.loads(line)["event"] for line in system.edges[0].log.read_text().splitlines()]
        assert "files_read" in events
