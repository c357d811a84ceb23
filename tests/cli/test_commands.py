"""The small commands, and the help of every command."""

import asyncio
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from aiohttp import web
from rich.table import Table
from typer.testing import CliRunner

from cli import topics as topics_command
from cli.commands import app
from cli.watch import Printer, line_of
from devstack.builds import ROOT
from devstack.system import System
from liveroom.broadcast_log import Description, Snapshot
from liveroom.closecodes import TABLE
from liveroom.kafka import ensure_topics
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind
from liveroom.settings import KafkaSettings
from liveroom.topics import partition_of
from liveroom.users import user_id
from liveroom.web import serve
from liveroom.wire import Message
from tests.hostile import COUNTS
from tests.tokens import verify_user
from viewer.effects import Counts, Delivered, Ended, Entered, Hole, Lost, Progress
from viewer.sender import Accepted, Sender

KEY = "k" * 64
COMMANDS = (
    "demo",
    "up",
    "doctor",
    "replay",
    "watch",
    "send",
    "simulate",
    "pool",
    "top",
    "canary",
    "loadtest",
    "token",
    "topics",
    "keys",
    "acls",
    "manifests",
    "revoke",
    "connections",
    "why",
    "dead-letters",
)


@pytest.fixture(autouse=True)
def _nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_RUNTIME_DIR", str(tmp_path / "run"))
    for name in ("KAFKA_BOOTSTRAP", "LIVEROOM_INGRESS_URL", "LIVEROOM_SCHEDULER_URL", "LIVEROOM_TOKEN_KEY", "LIVEROOM_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def message(kind: Kind, data: bytes, n: int = 1) -> Message:
    return Message(7, kind, "i", "u1", 0, name="Ann", n=n, data=msgspec.Raw(data))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 5


def test_the_commands_are_these() -> None:
    names = {command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {name.replace("_", "-") for name in names} == set(COMMANDS)


def test_the_help_is_quick_to_import() -> None:
    code = "import sys, cli.commands; print(*[m for m in ('aiokafka', 'aiohttp', 'psutil') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_token_is_printed() -> None:
    options = ["--user", "ann", "--role", "moderator", "--room", "a", "--room", "b", "--device", "phone-1", "--token-key", KEY]
    result = CliRunner().invoke(app, ["token", *options])
    assert result.exit_code == 0
    user = verify_user(result.output.strip(), KEY.encode())
    assert (user.id, user.role.value, user.rooms, user.device) == ("ann", "moderator", ("a", "b"), "phone-1")


def test_the_rules_of_writers_are_printed_alone_and_those_of_the_services_without_them() -> None:
    writers = CliRunner().invoke(app, ["acls", "--writer", "gifts", "--writer", "bot", "--prefix", "b."]).output.splitlines()
    assert [line.partition("--add ")[2] for line in writers] == [
        f"--allow-principal User:{user} --operation Write --operation Describe --topic b.uplink" for user in ("gifts", "bot")
    ]
    assert "User:liveroom-ingress " in CliRunner().invoke(app, ["acls"]).output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["send", "r", "hi"], "liveroom demo", id="nothing runs"),
        pytest.param(["send", "a b", "hi"], "is no room", id="no room"),
        pytest.param(["send", "r", "x" * 201, "--ingress", "http://x", "--token", "t"], "200 characters", id="too long"),
        pytest.param(["send", "r", "hi", "--ingress", "http://x"], "--token-key", id="no key"),
        pytest.param(["watch", "r"], "no scheduler", id="no scheduler"),
        pytest.param(["topics"], "no Kafka", id="no Kafka"),
        pytest.param(["dead-letters"], "no Kafka", id="no Kafka with dead letters"),
        pytest.param(["dead-letters", "--code", "scheme"], "no code of a dead letter: undecodable", id="no code"),
        pytest.param(["dead-letters", "--since", "soon"], "'soon' is no time", id="no time"),
        pytest.param(["dead-letters", "--yes"], "has no --yes", id="an option of another act"),
        pytest.param(["pool", "drain"], "which gateway?", id="a drain of nothing"),
        pytest.param(["pool", "add", "many"], "no number of gateways", id="no number"),
        pytest.param(["pool", "add", "-3"], "must not be negative", id="fewer than none"),
        pytest.param(["pool", "add", "--for", "1h", "--until", "2h"], "exclude each other", id="two ends"),
        pytest.param(["pool", "pause", "edge-1"], "no such argument", id="a pause of one"),
        pytest.param(
            ["token", "--user", "m", "--role", "moderator", "--token-key", KEY], "needs --room", id="a host of no room"
        ),
        pytest.param(["token", "--user", "u" * 129, "--token-key", KEY], "129 bytes", id="no user"),
        pytest.param(["token", "--user", "a", "--device", "a b", "--token-key", KEY], "no device id", id="no device"),
        pytest.param(["revoke", "--ingress", "http://x", "--token-key", KEY], "name a user", id="nothing to revoke"),
        pytest.param(["revoke", "--device", "d", "--ingress", "http://x"], "device is one of a user", id="a device of nobody"),
        pytest.param(["revoke", "a", "--list", "--ingress", "http://x"], "exclude each other", id="two things at once"),
        pytest.param(["revoke", "u" * 200, "--ingress", "http://x"], "200 bytes", id="no user to revoke"),
        pytest.param(["connections", "a"], "no ingress", id="no ingress"),
        pytest.param(
            ["connections", "a", "--ingress", "http://127.0.0.1:1", "--token-key", KEY], "does not answer", id="nobody answers"
        ),
    ],
)
def test_what_cannot_be_done_is_one_line_that_says_what_to_do(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("liveroom: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_ingress_that_is_not_there_is_an_unknown_outcome(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    result = CliRunner().invoke(app, ["send", "r", "hi", "--ingress", url, "--token-key", KEY])
    assert result.exit_code == 1
    assert result.output.startswith("unknown, it may have been accepted: no answer: Cannot connect")


@asynccontextmanager
async def answering(status: int, body: str, kind: str = "application/json") -> AsyncIterator[str]:
    """Give the address of a service that answers everything with this."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=body, content_type=kind)

    service = web.Application()
    service.router.add_route("*", "/{any:.*}", answer)
    async with serve(service, "127.0.0.1", 0, shutdown_timeout_s=0.2) as (_, port):
        yield f"http://127.0.0.1:{port}"


LINES = '<i><d p="0,1,25,0,0,0,a,1">first</d><d p="3600,1,25,0,0,0,b,2">an hour later</d></i>'
ASKED = {  # the services that a command asks, and what else it needs
    "send": (["ingress"], ["r", "hi"]),
    "watch": (["scheduler"], ["r"]),
    "replay": (["ingress"], ["FILE", "--room", "r"]),
    "connections": (["ingress"], ["a"]),
    "revoke": (["ingress"], ["a"]),
    "top": (["scheduler"], ["--once"]),
    "pool": (["autoscaler"], []),
    "canary": (["ingress", "scheduler"], []),
}
EXPIRED = '{"code":"token_expired","title":"The token has expired","detail":"exp was an hour ago"}'
PROBLEM, PAGE = "application/problem+json", "text/html"


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        pytest.param(401, EXPIRED, PROBLEM, "token_expired.*exp was an hour ago", id="token"),
        pytest.param(401, '{"code":"later","detail":"a\\u202eb"}', PROBLEM, "later", id="a later code"),
        pytest.param(404, "<html>nothing here</html>", PAGE, "404.*another service", id="a web server"),
        pytest.param(200, "<html>log in first</html>", PAGE, "", id="a login page"),
    ],
)
@pytest.mark.parametrize("command", ASKED)
async def test_what_a_service_refuses_is_said_in_words_and_ends_a_command(
    command: str, status: int, body: str, kind: str, words: str, tmp_path: Path
) -> None:
    script = tmp_path / "a.xml"
    script.write_text(LINES, encoding="utf-8")
    services, needs = ASKED[command]
    async with answering(status, body, kind) as url:
        options = [option for service in services for option in (f"--{service}", url)]
        arguments = [command, *(str(script) if need == "FILE" else need for need in needs), *options, "--token", "secret"]
        done = await asyncio.wait_for(asyncio.to_thread(CliRunner().invoke, app, arguments), 60)
    assert done.exit_code in {1, 2}, (done.output, done.exception)
    assert isinstance(done.exception, SystemExit), done.exception
    assert re.search(words, done.output), done.output
    assert "secret" not in done.output
    assert "\u202e" not in done.output
    assert "<html>" not in done.output


@pytest.mark.parametrize(
    ("shown", "line"),
    [
        pytest.param(message(Kind.DANMAKU, b'{"text":"\xe5\xbc\xb9\xe5\xb9\x95"}', 3), "     7  Ann: 弹幕 x3", id="danmaku"),
        pytest.param(
            message(Kind.GIFT, b'{"gift":"rose","count":2,"combo":3}'), "     7  Ann gives 2 rose, combo 3", id="gift"
        ),
        pytest.param(
            message(Kind.DANMAKU, b'{"text":"a\\u001b[2Jb\\n\xe3\x80\x80c"}'),
            "     7  Ann: a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}\N{IDEOGRAPHIC SPACE}c",
            id="control characters",
        ),
        pytest.param(message(Kind.GIFT, b'{"gift":"rose","combo":"x"}'), "     7  Ann gives 1 rose", id="odd combo"),
        pytest.param(message(Kind.GIFT, b'{"gift":"rose","combo":null}'), "     7  Ann gives 1 rose", id="no combo"),
        pytest.param(message(Kind.GIFT, b'{"gift":null,"count":[]}'), "     7  Ann gives 1 ", id="no gift"),
        pytest.param(message(Kind.GIFT, b"[1]"), "     7  Ann gives 1 ", id="a list for a body"),
        pytest.param(message(Kind.DANMAKU, b"null"), "     7  Ann: ", id="no body"),
        pytest.param(message(Kind.DANMAKU, b'{"text":{"a":1e999}}'), "     7  Ann: ", id="no text"),
        pytest.param(message(Kind.DANMAKU, b'{"text":"a","x":1e999}'), "     7  Ann: a", id="an odd number beside a text"),
        pytest.param(
            message(Kind.DANMAKU, b'{"text":"\\ud83d!"}'), "     7  Ann: \N{REPLACEMENT CHARACTER}!", id="half an emoji"
        ),
        pytest.param(
            message(Kind.CUSTOM, b'{"x":1e999}'), "     7  Ann custom {'unreadable': '{\"x\":1e999}'}", id="no number of JSON"
        ),
        pytest.param(message(Kind.GOODS, b'{"id":1}'), "     7  Ann goods {'id': 1}", id="another kind"),
    ],
)
def test_a_message_is_a_line(shown: Message, line: str) -> None:
    assert line_of(shown) == line


@pytest.mark.parametrize(("written", "count"), COUNTS.items(), ids=lambda value: str(value)[:40])
def test_a_count_is_a_number_and_nothing_else(written: str, count: int) -> None:
    gift = message(Kind.GIFT, f'{{"gift":"rose","count":{written},"combo":{written}}}'.encode())
    assert line_of(gift) == f"     7  Ann gives {count} rose" + (f", combo {count}" if count > 1 else "")


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        pytest.param("ann@example.org", "ann@example.org", id="plain"),
        pytest.param(user_id("名前 with space"), "名前 with space", id="text"),
        pytest.param(user_id("a\x1b[2J\N{RIGHT-TO-LEFT OVERRIDE}b"), "a\ufffd[2J\ufffdb", id="control characters"),
        pytest.param("~not-canonical", "~not-canonical", id="stands for no text"),
    ],
)
def test_a_user_without_a_name_is_shown_by_the_text_of_its_id(user: str, shown: str) -> None:
    nameless = msgspec.structs.replace(message(Kind.DANMAKU, b'{"text":"hi"}'), name="", user=user)
    assert line_of(nameless) == f"     7  {shown}: hi"


def test_a_token_is_for_the_text_that_the_identity_service_knows() -> None:
    result = CliRunner().invoke(app, ["token", "--user", "auth0|1", "--token-key", KEY])
    assert verify_user(result.output.strip(), KEY.encode()).id == "~YXV0aDB8MQ"


def test_a_watch_without_a_scheduler_ends_with_one_line(unused_tcp_port: int) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    result = CliRunner().invoke(app, ["watch", "r", "--json", "--scheduler", url])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith(f"liveroom: no scheduler or gateway at {url}: no answer: Cannot connect")
    assert result.stderr.count("\n") == 1


async def test_a_watch_prints_what_is_for_people() -> None:
    lines: list[str] = []
    printer = Printer(as_json=False, out=lines.append)
    for effect in (
        Entered("r", 1, 2, 3),
        Progress("r", 1, 2, first=True),
        Delivered("r", 1, message(Kind.DANMAKU, b'{"text":"hi"}')),
        Counts("r", 12_000, None),
        Hole("r", 1, 2, 5),
        Lost("r", 1, 2, 5),
        Ended(TABLE[4003]),
    ):
        printer.on_effect(effect)
    assert lines == [
        "-- in room r",
        "     7  Ann: hi",
        "-- 12,000 likes",
        "-- 3 gifts or notices were missed",
        "-- the connection ended for good: banned",
    ]


async def test_a_watch_that_was_in_no_room_tells_no_end_of_a_connection() -> None:
    lines: list[str] = []
    Printer(as_json=False, out=lines.append).on_effect(Ended(TABLE[1000]))
    assert lines == []


async def test_a_watch_as_json_prints_messages_only() -> None:
    lines: list[str] = []
    printer = Printer(as_json=True, out=lines.append)
    printer.on_effect(Entered("r", 1, 2, 3))
    printer.gone()
    printer.on_effect(Delivered("r", 1, message(Kind.DANMAKU, b'{"text":"hi"}')))
    assert [msgspec.json.decode(line)["data"] for line in lines] == [{"text": "hi"}]


def cells(shown: Table) -> list[list[str]]:
    """Return a table's cells, row by row."""
    return [list(row) for row in zip(*(column.cells for column in shown.columns), strict=True)]


def test_tables_show_what_is_there_and_what_is_not() -> None:
    found = topics_command.Survey(
        {
            "broadcast": [topics_command.Extent(0, 0, 0), topics_command.Extent(1, 5, 9), topics_command.Extent(2, 5, 9)],
            "uplink": [topics_command.Extent(0, 0, 3), topics_command.Extent(1, 0, 12_000)],
        },
        [
            Description(0, 0, 0),
            Description(1, 5, 9, 1_790_000_000, "b-1", 1000, 11_000, Snapshot(6, 2000, 12_345), is_last_void=False),
            Description(2, 5, 9, None, None, None, 4, Snapshot(1, None, None), is_last_void=True),
        ],
    )
    topics = topics_command.topics_table(found, KafkaSettings(bootstrap="x:1"))
    assert list(topics.columns[3].cells)[:3] == ["2", "3", "not created yet"]
    assert list(topics.columns[2].cells)[:4] == ["1 d", "1 d", "compacted, for good", "10 min"]
    assert cells(topics_command.partitions_table(found, 3500)) == [
        ["0", "0..0", "nobody", "-", "-", "-", "-", "-", "-", "-", "none"],
        ["1", "5..9", "b-1", "1,790,000,000", "2.5 s", "11,000", "1,000", "6", "1.5 s", "12.3 kB", "valid"],
        ["2", "5..9", "nobody", "-", "-", "4", "-", "1", "-", "-", "void"],
    ]


@pytest.mark.kafka
async def test_a_real_cluster_is_surveyed(kafka_settings: KafkaSettings) -> None:
    assert (await topics_command.read_cluster(AioKafka(kafka_settings))).partitions == {}
    assert await topics_command.survey(AioKafka(kafka_settings)) == topics_command.Survey({}, [])
    await ensure_topics(AioKafka(kafka_settings))
    found = await topics_command.survey(AioKafka(kafka_settings))
    assert len(found.extents["uplink"]) == kafka_settings.partitions
    assert found.queue == [Description(partition, 0, 0) for partition in range(kafka_settings.partitions)]


@pytest.mark.kafka
async def test_who_rules_a_running_system_and_how_far_it_is_behind_is_printed(kafka_bootstrap: str) -> None:
    prefix, partitions = f"t{secrets.token_hex(4)}.", 2
    quick = {"SNAPSHOT_INTERVAL_S": "1"}
    async with (
        System(kafka_bootstrap, prefix=prefix, partitions=partitions, edges=1, settings=quick) as system,
        aiohttp.ClientSession() as http,
    ):
        sender = Sender(system.ingress_url, system.token("giver"), http)
        rooms = {partition_of(f"room-{number}", partitions): f"room-{number}" for number in range(20)}
        for room in rooms.values():
            assert isinstance(await sender.gift(room, "rose"), Accepted)
        settings = KafkaSettings(bootstrap=kafka_bootstrap, prefix=prefix, partitions=partitions)

        async def printed() -> list[list[str]]:
            return cells(
                topics_command.partitions_table(await topics_command.survey(AioKafka(settings)), time.time_ns() // 1_000_000)
            )

        rows: list[list[str]] = []
        async with asyncio.timeout(20):
            while not rows or any(row[6] != "0" or row[7] == "-" for row in rows):
                rows = await printed()
        for row in rows:
            assert row[2:4] == ["broadcaster-1", "1"]
            assert row[5:7] == ["1", "0"]
            assert row[10] == "valid"
        system.broadcasters[0].kill(signal.SIGSTOP)
        for room in rooms.values():
            assert isinstance(await sender.gift(room, "rose"), Accepted)
        assert [row[5:7] for row in await printed()] == [["1", "1"], ["1", "1"]]
        output = await asyncio.to_thread(
            CliRunner().invoke, app, ["topics", "--kafka", kafka_bootstrap, "--prefix", prefix, "--partitions", "2"]
        )
        system.broadcasters[0].kill(signal.SIGCONT)
    assert output.exit_code == 0
    assert output.output.count("broadcaster-1") == partitions
