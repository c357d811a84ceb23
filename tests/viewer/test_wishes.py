"""Joins and leaves of a viewer in every state of its connection, against services that keep the
rules of tickets.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from liveroom import clock
from liveroom.chance import Chance
from tests.docs.blocks import only_body
from tests.rooms import DEADLINE_S, Rooms, comes, serving_rooms
from viewer.client import Viewer
from viewer.effects import Effect, Ended, Entered, Told
from viewer.load import Crowd
from viewer.session import State


@asynccontextmanager
async def watching(rooms: Rooms, *wished: str, **more: Any) -> AsyncIterator[tuple[Viewer, list[Effect]]]:
    """Watch rooms, and collect the effects."""
    effects: list[Effect] = []
    async with (
        aiohttp.ClientSession() as http,
        Viewer(rooms.url, wished, http=http, on_effect=effects.append, **more) as viewer,
    ):
        yield viewer, effects


def codes(effects: list[Effect]) -> list[tuple[str, str]]:
    return [
        (effect.what.code, effect.what.room) for effect in effects if isinstance(effect, Told) and hasattr(effect.what, "code")
    ]


async def test_a_room_joined_while_the_first_connection_is_made_is_entered() -> None:
    async with serving_rooms() as rooms:
        rooms.hold()
        async with watching(rooms, "a") as (viewer, effects):
            await comes(lambda: rooms.entries)
            viewer.join("b")
            rooms.release()
            await viewer.joined(DEADLINE_S)
            assert rooms.entries == [["a"], ["a", "b"]]
            assert rooms.joins == [["a", "b"]], "no connection for the entry that was too old when it came"
            assert codes(effects) == []
            assert viewer.session.is_in


async def test_a_room_joined_on_an_open_connection_gets_a_ticket_of_its_own() -> None:
    async with serving_rooms() as rooms, watching(rooms, "a") as (viewer, effects):
        await viewer.joined(DEADLINE_S)
        viewer.join("b")
        viewer.join("c")
        await viewer.joined(DEADLINE_S)
        assert rooms.entries == [["a"], ["a", "b", "c"]]
        assert rooms.joins == [["a"], ["a", "b", "c"]]
        assert codes(effects) == []


async def test_who_leaves_the_only_room_asks_for_nothing_more_until_the_next_join() -> None:
    async with serving_rooms() as rooms, watching(rooms, "a") as (viewer, effects):
        await viewer.joined(DEADLINE_S)
        viewer.leave("a")
        await comes(lambda: viewer.session.state is State.IDLE and not rooms.open)
        assert viewer.session.wake_at is None, "no request is due, ever"
        assert rooms.left == ["a"]
        assert rooms.entries == [["a"]]
        viewer.join("b")
        await viewer.joined(DEADLINE_S)
        assert rooms.entries == [["a"], ["b"]]
        assert not any(isinstance(effect, Ended) for effect in effects)


async def test_who_leaves_the_only_room_waits_for_no_room() -> None:
    async with serving_rooms() as rooms, watching(rooms, "a") as (viewer, _):
        await viewer.joined(DEADLINE_S)
        viewer.leave("a")
        await viewer.joined(DEADLINE_S)


async def test_who_leaves_the_only_room_and_joins_another_one_at_once_is_in_the_other() -> None:
    async with serving_rooms() as rooms, watching(rooms, "a") as (viewer, effects):
        await viewer.joined(DEADLINE_S)
        viewer.leave("a")
        viewer.join("b")
        await viewer.joined(DEADLINE_S)
        assert [effect.room for effect in effects if isinstance(effect, Entered)] == ["a", "b"]
        assert rooms.entries == [["a"], ["b"]]


async def test_without_a_room_nothing_is_asked_for() -> None:
    async with serving_rooms() as rooms, watching(rooms) as (viewer, _):
        await comes(lambda: viewer.session.state is State.IDLE)
        viewer.join("a")
        viewer.leave("a")
        viewer.join("b")
        await viewer.joined(DEADLINE_S)
        assert [entry for entry in rooms.entries if not entry] == []
        assert rooms.joins[-1] == ["b"]


async def test_the_only_room_is_left_while_the_first_connection_is_made() -> None:
    async with serving_rooms() as rooms:
        rooms.hold()
        async with watching(rooms, "a") as (viewer, _):
            await comes(lambda: rooms.entries)
            viewer.leave("a")
            rooms.release()
            await comes(lambda: viewer.session.state is State.IDLE)
            assert (rooms.entries, rooms.joins) == ([["a"]], [])


async def test_a_room_left_and_joined_again_on_an_open_connection_is_entered() -> None:
    async with serving_rooms() as rooms, watching(rooms, "a", "b") as (viewer, effects):
        await viewer.joined(DEADLINE_S)
        viewer.leave("b")
        viewer.join("b")
        await viewer.joined(DEADLINE_S)
        assert [effect.room for effect in effects if isinstance(effect, Entered)].count("b") == 2
        assert codes(effects) == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        pytest.param(400, "bad_request", id="a request that is none"),
        pytest.param(401, "token_expired", id="a token that stays as it is"),
        pytest.param(403, "forbidden", id="forbidden"),
        pytest.param(404, "room_invalid", id="no room"),
        pytest.param(410, "of_a_later_version", id="a code of a later version"),
    ],
)
async def test_an_entry_that_cannot_succeed_is_asked_for_once(status: int, code: str) -> None:
    async with serving_rooms() as rooms:
        rooms.refusals.append((status, {}, {"code": code}))
        async with watching(rooms, "a", token="t") as (viewer, effects):
            ended = await viewer.until_ended()
            assert not ended.rule.reconnect
        assert rooms.entries == [["a"]]
        assert codes(effects) == [(code, "a")]


PROXIES = [
    pytest.param(404, "<html>default backend - 404</html>", id="a default backend"),
    pytest.param(403, "<html>blocked</html>", id="a firewall"),
    pytest.param(200, "<html>log in first</html>", id="a captive portal"),
    pytest.param(404, {"kind": "Status", "code": 404}, id="JSON with a number for a code"),
    pytest.param(403, {"code": "AccessDenied"}, id="JSON with a code of another kind"),
    pytest.param(401, {"message": "Unauthorized"}, id="JSON without a code"),
    pytest.param(400, "", id="nothing"),
]


@pytest.mark.parametrize(("status", "page"), PROXIES)
async def test_a_refusal_of_a_proxy_ends_no_viewer(status: int, page: str | dict[str, Any]) -> None:
    async with serving_rooms() as rooms:
        rooms.refusals.append((status, {}, page))
        async with watching(rooms, "a") as (viewer, effects):
            await viewer.joined(DEADLINE_S)
        assert rooms.entries == [["a"], ["a"]]
        assert codes(effects) == []


@pytest.mark.parametrize(("status", "page"), PROXIES)
async def test_beside_a_proxy_that_refuses_the_next_scheduler_is_asked_at_once(status: int, page: str | dict[str, Any]) -> None:
    async with serving_rooms() as rooms, serving_rooms() as proxy, aiohttp.ClientSession() as http:
        failed: list[str] = []
        proxy.refusals += [(status, {}, page)] * 100
        for seed in range(100):
            one = Chance(seed)
            urls = f"{rooms.url},{proxy.url}"
            async with Viewer(urls, ["a"], http=http, chance=one, on_failed=failed.append) as viewer:
                await viewer.joined(DEADLINE_S)
            if proxy.entries:
                break
        assert proxy.entries
        assert failed == []


async def test_where_no_scheduler_answers_itself_the_longest_delay_counts(unused_tcp_port: int) -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        rooms.refusals.append((503, {"Retry-After": "30"}, "<html>busy</html>"))
        began_s = clock.monotonic_s()
        async with Viewer(f"{rooms.url},http://127.0.0.1:{unused_tcp_port}", ["a"], http=http) as viewer:
            await comes(lambda: viewer.session.state is State.WAITING)
            assert viewer.session.wake_at is not None
            assert viewer.session.wake_at - began_s >= 30


async def test_a_token_that_may_be_another_one_next_time_is_tried_again() -> None:
    tokens = iter("abc")
    async with serving_rooms() as rooms:
        rooms.refusals.append((401, {}, {"code": "token_expired"}))
        async with watching(rooms, "a", token=lambda: next(tokens)) as (viewer, _):
            await viewer.joined(DEADLINE_S)
        assert rooms.entries == [["a"], ["a"]]


async def test_a_refusal_for_good_of_one_room_leaves_the_others() -> None:
    async with serving_rooms() as rooms:
        rooms.refusals.append((403, {}, {"code": "forbidden", "room": "a"}))
        async with watching(rooms, "a", "b") as (viewer, effects):
            await viewer.joined(DEADLINE_S)
        assert rooms.entries == [["a", "b"], ["b"]]
        assert codes(effects) == [("forbidden", "a")]


async def test_a_ninth_room_is_left_and_eight_are_watched() -> None:
    wished = list("abcdefghi")
    async with serving_rooms() as rooms:
        rooms.refusals.append((400, {}, {"code": "bad_request"}))
        async with watching(rooms, *wished) as (viewer, effects):
            await viewer.joined(DEADLINE_S)
        assert rooms.entries == [wished, wished[:8]]
        assert codes(effects) == [("bad_request", "i")]


async def test_a_room_joined_while_an_entry_is_refused_for_good_is_entered() -> None:
    async with serving_rooms() as rooms:
        rooms.hold()
        rooms.refusals.append((403, {}, {"code": "forbidden"}))
        async with watching(rooms, "a") as (viewer, effects):
            await comes(lambda: rooms.entries)
            viewer.join("b")
            rooms.release()
            await viewer.joined(DEADLINE_S)
        assert codes(effects) == [("forbidden", "a")]
        assert rooms.entries == [["a"], ["b"]]


async def test_a_refused_entry_is_repeated_no_sooner_than_it_asks_for() -> None:
    async with serving_rooms() as rooms:
        rooms.refusals.append((429, {"Retry-After": "30"}, {"code": "rate_address"}))
        async with watching(rooms, "a") as (viewer, _):
            began_s = clock.monotonic_s()
            await comes(lambda: viewer.session.state is State.WAITING)
            due_s = viewer.session.wake_at
            assert due_s is not None
            assert due_s - began_s >= 30


REFUSED_S = 2


async def test_a_viewer_waits_as_long_as_each_service_asks_for() -> None:
    async with serving_rooms() as rooms:
        rooms.refusals.append((503, {"Retry-After": str(REFUSED_S)}, {}))
        rooms.refusals.append((429, {}, {"code": "rate_user", "retry_after_s": REFUSED_S}))
        async with watching(rooms, "a") as (viewer, _):
            await viewer.joined(DEADLINE_S)
        assert all(later_s - before_s >= REFUSED_S for before_s, later_s in pairwise(rooms.asked_at))
        assert len(rooms.asked_at) == 3


async def test_a_viewer_waits_as_long_as_a_room_asks_for() -> None:
    async with serving_rooms() as rooms:
        rooms.refused["a"] = {"code": "full", "retry_after_s": REFUSED_S}
        async with watching(rooms, "a") as (viewer, effects):
            await comes(lambda: codes(effects))
            rooms.refused.clear()
            await viewer.joined(DEADLINE_S)
        assert all(later_s - before_s >= REFUSED_S for before_s, later_s in pairwise(rooms.asked_at))


async def test_viewers_of_a_crowd_wait_as_long_as_the_scheduler_asks_for_and_repeat_nothing_in_vain() -> None:
    for sample in (1, 1000):  # whole sessions, and connections that only count; the first of either is a session
        async with serving_rooms() as rooms:
            rooms.refusals += [(429, {"Retry-After": str(REFUSED_S)}, {"code": "rate_address"})] * 2
            crowd = Crowd(rooms.url, ["a"], 2, sample=sample)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await crowd.start()
                assert len(rooms.asked_at) == 4
                assert min(rooms.asked_at[2:]) - min(rooms.asked_at) >= REFUSED_S
            finally:
                await crowd.stop()
        async with serving_rooms() as rooms:
            rooms.refusals += [(403, {}, {"code": "forbidden"})] * 2
            crowd = Crowd(rooms.url, ["a"], 2, sample=sample)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    await crowd.start()
                assert len(rooms.entries) == 2
            finally:
                await crowd.stop()


@asynccontextmanager
async def documented(rooms: Rooms, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the client of the document in the room `a`."""
    client = folder / "client.py"
    client.write_text(only_body("docs/viewer-protocol.md", "python"), encoding="utf-8")
    environment = os.environ | {"SCHEDULER": rooms.url, "ROOM": "a", "TOKEN": "t"}
    process = await asyncio.create_subprocess_exec(sys.executable, str(client), env=environment, stderr=asyncio.subprocess.PIPE)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_the_client_of_the_document_waits_as_long_as_it_is_asked_to_and_repeats_nothing_in_vain(tmp_path: Path) -> None:
    async with serving_rooms() as rooms:
        rooms.refusals.append((429, {"Retry-After": str(REFUSED_S)}, {"code": "rate_user"}))
        rooms.refusals.append((403, {}, {"code": "banned", "retry_after_s": REFUSED_S}))
        rooms.refused["a"] = {"code": "full", "retry_after_s": REFUSED_S}
        async with documented(rooms, tmp_path) as process:
            await comes(lambda: rooms.joins and rooms.joins[0])
            rooms.refused.clear()
            await comes(lambda: rooms.entered)
            assert all(later_s - before_s >= REFUSED_S for before_s, later_s in pairwise(rooms.asked_at))
            asked = len(rooms.asked_at)
            rooms.refusals.append((403, {}, {"code": "forbidden"}))
            await rooms.open[0].close(code=1012)
            async with asyncio.timeout(DEADLINE_S):
                _, errors = await process.communicate()
            assert b"refused for good: forbidden" in errors
            assert len(rooms.entries) == asked + 1


