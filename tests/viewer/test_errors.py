"""What a viewer says where it cannot come in, how it ends, and how it begins anew."""

import asyncio
from typing import Any

import aiohttp
import pytest

from liveroom.closecodes import Close
from liveroom.wire import Error
from tests.rooms import DEADLINE_S, Rooms, comes, serving_rooms
from viewer.client import Viewer
from viewer.effects import Effect, Ended, Told
from viewer.problem import ServiceError
from viewer.session import State

BAN = {"code": "banned", "detail": "spam", "until_ms": 1_900_000_000_000}


def parts(error: ServiceError | None) -> tuple[Any, ...]:
    assert error is not None
    return error.code, error.detail, error.status, error.retry_after_s, error.until_ms, error.room


@pytest.mark.parametrize(
    ("status", "problem", "told"),
    [
        pytest.param(401, {"code": "token_expired", "detail": "exp"}, ("token_expired", "exp", 401, None, 0, ""), id="token"),
        pytest.param(403, BAN | {"room": "a"}, ("banned", "spam", 403, None, 1_900_000_000_000, "a"), id="a ban"),
        pytest.param(403, {"code": "later"}, ("later", "", 403, None, 0, ""), id="a later code"),
    ],
)
async def test_an_entry_refused_for_good_ends_a_viewer_and_joined_raises_all_that_was_said(
    status: int, problem: dict[str, Any], told: tuple[Any, ...]
) -> None:
    effects: list[Effect] = []
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        rooms.refusals.append((status, {}, problem))
        async with Viewer(rooms.url, ["a"], http=http, token="t", on_effect=effects.append) as viewer:
            with pytest.raises(ServiceError) as raised:
                await viewer.joined(DEADLINE_S)
            ended = await viewer.until_ended()
    assert parts(raised.value) == parts(viewer.error) == told
    said = Error(told[0], told[1], "a", None, told[4])
    assert effects[-2:] == [Told(said), Ended(ended.rule, said)]


async def test_a_gateway_that_puts_a_viewer_out_says_why_and_until_when() -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http, Viewer(rooms.url, ["a"], http=http) as viewer:
        await viewer.joined(DEADLINE_S)
        await rooms.push({"t": "error", "room": "a", **BAN})
        await viewer.until_ended()
        assert parts(viewer.error) == ("banned", "spam", 0, None, 1_900_000_000_000, "a")


async def test_a_connection_that_is_closed_for_good_without_a_word_names_the_close_code() -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http, Viewer(rooms.url, ["a"], http=http) as viewer:
        await viewer.joined(DEADLINE_S)
        await rooms.open[0].close(code=Close.KICKED)
        ended = await viewer.until_ended()
        assert ended.refusal is None
        assert parts(viewer.error) == ("kicked", "put out", 0, None, 0, "")


async def test_while_it_may_still_come_in_a_viewer_says_why_it_is_not(unused_tcp_port: int) -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        rooms.refusals.append((503, {"Retry-After": "1"}, {"code": "no_gateway", "title": "No gateway has capacity"}))
        async with Viewer(rooms.url, ["a"], http=http) as viewer:
            await comes(lambda: viewer.error)
            assert parts(viewer.error) == ("no_gateway", "No gateway has capacity", 503, 1.0, 0, "")
            await viewer.joined(DEADLINE_S)
            assert viewer.error is None, "it is in"
        rooms.public = f"127.0.0.1:{unused_tcp_port}"
        failed: list[str] = []
        async with Viewer(rooms.url, ["a"], http=http, on_failed=failed.append) as viewer:
            with pytest.raises(TimeoutError, match=r"^not in every room within 1 s: no_answer: no gateway answers at ws:"):
                await viewer.joined(1)
        assert failed[0].startswith(f"no scheduler or gateway: no gateway answers at ws://{rooms.public}/v1/live")


async def lives(rooms: Rooms, viewer: Viewer, *entered: str) -> None:
    """Let a viewer come in, and hold what it has to hold in every life."""
    async with viewer:
        await viewer.joined(DEADLINE_S)
        assert (viewer.ended, viewer.error, viewer.is_open) == (None, None, True)
        assert sorted(rooms.entered[-len(entered) :]) == sorted(entered)
        with pytest.raises(RuntimeError, match="has been entered"):
            await viewer.__aenter__()


async def test_a_block_after_the_end_begins_anew_with_the_rooms_that_are_wished_then() -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        viewer = Viewer(rooms.url, ["a", "b"], http=http, token="t")
        rooms.refusals.append((401, {}, {"code": "token_expired"}))
        async with viewer, asyncio.timeout(DEADLINE_S):
            await viewer.until_ended()
        assert viewer.session.rooms == {}
        await lives(rooms, viewer, "a", "b")
        viewer.join("c")
        viewer.leave("a")
        await lives(rooms, viewer, "b", "c")
        await lives(rooms, viewer, "b", "c")
        assert rooms.entries == [["a", "b"], ["a", "b"], ["b", "c"], ["b", "c"]]


async def test_who_leaves_the_only_room_while_connecting_rests_at_once_and_asks_for_nothing_twice() -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        rooms.hold()
        async with Viewer(rooms.url, ["a"], http=http) as viewer:
            await comes(lambda: rooms.entries)
            viewer.leave("a")
            assert viewer.session.state is State.IDLE
            viewer.join("b")
            rooms.release()
            await viewer.joined(DEADLINE_S)
        assert rooms.entries == [["a"], ["b"]]
        assert rooms.joins == [["b"]]


async def test_a_refusal_that_names_no_room_costs_only_the_room_that_it_concerns() -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        effects: list[Effect] = []
        rooms.refusals += [(403, {}, {"code": "forbidden"})] * 3
        async with Viewer(rooms.url, ["bad", "a", "b"], http=http, on_effect=effects.append) as viewer:
            await viewer.joined(DEADLINE_S)
            assert viewer.session.rooms.keys() == {"a", "b"}
        assert rooms.entries == [["bad", "a", "b"], ["bad", "a"], ["bad"], ["a", "b"]]
        assert [effect.what for effect in effects if isinstance(effect, Told)] == [Error("forbidden", room="bad")]


async def test_a_fixed_token_that_no_header_holds_ends_a_viewer_without_a_request() -> None:
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        async with Viewer(rooms.url, ["a"], http=http, token="a\nb") as viewer, asyncio.timeout(DEADLINE_S):
            await viewer.until_ended()
        assert parts(viewer.error)[:3] == ("token_invalid", "the token is a text that no header can hold", 0)
        assert rooms.entries == []


@pytest.mark.parametrize("nothing", [None, ""])
async def test_a_token_function_that_gives_nothing_makes_no_guest_and_is_called_again(nothing: Any) -> None:
    given = iter([nothing])
    failed: list[str] = []
    async with serving_rooms() as rooms, aiohttp.ClientSession() as http:
        token = lambda: next(given, "t")  # noqa: E731
        async with Viewer(rooms.url, ["a"], http=http, token=token, on_failed=failed.append) as viewer:
            await comes(lambda: viewer.error)
            assert parts(viewer.error)[0] == "token_missing"
            assert rooms.entries == []
            await viewer.joined(DEADLINE_S)
    assert failed[0].startswith("no token: the token function gave ")
