"""Commands on terminals of any encoding, and with readers that go."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from devstack.builds import ROOT
from tests.hostile import TEXTS, danmaku, hostile, texts
from tests.rooms import serving_rooms

DEADLINE_S = 60.0  # nothing here takes so long, on whatever machine
LIVEROOM = (sys.executable, "-c", "from cli import main; main()")
# A terminal of such a locale need not exist here; Python takes its encoding from this variable.
ENCODINGS = ("ascii", "latin-1", "gbk", "cp437", "utf-8")
EMOJI = "\N{FACE WITH TEARS OF JOY}弹幕é"


@asynccontextmanager
async def running(
    *arguments: str, tmp_path: Path, encoding: str = "utf-8", errors: int | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command, whose output is a pipe, while the block runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIVEROOM_")}
    environment |= {"PYTHONIOENCODING": encoding, "LIVEROOM_RUNTIME_DIR": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *LIVEROOM,
        *arguments,
        env=environment,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if errors is None else errors,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def lines_of(process: asyncio.subprocess.Process, count: int) -> list[bytes]:
    assert process.stdout is not None
    return [await process.stdout.readline() for _ in range(count)]


def close(stream: asyncio.StreamReader | None) -> None:
    """Close our end of a pipe at once."""
    assert stream is not None
    stream._transport.close()  # type: ignore[attr-defined]  # a reader has no other way


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str]:
    """Return the exit code and what came on the error stream."""
    errors = b"" if process.stderr is None else await process.stderr.read()
    return await process.wait(), errors.decode()


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_a_watch_goes_on_where_the_terminal_cannot_show_a_character(encoding: str, tmp_path: Path) -> None:
    async with (
        hostile([danmaku(1, EMOJI)]) as services,
        asyncio.timeout(DEADLINE_S),
        running("watch", "lobby", "--scheduler", services.url, tmp_path=tmp_path, encoding=encoding) as process,
    ):
        entered, shown, end, late = await lines_of(process, 4)
        assert process.returncode is None
    assert entered == b"-- in room lobby\n"
    assert shown == f"     1  Ann{EMOJI}: {EMOJI}\n".encode(encoding, "replace")
    assert end.endswith(b"gives 1 end\n")
    assert late.startswith(b"     2  ann gives 3 rose")


@pytest.mark.parametrize("encoding", ENCODINGS)
async def test_json_lines_stay_whole_in_every_encoding_and_however_they_are_split(encoding: str, tmp_path: Path) -> None:
    arguments = ("watch", "lobby", "--json", "--scheduler")
    async with (
        hostile(texts()) as services,
        asyncio.timeout(DEADLINE_S),
        running(*arguments, services.url, tmp_path=tmp_path, encoding=encoding) as process,
    ):
        output = b"".join(await lines_of(process, len(TEXTS) + 2)).decode(encoding)
    found = [json.loads(line) for line in output.splitlines()]
    assert [each["data"]["text"] for each in found if each["kind"] == "danmaku"] == list(TEXTS)


@pytest.mark.parametrize("lines", [1, 3])
async def test_a_watch_ends_quietly_when_its_reader_has_what_it_wanted(lines: int, tmp_path: Path) -> None:
    async with (
        hostile([]) as services,
        asyncio.timeout(DEADLINE_S),
        running("watch", "lobby", "--scheduler", services.url, tmp_path=tmp_path) as process,
    ):
        await lines_of(process, lines)
        close(process.stdout)  # nothing more is said in the room
        assert await ended(process) == (0, "")


async def test_a_watch_ends_whose_errors_go_to_the_same_reader(tmp_path: Path) -> None:
    async with serving_rooms() as rooms, asyncio.timeout(DEADLINE_S):
        rooms.refusals += [(503, {}, {"code": "no_gateway"})] * 100
        arguments = ("watch", "lobby", "--scheduler", rooms.url)
        async with running(*arguments, tmp_path=tmp_path, errors=asyncio.subprocess.STDOUT) as process:
            (first,) = await lines_of(process, 1)
            assert first == b"liveroom: the scheduler refuses: no_gateway; trying again\n"
            close(process.stdout)
            assert await ended(process) == (0, "")


async def test_a_watch_that_no_gateway_takes_in_its_time_says_why(tmp_path: Path) -> None:
    async with serving_rooms() as rooms, asyncio.timeout(DEADLINE_S):
        rooms.refusals += [(503, {}, {"code": "no_gateway"})] * 100
        arguments = ("watch", "lobby", "--scheduler", rooms.url, "--duration", "1")
        async with running(*arguments, tmp_path=tmp_path) as process:
            code, errors = await ended(process)
    assert code == 1
    assert errors.splitlines()[-1].startswith("liveroom: no_gateway (No gateway has capacity")


async def test_a_watch_in_json_says_on_the_error_stream_why_it_ends(tmp_path: Path) -> None:
    async with serving_rooms() as rooms, asyncio.timeout(DEADLINE_S):
        rooms.refused["lobby"] = {"code": "banned", "detail": "spam", "until_ms": 1_700_000_000_000}
        async with running("watch", "lobby", "--json", "--scheduler", rooms.url, tmp_path=tmp_path) as process:
            said = await ended(process)
    assert said[0] == 1
    assert said[1].startswith("liveroom: banned (You are banned from this room; ")
    assert said[1].endswith(", until 2023-11-14 22:13:20 UTC\n")


async def test_what_a_command_logs_goes_to_the_error_stream(unused_tcp_port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    arguments = ("canary", "--ingress", url, "--scheduler", url, "--token", "t")
    async with asyncio.timeout(DEADLINE_S), running(*arguments, tmp_path=tmp_path) as process:
        code, errors = await ended(process)
    logged, *_, said = errors.splitlines()
    assert code == 2
    assert "no_answer" in logged
    assert said.startswith(f"liveroom: no gateways to watch: {url}/v1/gateways: Cannot connect")


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("acls",), id="what is printed at the end"),
        pytest.param(("simulate",), id="tables"),
        pytest.param(("--help",), id="help"),
    ],
)
async def test_other_commands_end_quietly_without_a_reader(arguments: tuple[str, ...], tmp_path: Path) -> None:
    async with asyncio.timeout(DEADLINE_S), running(*arguments, tmp_path=tmp_path) as process:
        close(process.stdout)
        code, errors = await ended(process)
        assert (code, errors) == (1, "")


@pytest.fixture
def full() -> Iterator[BinaryIO]:
    """Give a file to which nothing can be written."""
    with Path("/dev/full").open("wb") as file:
        yield file


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("watch", "lobby", "--json"), id="watch in JSON"),
        pytest.param(("acls",), id="what is printed at the end"),
        pytest.param(("--help",), id="help"),
        pytest.param(("token", "--user", "a", "--token-key", "k" * 40), id="one line"),
    ],
)
async def test_an_output_that_cannot_be_written_ends_a_command_with_one_line(
    arguments: tuple[str, ...], unbuffered: str, tmp_path: Path, full: BinaryIO
) -> None:
    async with hostile([danmaku(1, "hi")]) as services, asyncio.timeout(DEADLINE_S):
        services_of = {"LIVEROOM_SCHEDULER_URL": services.url, "LIVEROOM_RUNTIME_DIR": str(tmp_path)}
        environment = os.environ | services_of | {"PYTHONUNBUFFERED": unbuffered}
        process = await asyncio.create_subprocess_exec(
            *LIVEROOM, *arguments, env=environment, cwd=ROOT, stdout=full, stderr=asyncio.subprocess.PIPE
        )
        assert await ended(process) == (2, "liveroom: standard output cannot be written: No space left on device\n")


async def test_a_command_whose_errors_cannot_be_written_prints_its_result(tmp_path: Path, full: BinaryIO) -> None:
    async with asyncio.timeout(DEADLINE_S), running("acls", tmp_path=tmp_path, errors=full.fileno()) as process:
        assert process.stdout is not None
        assert len((await process.stdout.read()).splitlines()) > 5
        assert await process.wait() == 0


async def test_a_command_whose_output_is_closed_does_its_work(tmp_path: Path) -> None:
    async with hostile([]) as services, asyncio.timeout(DEADLINE_S):
        script = 'exec "$@" >&- 2>&-'
        environment = os.environ | {"LIVEROOM_RUNTIME_DIR": str(tmp_path)}
        arguments = ("send", "lobby", EMOJI, "--ingress", services.url, "--token", "t")
        process = await asyncio.create_subprocess_exec(
            "/bin/sh", "-c", script, "sh", *LIVEROOM, *arguments, env=environment, cwd=ROOT
        )
        assert (await services.sent.get())["text"] == EMOJI
        assert await process.wait() == 0


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("simulate", "evening"), id="tables"),
        pytest.param(("watch", "--help"), id="help"),
        pytest.param(("acls",), id="lines"),
    ],
)
async def test_other_commands_print_whatever_the_terminal_can_show(
    arguments: tuple[str, ...], encoding: str, tmp_path: Path
) -> None:
    async with asyncio.timeout(DEADLINE_S), running(*arguments, tmp_path=tmp_path, encoding=encoding) as process:
        assert process.stdout is not None
        assert len((await process.stdout.read()).splitlines()) > 5
        assert await ended(process) == (0, "")


@pytest.mark.parametrize("option", ["text", "--name", "--user"])
async def test_bytes_that_are_no_text_are_one_line_that_says_so(option: str, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    given = {"text": "hi", "--user": "ann", "--name": "Ann"} | {option: odd}
    arguments = ["send", "lobby", given.pop("text"), "--ingress", "http://127.0.0.1:1", "--token-key", "k" * 32]
    for name, value in given.items():
        arguments += [name, value]
    async with asyncio.timeout(DEADLINE_S), running(*arguments, tmp_path=tmp_path) as process:
        code, errors = await ended(process)
    assert code == 2
    assert errors.startswith("liveroom: ")
    assert errors.count("\n") == 1
