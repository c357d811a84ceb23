"""The room -> connection map, and who gets what."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.hub import LINGER_S, QUIET_RING_BYTES, Delivered, Evicted, Hub, Space
from edge.prepared_batch import PreparedBatch
from edge.quiet_rooms import GRACE_S, MAX_EVICTED
from edge.room import Position, Room
from liveroom.audience import Viewers
from liveroom.closecodes import Close
from liveroom.kinds import Role
from liveroom.records.broadcast import (
    Anchor,
    Batch,
    BatchParts,
    CardEntry,
    NoticeEntry,
    RoomEntry,
    RoomFlags,
    decode_broadcast,
    encode_batch,
)
from liveroom.topics import room_hash
from liveroom.wire import BatchHeader, Payload, ReceivedBatch, decode_server_frame, inflate, pack_payload, websocket_frame

ANCHOR = Anchor(0, 0, None)
LONG_LINE = b'{"seq":1,"kind":"danmaku","id":"i","user":"u","at":1,"data":{"text":"' + b"x" * 1000 + b'"}}'
GIFT = b'{"seq":2,"kind":"gift","id":"g","user":"u","at":1,"rseq":1,"data":{"gift":"rose"}}'
BAD_CLEAR = b'{"seq":1,"kind":"clear","id":"c","user":"u","at":1,"rseq":1,"data":{"id":7}}'


@dataclass(eq=False)
class FakeMember:
    """Keeps what it is sent; slow ones take reliable parts only."""

    user_hash: int = 1
    device_hash: int = 0
    form: int = 0
    slow: bool = False
    rooms: dict[int, Room] = field(default_factory=dict)
    got: list[bytes] = field(default_factory=list)
    user: str = "u"
    role: Role = Role.VIEWER
    named_rooms: tuple[str, ...] = ()
    address: str = "192.0.2.1"
    request_id: str = "i"

    def push(self, prepared: PreparedBatch) -> int:
        frame = prepared.reliable(self.form) if self.slow else prepared.make(self.form)
        if frame is None:
            return 0
        self.got.append(frame)
        return len(frame)

    def send(self, frame: bytes) -> None:
        self.got.append(frame)

    def close(self, _: Close, __: str = "") -> None:
        raise AssertionError("the hub closes nobody")

    def replay(self, prepared: PreparedBatch, *, is_whole: bool) -> None:
        frame = prepared.make(self.form) if is_whole else prepared.reliable(self.form)
        assert frame is not None
        self.got.append(frame)


def join(hub: Hub, member: FakeMember, name: str, now_s: float = 0) -> Room:
    room = hub.add_pending(member, name, now_s)
    hub.enter(member, room)
    return room


def deliver(hub: Hub, batch: Batch, offset: int = 1, now_s: float = 1) -> Delivered:
    delivering = hub.deliver(batch, 0, offset, now_s)
    while True:
        try:
            next(delivering)
        except StopIteration as done:
            delivered: Delivered = done.value
            return delivered


def payload_of(
    room: str, first: int = 1, last: int = 1, best_effort: tuple[bytes, ...] = (), reliable: tuple[bytes, ...] = ()
) -> Payload:
    return pack_payload(BatchHeader(room, 7, (first, last), len(reliable), at=1), reliable, best_effort)


def entry_of(room: str, payload: Payload, first: int = 1, last: int = 1, messages: int = 1) -> RoomEntry:
    flags = RoomFlags.DEFLATED if payload.deflated else 0
    return RoomEntry(room_hash(room), first, last, 0, messages, 0, len(payload.data), payload.reliable_size, 7, flags)


def batch_of(*rooms: str, notices: tuple[tuple[NoticeEntry, bytes], ...] = ()) -> Batch:
    parts = [(entry_of(room, payload_of(room)), payload_of(room).data) for room in rooms]
    decoded = decode_broadcast(encode_batch(BatchParts(1, b"o" * 16, 1, ANCHOR, 0, 1, 1, parts, notices)))
    assert isinstance(decoded, Batch)
    return decoded


def batch_with(entry: RoomEntry, payload: bytes) -> Batch:
    decoded = decode_broadcast(encode_batch(BatchParts(1, b"o" * 16, 1, ANCHOR, 0, 1, 1, [(entry, payload)])))
    assert isinstance(decoded, Batch)
    return decoded


def deliver_snapshot(hub: Hub, name: str, **numbers: int) -> None:
    text = msgspec.json.encode({"epoch": 7, "seq": 0, "rseq": 0, **numbers})
    cards = [(CardEntry(room_hash(name), len(text)), text)]
    batch = decode_broadcast(encode_batch(BatchParts(1, b"o" * 16, 1, ANCHOR, 0, 1, 1, [], cards=cards)))
    assert isinstance(batch, Batch)
    deliver(hub, batch)


def test_a_batch_reaches_the_members_of_its_room_and_nobody_else() -> None:
    hub = Hub()
    here, there = FakeMember(), FakeMember(user_hash=2)
    join(hub, here, "a", 0)
    join(hub, there, "b", 0)
    delivered = deliver(hub, batch_of("x", "a", "y"))
    assert here.got == [websocket_frame(payload_of("a").data)]
    assert there.got == []
    assert (delivered.rooms, delivered.frames, delivered.messages) == (1, 1, 1)
    assert delivered.wasted_bytes == len(payload_of("x").data) + len(payload_of("y").data)


def test_a_room_exists_while_somebody_is_in_it() -> None:
    hub = Hub()
    first, second = FakeMember(), FakeMember()
    join(hub, first, "a", 0)
    join(hub, first, "a", 0)
    join(hub, second, "a", 0)
    assert hub.users == 1
    hub.drop(first, 0)
    assert hub.watched == 1
    assert hub.leave(second, "a", 0)
    assert not hub.leave(second, "a", 0)
    assert hub.watched == 0
    hub.forget_vacant(LINGER_S - 1)
    assert hub.rooms
    hub.forget_vacant(LINGER_S)
    assert not hub.rooms
    assert hub.users == 0


@pytest.mark.parametrize(
    ("deflate", "slow", "expected"),
    [
        pytest.param(True, False, "whole deflated", id="deflates"),
        pytest.param(False, False, "whole plain", id="does not deflate"),
        pytest.param(True, True, "reliable deflated", id="slow, deflates"),
        pytest.param(False, True, "reliable plain", id="slow, does not deflate"),
    ],
)
def test_each_member_gets_the_frame_it_can_take(deflate: bool, slow: bool, expected: str) -> None:
    payload = payload_of("a", 1, 2, (LONG_LINE,), (GIFT,))
    assert payload.deflated
    part = payload.data if expected.startswith("whole") else payload.data[: payload.reliable_size]
    plain = inflate(part)
    frame = websocket_frame(part, deflated=True) if expected.endswith("deflated") else websocket_frame(plain)
    hub = Hub()
    member = FakeMember(form=int(deflate), slow=slow)
    join(hub, member, "a", 0)
    value = encode_batch(BatchParts(1, b"o" * 16, 1, ANCHOR, 0, 1, 1, [(entry_of("a", payload, 1, 2, 2), payload.data)]))
    batch = decode_broadcast(value)
    assert isinstance(batch, Batch)
    deliver(hub, batch)
    assert member.got == [frame]
    received = decode_server_frame(plain)
    assert isinstance(received, ReceivedBatch)
    assert [message.seq for message in received.messages] == ([2] if slow else [1, 2])


def test_a_slow_member_gets_nothing_of_chatter_and_that_counts() -> None:
    hub = Hub()
    member = FakeMember(slow=True)
    join(hub, member, "a", 0)
    delivered = deliver(hub, batch_of("a"))
    assert member.got == []
    assert delivered.skipped == 1


def test_a_notice_reaches_all_devices_of_its_user_in_that_room_only() -> None:
    hub = Hub()
    user = room_hash("u1")
    phone, desk, elsewhere, other = FakeMember(user), FakeMember(user), FakeMember(user), FakeMember(9)
    for member, room in ((phone, "a"), (desk, "a"), (elsewhere, "b"), (other, "a")):
        join(hub, member, room, 0)
    text = b'{"t":"notice"}'
    deliver(hub, batch_of("x", notices=((NoticeEntry(room_hash("a"), user, len(text)), text),)))
    assert [member.got for member in (phone, desk, elsewhere, other)] == [
        [text],
        [text],
        [],
        [],
    ]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'{"t":"notice","kind":"\xff\xfe"}', id="not UTF-8"),
        pytest.param(b'{"kind":"ban","why":' + b"[" * 3000 + b"]" * 3000 + b"}", id="deep"),
        pytest.param(b'{"t":"notice","kind":"of a later version"}', id="another kind"),
        pytest.param(b"no JSON", id="no JSON"),
    ],
)
def test_a_notice_that_cannot_be_read_is_no_kick_and_ends_nothing(text: bytes) -> None:
    hub, user = Hub(), room_hash("u1")
    member = FakeMember(user)
    join(hub, member, "a", 0)
    delivered = deliver(hub, batch_of("a", notices=((NoticeEntry(room_hash("a"), user, len(text)), text),)))
    assert delivered.kicked == ()
    assert len(member.got) == 2, "the notice as it is, and the room's messages"


def test_a_hole_between_two_batches_of_a_local_room_is_counted() -> None:
    hub = Hub()
    join(hub, FakeMember(), "a", 0)

    def gaps(first: int, last: int) -> int:
        payload = payload_of("a", first, last)
        value = encode_batch(
            BatchParts(1, b"o" * 16, 1, ANCHOR, 0, 1, 1, [(entry_of("a", payload, first, last), payload.data)])
        )
        batch = decode_broadcast(value)
        assert isinstance(batch, Batch)
        return deliver(hub, batch).gaps

    assert [gaps(5, 5), gaps(6, 8), gaps(10, 10), gaps(11, 10)] == [0, 0, 1, 0]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(Payload(b"\xff" * 8, 0, deflated=True), id="cannot be inflated"),
        pytest.param(payload_of("a", reliable=(BAD_CLEAR,)), id="a clear of nothing"),
    ],
)
def test_a_part_that_cannot_be_handled_is_reported_and_affects_no_other_room(broken: Payload) -> None:
    hub = Hub()
    members = {name: FakeMember(user_hash=index) for index, name in enumerate("xay")}
    for name, member in members.items():
        join(hub, member, name)
    flags = RoomFlags.CLEAR | (RoomFlags.DEFLATED if broken.deflated else 0)
    bad = entry_of("a", broken)._replace(flags=int(flags), rseq=1)
    parts = [(bad, broken.data) if name == "a" else (entry_of(name, payload_of(name)), payload_of(name).data) for name in "xay"]
    batch = decode_broadcast(
        encode_batch(BatchParts(1, b"o" * 16, 1, ANCHOR, 0, 1, 1, parts, cards=[(CardEntry(room_hash("y"), 3), b"no!")]))
    )
    assert isinstance(batch, Batch)
    delivered = deliver(hub, batch)
    assert [room.name for room, _ in delivered.failed] == ["a", "y"]
    assert delivered.with_snapshot == ()
    assert [len(members[name].got) for name in "xay"] == [1, 0, 1]
    deliver(hub, batch_of("x", "a", "y"), offset=2)
    assert [len(members[name].got) for name in "xay"] == [2, 1, 2]
    assert hub.rooms[room_hash("a")].missed(Position(7, 0, 0), form=0) is None, "a pull must tell"


def test_a_viewer_that_leaves_while_messages_are_cleared_gets_nothing_more_of_the_room() -> None:
    hub = Hub()
    stays, leaves = FakeMember(user_hash=1), FakeMember(user_hash=2)
    join(hub, stays, "a")
    join(hub, leaves, "a")
    payload = payload_of("a", reliable=(BAD_CLEAR.replace(b"7", b'"i"'),))
    entry = entry_of("a", payload)._replace(flags=int(RoomFlags.CLEAR), rseq=1)
    batch = decode_broadcast(encode_batch(BatchParts(1, b"o" * 16, 1, ANCHOR, 0, 1, 1, [(entry, payload.data)])))
    assert isinstance(batch, Batch)
    delivering = hub.deliver(batch, 0, 1, 1)
    next(delivering)
    hub.leave(leaves, "a", 1)
    late = FakeMember(user_hash=3)
    late_room = join(hub, late, "a")
    with pytest.raises(StopIteration) as done:
        next(delivering)
    assert done.value.value.failed == ()
    assert (len(stays.got), leaves.got) == (1, [])
    assert late.got == [], "the ring has it for who comes meanwhile"
    assert late_room.seq == 1


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b"]), st.booleans()), max_size=12))
def test_devices_are_counted_by_user_and_a_connection_without_one_counts_as_one(here: list[tuple[int, str, bool]]) -> None:
    hub = Hub()
    for user, device, enters in here:
        member = FakeMember(user_hash=user, device_hash=room_hash(f"u{user}/{device}") if device else 0)
        room = hub.add_pending(member, "r", 0)
        if enters:
            hub.enter(member, room)
    users, devices, connections = hub.audience("r")
    named = {(user, device) for user, device, _ in here if device}
    assert devices == len(named) + sum(not device for _, device, _ in here)
    assert (users, connections) == (len({user for user, _, _ in here}), len(here))
    assert users <= devices <= connections


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "drop"]), st.integers(0, 4), st.sampled_from("abcd")), max_size=60))
def test_nobody_ever_gets_a_frame_of_a_room_it_is_not_in(steps: list[tuple[str, int, str]]) -> None:
    hub = Hub()
    members = [FakeMember(user_hash=i % 2) for i in range(5)]
    model: dict[int, set[str]] = {i: set() for i in range(5)}
    for step, who, room in steps:
        match step:
            case "join":
                join(hub, members[who], room, 0)
                model[who].add(room)
            case "leave":
                assert hub.leave(members[who], room, 0) == (room in model[who])
                model[who].discard(room)
            case _:
                hub.drop(members[who], 0)
                model[who].clear()
        for member in members:
            member.got.clear()
        deliver(hub, batch_of("a", "b", "c", "d"))
        for index, member in enumerate(members):
            assert sorted(member.got) == sorted(websocket_frame(payload_of(name).data) for name in model[index])
        assert hub.users == len({members[i].user_hash for i, rooms in model.items() if rooms})


# ---- within the caps
def speak_in(hub: Hub, *names: str) -> None:
    deliver(hub, batch_of(*names))


def enter(hub: Hub, member: FakeMember, name: str, now_s: float = 0) -> Room | Space:
    """Join a room as the gateway does, which makes space for it."""
    space = hub.make_space(name, member.address, now_s)
    return space if isinstance(space, Space) else join(hub, member, name, now_s)


def names(hub: Hub) -> set[str]:
    return {room.name for room in hub.rooms.values()}


def evicted(space: list[Evicted] | Space) -> list[tuple[str, int]]:
    assert not isinstance(space, Space)
    return [(each.room.name, len(each.members)) for each in space]


def test_beyond_the_cap_a_vacant_room_makes_space_first_and_of_those_a_quiet_one() -> None:
    hub, member, address = Hub(max_rooms=3), FakeMember(), "192.0.2.2"
    for second, name in enumerate("abc"):
        join(hub, member, name, second)
    speak_in(hub, "a", "c")
    for second, name in enumerate("acb"):
        hub.leave(member, name, 10 + second)
    for second, (new, old) in enumerate((("d", "b"), ("e", "a"), ("f", "c"))):
        assert evicted(hub.make_space(new, address, 20)) == [(old, 0)]
        join(hub, FakeMember(user_hash=2 + second), new, 20)
    assert names(hub) == {"d", "e", "f"}
    assert (hub.watched, hub.vacant, hub.quiet) == (3, 0, 3)


def test_a_room_in_which_somebody_spoke_is_never_refused_for_those_that_a_guest_invents() -> None:
    hub, guest, honest = Hub(max_rooms=10), FakeMember(), FakeMember(user_hash=2, address="192.0.2.2")
    for number in range(10):
        assert isinstance(enter(hub, guest, f"x{number}"), Room)
    for number in range(10):
        name = f"show{number}"
        assert isinstance(enter(hub, honest, name, 10), Room)
        speak_in(hub, name)
    assert names(hub) == {f"show{number}" for number in range(10)}
    assert hub.make_space("x", guest.address, 100) is Space.GATEWAY
    assert hub.make_space("show1", guest.address, 100) == []
    assert (guest.rooms, hub.quiet) == ({}, 0)


def test_the_emptiest_quiet_room_makes_space_and_of_those_the_one_that_was_so_for_longest() -> None:
    hub = Hub(max_rooms=4)
    for size, name in ((2, "two"), (1, "older"), (1, "newer"), (MAX_EVICTED + 1, "show")):
        for number in range(size):
            join(hub, FakeMember(user_hash=number), name)
    members = [FakeMember(user_hash=100 + number, address=f"192.0.2.{number}") for number in range(3)]
    for member, old in zip(members, (("older", 1), ("newer", 1), ("two", 2)), strict=True):
        assert evicted(hub.make_space(old[0] + "'", member.address, GRACE_S)) == [old]
        join(hub, member, old[0] + "'", GRACE_S)
        speak_in(hub, old[0] + "'")
    assert hub.make_space("another", "a", 1e6) is Space.GATEWAY, "many wait for the show"


def test_a_room_whose_owner_may_not_have_answered_yet_makes_no_space() -> None:
    hub, first = Hub(max_rooms=1), FakeMember()
    join(hub, first, "a", 10)
    assert hub.make_space("b", "a", 10 + GRACE_S - 1) is Space.GATEWAY
    deliver_snapshot(hub, "a", seq=0)
    assert evicted(hub.make_space("b", "a", 10 + GRACE_S - 1)) == [("a", 1)]
    assert first.rooms == {}


@pytest.mark.parametrize("by_address", [False, True], ids=["gateway", "address"])
def test_no_room_that_is_about_to_begin_is_closed_for_invented_ones_that_are_all_new(by_address: bool) -> None:
    hub = Hub(max_quiet_of_address=20) if by_address else Hub(max_rooms=20)
    why, address = (Space.ADDRESS, "a") if by_address else (Space.GATEWAY, "b")
    for number in range(40):
        join(hub, FakeMember(user_hash=number, address=address), "premiere")
    for number in range(19):
        guest = FakeMember(user_hash=100 + number, address=address)
        assert isinstance(enter(hub, guest, f"x{number}", 100), Room)
    for number in range(100):
        assert hub.make_space(f"y{number}", address, 100 + GRACE_S - 1) is why
    assert evicted(hub.make_space("y", address, 100 + GRACE_S)) == [("x0", 1)]


@pytest.mark.parametrize("numbers", [{"seq": 7}, {"seq": 0, "likes": 3}], ids=["numbers", "likes"])
def test_a_snapshot_shows_that_somebody_was_here_before(numbers: dict[str, int]) -> None:
    hub = Hub(max_rooms=1)
    join(hub, FakeMember(), "a")
    assert hub.quiet == 1
    deliver_snapshot(hub, "a", **numbers)
    assert hub.quiet == 0
    assert hub.make_space("b", "a", 1e6) is Space.GATEWAY


def test_a_batch_without_messages_shows_by_its_numbers_that_somebody_was_here_before() -> None:
    hub = Hub()
    room = join(hub, FakeMember(), "a")
    sums = pack_payload(BatchHeader("a", 7, (9, 8), 0, at=1, viewers=Viewers(1, 1)), (), ())
    deliver(hub, batch_with(entry_of("a", sums, 9, 8, 0), sums.data))
    assert (hub.quiet, room.has_content) == (0, False)
    hub.drop(next(iter(room.members)), 1)
    hub.forget_vacant(1e6)
    assert not hub.rooms


def test_one_address_opens_so_many_quiet_rooms_and_then_closes_its_own_emptiest() -> None:
    hub = Hub(max_quiet_of_address=3)
    guests = [FakeMember(user_hash=number) for number in range(6)]
    honest = FakeMember(user_hash=9, address="192.0.2.2")
    enter(hub, honest, "new")
    for number, guest in enumerate(guests):
        assert isinstance(enter(hub, guest, f"x{number}", 10.0 * number), Room)
    assert names(hub) == {"new", "x3", "x4", "x5"}
    show = enter(hub, guests[0], "show", 100)
    assert isinstance(show, Room)
    speak_in(hub, "show")
    assert names(hub) == {"new", "show", "x4", "x5"}
    assert evicted(hub.make_space("x6", guests[0].address, 100)) == [], "a room in which somebody spoke counts for nobody"


def test_a_quiet_room_counts_for_one_who_stays_when_the_one_that_opened_it_leaves() -> None:
    hub = Hub(max_quiet_of_address=1)
    opener, other = FakeMember(user_hash=1, address="a"), FakeMember(user_hash=2, address="b")
    enter(hub, opener, "x")
    join(hub, other, "x")
    hub.drop(opener, 1)
    assert evicted(hub.make_space("y", "a", 100)) == []
    assert evicted(hub.make_space("y", "b", 100)) == [("x", 1)]


def test_rooms_and_their_members_are_counted_the_same_after_any_joins_leaves_and_evictions() -> None:
    chance, hub = Random(5), Hub(max_rooms=30, max_quiet_of_address=8)
    members = [FakeMember(user_hash=number % 7, address=f"a{number % 5}") for number in range(25)]
    refused = 0
    for second in range(4000):
        member, name = chance.choice(members), f"r{chance.randrange(60)}"
        if chance.random() < 0.6:
            refused += isinstance(enter(hub, member, name, second), Space)
        elif chance.random() < 0.8:
            hub.leave(member, name, second)
        else:
            hub.drop(member, second)
        if chance.random() < 0.05:
            speak_in(hub, name)
        if chance.random() < 0.02:
            hub.forget_vacant(second)
        quiet = [room for room in hub.rooms.values() if room.is_quiet]
        assert hub.quiet == len(quiet)
        for address in {each.address for each in members}:
            mine = [room for room in quiet if room.opener is not None and room.opener.address == address]
            assert hub._quiet.of(address) == len(mine)
        assert all((room.opener is None) == (room.is_empty or not room.is_quiet) for room in hub.rooms.values())
        assert all(room.opener is None or room.hash in room.opener.rooms for room in hub.rooms.values())
        assert len(hub.rooms) <= 30
        for user in range(7):
            mine_too = [each for each in members if each.user_hash == user]
            rooms = {hash_ for each in mine_too for hash_ in each.rooms}
            assert sorted(map(id, hub.connections_of(user))) == sorted(id(each) for each in mine_too if each.rooms)
            assert hub.may_enter(user, "elsewhere", len(rooms) + 1)
            assert not rooms or not hub.may_enter(user, "elsewhere", len(rooms))
            assert all(hub.may_enter(user, hub.rooms[hash_].name, 0) for hash_ in rooms)
    assert refused


def test_who_may_enter_is_decided_without_a_look_at_each_connection() -> None:
    class Counted(FakeMember):
        looks = 0

        def __getattribute__(self, name: str) -> Any:
            Counted.looks += name == "rooms"
            return super().__getattribute__(name)

    hub = Hub()
    members = [Counted(user_hash=1) for _ in range(200)]
    for member in members:
        join(hub, member, "same")
    Counted.looks = 0
    assert hub.may_enter(1, "other", 2)
    assert Counted.looks <= 1


def test_a_user_is_in_at_most_so_many_different_rooms_over_all_its_connections() -> None:
    hub, user = Hub(), room_hash("u")
    devices = [FakeMember(user_hash=user) for _ in range(3)]
    for device in devices:
        join(hub, device, "same")
    join(hub, devices[0], "other")
    assert hub.may_enter(user, "third", 3)
    assert not hub.may_enter(user, "third", 2)
    assert hub.may_enter(user, "other", 2), "it is in that one already"
    assert hub.may_enter(room_hash("somebody else"), "third", 1)
    hub.drop(devices[0], 0)
    assert hub.may_enter(user, "third", 2)


def test_rooms_that_a_guest_invents_take_nothing_from_the_ring_of_a_room_with_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.hub.RINGS_BYTES", 4 * len(payload_of("show").data))
    hub, guest = Hub(), FakeMember()
    show = join(hub, FakeMember(user_hash=2), "show")
    for number in range(50):
        join(hub, guest, f"x{number}")
        quiet = pack_payload(BatchHeader(f"x{number}", 7, (1, 0), 0, at=1, viewers=Viewers(1, 1)), (), ())
        part = entry_of(f"x{number}", quiet, 1, 0, 0), quiet.data
        deliver(hub, batch_with(*part))
    for offset in range(1, 5):
        payload = payload_of("show", offset, offset)
        deliver(hub, batch_with(entry_of("show", payload, offset, offset), payload.data), offset)
    assert len(show.ring) == 4
    hub.drop(guest, 2)
    hub.forget_vacant(2 + LINGER_S)
    assert len(hub.rooms) == 1


def test_the_ring_of_a_room_without_content_stays_small_however_often_its_audience_changes() -> None:
    hub = Hub()
    room = join(hub, FakeMember(), "x")
    for offset in range(200):
        quiet = pack_payload(BatchHeader("x", 7, (1, 0), 0, at=1, viewers=Viewers(offset, 1)), (), ())
        deliver(hub, batch_with(entry_of("x", quiet, 1, 0, 0), quiet.data), offset)
    assert room.ring_bytes <= QUIET_RING_BYTES


def test_an_hour_of_invented_rooms_stays_within_the_caps() -> None:
    chance, hub = Random(3), Hub(max_rooms=40)
    honest = join(hub, FakeMember(user_hash=1), "honest")
    speak_in(hub, "honest")
    guests = [FakeMember(user_hash=2 + number) for number in range(20)]
    for second in range(3600):
        guest = chance.choice(guests)
        name = f"x{chance.randrange(10**9)}"
        if hub.may_enter(guest.user_hash, name, 4):
            enter(hub, guest, name, second)
        if chance.random() < 0.2:
            hub.drop(guest, second)
        if second % 10 == 0:
            hub.forget_vacant(second)
        assert len(hub.rooms) <= 40
        assert all(len(each.rooms) <= 4 for each in guests)
        hub.changed.clear()
    assert hub.rooms[honest.hash] is honest


def test_users_are_counted_once_however_many_of_their_connections_come_and_leave() -> None:
    hub, ann, ben = Hub(), [FakeMember(user_hash=1) for _ in range(3)], FakeMember(user_hash=2)
    for member in (*ann, ben):
        join(hub, member, "r")
    join(hub, ann[0], "s")
    assert (hub.audience("r").users, hub.users_of("r"), hub.audience("s").users) == (2, {1, 2}, 1)
    assert hub.take_changes("r") == {1: True, 2: True}
    for member in ann[:2]:
        hub.leave(member, "r", 1)
    assert (hub.audience("r").users, hub.take_changes("r")) == (2, {})
    hub.drop(ann[2], 1)
    assert (hub.audience("r").users, hub.take_changes("r")) == (1, {1: False})
    assert hub.audience("s").users == 1


def test_a_user_who_comes_and_leaves_between_two_reports_has_not_changed() -> None:
    hub, member = Hub(), FakeMember(user_hash=1)
    join(hub, member, "r")
    hub.leave(member, "r", 1)
    assert hub.changed == {"r": {}}
    assert hub.take_changes("r") == {}
    join(hub, member, "r")
    hub.take_changes("r")
    hub.leave(member, "r", 1)
    join(hub, member, "r")
    assert hub.take_changes("r") == {}


def test_members_who_are_put_out_with_their_room_are_reported_as_gone() -> None:
    hub = Hub(max_rooms=1)
    join(hub, FakeMember(user_hash=1), "r")
    hub.take_changes("r")
    hub.make_space("s", "192.0.2.9", 1000)
    assert hub.take_changes("r") == {1: False}
    assert (hub.users_of("r"), hub.audience("r").users) == (set(), 0)
