"""HTTP manners: every refusal is a problem, and pages of allowed origins can read it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

from liveroom.chance import Chance
from liveroom.errors import Code, ProblemError
from liveroom.ports import free_ports
from liveroom.refusals import RefusalLog, user_mark
from liveroom.web import (
    USER,
    ListenError,
    cors,
    is_own_origin,
    json_response,
    origin_allowed,
    problems,
    request_ids,
    serve,
)

PAGE = "https://a.example"
KEY = b"k" * 32


async def _post(request: web.Request) -> web.Response:
    match request.match_info["does"]:
        case "known":
            request[USER] = "ann"
            raise ProblemError(Code.MUTED, "for a reason of the host's", room="lobby")
        case "refuse":
            raise ProblemError(Code.SLOW_MODE, "wait", 1.2, slow_s=5)
        case "unauthenticated":
            raise ProblemError(Code.TOKEN_MISSING)
        case "fail":
            raise RuntimeError("hush: a secret")
        case "unavailable":
            raise web.HTTPServiceUnavailable
        case "move":
            raise web.HTTPFound("/elsewhere")
        case "read":
            return json_response(await request.read() or b"{}", 202)
    raise AssertionError


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """Events as they were logged."""
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture
def refused() -> list[Code]:
    """Codes as they were counted."""
    return []


@pytest.fixture
async def client(refused: list[Code]) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of a small app on a real port; only `/do/{does}` exists, and takes POST alone."""
    layers = [request_ids(Chance(1)), cors((PAGE,)), problems(refused.append, RefusalLog(KEY))]
    app = web.Application(middlewares=layers, client_max_size=1000)
    app.router.add_post("/do/{does}", _post)
    async with serve(app, "127.0.0.1", 0) as (_, port), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        yield session


async def problem_of(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    assert answer.content_type == "application/problem+json"
    body: dict[str, Any] = json.loads(await answer.read())
    assert body["status"] == answer.status
    return body


@pytest.mark.parametrize(
    ("method", "path", "data", "status", "code"),
    [
        pytest.param("POST", "/do/refuse", b"", 429, Code.SLOW_MODE, id="a refusal"),
        pytest.param("POST", "/do/fail", b"", 500, Code.INTERNAL, id="a failure"),
        pytest.param("POST", "/do/unavailable", b"", 500, Code.INTERNAL, id="a failure that aiohttp names"),
        pytest.param("POST", "/do/read", b"x" * 1001, 413, Code.TOO_LARGE, id="a body too large"),
        pytest.param("GET", "/do/read", b"", 405, Code.METHOD_NOT_ALLOWED, id="another method"),
        pytest.param("GET", "/elsewhere", b"", 404, Code.NOT_FOUND, id="another path"),
        pytest.param("OPTIONS", "/do/read", b"", 405, Code.METHOD_NOT_ALLOWED, id="OPTIONS that is no preflight"),
    ],
)
async def test_every_refusal_is_a_problem_with_its_code_and_is_counted(
    client: aiohttp.ClientSession, refused: list[Code], method: str, path: str, data: bytes, status: int, code: Code
) -> None:
    async with client.request(method, path, data=data) as answer:
        assert answer.status == status
        assert (await problem_of(answer))["code"] == code.value
    assert refused == [code]


async def test_a_problem_says_when_to_come_again_and_what_else_is_known(client: aiohttp.ClientSession) -> None:
    async with client.post("/do/refuse") as answer:
        assert answer.headers["Retry-After"] == "2"
        body = await problem_of(answer)
    assert (body["retry_after_s"], body["detail"], body["slow_s"]) == (1.2, "wait", 5)


async def test_a_missing_token_names_the_scheme(client: aiohttp.ClientSession) -> None:
    async with client.post("/do/unauthenticated") as answer:
        assert answer.headers["WWW-Authenticate"] == "Bearer"


async def test_a_wrong_method_names_the_right_ones(client: aiohttp.ClientSession) -> None:
    async with client.get("/do/read") as answer:
        assert answer.headers["Allow"] == "POST"


async def test_a_failure_tells_nothing_of_its_inside_but_to_the_log(client: aiohttp.ClientSession, logged: list[Any]) -> None:
    async with client.post("/do/fail") as answer:
        assert "hush" not in await answer.text()
    (failed,) = (event for event in logged if event["event"] == "request_failed")
    assert (failed["route"], repr(failed["exc_info"])) == ("POST /do/{does}", "RuntimeError('hush: a secret')")


async def test_what_is_no_refusal_passes_as_it_is(client: aiohttp.ClientSession, refused: list[Code]) -> None:
    async with client.post("/do/read", data=b'{"a":1}') as answer:
        assert (answer.status, await answer.read(), answer.headers["Cache-Control"]) == (202, b'{"a":1}', "no-store")
    async with client.post("/do/move", allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (302, "/elsewhere")
    assert refused == []


async def test_a_preflight_of_an_allowed_page_is_answered_for_a_path_that_has_only_post(client: aiohttp.ClientSession) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with client.options("/do/read", headers=asked) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert {"authorization", "content-type", "idempotency-key"} <= set(
            answer.headers["Access-Control-Allow-Headers"].split(", ")
        )
        assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("path", ["/do/read", "/do/refuse", "/do/fail", "/elsewhere"])
async def test_answers_and_problems_alike_can_be_read_by_an_allowed_page(client: aiohttp.ClientSession, path: str) -> None:
    async with client.post(path, headers={"Origin": PAGE}) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert answer.headers["Access-Control-Expose-Headers"] == "Retry-After, X-Request-Id"
        assert "Access-Control-Allow-Credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://b.example", "https://a.example.evil", "http://a.example", "null", ""])
