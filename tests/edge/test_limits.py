"""What a user, an address and a connection may take of a gateway, over all that they open."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from edge.joins import REPEATED_COST
from edge.limits import DETAILS, Limit
from edge.quiet_rooms import GRACE_S
from liveroom import clock, metric_catalog
from liveroom.kinds import Role
from liveroom.records.control import Moderation, RuleKind
from liveroom.tickets import User
from tests.edge.harness import line, settings_of
from tests.edge.memory import MemoryEdge, MemoryViewer, in_memory
from tests.manual_clock import ManualClock

PROXY = {"proxies": ("192.0.2.0/24",)}  # of the transports in memory


@pytest.fixture
def time() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def edge(request: pytest.FixtureRequest, time: ManualClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MemoryEdge]:
    monkeypatch.setattr("edge.joins.SNAPSHOT_WAIT_S", 0.0)
    with clock.running_on(time):
        async with in_memory(settings_of(**PROXY | getattr(request, "param", {}))) as made:
            yield made


async def codes(edge: MemoryEdge, *callers: tuple[str, str]) -> list[str]:
    """Return how connections of (user, address) are answered: with a code, or nothing."""
    problems = [await edge.refusal(user, address=address) for user, address in callers]
    return [problem["code"] if problem is not None else "" for problem in problems]


def joining(edge: MemoryEdge, viewer: MemoryViewer, *rooms: str, **more: Any) -> list[str]:
    """Join; return the codes of what is refused, and the types of what is not."""
    came = []
    for room in rooms:
        viewer.say(t="join", room=room, **more)
        edge.keepalive.turn()
        came += [frame.get("code", frame["t"]) for frame in viewer.frames() if frame["t"] in {"joined", "error"}]
    return came


def joins(edge: MemoryEdge, outcome: str) -> float:
    return float(edge.runtime.metrics.counter(metric_catalog.JOINS, outcome)._value.get())


# ---- connections
@pytest.mark.parametrize("edge", [{"max_user_connections": 2, "max_per_address": 4}], indirect=True)
async def test_a_user_and_an_address_have_so_many_connections_over_all_tickets(edge: MemoryEdge) -> None:
    here = [await edge.viewer(user, address="203.0.113.1") for user in ("u1", "u1", "u2")]
    assert await codes(edge, ("u1", "203.0.113.9"), ("u3", "203.0.113.1"), ("u4", "203.0.113.1")) == [
        "rate_user",
        "",
        "rate_address",
    ]
    assert await codes(edge, ("u4", "203.0.113.2")) == [""]
    assert edge.limited() == {"user_connections": 1, "address_connections": 1}
    here[0].transport.abort()
    await clock.sleep(0)
    assert await codes(edge, ("u1", "203.0.113.1")) == [""], "one of each is gone"


@pytest.mark.parametrize("edge", [{"max_per_address": 2}], indirect=True)
async def test_one_ipv6_subscriber_is_one_address(edge: MemoryEdge) -> None:
    callers = [(f"u{number}", f"2001:db8::{number}") for number in range(3)]
    assert await codes(edge, *callers, ("u4", "2001:db8:0:1::1")) == ["", "", "rate_address", ""]


@pytest.mark.parametrize("edge", [{"max_joins_per_s": 10, "user_connections_burst": 5}], indirect=True)
async def test_a_user_that_connects_in_a_loop_takes_nothing_from_others(edge: MemoryEdge, time: ManualClock) -> None:
    refused = 0
    for number in range(40):
        for _ in range(5):
            problem = await edge.refusal("mallory")
            if problem is not None:
                refused += 1
                assert (problem["code"], problem["status"]) == ("rate_user", 429)
                assert 0 <= problem["retry_after_s"] <= 1
        assert await edge.refusal(f"honest{number}") is None
        time.now_s += 0.2
    assert edge.limited() == {"user_connects": refused}
    assert refused >= 180


@pytest.mark.parametrize("edge", [{"address_connections_burst": 3, "address_connections_per_s": 0.1}], indirect=True)
async def test_an_address_connects_so_often_for_all_its_users(edge: MemoryEdge) -> None:
    callers = [(f"u{number}", "203.0.113.1") for number in range(4)]
    assert await codes(edge, *callers, ("u4", "203.0.113.2")) == ["", "", "", "rate_address", ""]
    assert edge.limited() == {"address_connects": 1}


@pytest.mark.parametrize("edge", [{"address_failures_burst": 100}], indirect=True)
async def test_an_address_has_so_many_bad_tickets_verified_and_others_enter_meanwhile(
    edge: MemoryEdge, time: ManualClock
) -> None:
    verified = 0

    def is_signature(_: bytes, __: bytes) -> bool:
        nonlocal verified
        verified += 1
        return False

    good = edge.admission._keys
    edge.admission.use(dict.fromkeys(good, is_signature))
    forger = "203.0.113.1"
    refused = [await edge.refusal(address=forger) for _ in range(110)]
    refusals = [problem["code"] for problem in refused if problem]
    assert refusals == ["ticket_invalid"] * verified + ["rate_address"] * (110 - verified)
    assert verified == pytest.approx(100, abs=1)
    assert refused[-1] is not None
    assert refused[-1]["status"] == 429
    edge.admission.use(good)
    assert await codes(edge, ("u1", "203.0.113.2"), ("u2", forger)) == ["", "rate_address"]
    time.now_s += 1
    assert await codes(edge, ("u2", forger)) == [""]
    assert edge.limited() == {"address_bad_tickets": 111 - verified}


@pytest.mark.parametrize("edge", [{"address_failures_burst": 2}], indirect=True)
async def test_bad_tickets_behind_a_proxy_that_reports_no_caller_count_for_nobody(edge: MemoryEdge) -> None:
    refused = [await edge.refusal(ticket="forged") for _ in range(5)]
    assert [problem["code"] for problem in refused if problem] == ["ticket_invalid"] * 5
    assert await codes(edge, ("u1", "")) == [""]


@pytest.mark.parametrize("edge", [{"max_connections": 1, "max_joins_per_s": 0.5}], indirect=True)
async def test_what_the_gateway_itself_cannot_take_is_counted_too(edge: MemoryEdge) -> None:
    assert await codes(edge, ("u1", "203.0.113.1"), ("u2", "203.0.113.2")) == ["", "full"]
    for member in list(edge.gateway.members):
        member.abort()
    await edge.gateway.all_gone()
    assert await codes(edge, ("u2", "203.0.113.2")) == ["full"]
    assert edge.limited() == {"gateway_connections": 1, "gateway_connects": 1}


# ---- joins
async def test_only_the_first_join_of_a_connection_is_an_arrival(edge: MemoryEdge) -> None:
    viewers = [await edge.viewer(f"u{number}") for number in range(3)]
    for viewer in viewers:
        assert joining(edge, viewer, "r", "r", "r", "other") == ["joined"] * 4
        viewer.say(t="leave", room="r")
        assert joining(edge, viewer, "r") == ["joined"]
    assert edge.gateway.joins.arrived == 3
    assert (joins(edge, "joined"), joins(edge, "repeated")) == (9, 6)


@pytest.mark.parametrize("edge", [{"connection_joins_burst": 8, "handshake_timeout_s": 60}], indirect=True)
async def test_a_connection_that_resumes_again_and_again_is_refused_and_brings_little_back(
    edge: MemoryEdge, time: ManualClock
) -> None:
    viewer, other = await edge.viewer("u1"), await edge.viewer("u1")
    assert joining(edge, viewer, "r") == ["joined"]
    await edge.deliver("r", [line(seq, "x" * 500) for seq in range(1, 15)])
    viewer.frames()
    answers, size = list[dict[str, Any]](), 0
    for _ in range(120):
        viewer.say(t="join", room="r", epoch=3, seq=0, rseq=0)
        size += len(viewer.transport.received)
        answers += [frame for frame in viewer.frames() if frame["t"] in {"joined", "error"}]
        edge.keepalive.turn()
        time.now_s += 0.1
    joined = [frame for frame in answers if frame["t"] == "joined"]
    refused = [frame for frame in answers if frame["t"] == "error"]
    assert len(joined) + len(refused) == 120
    assert len(joined) <= (8 + 12) / REPEATED_COST
    assert size < 80_000
    assert {(frame["code"], frame["room"], frame["detail"]) for frame in refused} == {
        ("rate_user", "r", DETAILS[Limit.CONNECTION_JOINS])
    }
    assert all(0 <= frame["retry_after_s"] <= REPEATED_COST for frame in refused)
    assert edge.limited() == {"connection_joins": len(refused)}
    assert joining(edge, other, "r", epoch=3, seq=0, rseq=0) == ["joined"]


@pytest.mark.parametrize("edge", [{"user_joins_burst": 10, "address_joins_burst": 16, "user_joins_per_s": 1}], indirect=True)
async def test_a_user_and_an_address_join_so_often_over_all_connections(edge: MemoryEdge) -> None:
    first, second = [await edge.viewer("u1", address="203.0.113.1") for _ in range(2)]
    other, last = await edge.viewer("u2", address="203.0.113.1"), await edge.viewer("u3", address="203.0.113.1")
    elsewhere = await edge.viewer("u4", address="203.0.113.2")
    assert joining(edge, first, *"abcdef") + joining(edge, second, *"abcdef") == ["joined"] * 10 + ["rate_user"] * 2
    assert joining(edge, other, *"abcd") + joining(edge, last, *"abc") == ["joined"] * 6 + ["rate_address"]
    assert joining(edge, elsewhere, "a") == ["joined"]
    assert edge.limited() == {"user_joins": 2, "address_joins": 1}
    assert joins(edge, "refused") == 3


async def test_a_ban_is_reported_with_its_end_and_its_reason(edge: MemoryEdge, time: ManualClock) -> None:
    until_ms = int(time.now_s * 1000) + 60_000
    edge.gateway.joins._rules.apply(
        Moderation(1, "r", 1, RuleKind.BAN, "rude", id="b1", until_ms=until_ms, why="spam", by_role=Role.STREAMER)
    )
    viewer = await edge.viewer("rude")
    (hello,) = viewer.frames()
    viewer.say(t="join", room="r")
    ban = {"t": "error", "code": "banned", "detail": "spam", "room": "r", "until_ms": until_ms}
    assert viewer.frames() == [ban | {"request_id": hello["request_id"]}]
    time.now_s += 61
    assert joining(edge, viewer, "r") == ["joined"]


# ---- rooms
@pytest.mark.parametrize("edge", [{"max_local_rooms": 8}], indirect=True)
async def test_a_viewer_comes_into_a_real_room_whatever_guests_invent(edge: MemoryEdge, time: ManualClock) -> None:
    guest = await edge.viewer(User("guest", Role.GUEST), address="203.0.113.1")
    (id_,) = (member.request_id for member in edge.gateway.members)
    honest = await edge.viewer("honest", address="203.0.113.2")
    assert joining(edge, guest, *(f"x{number}" for number in range(8))) == ["joined"] * 8
    time.now_s += GRACE_S
    for number in range(3):
        assert joining(edge, honest, f"show{number}") == ["joined"]
        await edge.deliver(f"show{number}", [line(1)])
        honest.frames()
        assert [frame for frame in guest.frames() if frame["t"] != "hb"] == [
            {
                "t": "error",
                "code": "full",
                "detail": DETAILS[Limit.GATEWAY_ROOMS],
                "room": f"x{number}",
                "retry_after_s": 1.0,
                "request_id": id_,
            }
        ]
        guest.say(t="leave", room=f"x{number}")
        assert guest.frames()[0]["code"] == "not_in_room"
    time.now_s += GRACE_S
    assert joining(edge, guest, "y1") == ["full", "joined"], "one of its own makes space"
    evicted = [
        edge.runtime.metrics.counter(metric_catalog.ROOMS_EVICTED, reason)._value.get() for reason in ("quiet", "vacant")
    ]
    assert evicted == [4, 0]
    assert {"show0", "show1", "show2"} <= {room.name for room in edge.gateway.hub.rooms.values()}
    assert edge.limited() == {}


@pytest.mark.parametrize("edge", [{"max_address_quiet_rooms": 4, "handshake_timeout_s": 30}], indirect=True)
async def test_the_guests_of_one_address_share_the_rooms_that_they_invent(edge: MemoryEdge, time: ManualClock) -> None:
    guests = [await edge.viewer(f"guest{number}", address=f"2001:db8::{number}") for number in range(4)]
    honest = await edge.viewer("honest", address="203.0.113.2")
    assert joining(edge, honest, "new") == ["joined"]
    came = [code for number, guest in enumerate(guests) for code in joining(edge, guest, f"x{number}", f"y{number}")]
    assert came == ["joined"] * 4 + ["rate_address"] * 4
    assert edge.limited() == {"address_rooms": 4}
    time.now_s += GRACE_S
    each = [joining(edge, guest, f"z{number}") for number, guest in enumerate(guests)]
    assert each == [["full", "joined"], ["joined"], ["joined"], ["joined"]], "those of the first two made space"
    assert edge.gateway.hub.watched == 5
    assert "new" in {room.name for room in edge.gateway.hub.rooms.values()}
