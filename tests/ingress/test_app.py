"""The ingress over HTTP, with a log that acknowledges at once."""

import asyncio
import gzip
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from yarl import URL

from ingress.admission import SendOutcome
from ingress.permissions import BY_KIND
from ingress.requests import SEND_ROUTES
from liveroom.errors import Code
from liveroom.kinds import Kind, Role
from tests.ingress.harness import headers_of, problem_of, served

DANMAKU = "/v1/rooms/r1/danmaku"
JSON = {"Content-Type": "application/json"}


async def raw(port: int, head: str, body: bytes = b"") -> tuple[bytes, bytes]:
    """Send a request by hand; return head and body of the answer (of the first one)."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(10):
            answered = await reader.readuntil(b"\r\n\r\n")
            length = [line for line in answered.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            rest = await reader.readexactly(int(length[0].split(b":")[1])) if length else b""
        return answered, rest
    finally:
        writer.close()


def head_of(role: Role = Role.VIEWER, *more: str, path: str = DANMAKU) -> str:
    lines = [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json"]
    return "\n".join([*lines, f"Authorization: {headers_of(role)['Authorization']}", *more])


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        pytest.param("danmaku", {"text": "hi"}, "danmaku", id="danmaku"),
        pytest.param("gifts", {"gift": "rose"}, "gift", id="gift"),
        pytest.param("likes", {"count": 3}, "like", id="like"),
        pytest.param("announcements", {"text": "soon"}, "announcement", id="announcement"),
        pytest.param("packages", {"package": "p", "items": [{"kind": "gift", "data": {"gift": "g"}}]}, "package", id="package"),
    ],
)
async def test_an_interaction_is_taken_and_answered_with_202(path: str, body: dict[str, Any], kind: str) -> None:
    async with served() as ingress:
        async with ingress.http.post(
            f"/v1/rooms/r1/{path}", json=body | {"id": "i1"}, headers=headers_of(Role.STREAMER, user="anna")
        ) as answer:
            assert answer.status == 202
            assert answer.headers["Cache-Control"] == "no-store"
            said = await answer.json()
        (record,) = ingress.writer.taken
        assert said == {"id": "i1", "room": "r1", "kind": kind, "at_ms": record.at_ms}
        assert (record.room, record.user, record.role) == ("r1", "anna", Role.STREAMER)
        assert ingress.count("liveroom_ingress_interactions_total", kind=kind, outcome="accepted") == 1
        assert ingress.count("liveroom_ingress_request_seconds_count", route=path) == 1


async def test_an_id_is_made_where_none_is_given_and_taken_from_the_header() -> None:
    async with served() as ingress:
        async with ingress.http.post(DANMAKU, json={"text": "a"}, headers=headers_of()) as answer:
            made = (await answer.json())["id"]
        async with ingress.http.post(DANMAKU, json={"text": "a"}, headers=headers_of() | {"Idempotency-Key": "mine"}) as answer:
            assert (await answer.json())["id"] == "mine"
        assert [record.id for record in ingress.writer.taken] == [made, "mine"]
        assert len(made) == 16


async def test_every_metric_is_there_at_0_from_the_start() -> None:
    async with served() as ingress:
        for route in SEND_ROUTES:
            for outcome in SendOutcome:
                assert ingress.count("liveroom_ingress_interactions_total", kind=route.name, outcome=outcome.value) == 0
            assert ingress.count("liveroom_ingress_request_seconds_count", route=route.path) == 0
        for code in Code:
            assert ingress.count("liveroom_ingress_refusals_total", code=code.value) == 0


async def test_query_parameters_that_the_ingress_does_not_know_are_ignored() -> None:
    async with served() as ingress:
        url = f"{ingress.url}{DANMAKU}?device=d&cell=7&room=other"
        async with ingress.http.post(url, data=b'{"text":"a"}', headers=JSON | headers_of()) as answer:
            assert answer.status == 202


@pytest.mark.parametrize(
    ("change", "code"),
    [
        pytest.param({"headers": JSON}, Code.TOKEN_MISSING, id="no-token"),
        pytest.param({"headers": JSON | {"Authorization": "Bearer a.b.c"}}, Code.TOKEN_INVALID, id="bad-token"),
        pytest.param({"headers": JSON | headers_of(ttl_s=-60)}, Code.TOKEN_EXPIRED, id="old-token"),
        pytest.param({"headers": headers_of() | {"Content-Type": "text/plain"}}, Code.UNSUPPORTED_MEDIA_TYPE, id="text"),
        pytest.param({"data": b"{"}, Code.BAD_JSON, id="cut-json"),
        pytest.param({"data": b'{"text":5}'}, Code.SCHEMA, id="schema"),
        pytest.param({"data": b" " * 40_000}, Code.TOO_LARGE, id="too-large"),
        pytest.param({"data": b" " * 40_000, "headers": JSON}, Code.TOO_LARGE, id="too-large-before-token"),
        pytest.param({"data": b"{", "headers": JSON}, Code.TOKEN_MISSING, id="token-before-schema"),
        pytest.param({"path": "/v1/rooms/a%20b/danmaku"}, Code.ROOM_INVALID, id="room-with-space"),
        pytest.param({"path": "/v1/rooms/a%2Fb/danmaku"}, Code.ROOM_INVALID, id="room-with-slash"),
        pytest.param({"path": f"/v1/rooms/{'a' * 65}/danmaku"}, Code.ROOM_INVALID, id="room-too-long"),
        pytest.param({"headers": JSON | headers_of(Role.GUEST)}, Code.FORBIDDEN, id="guest"),
        pytest.param({"headers": JSON | headers_of(rooms=("r2",))}, Code.FORBIDDEN, id="token-of-another-room"),
        pytest.param({"path": "/v1/rooms/r1/announcements"}, Code.FORBIDDEN, id="announcement-by-a-viewer"),
        pytest.param({"path": "/v1/rooms/r1/dances"}, Code.NOT_FOUND, id="unknown-path"),
        pytest.param({"path": "/v1/rooms//danmaku"}, Code.NOT_FOUND, id="no-room"),
        pytest.param({"path": "/"}, Code.NOT_FOUND, id="root"),
    ],
)
async def test_a_refusal_is_a_problem_with_a_stable_code(change: dict[str, Any], code: Code) -> None:
    path = change.pop("path", DANMAKU)
    request = {"data": b'{"text":"a"}', "headers": JSON | headers_of()} | change
    async with served(origins=("https://page.example",)) as ingress:
        request["headers"] = request["headers"] | {"Origin": "https://page.example"}
        async with ingress.http.post(URL(ingress.url + path, encoded=True), **request) as answer:
            await problem_of(answer, code)
            assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
            assert ("WWW-Authenticate" in answer.headers) == (answer.status == 401)
        assert ingress.writer.taken == []
        assert ingress.count("liveroom_ingress_refusals_total", code=code.value) == 1


async def test_a_wrong_method_is_told_the_right_one() -> None:
    async with served() as ingress, ingress.http.get(DANMAKU) as answer:
        await problem_of(answer, Code.METHOD_NOT_ALLOWED)
        assert answer.headers["Allow"] == "POST"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        pytest.param(("https://a.example",), "https://a.example", True, id="listed"),
        pytest.param(("*",), "https://b.example", True, id="all"),
        pytest.param(("https://a.example",), "https://b.example", False, id="not-listed"),
        pytest.param((), "https://a.example", False, id="none"),
    ],
)
async def test_a_preflight_is_answered_for_listed_origins(origins: tuple[str, ...], origin: str, allowed: bool) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with served(origins=origins) as ingress, ingress.http.options(DANMAKU, headers=asks) as answer:
        if allowed:
            assert answer.status == 204
            assert answer.headers["Access-Control-Allow-Origin"] == origin
            assert "POST" in answer.headers["Access-Control-Allow-Methods"]
            for header in ("authorization", "content-type", "idempotency-key"):
                assert header in answer.headers["Access-Control-Allow-Headers"]
        else:
            await problem_of(answer, Code.METHOD_NOT_ALLOWED)
            assert "Access-Control-Allow-Origin" not in answer.headers


async def test_an_answer_to_a_page_carries_its_origin() -> None:
    async with served(origins=("https://a.example",)) as ingress:
        headers = headers_of() | {"Origin": "https://a.example"}
        async with ingress.http.post(DANMAKU, json={"text": "a"}, headers=headers) as answer:
            assert answer.status == 202
            assert answer.headers["Access-Control-Allow-Origin"] == "https://a.example"


async def test_a_declared_size_is_refused_before_a_byte_is_sent() -> None:
    async with served() as ingress:
        head, body = await raw(ingress.port, head_of(Role.VIEWER, "Content-Length: 1099511627776"))
        assert head.startswith(b"HTTP/1.1 413 ")
        assert json.loads(body)["code"] == "too_large"


async def test_a_client_that_asks_first_is_refused_without_being_told_to_go_on() -> None:
    async with served() as ingress:
        head, _ = await raw(ingress.port, head_of(Role.VIEWER, "Content-Length: 99999", "Expect: 100-continue"))
        assert head.startswith(b"HTTP/1.1 413 ")
        head, _ = await raw(ingress.port, head_of(Role.VIEWER, "Content-Length: 9", "Expect: 100-continue"))
        assert head.startswith(b"HTTP/1.1 100 ")


async def test_a_chunked_body_is_cut_at_the_limit() -> None:
    async with served() as ingress:
        head, body = await raw(
            ingress.port,
            head_of(Role.VIEWER, "Transfer-Encoding: chunked"),
            b"".join([b"1000\r\n" + b" " * 4096 + b"\r\n"] * 20),
        )
        assert head.startswith(b"HTTP/1.1 413 ")
        assert json.loads(body)["code"] == "too_large"


async def test_a_chunked_body_within_the_limit_is_taken() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b'{"te'
        yield b'xt":"a"}'

    async with (
        served() as ingress,
        ingress.http.post(DANMAKU, data=parts(), headers=JSON | headers_of()) as answer,
    ):
        assert answer.status == 202


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip", "GZIP", "nonsense", ""])
async def test_a_compressed_body_is_refused_and_nothing_of_it_is_inflated(encoding: str) -> None:
    headers = JSON | {"Content-Encoding": encoding, "Authorization": "Bearer none"}
    async with (
        served(max_body_bytes=65_536) as ingress,
        ingress.http.post(DANMAKU, data=gzip.compress(b" " * 50_000_000), headers=headers) as answer,
    ):
        await problem_of(answer, Code.UNSUPPORTED_MEDIA_TYPE)


async def test_a_body_of_the_encoding_identity_is_taken() -> None:
    headers = JSON | headers_of() | {"Content-Encoding": "identity"}
    async with served() as ingress, ingress.http.post(DANMAKU, data=b'{"text":"a"}', headers=headers) as answer:
        assert answer.status == 202


async def test_a_broken_chunk_is_refused_at_once() -> None:
    async with served() as ingress:
        reader, writer = await asyncio.open_connection("127.0.0.1", ingress.port)
        writer.write(
            head_of(Role.VIEWER, "Transfer-Encoding: chunked").replace("\n", "\r\n").encode() + b"\r\n\r\n3\r\nabc\r\n"
        )
        await writer.drain()
        writer.write(b"zz\r\n\r\n")
        async with asyncio.timeout(10):
            answered = await reader.readline()
        writer.close()
        assert answered.split()[1] == b"400"


async def test_a_slow_body_is_cut_while_others_are_served() -> None:
    async with served(body_timeout_s=0.3) as ingress:
        slow = [asyncio.create_task(raw(ingress.port, head_of(Role.VIEWER, "Content-Length: 20"), b'{"te')) for _ in range(50)]
        async with ingress.http.post(DANMAKU, json={"text": "a"}, headers=headers_of()) as answer:
            assert answer.status == 202
        for head, body in await asyncio.gather(*slow):
            assert head.startswith(b"HTTP/1.1 408 ")
            assert json.loads(body)["code"] == "body_late"
        assert ingress.count("liveroom_ingress_refusals_total", code="body_late") == 50


async def test_slow_heads_do_not_keep_others_waiting() -> None:
    async with served() as ingress:
        writers = []
        for _ in range(100):
            _, writer = await asyncio.open_connection("127.0.0.1", ingress.port)
            writer.write(b"POST /v1/rooms/r1/danmaku HTTP/1.1\r\nHost:")
            writers.append(writer)
        async with ingress.http.post(DANMAKU, json={"text": "a"}, headers=headers_of()) as answer:
            assert answer.status == 202
        for writer in writers:
            writer.close()


@pytest.mark.parametrize("seed", range(5))
async def test_random_bytes_harm_nobody(seed: int) -> None:
    chance = random.Random(seed)
    async with served() as ingress:
        for number in range(20):
            reader, writer = await asyncio.open_connection("127.0.0.1", ingress.port)
            start = head_of().encode()[: chance.randrange(200)] if number % 2 else b""
            writer.write(start + chance.randbytes(chance.randrange(1, 2000)) + b"\r\n\r\n")
            writer.write_eof()
            async with asyncio.timeout(10):
                answered = await reader.read()
            assert not answered or answered.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4")), answered[:200]
            writer.close()
        async with ingress.http.post(DANMAKU, json={"text": "a"}, headers=headers_of()) as answer:
            assert answer.status == 202
        assert len(ingress.writer.taken) == 1


def test_a_kind_counts_under_its_own_name() -> None:
    assert [route.name for route in SEND_ROUTES] == [kind.value for kind in BY_KIND] + ["package"]
    assert Kind.GIFT in BY_KIND


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b'{"type":"t","body":' + b"[" * 16_000 + b"]" * 16_000 + b"}", Code.SCHEMA, id="deep"),
        pytest.param(b'{"type":"t","body":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}", Code.SCHEMA, id="deep objects"),
        pytest.param(b'{"type":"t","body":NaN}', Code.BAD_JSON, id="NaN"),
        pytest.param(b'{"type":"t","body":Infinity}', Code.BAD_JSON, id="infinity"),
        pytest.param(b'{"type":"t","body":"\\ud800"}', Code.BAD_JSON, id="a lone surrogate"),
        pytest.param(b'{"type":"t","body":"\xff"}', Code.BAD_JSON, id="not UTF-8"),
        pytest.param(b'{"type":"t","body":"' + b"x" * 2050 + b'"}', Code.TOO_LARGE, id="more than 2 KiB"),
        pytest.param(b'{"type":"t","body":[' + b"1e999," * 400 + b"1]}", Code.SCHEMA, id="numbers beyond floats"),
    ],
)
async def test_an_opaque_body_is_json_within_limits(body: bytes, code: Code) -> None:
    async with served() as ingress:
        headers = headers_of() | {"Content-Type": "application/json"}
        async with asyncio.timeout(10), ingress.http.post("/v1/rooms/r1/custom", data=body, headers=headers) as answer:
            await problem_of(answer, code)
        assert ingress.writer.taken == []


async def test_of_doubled_fields_the_last_counts_also_in_an_opaque_body() -> None:
    async with served() as ingress:
        headers = headers_of() | {"Content-Type": "application/json"}
        body = b'{"type":"a","type":"t","body":{"x":1,"x":2}}'
        async with ingress.http.post("/v1/rooms/r1/custom", data=body, headers=headers) as answer:
            assert answer.status == 202
        assert bytes(ingress.writer.taken[0].items[0].data) == b'{"type":"t","body":{"x":2}}'


@pytest.mark.parametrize("may_claim", [False, True], ids=["off", "on"])
@pytest.mark.parametrize(
    ("path", "body", "role"),
    [
        pytest.param("gifts", {"gift": "castle", "count": 9999}, Role.VIEWER, id="a viewer's gift"),
        pytest.param("gifts", {"gift": "castle"}, Role.STREAMER, id="a streamer's gift"),
        pytest.param("red-packets", {"packet": "p"}, Role.STREAMER, id="a red packet"),
        pytest.param("coupons", {"coupon": "c"}, Role.STREAMER, id="a coupon"),
        pytest.param(
            "packages",
            {"package": "p", "items": [{"kind": "gift", "data": {"gift": "x"}}]},
            Role.VIEWER,
            id="a package with a gift",
        ),
    ],
)
async def test_what_claims_a_payment_comes_from_a_service_unless_the_switch_is_on(
    path: str, body: dict[str, Any], role: Role, may_claim: bool
) -> None:
    async with served(viewers_may_claim_payment=may_claim) as ingress:
        async with ingress.http.post(f"/v1/rooms/r1/{path}", json=body, headers=headers_of(role)) as answer:
            if may_claim:
                assert answer.status == 202
            else:
                assert "the service that took the payment" in (await problem_of(answer, Code.FORBIDDEN))["detail"]
        async with ingress.http.post(f"/v1/rooms/r1/{path}", json=body, headers=headers_of(Role.SERVICE)) as answer:
            assert answer.status == 202


async def test_a_service_publishes_the_gift_of_a_viewer_without_the_switch() -> None:
    items = [{"room": "r1", "user": "ann", "kind": "gift", "id": "order-1", "data": {"gift": "rose"}}]
    async with served(viewers_may_claim_payment=False) as ingress:
        async with ingress.http.post("/v1/interactions", json={"items": items}, headers=headers_of(Role.SERVICE)) as answer:
            assert (await answer.json())["accepted"] == 1
        assert [(record.user, record.role) for record in ingress.writer.taken] == [("ann", Role.VIEWER)]