async def test_pages_of_other_origins_are_told_nothing(client: aiohttp.ClientSession, origin: str) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with client.options("/do/read", headers=asked) as answer:
        assert answer.status == 405
        assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("origin", "origins", "allowed"),
    [
        pytest.param(PAGE, (PAGE,), True, id="listed"),
        pytest.param(PAGE, (), False, id="none are"),
        pytest.param(PAGE, ("*",), True, id="all are"),
        pytest.param(PAGE.upper(), (PAGE,), False, id="browsers send lower case"),
    ],
)
def test_which_origins_are_allowed(origin: str, origins: tuple[str, ...], allowed: bool) -> None:
    assert origin_allowed(origin, origins) is allowed


@pytest.mark.parametrize(
    ("origins", "level"),
    [
        pytest.param((), None, id="no other pages"),
        pytest.param((PAGE,), "info", id="some pages"),
        pytest.param(("*",), "warning", id="every page"),
        pytest.param((PAGE, "*"), "warning", id="every page beside a named one"),
        pytest.param((PAGE, "null"), "warning", id="every page that is in a sandbox"),
    ],
)
def test_the_log_says_which_other_pages_may_call(origins: tuple[str, ...], level: str | None, logged: list[Any]) -> None:
    cors(origins)
    assert [(event["event"], event["log_level"]) for event in logged] == ([("origins_open", level)] if level else [])


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        pytest.param("https://a.example", "a.example", True, id="without a port"),
        pytest.param("http://a.example:8010", "A.example:8010", True, id="with a port"),
        pytest.param("http://a.example:8010", "a.example:8001", False, id="another port"),
        pytest.param("https://a.example", "a.example:443", True, id="the usual port, which a proxy names"),
        pytest.param("http://[::1]", "[::1]:80", True, id="the usual port of an IPv6 address"),
        pytest.param("https://a.example:80", "a.example", False, id="the usual port of another scheme"),
        pytest.param("https://a.example", "a.example:80", False, id="another scheme's usual port"),
        pytest.param("http://a.example.evil", "a.example", False, id="a longer name"),
        pytest.param("null", "a.example", False, id="a page without an origin"),
        pytest.param("null", "", False, id="no names at all"),
        pytest.param("https://a.example", None, False, id="no host"),
    ],
)
def test_the_own_origin_is_that_of_the_host(origin: str, host: str | None, is_own: bool) -> None:
    assert is_own_origin(origin, host) is is_own


async def test_an_ipv6_address_that_is_not_of_this_machine_is_named_in_brackets() -> None:
    with pytest.raises(ListenError, match=r"cannot listen at \[2001:db8::1\]:80: "):
        async with serve(web.Application(), "2001:db8::1", 80):
            pass


async def test_a_port_that_is_taken_at_the_loopback_address_alone_is_named_with_it() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match=f"cannot listen at 127.0.0.1:{port}: "):
            async with serve(web.Application(), "127.0.0.2", port, loopback=True):
                pass


async def test_a_port_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port}: address already in use"):
            async with serve(web.Application(), "127.0.0.1", port):
                pass