@pytest.mark.parametrize(("status", "page"), PROXIES)
async def test_a_refusal_of_a_proxy_ends_no_client_of_the_document(
    status: int, page: str | dict[str, Any], tmp_path: Path
) -> None:
    async with serving_rooms() as rooms:
        rooms.refusals.append((status, {}, page))
        async with documented(rooms, tmp_path):
            await comes(lambda: rooms.entered)
        assert len(rooms.entries) == 2


class Asleep:
    """The system's clock, of which the monotonic one stood still for `slept_s`."""

    def __init__(self) -> None:
        self.slept_s = 0
        self.monotonic_s = clock.SYSTEM.monotonic_s
        self.sleep = clock.SYSTEM.sleep

    def unix_ns(self) -> int:
        return clock.SYSTEM.unix_ns() + self.slept_s * 10**9


@pytest.mark.parametrize("is_silent", [False, True], ids=["the connection lives", "the connection is dead"])
async def test_a_device_that_slept_probes_its_connection(is_silent: bool) -> None:
    asleep = Asleep()
    async with serving_rooms() as rooms:
        with clock.running_on(asleep):
            async with watching(rooms, "a") as (viewer, _):
                await viewer.joined(DEADLINE_S)
                rooms.is_silent = is_silent
                asleep.slept_s = 600
                await comes(lambda: rooms.beats)
                if is_silent:
                    await comes(lambda: len(rooms.joins) == 2)
                else:
                    assert len(rooms.joins) == 1


