"""A script is played on time, within bounds; every answer is awaited, and it can be stopped."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from cli.endpoints import Endpoints
from cli.replay import Answer, Player, run_replay
from cli.script import Cue, loop
from liveroom.bodies import Danmaku
from liveroom.kinds import Kind
from liveroom.web import serve
from tests.tokens import verify_user
from viewer.sender import Accepted, Refused, Unknown

KEY = "k" * 64
FILE = "<i>" + "".join(f'<d p="{i / 10},1,25,255,0,0,u{i % 3},{i}">line {i}</d>' for i in range(30)) + "</i>"


def cues(*times_s: float) -> list[Cue]:
    return [Cue(at_s, f"d{number}", "ann", Kind.DANMAKU, Danmaku("hi")) for number, at_s in enumerate(times_s)]


async def test_cues_are_sent_when_due_the_first_at_once() -> None:
    clock = asyncio.get_running_loop().time
    began_s = clock()
    at: list[float] = []

    async def send(cue: Cue) -> Answer:
        at.append(clock() - began_s)
        return Accepted(cue.id, 0)

    await Player(send, speed=1000).play(cues(1_000_000, 1_000_000, 1_000_200))
    assert at[1] < 60, "the first is not waited for, which would take 1,000 s"
    assert 0.18 < at[2] < 60, "200 s of the script, at 1,000 times its speed"


async def test_every_answer_is_awaited_and_counted() -> None:
    answers: list[Answer] = [Accepted("d0", 1), Refused("d1", "muted"), Unknown("d2", "busy", "queue_unavailable")]

    async def send(cue: Cue) -> Answer:
        await asyncio.sleep(0.01)
        return answers.pop(0)

    player = Player(send)
    await player.play(cues(0, 0, 0))
    assert player.tally.line() == "sent 3 danmaku; accepted 1, refused 1, unknown 1 (muted 1, queue_unavailable 1)"


async def test_no_more_than_the_bound_wait_at_once_and_being_late_is_noted() -> None:
    waiting = most = 0

    async def send(cue: Cue) -> Answer:
        nonlocal waiting, most
        waiting += 1
        most = max(most, waiting)
        await asyncio.sleep(0.02)
        waiting -= 1
        return Accepted(cue.id, 0)

    player = Player(send, max_waiting=3)
    await player.play(cues(*[0.0] * 12))
    assert most == 3
    assert player.tally.most_late_s > 0.03


async def test_an_endless_play_can_be_stopped_and_its_last_answers_are_awaited() -> None:
    answered = 0

    async def send(cue: Cue) -> Answer:
        nonlocal answered
        await asyncio.sleep(0.05)
        answered += 1
        return Accepted(cue.id, 0)

    player = Player(send)
    play = asyncio.create_task(player.play(loop(cues(0, 0.01, 0.02), pause_s=0.01)))
    await asyncio.sleep(0.12)
    player.stop()
    await asyncio.wait_for(play, 10)
    assert answered == player.tally.sent.total() > 3


@asynccontextmanager
async def ingress(status: int, taken: list[tuple[str, str, dict[str, Any]]]) -> AsyncIterator[str]:
    async def take(request: web.Request) -> web.Response:
        user = verify_user(request.headers["Authorization"].removeprefix("Bearer "), KEY.encode())
        taken.append((request.path, user.id, await request.json()))
        return web.json_response({"at_ms": 1} if status == 202 else {"code": "muted"}, status=status)

    app = web.Application()
    app.router.add_post("/v1/rooms/r/{kind}", take)
    async with serve(app, "127.0.0.1", 0) as (_, port):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("status", "code"), [pytest.param(202, 0, id="accepted"), pytest.param(403, 1, id="refused")])
async def test_a_file_is_replayed_through_ingress(
    status: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.xml"
    file.write_text(FILE, encoding="utf-8")
    taken: list[tuple[str, str, dict[str, Any]]] = []
    async with ingress(status, taken) as url:
        target = Endpoints(url, "", KEY, "")
        assert await run_replay(file, "r", target, speed=100, seed=4, plain=False) == code
    ids = {body["id"]: path for path, _, body in taken}
    assert sum(path.endswith("/danmaku") for path in ids.values()) == 30
    assert {path for path, _, _ in taken} == {"/v1/rooms/r/danmaku", "/v1/rooms/r/gifts", "/v1/rooms/r/likes"}
    assert {user for _, user, _ in taken} == {"uu0", "uu1", "uu2"}
    out = capsys.readouterr().out
    assert "seed 4" in out
    assert (f"accepted {len(ids)}" if code == 0 else f"(muted {len(ids)})") in out


async def test_what_is_wrong_with_a_file_is_said_and_the_rest_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.xml"
    file.write_text(FILE.removesuffix("</i>").replace("line 7<", "line & 7<"), encoding="utf-16")
    taken: list[tuple[str, str, dict[str, Any]]] = []
    async with ingress(202, taken) as url:
        assert await run_replay(file, "r", Endpoints(url, "", KEY, ""), speed=100, seed=4, plain=True) == 0
    assert {body["text"] for _, _, body in taken} == {f"line {i}" for i in range(30) if i != 7}
    out = capsys.readouterr().out
    assert "1 danmaku skipped, broken markup or bytes" in out
    assert "the file is cut off: only what came before its end is used" in out


async def test_a_file_without_a_danmaku_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.xml"
    file.write_text('<i><d p="1,7,25,0,0,0,a,1">script</d></i>', encoding="utf-8")
    assert await run_replay(file, "r", Endpoints("http://127.0.0.1:9", "", KEY, ""), speed=1, seed=1, plain=False) == 1
    out = capsys.readouterr().out
    assert "1 danmaku skipped, scripts or unknown modes" in out
    assert "no danmaku that can be used" in out
