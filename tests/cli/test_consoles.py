"""Texts of others in tables: nothing in them is markup."""

import re
from pathlib import Path

import pytest
from aiohttp import web
from rich.table import Table

import cli
from cli.connections import run_connections
from cli.consoles import plain_console
from cli.endpoints import Endpoints
from cli.revoke import run_list
from liveroom.addresses import url_of
from liveroom.ports import HOST
from liveroom.users import user_id
from liveroom.web import serve

TEXTS = ("reopened [/4711]", "a[/b]", "see [ticket 5] [red]all[/red]", "[link=http://x]y[/link]", ":heart: [bold]", "\\[x]")


def make_ingress(text: str) -> web.Application:
    """Return an ingress whose operators and identity service write `text` wherever they may."""
    entry = {"id": "1", "user": user_id(text), "issued_before_s": 1, "until_ms": 1000, "at_ms": 1, "by": user_id(text)}
    connection = {"gateway": text, "transport": "ws", "device": "d", "role": "viewer", "rooms": ["lobby"]}

    async def revocations(_: web.Request) -> web.Response:
        return web.json_response({"revocations": [entry | {"why": text}], "after": ""})

    async def connections(_: web.Request) -> web.Response:
        return web.json_response({"connections": [connection], "total": 1, "missing": []})

    app = web.Application()
    app.router.add_get("/v1/revocations", revocations)
    app.router.add_get("/v1/users/{user}/connections", connections)
    return app


@pytest.mark.parametrize("text", TEXTS)
async def test_what_somebody_wrote_stands_in_a_table_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    async with serve(make_ingress(text), HOST, 0, shutdown_timeout_s=0.2) as (_, port):
        endpoints = Endpoints(url_of("http", HOST, port), "", "k" * 40, "")
        assert await run_list(endpoints, "op") == 0
        assert capsys.readouterr().out.count(text) == 3
        assert await run_connections(endpoints, "op", text, end=False) == 0
        assert capsys.readouterr().out.count(text) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_a_plain_console_prints_lines_and_titles_as_they_are(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    console = plain_console(piped_width=100)
    console.print(text)
    console.print(Table(text, title=text, caption=text))
    assert capsys.readouterr().out.count(text) == 4


def test_every_command_prints_on_a_plain_console() -> None:
    folder = Path(cli.__file__).parent
    makers = [path.name for path in folder.rglob("*.py") if re.search(r"\bConsole\(", path.read_text())]
    assert makers == ["consoles.py"]
