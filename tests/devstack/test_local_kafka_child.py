"""Children that cannot outlive their parent."""

import asyncio
import os
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable

import psutil
import pytest

from liveroom.child_process import spawn_tethered, stop_process
from tests.ended import has_ended

DEADLINE_S = 10.0
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - processes end without an event of ours
            await asyncio.sleep(0.02)


async def line_of(process: Process) -> str:
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        return (await process.stdout.readline()).decode().strip()


async def test_the_process_is_the_command_itself_with_its_own_code_output_and_environment() -> None:
    process = await spawn_tethered(
        ["sh", "-c", "echo $$ $WORD; cat; exit 7"], env={**os.environ, "WORD": "danmaku"}, stdout=PIPE
    )
    assert await line_of(process) == f"{process.pid} danmaku"
    assert await process.wait() == 7


async def test_a_command_that_is_not_there_is_told_at_once() -> None:
    with pytest.raises(FileNotFoundError, match="no-such-program"):
        await spawn_tethered(["no-such-program"])


async def test_it_leads_a_session_of_its_own_so_that_control_c_does_not_reach_it() -> None:
    process = await spawn_tethered(
        [sys.executable, "-c", "import os; print(os.getsid(0)); import sys; sys.stdin.read()"], stdout=PIPE
    )
    assert await line_of(process) == str(process.pid)
    assert await process.wait() == 0


async def test_pass_fds_reach_the_command_and_the_tether_does_not() -> None:
    reader, writer = os.pipe()
    script = f"import os; os.write({writer}, b'through'); print(os.read(0, 1))"
    process = await spawn_tethered([sys.executable, "-c", script], stdout=PIPE, pass_fds=(writer,))
    os.close(writer)
    assert await line_of(process) == "b''"
    assert await process.wait() == 0
    with os.fdopen(reader, "rb") as end:
        assert end.read() == b"through"  # the watchdog holds no end of it


async def test_the_end_of_the_tether_ends_the_command_by_sigterm() -> None:
    process = await spawn_tethered(["sleep", "600"])
    assert process.stdin is not None
    process.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == -signal.SIGTERM


async def test_a_stubborn_command_is_killed_after_the_grace() -> None:
    process = await spawn_tethered(STUBBORN, grace_s=0.3, stdout=PIPE)
    assert await line_of(process) == "ready"
    assert process.stdin is not None
    start = time.monotonic()
    process.stdin.close()
    async with asyncio.timeout(DEADLINE_S):
        assert await process.wait() == -signal.SIGKILL
    assert time.monotonic() - start > 0.25


async def test_the_watchdog_ends_with_the_command() -> None:
    process = await spawn_tethered(["sleep", "600"])
    await until(lambda: len(psutil.Process(process.pid).children()) == 1)
    watchdog = psutil.Process(process.pid).children()[0]
    process.kill()
    await process.wait()
    await until(lambda: has_ended(watchdog))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_nothing_is_left_of_a_parent_that_dies(number: signal.Signals) -> None:
    script = (
        "import asyncio, signal, sys; from liveroom.child_process import spawn_tethered\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "async def main():\n"
        f"    one, two = [await spawn_tethered(c, grace_s=0.3, stdout=-3) for c in (['sleep', '600'], {STUBBORN!r})]\n"
        "    print(one.pid, two.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE)
    children = [psutil.Process(int(pid)) for pid in (await line_of(parent)).split()]
    for child in children:
        await until(lambda child=child: len(child.children()) > 0)  # type: ignore[misc]
    everything = children + [grandchild for child in children for grandchild in child.children()]
    parent.send_signal(number)
    await parent.wait()
    await until(lambda: all(has_ended(process) for process in everything))


@pytest.mark.skipif(sys.platform != "linux", reason="the second belt is Linux's")
async def test_nothing_is_left_either_when_the_watchdog_was_killed_before() -> None:
    script = (
        "import asyncio; from liveroom.child_process import spawn_tethered\n"
        "async def main():\n"
        "    print((await spawn_tethered(['sleep', '600'])).pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=PIPE)
    child = psutil.Process(int(await line_of(parent)))
    await until(lambda: len(child.children()) == 1)
    child.children()[0].kill()
    parent.kill()
    await parent.wait()
    await until(lambda: has_ended(child))


async def test_stop_process_waits_then_kills_and_wakes_a_stopped_one() -> None:
    polite = await spawn_tethered(["sleep", "600"])
    polite.send_signal(signal.SIGSTOP)
    assert await stop_process(polite) == -signal.SIGTERM
    assert await stop_process(polite) == -signal.SIGTERM  # once more is harmless
    stubborn = await spawn_tethered(STUBBORN, stdout=PIPE)
    assert await line_of(stubborn) == "ready"
    assert await stop_process(stubborn, grace_s=0.2) == -signal.SIGKILL
    assert await stop_process(await spawn_tethered(["sleep", "600"]), grace_s=0) == -signal.SIGKILL
