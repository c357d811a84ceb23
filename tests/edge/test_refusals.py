"""What a gateway refuses or ends has an id that the viewer sees and the log has."""

from typing import Any

import pytest
import structlog
from websockets.exceptions import InvalidStatus

from liveroom.closecodes import Close
from liveroom.records.control import Moderation, RuleKind
from tests.edge.harness import Edge, ask, close_code, next_frame, running, settings_of


@pytest.mark.parametrize("id_", ["mine-1", None])
async def test_a_connection_has_one_id_from_its_answer_to_its_end(id_: str | None) -> None:
    with structlog.testing.capture_logs() as logged:
        async with running(settings_of()) as edge:
            headers = {"X-Request-Id": id_} if id_ else {}
            async with edge.connect(additional_headers=headers) as viewer:
                assert viewer.response is not None
                given = viewer.response.headers["X-Request-Id"]
                assert given == id_ or id_ is None
                assert (await next_frame(viewer))["request_id"] == given
                assert (await ask(viewer, t="join", room="a b"))["request_id"] == given
                assert (await ask(viewer, t="leave", room="r"))["request_id"] == given
                assert (await ask(viewer, t="join", room="r"))["t"] == "joined"
                edge.gateway.bans.on_rule(Moderation(1, "r", 1, RuleKind.BAN, "u1", id="b", until_ms=-1, why="rude"))
                await next_frame(viewer)
                assert (await next_frame(viewer))["request_id"] == given
                assert await close_code(viewer) == Close.BANNED
    lines = [(line["event"], line["code"], line.get("room"), line["request_id"]) for line in logged if "request_id" in line]
    assert lines == [
        ("refused", "room_invalid", None, given),
        ("refused", "not_in_room", "r", given),
        ("put_out", "banned", "r", given),
        ("closed", 4003, None, given),
    ]
    assert "rude" not in str(logged)


async def test_an_upgrade_that_is_refused_is_logged_with_the_id_of_its_problem(edge: Edge) -> None:
    with structlog.testing.capture_logs() as logged, pytest.raises(InvalidStatus) as caught:
        async with edge.connect("no-ticket"):
            pass
    id_ = caught.value.response.headers["X-Request-Id"]
    assert f'"request_id":"{id_}"'.encode() in (caught.value.response.body or b"")
    (line,) = (line for line in logged if line["event"] == "refused")
    assert (line["code"], line["route"], line["request_id"]) == ("ticket_invalid", "GET /v1/live", id_)


async def test_a_ticket_that_is_used_up_names_its_user_and_an_origin_is_shown_only_if_it_is_one(edge: Edge) -> None:
    ticket = edge.ticket("ann")
    lines: list[Any] = []
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            async with edge.connect(ticket):
                pass
        for origin in (None, "https://evil.example:8443", "marked <text>"):
            with pytest.raises(InvalidStatus):
                async with edge.connect(ticket, origin=origin):
                    pass
        lines = [line for line in logged if line["event"] == "refused"]
    assert [(line["code"], line["detail"]) for line in lines] == [
        ("ticket_used", None),
        ("origin", "https://evil.example:8443"),
        ("origin", None),
    ]
