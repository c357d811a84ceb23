"""What a request says, as tables: what is read, what is refused, which record it becomes."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingress import permissions, requests, responses
from ingress.openapi import EXAMPLES
from ingress.permissions import BY_KIND
from ingress.requests import MAX_BULK_DEPTH, Draft
from liveroom.bodies import BODY_OF
from liveroom.errors import TABLE, Code, ProblemError
from liveroom.kinds import Kind, Role
from liveroom.records.uplink import MAX_PACKAGE_ITEMS, decode_uplink
from liveroom.tickets import User
from liveroom.web import problem_response

BY_PATH = {route.path: route for route in requests.SEND_ROUTES}
VIEWER = User("u1", Role.VIEWER, 3, "Ann")
AT_MS = 1_700_000_000_000


class Taken(NamedTuple):
    """A request that passed: the record for `uplink`, and the answer."""

    room: str
    value: bytes
    answer: bytes


def accept(
    path: str, body: bytes | dict[str, Any], user: User = VIEWER, room: str = "r1", header_id: str | None = None
) -> Taken:
    raw, route = body if isinstance(body, bytes) else msgspec.json.encode(body), BY_PATH[path]
    draft = requests.parse(route, room, user, raw, header_id=header_id, new_id="made")
    permissions.check_sender(user, room, draft.interactions, may_claim=True)
    answer = responses.encode(responses.Accepted(draft.id, draft.room, draft.name, AT_MS))
    return Taken(draft.room, requests.to_record(draft, AT_MS), answer)


def refusal(path: str, body: bytes | dict[str, Any], **more: Any) -> Code:
    with pytest.raises(ProblemError) as caught:
        accept(path, body, **more)
    assert problem_response(caught.value).status == TABLE[caught.value.code].status
    return caught.value.code


def data_of(accepted: Taken) -> list[tuple[Kind, Any]]:
    record = decode_uplink(accepted.room.encode(), accepted.value)
    return [(item.kind, json.loads(bytes(item.data))) for item in record.items]


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.value) for kind in BY_KIND])
def test_a_misspelt_field_is_refused_by_its_name_and_readers_of_records_pass_over_it(kind: Kind) -> None:
    path, roles = BY_KIND[kind].path, BY_KIND[kind].roles
    user = User("u", Role.SERVICE if Role.SERVICE in roles else Role.OPERATOR)
    body = EXAMPLES[kind.value] | {"colour": 1}
    data = {name: value for name, value in body.items() if name != "id"}
    package = {"package": "p", "items": [{"kind": kind.value, "data": data}]}
    bulk = msgspec.Raw(msgspec.json.encode({"room": "r1", "user": "u", "kind": kind.value, "data": data}))
    reads: list[Callable[[], object]] = [lambda: accept(path, body, user), lambda: accept("packages", package, user)]
    if user.role is Role.SERVICE:
        reads.append(lambda: requests.parse_bulk_item(bulk, user, "made"))
    for read in reads:
        with pytest.raises(ProblemError, match="unknown field `colour`") as caught:
            read()
        assert caught.value.code is Code.SCHEMA
    assert msgspec.json.decode(msgspec.json.encode(data), type=BODY_OF[kind]) is not None


def test_every_kind_with_a_body_has_a_route_of_its_own() -> None:
    assert set(BY_KIND) == set(BODY_OF)
    assert len(BY_PATH) == len(requests.SEND_ROUTES) == len(BODY_OF) + 1


@pytest.mark.parametrize("route", [pytest.param(route, id=route.name) for route in requests.SEND_ROUTES])
def test_the_example_of_each_kind_is_read(route: requests.SendRoute) -> None:
    accepted = accept(route.path, EXAMPLES[route.name], user=User("u", Role.OPERATOR))
    kinds = [kind for kind, _ in data_of(accepted)]
    assert kinds == ([Kind.GIFT, Kind.DANMAKU] if route.name == "package" else [Kind(route.name)])


def drafted(path: str, body: bytes) -> Draft:
    if path == "bulk":
        return requests.parse_bulk_item(msgspec.Raw(body), User("s", Role.SERVICE, 0, ""), "made")
    return requests.parse(BY_PATH[path], "r1", VIEWER, body, header_id=None, new_id="made")


@pytest.mark.parametrize(
    "levels_of",
    [
        pytest.param(lambda depth: "[" * depth + "]" * depth, id="arrays"),
        pytest.param(lambda depth: '{"a":' * depth + "1" + "}" * depth, id="objects"),
        pytest.param(lambda depth: '{"a":[' * (depth // 2) + "[]" * (depth % 2) + "]}" * (depth // 2), id="both"),
    ],
)
@pytest.mark.parametrize("path", ["custom", "packages", "bulk"])
def test_what_is_accepted_at_any_depth_is_read_from_the_uplink_too(path: str, levels_of: Callable[[int], str]) -> None:
    """`data` is the first level, its body the second; 32 are taken, wherever it comes from."""
    for depth in (*range(1, 40), *range(950, 1010), 2000):
        data = b'{"type":"t","body":%b}' % levels_of(depth).encode()
        item = b'{"kind":"custom","data":%b}' % data
        package = b'{"package":"p","items":[%b]}' % item
        body = {"bulk": b'{"room":"r1","user":"u1",%b' % item[1:], "packages": package, "custom": data}[path]
        if depth < 32:
            assert bytes(decode_uplink(b"r1", requests.to_record(drafted(path, body), 1)).items[0].data) == data
        else:
            with pytest.raises(ProblemError, match="deeper than 32 levels") as refused:
                drafted(path, body)
            assert refused.value.code is Code.SCHEMA


@pytest.mark.parametrize("depth", [33, MAX_BULK_DEPTH - 4, MAX_BULK_DEPTH - 3, 5000])
def test_an_item_too_deep_refuses_itself_and_not_the_bulk_request_where_that_can_be_read(depth: int) -> None:
    deep = b'{"kind":"custom","data":{"type":"t","body":%b}}' % (b"[" * depth + b"]" * depth)
    if depth <= MAX_BULK_DEPTH - 4:
        assert len(requests.read_bulk(b'{"items":[%b,%b]}' % (deep, deep))) == 2
    else:
        with pytest.raises(ProblemError, match="deeper than 32 levels"):
            requests.read_bulk(b'{"items":[%b]}' % deep)


def test_the_record_says_who_what_and_when() -> None:
    accepted = accept("gifts", {"gift": "rose", "count": 3})
    record = decode_uplink(b"r1", accepted.value)
    assert (record.room, record.id, record.user, record.name, record.role, record.level) == (
        "r1",
        "made",
        "u1",
        "Ann",
        Role.VIEWER,
        3,
    )
    assert (record.at_ms, record.package, record.via) == (1_700_000_000_000, "", "ingress")
    assert data_of(accepted) == [(Kind.GIFT, {"gift": "rose", "count": 3})]
    assert json.loads(accepted.answer) == {"id": "made", "room": "r1", "kind": "gift", "at_ms": 1_700_000_000_000}


@pytest.mark.parametrize(
    ("body_id", "header_id", "expected"),
    [
        pytest.param(None, None, "made", id="none-so-made-here"),
        pytest.param("b-1", None, "b-1", id="body"),
        pytest.param(None, "h:1.2", "h:1.2", id="header"),
        pytest.param("same", "same", "same", id="both-equal"),
        pytest.param("a", "b", None, id="both-different"),
        pytest.param(None, "", None, id="header-empty"),
        pytest.param(None, "a b", None, id="header-with-space"),
        pytest.param(None, "x" * 65, None, id="header-too-long"),
        pytest.param("x" * 65, None, None, id="body-too-long"),
        pytest.param("a/b", None, None, id="body-with-slash"),
        pytest.param("a\n", None, None, id="body-with-line-break"),
    ],
)
@pytest.mark.parametrize("path", ["danmaku", "packages"])
def test_the_id_comes_from_body_or_header_or_is_made(
    path: str, body_id: str | None, header_id: str | None, expected: str | None
) -> None:
    body: dict[str, Any] = (
        {"text": "hi"} if path == "danmaku" else {"package": "p", "items": [{"kind": "danmaku", "data": {"text": "hi"}}]}
    )
    if body_id is not None:
        body["id"] = body_id
    if expected is None:
        assert refusal(path, body, header_id=header_id) is Code.SCHEMA
        return
    accepted = accept(path, body, header_id=header_id)
    assert decode_uplink(b"r1", accepted.value).id == json.loads(accepted.answer)["id"] == expected
    assert "id" not in data_of(accepted)[0][1]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b"", Code.BAD_JSON, id="empty"),
        pytest.param(b"hello", Code.BAD_JSON, id="not-json"),
        pytest.param(b'{"text":"a"', Code.BAD_JSON, id="cut"),
        pytest.param(b'{"text":"a"}{}', Code.BAD_JSON, id="more-behind"),
        pytest.param(b'\xef\xbb\xbf{"text":"a"}', Code.BAD_JSON, id="byte-order-mark"),
        pytest.param(b'{"text":"\xff"}', Code.BAD_JSON, id="not-utf8"),
        pytest.param(b'{"text":"\xed\xa0\x80"}', Code.BAD_JSON, id="surrogate-in-utf8"),
        pytest.param(b'{"text":"\\ud800"}', Code.BAD_JSON, id="lone-surrogate"),
        pytest.param(b'{"text":"\\udc00\\ud800"}', Code.BAD_JSON, id="surrogates-swapped"),
        pytest.param(b'{"\\ud800":1,"text":"a"}', Code.BAD_JSON, id="lone-surrogate-in-a-name"),
        pytest.param(b'{"text":"a","size":NaN}', Code.BAD_JSON, id="nan"),
        pytest.param(b'{"text":"a","size":Infinity}', Code.BAD_JSON, id="infinity"),
        pytest.param(b'{"text":"a\n"}', Code.BAD_JSON, id="bare-line-break"),
        pytest.param(b"[" * 30_000, Code.SCHEMA, id="deep-arrays"),
        pytest.param(b'{"text":' * 4000, Code.SCHEMA, id="deep-objects"),
        pytest.param(b"null", Code.SCHEMA, id="null"),
        pytest.param(b'"text"', Code.SCHEMA, id="a-string"),
        pytest.param(b"{}", Code.SCHEMA, id="text-missing"),
        pytest.param(b'{"text":""}', Code.SCHEMA, id="text-empty"),
        pytest.param(b'{"text":null}', Code.SCHEMA, id="text-null"),
        pytest.param(b'{"text":5}', Code.SCHEMA, id="text-number"),
        pytest.param(('{"text":"' + "字" * 201 + '"}').encode(), Code.SCHEMA, id="text-too-long"),
        pytest.param(b'{"text":"a","color":16777216}', Code.SCHEMA, id="color-out-of-range"),
        pytest.param(b'{"text":"a","size":13.5}', Code.SCHEMA, id="float"),
        pytest.param(b'{"text":"a","size":1e400}', Code.SCHEMA, id="float-overflow"),
        pytest.param(b'{"text":"a","size":' + b"9" * 20_000 + b"}", Code.SCHEMA, id="huge-integer"),
        pytest.param(b'{"text":"a","size":true}', Code.SCHEMA, id="bool-for-int"),
        pytest.param(b'{"text":"a","mode":"sideways"}', Code.SCHEMA, id="unknown-mode"),
        pytest.param(b'{"text":"a","admin":true}', Code.SCHEMA, id="unknown-field"),
        pytest.param(b'{"text":"a","mention":["a",["b"]]}', Code.SCHEMA, id="nested-mention"),
        pytest.param(b'{"text":"a","mention":[' + b'"x",' * 5000 + b'"x"]}', Code.SCHEMA, id="many-mentions"),
    ],
)
def test_a_body_that_is_not_a_danmaku_is_refused(body: bytes, code: Code) -> None:
    assert refusal("danmaku", body) is code


@pytest.mark.parametrize(
    ("path", "body", "data"),
    [
        pytest.param("danmaku", b'{"text":"a","text":"b"}', {"text": "b"}, id="doubled-name-last-wins"),
        pytest.param("danmaku", b'{"text":"\\ud83d\\ude00"}', {"text": "\N{GRINNING FACE}"}, id="surrogate-pair"),
        pytest.param("danmaku", b'{\r\n"text":\n"a\\nb"\n}', {"text": "a\nb"}, id="line-breaks-outside-go"),
        pytest.param("danmaku", b'{"text":"a","mode":"top","size":36}', {"text": "a", "mode": "top", "size": 36}, id="all"),
        pytest.param("danmaku", ('{"text":"' + "字" * 200 + '"}').encode(), {"text": "字" * 200}, id="longest"),
        pytest.param("likes", b"{}", {}, id="like-without-count"),
        pytest.param("likes", b'{"count":7}', {"count": 7}, id="likes"),
        pytest.param("gifts", b'{"gift":"g","count":99999}', {"gift": "g", "count": 99_999}, id="gift"),
    ],
)
def test_what_goes_on_is_one_line_of_known_fields(path: str, body: bytes, data: dict[str, Any]) -> None:
    accepted = accept(path, body)
    assert data_of(accepted)[0][1] == data
    assert b"\n" not in accepted.value
    assert b"\r" not in accepted.value


def _package(count: int = 1, item: bytes = b'{"kind":"like","data":{}}', **more: str) -> bytes:
    extra = "".join(f',"{name}":{value}' for name, value in more.items())
    return b'{"package":"p1","items":[' + b",".join([item] * count) + b"]" + extra.encode() + b"}"


def test_a_package_is_one_record_in_the_order_it_came() -> None:
    body = (
        b'{"items":[{"data":{"gift":"rose"},"kind":"gift"},{"kind":"danmaku","data":{"text":"x"}},'
        b'{"kind":"like","data":{"count":2}}],"package":"p1","id":"i"}'
    )
    accepted = accept("packages", body)
    assert data_of(accepted) == [(Kind.GIFT, {"gift": "rose"}), (Kind.DANMAKU, {"text": "x"}), (Kind.LIKE, {"count": 2})]
    record = decode_uplink(b"r1", accepted.value)
    assert (record.package, record.id) == ("p1", "i")
    assert json.loads(accepted.answer)["kind"] == "package"


def test_a_package_holds_as_many_items_as_a_record() -> None:
    assert len(data_of(accept("packages", _package(MAX_PACKAGE_ITEMS)))) == MAX_PACKAGE_ITEMS


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(_package(0), Code.SCHEMA, id="no-items"),
        pytest.param(_package(MAX_PACKAGE_ITEMS + 1), Code.PACKAGE_TOO_LARGE, id="too-many-items"),
        pytest.param(_package(item=b'{"kind":"ban","data":{}}'), Code.SCHEMA, id="kind-nobody-may-send"),
        pytest.param(_package(item=b'{"kind":"dance","data":{}}'), Code.SCHEMA, id="kind-unknown"),
        pytest.param(_package(item=b'{"data":{}}'), Code.SCHEMA, id="kind-missing"),
        pytest.param(_package(item=b'{"kind":"like"}'), Code.SCHEMA, id="data-missing"),
        pytest.param(_package(item=b'{"kind":"like","data":[]}'), Code.SCHEMA, id="data-array"),
        pytest.param(_package(item=b'{"kind":"like","data":{"text":"x"}}'), Code.SCHEMA, id="data-of-another-kind"),
        pytest.param(_package(item=b'{"kind":"like","data":{},"user":"x"}'), Code.SCHEMA, id="item-with-more"),
        pytest.param(_package(item=b'{"kind":"danmaku","data":{"text":"\\ud800"}}'), Code.BAD_JSON, id="lone-surrogate"),
        pytest.param(_package(item=b'{"data":' + b"[" * 30_000), Code.SCHEMA, id="deep-data-before-kind"),
        pytest.param(_package(role='"streamer"'), Code.SCHEMA, id="more-fields"),
        pytest.param(b'{"items":[{"kind":"like","data":{}}]}', Code.SCHEMA, id="package-missing"),
        pytest.param(b'{"package":"a b","items":[{"kind":"like","data":{}}]}', Code.SCHEMA, id="package-not-an-id"),
        pytest.param(_package(item=b'{"kind":"announcement","data":{"text":"x"}}'), Code.FORBIDDEN, id="kind-not-for-role"),
    ],
)
def test_a_package_with_anything_wrong_is_refused_whole(body: bytes, code: Code) -> None:
    assert refusal("packages", body) is code


def test_a_package_over_the_record_size_is_refused() -> None:
    item = msgspec.json.encode(
        {"kind": "danmaku", "data": {"text": "字" * 200, "mention": ["m" * 64] * 10, "reply": "字" * 80}}
    )
    assert refusal("packages", _package(64, item)) is Code.PACKAGE_TOO_LARGE


@pytest.mark.parametrize(
    ("media_type", "good"),
    [
        pytest.param("application/json", True, id="json"),
        pytest.param("Application/JSON; charset=utf-8", True, id="with-charset"),
        pytest.param(None, False, id="none"),
        pytest.param("text/plain", False, id="text"),
        pytest.param("application/jsonp", False, id="longer"),
        pytest.param("application/x-www-form-urlencoded", False, id="form"),
    ],
)
def test_only_json_is_taken(media_type: str | None, good: bool) -> None:
    if good:
        requests.check_media_type(media_type)
    else:
        with pytest.raises(ProblemError) as caught:
            requests.check_media_type(media_type)
        assert caught.value.code is Code.UNSUPPORTED_MEDIA_TYPE


@pytest.mark.parametrize(("declared", "good"), [(None, True), (0, True), (100, True), (101, False), (10**30, False)])
def test_a_declared_size_is_refused_above_the_limit(declared: int | None, good: bool) -> None:
    if good:
        requests.check_size(declared, 100)
    else:
        with pytest.raises(ProblemError) as caught:
            requests.check_size(declared, 100)
        assert caught.value.code is Code.TOO_LARGE


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["text", "id", "package", "items", "kind", "data", "gift", "count", "size"]), inner)
    ),
    max_leaves=12,
)


@given(
    path=st.sampled_from(sorted(BY_PATH)),
    body=st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode()),
    header_id=st.none() | st.text(max_size=4),
)
def test_any_bytes_are_accepted_as_a_readable_record_or_refused(path: str, body: bytes, header_id: str | None) -> None:
    refused: ProblemError | None = None
    try:
        accepted = accept(path, body, user=User("u", Role.OPERATOR), header_id=header_id)
        decode_uplink(b"r1", accepted.value)
    except ProblemError as problem:
        refused = problem
    if refused is not None:
        assert refused.code in Code
        assert problem_response(refused).body
