"""Pages that may connect to a running gateway: those of its own origin and of the named ones, and
its log tells which are named.
"""

import json
import secrets
from pathlib import Path

import aiohttp
import pytest

from devstack.system import System
from tests.e2e.audience import knows_gateways

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]


@pytest.mark.parametrize(
    ("origins", "foreign", "event"),
    [
        pytest.param((), 403, None, id="none is named"),
        pytest.param(("https://live.example",), 403, ("info", ["https://live.example"]), id="another is named"),
        pytest.param(("https://page.example",), 101, ("info", ["https://page.example"]), id="it is named"),
        pytest.param(("*",), 101, ("warning", ["*"]), id="all"),
    ],
)
async def test_a_running_gateway_refuses_pages_of_origins_that_are_not_named_and_logs_those_that_are(
    origins: tuple[str, ...], foreign: int, event: tuple[str, list[str]] | None, kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with (
        System(
            kafka_bootstrap,
            prefix=f"o{secrets.token_hex(4)}.",
            partitions=1,
            edges=1,
            broadcasters=0,
            ingresses=0,
            origins=origins,
            folder=tmp_path,
        ) as system,
        aiohttp.ClientSession() as http,
    ):
        await knows_gateways(system, 1)

        async def status(origin: str | None) -> int:
            async with http.get(f"{system.scheduler.url}/v1/entry?room=lobby") as answer:
                entry = await answer.json()
            headers = {"Origin": origin} if origin is not None else {}
            url, protocols = entry["gateways"][0]["url"], ["liveroom.v1.json"]
            try:
                async with http.ws_connect(url, params={"ticket": entry["ticket"]}, headers=headers, protocols=protocols):
                    return 101
            except aiohttp.WSServerHandshakeError as error:
                return error.status

        assert await status("https://page.example") == foreign
        assert await status(f"http://127.0.0.1:{system.edges[0].port}") == 101, "its own origin"
        assert await status(None) == 101, "no page"
        lines = [json.loads(line) for line in system.edges[0].log.read_text().splitlines()]
    logged = [(line["level"], line["origins"]) for line in lines if line["event"] == "origins_open"]
    assert logged == ([event] if event is not None else [])
