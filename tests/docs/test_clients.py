"""The clients that documents show, run as they stand against what people write."""

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from devstack.builds import ROOT
from liveroom.chance import SystemChance
from tests.docs.blocks import bodies, only_body
from tests.hostile import TEXTS, danmaku, hostile, shown, texts
from tests.rooms import serving_rooms

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine
CLIENTS = {
    ("docs/python-client.md", "python"): "docs/bot.py runs here, all of it in tests/e2e/test_python_client.py",
    ("docs/viewer-protocol.md", "python"): "runs here",
    ("docs/uplink.md", "python"): "docs/uplink/*.py, which run in tests/e2e/test_access.py",
    ("docs/uplink.md", "java"): "docs/uplink/Gift.java, which runs in tests/e2e/test_access.py",
    ("docs/tokens.md", "python"): "docs/tokens/*, which run in tests/newcomers/test_own_log_in.py",
    ("docs/tokens.md", "javascript"): "likewise",
    ("docs/tokens.md", "java"): "likewise",
    ("docs/tokens.md", "go"): "likewise",
    ("docs/sdk.md", "html"): "runs in tests/browser/test_documented_client.py",
}


@asynccontextmanager
async def running(program: Path, **environment: str) -> AsyncIterator[asyncio.StreamReader]:
    """Run a program while the block runs; give what it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, program, env=os.environ | environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield process.stdout
    finally:
        process.kill()
        await process.wait()


def test_every_client_of_a_document_is_run_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")]
    languages = {
        (str(document.relative_to(ROOT)), language)
        for document in documents
        for language in re.findall(r"^\s*```(\w+)", document.read_text("utf-8"), re.MULTILINE)
    }
    assert {one for one in languages if one[1] not in {"sh", "json", "http", "toml", "ini", "nginx", "yaml"}} == set(CLIENTS)


async def test_the_client_of_the_protocol_shows_every_hostile_text_once(tmp_path: Path) -> None:
    client = tmp_path / "client.py"
    client.write_text(only_body("docs/viewer-protocol.md", "python"), encoding="utf-8")
    async with hostile(texts()) as services, asyncio.timeout(DEADLINE_S):
        wanted = [*map(shown, services.lines), shown(services.end), f"{shown(services.lost)} late"]
        async with running(client, SCHEDULER=services.url, ROOM="lobby", TOKEN="t") as out:
            lines = [(await out.readline()).decode().strip() for _ in wanted]
    assert lines == wanted
    assert (services.joins, services.pulls) == (1, 1)


async def test_the_bot_of_the_page_answers_whatever_was_written_before() -> None:
    asked = danmaku(len(TEXTS) + 1, "ping")
    names = {"LIVEROOM_SCHEDULER_URL", "LIVEROOM_INGRESS_URL"}
    async with hostile([*texts(), asked], "live-1") as services, asyncio.timeout(DEADLINE_S):
        environment = dict.fromkeys(names, services.url) | {"LIVEROOM_TOKEN": SystemChance().token_hex(8)}
        async with running(ROOT / "docs" / "bot.py", **environment):
            assert (await services.sent.get())["text"] == f"pong, {asked.name}"


async def test_the_bot_that_cannot_come_back_says_why_and_ends_with_exit_code_1() -> None:
    async with serving_rooms() as rooms, asyncio.timeout(DEADLINE_S):
        rooms.refusals.append((401, {}, {"code": "token_invalid", "detail": "no JWT"}))
        names = ("LIVEROOM_SCHEDULER_URL", "LIVEROOM_INGRESS_URL")
        environment = os.environ | dict.fromkeys(names, rooms.url) | {"LIVEROOM_TOKEN": "none"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, ROOT / "docs" / "bot.py", env=environment, cwd=ROOT, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
    assert (process.returncode, said.decode()) == (1, "ended: token_invalid: no JWT\n")


async def test_the_program_that_waits_for_the_end_of_a_ban_pauses_longer_and_longer_where_its_clock_is_ahead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (program,) = (one for one in bodies("docs/python-client.md", "python") if "banned" in one)
    names: dict[str, Any] = {}
    exec(program.replace("asyncio.run(main())", ""), names)
    pauses: list[float] = []

    async def sleep(delay_s: float) -> None:
        pauses.append(delay_s)

    names["asyncio"] = SimpleNamespace(sleep=sleep)
    async with serving_rooms() as rooms, asyncio.timeout(DEADLINE_S):
        monkeypatch.setenv("LIVEROOM_SCHEDULER_URL", rooms.url)
        monkeypatch.setenv("LIVEROOM_TOKEN", "t")
        rooms.refusals += [(403, {}, {"code": "banned", "until_ms": 1})] * 7
        rooms.refusals.append((403, {}, {"code": "kicked"}))
        await names["main"]()
    assert pauses == [2, 4, 8, 16, 32, 60, 60]