async def test_a_port_that_goes_to_another_between_bind_and_listen_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.listen

    def beaten(own: socket.socket, backlog: int) -> None:
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(own.getsockname())
            real(other)
            real(own, backlog)

    monkeypatch.setattr(socket.socket, "listen", beaten)
    with pytest.raises(OSError, match=r"127\.0\.0\.1:\d+: address already in use"):
        async with serve(web.Application(), "127.0.0.1", 0):
            pass


async def connected(address: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(address, port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


@pytest.mark.parametrize(
    ("host", "loopback", "at_loopback"),
    [
        pytest.param("127.0.0.2", True, True, id="beside another address"),
        pytest.param("127.0.0.2", False, False, id="where nobody asked for it"),
        pytest.param("127.0.0.1", True, True, id="the loopback address alone"),
        pytest.param("0.0.0.0", True, True, id="all addresses"),
    ],
)
async def test_a_port_listens_at_the_loopback_address_too_where_it_should(host: str, loopback: bool, at_loopback: bool) -> None:
    (chosen,) = free_ports(1)  # that no outgoing connection takes meanwhile, at either address
    async with serve(web.Application(), host, chosen, loopback=loopback) as (_, port):
        assert await connected("127.0.0.1" if host == "0.0.0.0" else host, port)
        assert await connected("127.0.0.1", port) is at_loopback


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("POST", "/do/read", id="an answer"),
        pytest.param("POST", "/do/refuse", id="a refusal"),
        pytest.param("POST", "/do/fail", id="a failure"),
        pytest.param("GET", "/elsewhere", id="no route"),
        pytest.param("OPTIONS", "/do/read", id="a preflight"),
    ],
)
async def test_every_answer_has_an_id_of_its_own(client: aiohttp.ClientSession, method: str, path: str) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}
    ids = []
    for _ in range(2):
        async with client.request(method, path, headers=asked) as answer:
            ids.append(answer.headers["X-Request-Id"])
            if answer.content_type == "application/problem+json":
                assert (await problem_of(answer))["request_id"] == ids[-1]
    assert ids[0] != ids[1]
    assert all(len(id_) == 16 for id_ in ids)


TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.mark.parametrize(
    ("headers", "taken"),
    [
        pytest.param({"X-Request-Id": "0a-B_9"}, "0a-B_9", id="a well-formed one"),
        pytest.param({"X-Request-Id": "i" * 64}, "i" * 64, id="the longest"),
        pytest.param({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, TRACE, id="a trace"),
        pytest.param({"traceparent": f"cc-{TRACE}-00f067aa0ba902b7-01-more"}, TRACE, id="a trace of a later version"),
        pytest.param({"X-Request-Id": "mine", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, "mine", id="both"),
        pytest.param({"X-Request-Id": "a.b"}, None, id="what may be a token or an address"),
        pytest.param({"X-Request-Id": "i" * 65}, None, id="too long"),
        pytest.param({"X-Request-Id": ""}, None, id="none"),
        pytest.param({"traceparent": f"00-{'0' * 32}-00f067aa0ba902b7-01"}, None, id="no trace"),
        pytest.param({"traceparent": TRACE}, None, id="half a trace"),
    ],
)
async def test_an_id_that_comes_with_a_request_stays_if_it_is_well_formed(
    client: aiohttp.ClientSession, headers: dict[str, str], taken: str | None
) -> None:
    async with client.post("/do/refuse", headers=headers) as answer:
        id_ = answer.headers["X-Request-Id"]
        assert (await problem_of(answer))["request_id"] == id_
    assert (id_ == taken) if taken is not None else (len(id_) == 16)


async def test_a_refusal_is_logged_with_its_id_and_the_mark_of_its_user_and_no_word_of_others(
    client: aiohttp.ClientSession, logged: list[Any]
) -> None:
    async with client.post("/do/known", headers={"X-Request-Id": "i1"}):
        pass
    (line,) = (event for event in logged if event["event"] == "refused")
    assert line == {
        "event": "refused",
        "log_level": "info",
        "code": "muted",
        "route": "POST /do/{does}",
        "room": "lobby",
        "user": user_mark(KEY, "ann"),
        "request_id": "i1",
        "detail": None,
    }


async def test_a_path_or_method_that_is_none_is_not_quoted(client: aiohttp.ClientSession, logged: list[Any]) -> None:
    async with client.request("PROPFIND", "/marked?room=no+room"):
        pass
    (line,) = (event for event in logged if event["event"] == "refused")
    assert (line["route"], line["room"]) == ("another method at no route", None)
