"""The OpenAPI document: whole, and true of the running ingress whatever is sent to it."""

import asyncio
import secrets
import shutil
import sys
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import aiohttp
import pytest

from devstack.system import System
from ingress import openapi
from ingress.permissions import COMMAND_ROUTES
from ingress.requests import SEND_ROUTES
from liveroom.kinds import Role

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES = 15
SEED = 1


def test_every_route_is_in_it_and_every_body_has_an_example() -> None:
    paths = openapi.document()["paths"]
    for kind in SEND_ROUTES:
        assert "post" in paths[f"/v1/rooms/{{room}}/{kind.path}"]
    for route in COMMAND_ROUTES:
        assert route.method.lower() in paths[route.path]
    bodies = [
        operation["requestBody"]["content"]["application/json"]
        for methods in paths.values()
        for operation in methods.values()
        if "requestBody" in operation
    ]
    assert len(bodies) > len(SEND_ROUTES)
    assert all("example" in body for body in bodies)


@pytest.mark.kafka
@pytest.mark.timeout(240)
@pytest.mark.parametrize("role", [Role.OPERATOR, Role.SERVICE, Role.VIEWER], ids=lambda role: role.value)
async def test_no_request_is_answered_with_5xx_or_anything_undocumented(kafka_bootstrap: str, role: Role) -> None:
    """Schemathesis makes good and bad requests for every operation: none may be answered as the
    document does not say.
    """
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    assert program is not None
    async with System(kafka_bootstrap, prefix=f"o{secrets.token_hex(4)}.", partitions=2, edges=0) as system:
        await _knows_the_gateways(system)
        process = await asyncio.create_subprocess_exec(
            program,
            "run",
            f"{system.ingress_url}/v1/openapi.json",
            "--header",
            f"Authorization: Bearer {system.token('u1', role)}",
            "--checks",
            CHECKS,
            "--phases",
            "examples,coverage,fuzzing",
            "--max-examples",
            str(EXAMPLES),
            "--seed",
            str(SEED),
            "--generation-database",
            "none",
            "--no-color",
            stdout=PIPE,
            stderr=STDOUT,
        )
        told, _ = await process.communicate()
        assert process.returncode == 0, told.decode(errors="replace")[-8000:]
        assert "request_failed" not in await asyncio.to_thread(system.ingress.log.read_text)


async def _knows_the_gateways(system: System) -> None:
    """Wait until the ingress answers for all gateways: until then it says 503, as documented."""
    url, headers = (
        f"{system.ingress_url}/v1/users/u/connections",
        {"Authorization": f"Bearer {system.token('u', Role.OPERATOR)}"},
    )
    async with aiohttp.ClientSession(headers=headers) as http, asyncio.timeout(20):
        while True:
            async with http.get(url) as answer:
                if answer.status == 200:
                    return
            await asyncio.sleep(0.1)