async def test_a_device_that_slept_while_it_waited_waits_no_longer() -> None:
    asleep = Asleep()
    async with serving_rooms() as rooms:
        rooms.refusals.append((429, {"Retry-After": "600"}, {"code": "rate_address"}))
        with clock.running_on(asleep):
            async with watching(rooms, "a") as (viewer, _):
                await comes(lambda: viewer.session.state is State.WAITING)
                asleep.slept_s = 3600
                await viewer.joined(DEADLINE_S)


async def test_a_device_that_slept_before_it_was_refused_waits_as_long_as_the_refusal_asks_for() -> None:
    asleep = Asleep()
    async with serving_rooms() as rooms:
        rooms.hold()
        rooms.refusals.append((503, {"Retry-After": "600"}, {"code": "no_gateway"}))
        with clock.running_on(asleep):
            async with watching(rooms, "a") as (viewer, _):
                await comes(lambda: rooms.entries)
                asleep.slept_s = 3600
                rooms.release()
                await comes(lambda: viewer.session.state is State.WAITING)
                viewer.join("b")  # it looks at the clocks
                await comes(lambda: not viewer._woken.is_set())
                assert viewer.session.wake_at is not None
                assert viewer.session.wake_at - clock.monotonic_s() > 600 - DEADLINE_S


@pytest.mark.parametrize(("code", "entries"), [(1001, [["a"], ["a", "b"]]), (4003, [["a"]])], ids=["a move", "a ban"])
async def test_a_room_joined_as_the_connection_goes_is_in_the_next_entry(code: int, entries: list[list[str]]) -> None:
    def gone() -> None:
        times.append(1)
        viewer.join("b")

    times: list[int] = []
    async with serving_rooms() as rooms, watching(rooms, "a", on_gone=gone) as (viewer, _):
        await viewer.joined(DEADLINE_S)
        await rooms.open[0].close(code=code)
        if code == 4003:
            assert (await viewer.until_ended()).rule.code == code
        else:
            await comes(lambda: rooms.entered == ["a", "a", "b"])
            assert viewer.is_open
        assert rooms.entries == entries
        assert times == [1]
