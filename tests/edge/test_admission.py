"""Which connections a gateway admits and which it refuses, tried with an independent client
(`websockets`).
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from websockets.exceptions import InvalidStatus

from liveroom.files import Watched
from liveroom.settings import EdgeSettings
from liveroom.ticket_keys import write_private_keys, write_public_keys
from tests.edge.harness import GENERATION, Edge, next_frame, running, settings_of
from tests.tickets import NEW, OLD, PUBLIC_KEYS


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        pytest.param({"expires_ms": 1}, 401, "ticket_expired", id="expired"),
        pytest.param({"gateways": (("e2", GENERATION),)}, 401, "ticket_invalid", id="other gateway"),
        pytest.param({"gateways": (("e1", GENERATION - 1),)}, 401, "ticket_invalid", id="before the restart"),
        pytest.param({"purpose": "other"}, 401, "ticket_invalid", id="for another purpose"),
        pytest.param({"key_id": "k9"}, 401, "ticket_invalid", id="unknown key"),
    ],
)
async def test_a_ticket_that_is_not_for_this_gateway_is_refused(
    edge: Edge, changes: dict[str, Any], status: int, code: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await edge.connect(edge.ticket(**changes))
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["code"] == code


async def test_public_keys_change_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "ticket_public_keys.json"
    file.write_text(PUBLIC_KEYS)
    settings = EdgeSettings(instance="e1", ticket_public_keys_file=file)
    async with running(settings_of()) as edge:
        watching = asyncio.create_task(Watched(settings.ticket_files, settings.read_ticket_keys).watch(edge.admission.use))

        async def admitted(key_id: str) -> bool:
            try:
                async with edge.connect(edge.ticket(key_id=key_id)):
                    return True
            except InvalidStatus:
                return False

        async def becomes(*, old: bool, new: bool) -> None:
            async with asyncio.timeout(60):
                while (await admitted(OLD.id), await admitted(NEW.id)) != (old, new):  # noqa: ASYNC110 - asked over HTTP
                    await asyncio.sleep(1)  # one address may ask only so often

        await becomes(old=True, new=True)
        file.write_text(write_public_keys([NEW]))
        await becomes(old=False, new=True)
        for bad in (write_private_keys([NEW, OLD]), '{"keys": []}', "nonsense"):
            with structlog.testing.capture_logs() as logs:
                file.write_text(bad)
                async with asyncio.timeout(60):
                    while not any(each["event"] == "file_not_usable" for each in logs):  # noqa: ASYNC110 - a log has no event
                        await asyncio.sleep(0.05)
            assert (await admitted(OLD.id), await admitted(NEW.id)) == (False, True), "an unusable file changes nothing"
        file.write_text(PUBLIC_KEYS)
        await becomes(old=True, new=True)
        watching.cancel()


async def test_an_older_key_still_verifies(edge: Edge) -> None:
    async with edge.connect(edge.ticket(key_id="k1")) as socket:
        assert (await next_frame(socket))["t"] == "hello"


@pytest.mark.parametrize(
    ("edge", "headers", "status", "code"),
    [
        pytest.param({"max_connections": 1}, {}, 503, "full", id="full"),
        pytest.param({"origins": ("https://a.example",)}, {"Origin": "https://b.example"}, 403, "origin", id="origin"),
        pytest.param({}, {"Origin": "https://b.example"}, 403, "origin", id="no other origin is named"),
    ],
    indirect=["edge"],
)
async def test_a_refused_connection_gets_its_reason(edge: Edge, headers: dict[str, str], status: int, code: str) -> None:
    async with edge.connect():
        with pytest.raises(InvalidStatus) as refused:
            await edge.connect(additional_headers=headers)
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body or b"")["code"] == code


@pytest.mark.parametrize(
    ("edge", "origin"),
    [
        pytest.param({}, "http://127.0.0.1:{port}", id="its own"),
        pytest.param({"origins": ("https://a.example",)}, "http://127.0.0.1:{port}", id="its own beside a named one"),
        pytest.param({"origins": ("https://a.example",)}, "https://a.example", id="a named one"),
        pytest.param({"origins": ("*",)}, "https://b.example", id="every one"),
    ],
    indirect=["edge"],
)
async def test_pages_of_its_own_origin_and_of_named_ones_may_connect(edge: Edge, origin: str) -> None:
    async with edge.connect(additional_headers={"Origin": origin.format(port=edge.port)}) as socket:
        assert (await next_frame(socket))["t"] == "hello"


@pytest.mark.parametrize("path", ["/v1/live", "/v1/events"])
async def test_a_refused_upgrade_ends_its_connection(edge: Edge, path: str) -> None:
    reader, writer = await edge.open()
    writer.write(f"GET {path}?ticket=v2.k2.x.y HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 20)
    async with asyncio.timeout(5):
        answer = await reader.read()
    writer.close()
    assert answer.count(b"HTTP/1.1 4") == 1
    names_upgrade = b"Upgrade, " if path != "/v1/events" else b""
    assert b"\r\nConnection: " + names_upgrade + b"close\r\n" in answer


async def test_a_plain_request_must_upgrade(edge: Edge) -> None:
    async with aiohttp.ClientSession() as http, http.get(f"{edge.http}/v1/live", ssl=edge.trusting or True) as answer:
        assert answer.status == 426
        assert (await answer.json(content_type=None))["code"] == "upgrade_required"
