"""The rules of a viewer's session: order, once, holes, when to come back."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from liveroom.closecodes import TABLE, Close
from liveroom.errors import Code
from liveroom.kinds import Kind
from liveroom.wire import BatchHeader, Beat, Error, Hello, Joined, Message, Move, encode_frame, encode_message
from viewer.effects import Connect, Counts, Delivered, Disconnect, Effect, Ended, Entered, Hole, Renumbered, Send, Told
from viewer.session import Session, State

EPOCH = 5


def message(seq: int, rseq: int = 0) -> Message:
    return Message(seq, Kind.GIFT if rseq else Kind.DANMAKU, f"i{seq}", "u", 1, rseq)


def batch(
    first: int,
    last: int,
    rseq: int,
    messages: list[Message],
    *,
    epoch: int = EPOCH,
    likes: int | None = None,
    pos: str = "",
) -> bytes:
    header = msgspec.json.encode(BatchHeader("r", epoch, (first, last), rseq, at=1, likes=likes, pos=pos))
    reliable_first = sorted(messages, key=lambda m: not m.rseq)
    return b"\n".join((header, *(encode_message(m) for m in reliable_first)))


def opened(*rooms: str) -> Session:
    session = Session(rooms or ("r",))
    assert session.start() == [Connect()]
    session.opened(0)
    return session


def seqs(effects: list[Effect]) -> list[int]:
    return [effect.message.seq for effect in effects if isinstance(effect, Delivered)]


def holes(effects: list[Effect]) -> list[tuple[int, int]]:
    return [(effect.after_rseq, effect.to_rseq) for effect in effects if isinstance(effect, Hole)]


def test_messages_of_a_batch_come_in_order_though_reliable_ones_are_sent_first() -> None:
    effects = opened().received(batch(1, 3, 1, [message(1), message(2, 1), message(3)]), 1)
    assert seqs(effects) == [1, 2, 3]


def test_what_was_seen_is_dropped() -> None:
    session = opened()
    first = batch(1, 2, 1, [message(1), message(2, 1)])
    assert seqs(session.received(first, 1)) == [1, 2]
    assert seqs(session.received(first, 1)) == []
    assert session.duplicates == 2


def test_a_hole_in_seq_alone_is_thinned_chatter() -> None:
    session = opened()
    session.received(batch(1, 1, 0, [message(1)]), 1)
    effects = session.received(batch(2, 9, 0, [message(4), message(9)]), 1)
    assert (seqs(effects), holes(effects), session.thinned) == ([4, 9], [], 6)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        pytest.param(batch(2, 9, 4, [message(9, 4)]), [(1, 3)], id="before a message"),
        pytest.param(batch(2, 9, 4, [message(5, 2)]), [(2, 4)], id="after the last message"),
        pytest.param(batch(2, 9, 5, [message(5, 2), message(9, 4)]), [(2, 3), (4, 5)], id="two"),
        pytest.param(batch(2, 1, 3, []), [(1, 3)], id="told by a header alone"),
    ],
)
def test_a_hole_in_rseq_is_reported_exactly(frame: bytes, expected: list[tuple[int, int]]) -> None:
    session = opened()
    session.received(batch(1, 1, 1, [message(1, 1)]), 1)
    assert holes(session.received(frame, 1)) == expected


def test_the_first_batch_sets_the_numbers_where_joined_could_not() -> None:
    session = opened()
    assert session.received(encode_frame(Joined("r")), 1) == [Entered("r", None, None, None)]
    effects = session.received(batch(70, 71, 9, [message(70, 9), message(71)]), 1)
    assert (seqs(effects), holes(effects)) == ([70, 71], [])


def test_what_passed_while_away_is_a_hole() -> None:
    session = opened()
    session.received(batch(1, 1, 1, [message(1, 1)]), 1)
    session.closed(Close.GOING_AWAY, 2, 0.5)
    session.tick(10)
    sent = session.opened(10)
    assert sent == [Send(b'{"t":"join","room":"r","epoch":5,"seq":1,"rseq":1}')]
    effects = session.received(encode_frame(Joined("r", EPOCH, 9, 4)), 10)
    assert holes(effects) == [(1, 4)]
    assert seqs(session.received(batch(10, 10, 5, [message(10, 5)]), 10)) == [10]


def test_a_new_epoch_begins_the_numbers_again_and_says_so() -> None:
    session = opened()
    session.received(batch(50, 50, 7, [message(50, 7)]), 1)
    effects = session.received(batch(1, 1, 1, [message(1, 1)], epoch=6), 1)
    assert seqs(effects) == [1]
    assert Renumbered("r", 6) in effects
    assert holes(effects) == []


def test_totals_are_passed_on_where_told() -> None:
    effects = opened().received(batch(1, 0, 0, [], likes=12), 1)
    assert Counts("r", 12, None) in effects


@pytest.mark.parametrize("code", [pytest.param(code, id=rule.code.name) for code, rule in TABLE.items()])
def test_a_close_code_says_whether_to_come_back(code: int) -> None:
    session = opened()
    effects = session.closed(code, 1, 0.999)
    comes_back = TABLE[code].reconnect or code == Close.REVOKED
    assert (session.state is State.WAITING) == comes_back
    assert any(isinstance(effect, Ended) for effect in effects) != comes_back
    assert session.wake_at is None if not comes_back else session.wake_at is not None and session.wake_at >= 1


@pytest.mark.parametrize("uniform", [0.0, 0.999])
def test_a_new_token_is_asked_for_once_in_a_later_second_than_the_revocation(uniform: float) -> None:
    session = opened()
    assert session.closed(Close.REVOKED, 5, uniform) == []
    assert session.hurry(5.1, 0) == []
    assert session.wake_at is not None
    assert 6 <= session.wake_at <= 11
    assert session.tick(session.wake_at) == [Connect()]
    assert session.failed(12, uniform, Error(Code.REVOKED.value)) == [Ended(TABLE[Close.REVOKED], Error(Code.REVOKED.value))]
    assert session.state is State.ENDED


def test_a_token_that_was_accepted_may_be_revoked_later_like_the_first() -> None:
    session = opened()
    for now in (5.0, 105.0):
        assert session.closed(Close.REVOKED, now, 0) == []
        assert session.tick(now + 1) == [Connect()]
        session.opened(now + 2)
    assert session.state is State.OPEN


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30))
def test_waiting_is_full_jitter_below_a_doubling_limit_of_at_most_30_s(uniforms: list[float]) -> None:
    session = Session(["r"])
    session.start()
    now = 0.0
    for attempt, uniform in enumerate(uniforms):
        session.failed(now, uniform)
        assert session.wake_at is not None
        assert 0 <= session.wake_at - now <= min(30.0, 0.5 * 2 ** min(attempt, 16)) + 1e-9
        now = session.wake_at
        assert session.tick(now) == [Connect()]


def test_a_heartbeat_leaves_at_the_interval_of_hello() -> None:
    session = opened()
    session.received(encode_frame(Hello("e1", 1, heartbeat_s=7, silence_s=25, user="u")), 0)
    session.received(batch(1, 2, 1, [message(1), message(2, 1)]), 1)
    assert session.wake_at == 7
    assert session.tick(6.9) == []
    assert session.tick(7) == [Send(b'{"t":"hb"}')]
    assert session.wake_at == 14


def test_silence_ends_the_connection_and_any_frame_breaks_it() -> None:
    session = opened()
    session.received(encode_frame(Beat(1)), 20)
    assert Disconnect(Close.GOING_AWAY) not in session.tick(44.9)
    assert session.tick(45) == [Disconnect(Close.GOING_AWAY)]


def test_move_reconnects_after_its_delay() -> None:
    session = opened()
    session.received(encode_frame(Move("drain", delay_s=2)), 1)
    assert session.wake_at == 3
    assert session.tick(2.9) == []
    assert session.tick(3) == [Disconnect(Close.GOING_AWAY)]


def test_a_frame_that_cannot_be_read_is_counted_and_changes_nothing() -> None:
    session = opened()
    assert session.received(b"\xff", 1) == []
    assert session.received(b'{"t":"batch"', 1) == []
    assert session.bad_frames == 2


@given(st.data())
def test_whatever_is_lost_repeated_or_thinned_each_message_comes_once_in_order_and_every_reliable_hole_is_told(
    data: st.DataObject,
) -> None:
    kinds = data.draw(st.lists(st.booleans(), min_size=1, max_size=40), label="reliable?")
    messages, rseq = [], 0
    for seq, reliable in enumerate(kinds, 1):
        rseq += reliable
        messages.append(message(seq, rseq if reliable else 0))
    session = opened()
    got: list[Message] = []
    told_missing: set[int] = set()
    at = 0
    while at < len(messages):
        size = data.draw(st.integers(1, 8), label="batch")
        part = messages[at : at + size]
        newest = max((m.rseq for m in messages[: at + len(part)]), default=0)
        lost = data.draw(st.booleans(), label="lost?") and at > 0
        kept = [m for m in part if m.rseq or not data.draw(st.booleans(), label="thinned?")]
        frame = batch(at + 1, at + len(part), newest, kept)
        for _ in range(0 if lost else data.draw(st.integers(1, 2), label="times")):
            effects = session.received(frame, 1)
            got += [effect.message for effect in effects if isinstance(effect, Delivered)]
            for after, to in holes(effects):
                assert not told_missing & set(range(after + 1, to + 1))
                told_missing |= set(range(after + 1, to + 1))
        at += len(part)
    assert [m.seq for m in got] == sorted({m.seq for m in got})
    seen = {m.rseq for m in got if m.rseq}
    last = session.rooms["r"].rseq
    assert seen | told_missing == set(range(1, last + 1))
    assert not seen & told_missing


# ---- refusals
def refused(session: Session, code: str, room: str = "r", at: float = 1, **more: float) -> list[Effect]:
    effects = session.received(encode_frame(Error(code, room=room, **more)), at, 0.5)  # type: ignore[arg-type]
    assert isinstance(effects[0], Told), "the application learns of each"
    return effects[1:]


@pytest.mark.parametrize("code", ["full", "rate_user", "rate_address"])
def test_a_session_whose_only_room_is_refused_for_now_looks_for_another_gateway(code: str) -> None:
    session = opened()
    now = 0.0
    for attempt in range(8):
        assert refused(session, code, at=now) == [Disconnect(Close.GOING_AWAY)]
        assert session.closed(Close.GOING_AWAY, now, 0.5) == []
        assert session.wake_at == now + min(30.0, 2.0**attempt) / 2, "later each time"
        now = session.wake_at
        assert session.tick(now) == [Connect()]
        assert session.opened(now) == [Send(b'{"t":"join","room":"r"}')]
    assert session.rooms.keys() == {"r"}


def test_a_session_that_is_in_another_room_joins_a_refused_one_again_later() -> None:
    session = opened("in", "r")
    session.received(encode_frame(Joined("in")), 0)
    now, waits = 1.0, list[float]()
    for _ in range(7):
        assert refused(session, "full", at=now, retry_after_s=0.25) == []
        due = session.rooms["r"].join_at
        assert due is not None
        waits.append(due - now)
        session.received(encode_frame(Beat(1)), due - 0.01)
        assert Send(b'{"t":"join","room":"r"}') not in session.tick(due - 0.01)
        assert Send(b'{"t":"join","room":"r"}') in session.tick(due)
        now = due
    assert waits == [0.25 + min(30, 2**number) / 2 for number in range(7)]
    session.received(encode_frame(Joined("r")), now)
    assert session.rooms["r"].join_at is None
    refused(session, "full", at=now)
    assert session.rooms["r"].join_at == now + 0.5, "a join that succeeded begins again"


@pytest.mark.parametrize("code", ["too_many_rooms", "forbidden", "banned", "kicked", "room_dissolved", "room_invalid"])
def test_a_final_refusal_takes_the_room_out_of_the_session(code: str) -> None:
    session = opened("in", "r")
    session.received(encode_frame(Joined("in")), 0)
    assert refused(session, code) == []
    assert session.rooms.keys() == {"in"}
    session.closed(None, 2, 0.5)
    session.tick(3)
    assert session.opened(3) == [Send(b'{"t":"join","room":"in"}')]
    (disconnect, ended) = refused(session, code, "in", at=4)
    assert isinstance(disconnect, Disconnect)
    assert isinstance(ended, Ended)
    assert session.state is State.ENDED


def test_a_refusal_that_a_later_version_makes_for_now_is_tried_again() -> None:
    session = opened("in", "r")
    session.received(encode_frame(Joined("in")), 0)
    assert refused(session, "odd", at=1) == []
    assert session.rooms["r"].join_at is None, "nobody knows whether it helps"
    refused(session, "odd", at=1, retry_after_s=2)
    assert session.rooms["r"].join_at == 4


def test_a_room_too_many_of_the_user_is_joined_again_and_ends_no_session() -> None:
    session = opened()
    assert refused(session, "too_many_rooms", retry_after_s=1) == [Disconnect(Close.GOING_AWAY)]
    session.closed(Close.GOING_AWAY, 1, 0.5)
    assert session.state is State.WAITING
    assert session.rooms.keys() == {"r"}
