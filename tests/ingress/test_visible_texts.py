"""What people read shows something: texts, titles and gifts that stand empty are refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingress.command_requests import CommandRequest
from ingress.permissions import Command
from ingress.requests import SEND_ROUTES, parse, parse_bulk_item
from liveroom.errors import Code, ProblemError
from liveroom.kinds import Role
from liveroom.tickets import User
from liveroom.tokens import user_of

TABLE: dict[str, Any] = json.loads((Path(__file__).parents[1] / "data/texts.json").read_text(encoding="utf-8"))
ROUTES = {route.name: route for route in SEND_ROUTES}
ANN = User("ann", Role.OPERATOR, 0, "Ann")
BLANK = [text for text in TABLE["blank"] if text]
# What people read, by route: the body around it, its name, and whether it may be empty.
READ: dict[str, tuple[dict[str, Any], str, bool]] = {
    "danmaku": ({}, "text", False),
    "gift": ({}, "gift", False),
    "announcement": ({}, "text", True),
    "red_packet": ({"packet": "p"}, "text", True),
    "coupon": ({"coupon": "c"}, "text", True),
    "goods": ({"goods": "g"}, "title", False),
    "enter": ({"badge": "vip"}, "text", True),
    "leave": ({}, "badge", True),
}


def draft(route: str, body: dict[str, Any]) -> Any:
    return parse(ROUTES[route], "r", ANN, json.dumps(body).encode(), header_id=None, new_id="i")


@pytest.mark.parametrize("route", READ)
def test_a_text_that_shows_nothing_is_refused_wherever_a_person_would_read_it(route: str) -> None:
    body, name, may_be_empty = READ[route]
    for text in BLANK:
        with pytest.raises(ProblemError) as refused:
            draft(route, body | {name: text})
        assert refused.value.code is Code.SCHEMA, ascii(text)
        assert refused.value.detail == f"Expected a text that shows something - at `$.{name}`"
    for text in TABLE["visible"]:
        assert getattr(draft(route, body | {name: text}).items[0].data, name) == text
    if may_be_empty:
        assert getattr(draft(route, body | {name: ""}).items[0].data, name) == ""


def test_an_item_of_a_package_that_shows_nothing_is_named() -> None:
    items = [{"kind": "danmaku", "data": {"text": text}} for text in ("a", "\u3164")]
    with pytest.raises(ProblemError, match="shows something") as refused:
        draft("package", {"package": "p", "items": items})
    assert refused.value.detail.endswith("at `$.items[1].data.text`")


def bulk(name: str, text: str) -> Any:
    item = {"room": "r", "user": "u", "kind": "gift", "name": name, "data": {"gift": text}}
    return parse_bulk_item(msgspec.Raw(json.dumps(item).encode()), User("s", Role.SERVICE, 0, ""), "i")


def test_what_services_publish_shows_something_too() -> None:
    assert bulk("Ann", "rose").user.name == "Ann"
    for text in BLANK:
        with pytest.raises(ProblemError, match="shows something"):
            bulk("Ann", text)


@pytest.mark.parametrize("name", BLANK, ids=ascii)
def test_a_name_that_shows_nothing_is_no_name(name: str) -> None:
    assert user_of({"sub": "ann", "name": name}).name == ""
    assert bulk(name, "rose").user.name == ""


@pytest.mark.parametrize("name", TABLE["visible"], ids=ascii)
def test_a_name_that_shows_something_stays_as_it_is(name: str) -> None:
    assert user_of({"sub": "ann", "name": name}).name == name


def command(of: Command, body: dict[str, Any]) -> CommandRequest:
    return CommandRequest(of, ANN, path={"room": "r"}, query={}, body=json.dumps(body).encode(), header_id=None, new_id="i")


def test_an_announcement_to_all_rooms_shows_something_or_is_empty() -> None:
    assert command(Command.ANNOUNCE, {"text": ""}).body.text == ""
    for text in BLANK:
        with pytest.raises(ProblemError, match="shows something"):
            command(Command.ANNOUNCE, {"text": text})


def test_a_reason_that_shows_nothing_is_none() -> None:
    for text in BLANK:
        assert command(Command.MUTE, {"user": "u", "why": text}).why == ""
    assert command(Command.MUTE, {"user": "u", "why": "spam"}).why == "spam"
