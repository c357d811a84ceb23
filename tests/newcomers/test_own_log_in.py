"""A log-in of one's own: the steps and four programs of docs/tokens.md, with running services."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
import pytest_asyncio

from devstack.builds import ROOT
from devstack.java import find_java
from devstack.kafka_jars import ensure_jars
from devstack.programs import need
from devstack.system import System
from liveroom.users import user_id
from tests.browser.node import NODE
from tests.ecj import compile_java
from tests.golang import GO

pytestmark = [
    pytest.mark.system,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(400),  # Go compiles its standard library first
]
LIVEROOM: Final = Path(sys.executable).with_name("liveroom")
PROGRAMS: Final = ROOT / "docs" / "tokens"
ANNA: Final = "auth0|5f7c8ec7"
NAME: Final = 'Änne "\u540d\u524d"'


class LogIn:
    """An identity service that knows its users, and signs by the programs of the page."""

    def __init__(self, folder: Path, commands: Mapping[str, Sequence[str]]) -> None:
        self._commands = commands
        subprocess.run([LIVEROOM, "keys", "my-keys", "--tokens"], cwd=folder, check=True)
        self.keys_file = folder / "my-keys" / "token_keys.json"
        private = folder / "my-keys" / "token_signing_key.pem"
        self._environment = os.environ | {"TOKEN_SIGNING_KEY": str(private), "TOKEN_KEY_ID": "token-1"}

    async def token(self, program: str, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *self._commands[program], *arguments, env=self._environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode().strip()


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Sequence[str]]:
    """The command of each program; those in Java and Go are compiled."""
    folder, jars = tmp_path_factory.mktemp("programs"), ensure_jars()
    compile_java(PROGRAMS / "SignToken.java", jars, folder)
    subprocess.run([need(GO), "build", "-o", folder / "sign_token", PROGRAMS / "sign_token.go"], cwd=folder, check=True)
    return {
        "python": (sys.executable, str(PROGRAMS / "sign_token.py")),
        "node": (need(NODE), str(PROGRAMS / "sign_token.mjs")),
        "java": (str(find_java().program), "-cp", os.pathsep.join(map(str, (folder, *jars))), "SignToken"),
        "go": (str(folder / "sign_token"),),
    }


@pytest.fixture(scope="module")
def log_in(tmp_path_factory: pytest.TempPathFactory, commands: Mapping[str, Sequence[str]]) -> LogIn:
    return LogIn(tmp_path_factory.mktemp("log-in"), commands)


@pytest.fixture
def others(tmp_path: Path, commands: Mapping[str, Sequence[str]]) -> LogIn:
    """Another identity service, whose key liveroom does not have."""
    return LogIn(tmp_path, commands)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(kafka_bootstrap: str, log_in: LogIn) -> AsyncIterator[System]:
    settings = {"TOKEN_KEYS_FILE": str(log_in.keys_file)}
    async with System(kafka_bootstrap, prefix="own-log-in.", partitions=2, edges=1, settings=settings) as running:
        await running.knows_gateways(1)
        yield running


async def asked(method: str, url: str, token: str, body: Any = None) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as http,
        http.request(method, url, json=body) as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize("program", ["python", "node", "java", "go"])
async def test_a_token_of_one_s_own_service_lets_a_user_enter_and_speak(system: System, log_in: LogIn, program: str) -> None:
    viewer = await log_in.token(program, ANNA, NAME)
    status, entry = await asked("GET", f"{system.scheduler.url}/v1/entry?room=live-1", viewer)
    assert (status, entry["user"]) == (200, user_id(ANNA))
    rooms = f"{system.ingress.url}/v1/rooms"
    assert (await asked("POST", f"{rooms}/live-1/danmaku", viewer, {"text": "hello"}))[0] == 202
    assert (await asked("POST", f"{rooms}/live-1/announcements", viewer, {"text": "hello"}))[1]["code"] == "forbidden"

    streamer = await log_in.token(program, "ben", "Ben", "streamer", "live-1", "live-2")
    assert (await asked("POST", f"{rooms}/live-2/announcements", streamer, {"text": "hello"}))[0] == 202
    assert (await asked("POST", f"{rooms}/live-3/announcements", streamer, {"text": "hello"}))[1]["code"] == "forbidden"


async def test_a_token_that_somebody_else_signed_is_refused(system: System, others: LogIn) -> None:
    token = await others.token("python", ANNA, NAME)
    status, problem = await asked("GET", f"{system.scheduler.url}/v1/entry?room=live-1", token)
    assert (status, problem["code"]) == (401, "token_invalid")
