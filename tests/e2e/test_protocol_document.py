"""The client in docs/viewer-protocol.md, run as it stands against the running system."""

import asyncio
import os
import sys
from pathlib import Path

import aiohttp
import pytest

from devstack.system import System
from tests.docs.blocks import only_body
from tests.e2e.audience import knows_gateways
from viewer.client import Viewer
from viewer.sender import Accepted, Sender

pytestmark = pytest.mark.kafka
WAIT_S = 60.0
JOINED = 'liveroom_edge_joins_total{outcome="joined"}'


async def test_the_client_of_the_document_shows_all_that_comes(kafka_bootstrap: str, tmp_path: Path) -> None:
    program = only_body("docs/viewer-protocol.md", "python")
    client = tmp_path / "client.py"
    client.write_text(program, encoding="utf-8")
    async with System(kafka_bootstrap, prefix="document.", partitions=2, edges=1) as system, aiohttp.ClientSession() as http:
        await knows_gateways(system, 1)
        sender = Sender(system.ingress_url, system.token("ann"), http)
        environment = os.environ | {"SCHEDULER": system.scheduler_url, "ROOM": "lobby", "TOKEN": system.token("bob")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, str(client), env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        out = process.stdout

        async def shown() -> str:
            return (await asyncio.wait_for(out.readline(), WAIT_S)).decode().strip()

        try:
            async with asyncio.timeout(WAIT_S):
                while (await system.edges[0].metrics())[JOINED] < 1:  # noqa: ASYNC110 - its metrics are all there is to ask
                    await asyncio.sleep(0.05)
            # Who joins a room later is not let in before, with the card or without.
            async with Viewer(system.scheduler_url, ["lobby"], http=http, token=system.token("eve")) as later:
                await later.joined(WAIT_S)
            assert isinstance(await sender.danmaku("lobby", "hello"), Accepted)
            assert await shown() == '1 danmaku ann {"text": "hello"}'
            assert isinstance(await sender.gift("lobby", "rose", 3), Accepted)
            assert await shown() == '2 gift ann {"gift": "rose", "count": 3}'
            system.edges[0].kill()
            assert (await shown()).startswith("# ")
            assert isinstance(await sender.gift("lobby", "boat"), Accepted)
            await asyncio.sleep(1)
            await system.edges[0].start_ready()
            line = await shown()
            while line.startswith("#"):
                line = await shown()
            assert line == '3 gift ann {"gift": "boat"} late'
            assert isinstance(await sender.danmaku("lobby", "back"), Accepted)
            assert await shown() == '4 danmaku ann {"text": "back"}'
            for seq, text in enumerate((f"a{end}b" for end in "\u2028\u2029\x85"), 5):
                assert isinstance(await sender.danmaku("lobby", text), Accepted)
                assert (await shown()).startswith(f"{seq} danmaku ann ")
        finally:
            process.kill()
            await process.wait()
