"""Files that change while a service runs."""

import asyncio
from pathlib import Path

import pytest

from liveroom.files import Watched
from liveroom.tasks import end_tasks


async def until(texts: "asyncio.Queue[str]", wanted: str) -> list[str]:
    """Return what was used until the wanted text was."""
    used: list[str] = []
    async with asyncio.timeout(60):
        while wanted not in used:
            used.append(await texts.get())
    return used


async def test_a_file_is_used_once_it_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "policy.toml"
    file.write_text("whole")
    looked, may_look = asyncio.Event(), asyncio.Semaphore(0)

    async def next_look(_: float) -> None:
        looked.set()
        await may_look.acquire()

    async def look() -> None:
        looked.clear()
        may_look.release()
        await looked.wait()

    monkeypatch.setattr("liveroom.clock.sleep", next_look)
    watched = Watched([file], file.read_text)
    assert await watched.first() == "whole"
    used: list[str] = []
    watching = asyncio.create_task(watched.watch(used.append))
    await looked.wait()
    file.write_text("")
    await look()
    file.write_text("whole again")
    await look()
    assert used == [], "it may be written still"
    await look()
    assert used == ["whole again"]
    await look()
    assert used == ["whole again"]
    await end_tasks(watching)


async def test_what_is_written_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("liveroom.files.POLL_S", 0.01)
    file = tmp_path / "policy.toml"
    file.write_text("old")

    def read() -> str:
        text = file.read_text()
        if text == "half":
            file.write_text("the whole")
        return text

    watched = Watched([file], read)
    await watched.first()
    used: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.create_task(watched.watch(used.put_nowait))
    file.write_text("half")
    assert await until(used, "the whole") == ["the whole"]
    await end_tasks(watching)
