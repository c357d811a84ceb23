"""The page on the Python client: its programs run as they stand, and the commands that use the
client end in words where a service refuses.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.commands import app
from devstack.builds import ROOT
from liveroom.kinds import Role
from tests.docs.blocks import bodies
from tests.e2e.harness import Stage, staged

pytestmark = pytest.mark.kafka
ROOM = "live-1"  # of every program on the page
WAIT_S = 60.0
PAGE = "docs/python-client.md"
SCRIPT = '<i><d p="0,1,25,0,0,0,a,1">first</d><d p="3600,1,25,0,0,0,b,2">an hour later</d></i>'


class Program:
    """A program of the page, as it runs."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), WAIT_S)).decode().strip()

    async def shows(self, line: str) -> None:
        """Wait for a line, past all others."""
        while (found := await self.line()) != line:
            assert found or not self.process.stdout or not self.process.stdout.at_eof(), f"no {line!r}"


@asynccontextmanager
async def running(stage: Stage, folder: Path, number: int, user: str) -> AsyncIterator[Program]:
    """Run the page's program `number` as `user`."""
    file = folder / f"{user}.py"
    file.write_text(bodies(PAGE, "python")[number], encoding="utf-8")
    environment = os.environ | {
        "LIVEROOM_SCHEDULER_URL": stage.system.scheduler_url,
        "LIVEROOM_INGRESS_URL": stage.system.ingress_url,
        "LIVEROOM_TOKEN": stage.token(user, name=user.title()),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(file), env=environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield Program(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def back_after_a_ban(stage: Stage, banned: Program) -> None:
    """The program that begins anew is banned for two seconds, comes back, and is put out."""
    host = {"user": "rude", "why": "spam"}
    ban = await stage.call("POST", f"rooms/{ROOM}/bans", host | {"for_s": 2})
    assert (await banned.line()) == f"ended: banned spam {ban.body['until_ms']}"
    async with asyncio.timeout(WAIT_S):
        while not (await stage.call("GET", "users/rude/connections")).body.get("connections"):  # noqa: ASYNC110 - gateways are asked
            await asyncio.sleep(0.1)
    kicked = await stage.call("POST", f"rooms/{ROOM}/kicks", host)
    assert kicked.status == 202, kicked
    assert (await banned.line()).startswith("ended: kicked ")
    assert await asyncio.wait_for(banned.process.wait(), WAIT_S) == 0


async def what_commands_say(stage: Stage, folder: Path) -> None:
    """Every command that speaks to a service, with tokens that are none."""
    script = folder / "script.xml"
    script.write_text(SCRIPT, encoding="utf-8")
    ingress, scheduler = ["--ingress", stage.system.ingress_url], ["--scheduler", stage.system.scheduler_url]
    expired = stage.system.token("ann", Role.OPERATOR, ttl_s=-3600)
    elsewhere = stage.token("ann", rooms=("other",))
    cases = [
        (["send", ROOM, "hi", *ingress, "--token", "no"], 1, "refused: token_invalid"),
        (["send", ROOM, "hi", *ingress, "--token", expired], 1, "refused: token_expired"),
        (["send", ROOM, "hi", *ingress, "--token", elsewhere], 1, "refused: forbidden"),
        (["send", ROOM, "hi", *ingress[:1], stage.system.scheduler_url, "--token", expired], 1, "refused: not_found"),
        (["watch", ROOM, *scheduler, "--token", "no"], 1, "token_invalid"),
        (["watch", ROOM, *scheduler, "--token", expired, "--json"], 1, "token_expired"),
        (["watch", ROOM, *scheduler, "--token", elsewhere], 1, "forbidden"),
        (["replay", str(script), "--room", ROOM, *ingress, "--token", expired], 1, "refused: token_expired"),
        (["canary", *ingress, *scheduler, "--token", expired], 2, "token_expired"),
        (["top", "--once", *scheduler, "--token", expired], 2, "token_expired"),
        (["revoke", "--list", *ingress, "--token", expired], 2, "token_expired"),
        (["connections", "ann", *ingress, "--token", elsewhere], 2, "forbidden"),
    ]
    for arguments, code, words in cases:
        done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
        assert (done.exit_code, words in done.output) == (code, True), (arguments, done.output, done.exception)
        assert expired not in done.output


async def test_every_program_of_the_page_does_what_it_says(kafka_bootstrap: str, tmp_path: Path) -> None:
    async with (
        staged(kafka_bootstrap, ingresses=1) as stage,
        running(stage, tmp_path, 0, "bot") as bot,
        running(stage, tmp_path, 1, "ann") as shows,
        running(stage, tmp_path, 3, "rude") as banned,
    ):
        assert await shows.line() == f"in {ROOM}; 0 messages before"
        async with running(stage, tmp_path, 2, "ben") as sends:
            assert (await sends.line()).startswith("accepted ")
            assert (await sends.line()).startswith("accepted ")
            assert await asyncio.wait_for(sends.process.wait(), WAIT_S) == 0
        await shows.shows("Ben: hello")
        await shows.shows("Ben: here I am")
        await stage.call("POST", f"rooms/{ROOM}/gifts", {"gift": "rose", "count": 3}, user="op", name="Op")
        await shows.shows("Op gives 3 rose")
        assert (await stage.say(ROOM, "ben", "ping", name="Ben")).status == 202
        await shows.shows("Bot: pong, Ben")
        await back_after_a_ban(stage, banned)
        await what_commands_say(stage, tmp_path)
        assert (await stage.call("POST", f"rooms/{ROOM}/dissolve", {"why": "over"})).status == 202
        await bot.shows("ended: room_dissolved")
