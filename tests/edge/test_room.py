"""One room on a gateway: what its ring holds, what a viewer who joins is given, and what a `clear`
takes out.
"""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.prepared_batch import Cleared, Clears, PreparedBatch
from edge.room import RESUME_BYTES, RING_BYTES, RING_S, SNAPSHOT_FRESH_S, Position, Room
from liveroom.bodies import Clear
from liveroom.kinds import Kind
from liveroom.topics import room_hash
from liveroom.wire import (
    BatchHeader,
    Card,
    Joined,
    Message,
    MessageHead,
    ReceivedBatch,
    decode_server_frame,
    encode_message,
    pack_payload,
    payload_text,
)

EPOCH = 7


class Owner:
    """Numbers and packs messages as the broadcaster does."""

    def __init__(self) -> None:
        self.room = Room("r", room_hash("r"), 0)
        self.messages: list[Message] = []
        self.rseq = 0
        self.offset = 0

    def take(
        self,
        *kinds: Kind,
        at_s: float = 1,
        by: str = "u",
        pad: int = 0,
        epoch: int = EPOCH,
        viewers: tuple[int, int] | None = None,
        **data: Any,
    ) -> PreparedBatch:
        made = []
        for kind in kinds:
            seq = len(self.messages) + 1
            self.rseq += kind is not Kind.DANMAKU
            body = msgspec.Raw(msgspec.json.encode(data | ({"pad": "x" * pad} if pad else {})))
            made.append(Message(seq, kind, f"i{seq}", by, 1, 0 if kind is Kind.DANMAKU else self.rseq, data=body))
            self.messages.append(made[-1])
        first = len(self.messages) - len(made) + 1
        reliable = [encode_message(message) for message in made if message.rseq]
        rest = [encode_message(message) for message in made if not message.rseq]
        header = BatchHeader("r", epoch, (first, len(self.messages)), self.rseq, at=1, viewers=viewers)
        payload = pack_payload(header, reliable, rest)
        self.offset += 1
        prepared = PreparedBatch(
            payload.data,
            payload.reliable_size,
            is_deflated=payload.deflated,
            has_clear=Kind.CLEAR in kinds,
            first=first,
            last=len(self.messages),
            rseq=self.rseq,
            offset=self.offset,
            at_s=at_s,
        )
        self.room.take(prepared, epoch, f"0.{self.offset}", RING_BYTES)
        if prepared.has_clear:
            for _ in self.room.clear(list(prepared.clears())):
                pass
        return prepared

    def card(self, now_s: float, **changes: Any) -> None:
        fields = {"epoch": EPOCH, "seq": len(self.messages), "rseq": self.rseq}
        self.room.take_snapshot(msgspec.json.encode(Card(**fields | changes)), f"0.{self.offset}", self.offset, now_s)


def read_batches(parts: Any) -> tuple[Joined, list[ReceivedBatch]]:
    """Return what a viewer reads of an answer, batch by batch."""
    texts = []
    for prepared, is_whole in parts:
        payload = prepared.payload if is_whole else prepared.payload[: prepared.reliable_size]
        texts.append(payload_text(payload, deflated=prepared.is_deflated))
    joined = decode_server_frame(texts[0])
    assert isinstance(joined, Joined)
    batches = []
    for text in texts[1:]:
        batch = decode_server_frame(text)
        assert isinstance(batch, ReceivedBatch)
        batches.append(batch)
    return joined, batches


def read(parts: Any) -> tuple[Joined, list[Message]]:
    """Return what a viewer reads of an answer."""
    joined, batches = read_batches(parts)
    return joined, [message for batch in batches for message in batch.messages]


def viewers(parts: Any) -> list[tuple[int, int] | None]:
    """Return the viewer sums that the batches of an answer hold."""
    return [batch.header.viewers for batch in read_batches(parts)[1]]


def missed(owner: Owner, seq: int, rseq: int, epoch: int = EPOCH) -> list[Message] | None:
    parts = owner.room.missed(Position(epoch, seq, rseq), 1)
    if parts is None:
        return None
    joined, messages = read(parts)
    assert (joined.resumed, joined.seq, joined.rseq) == (True, seq, rseq)
    return messages


def test_a_viewer_that_was_away_gets_what_the_ring_holds_after_its_position() -> None:
    owner = Owner()
    for _ in range(5):
        owner.take(Kind.DANMAKU, Kind.GIFT)
    assert missed(owner, 4, 2) == owner.messages[4:]
    assert missed(owner, 10, 5) == []
    assert missed(owner, 0, 0) == owner.messages
    assert missed(owner, 4, 2, EPOCH + 1) is None


@pytest.mark.parametrize(
    ("seq", "rseq", "resumes"),
    [
        pytest.param(2, 1, True, id="just before the ring"),
        pytest.param(1, 1, True, id="only chatter is missing before it"),
        pytest.param(1, 0, False, id="something reliable is missing before it"),
    ],
)
def test_messages_that_the_ring_no_longer_holds_are_left_to_a_pull(seq: int, rseq: int, resumes: bool) -> None:
    owner = Owner()
    owner.take(Kind.GIFT, Kind.DANMAKU, at_s=0)
    owner.take(Kind.GIFT, at_s=RING_S)
    owner.take(Kind.GIFT, at_s=RING_S + 1)
    assert (missed(owner, seq, rseq) is not None) == resumes


def test_of_a_long_absence_old_chatter_is_left_out_and_nothing_reliable() -> None:
    owner = Owner()
    owner.take(Kind.GIFT)
    for _ in range(100):
        owner.take(Kind.GIFT, *[Kind.DANMAKU] * 20, pad=50)
    parts = owner.room.missed(Position(EPOCH, 1, 1), 0)
    assert parts is not None
    _, messages = read(parts)
    assert [message.rseq for message in messages if message.rseq] == list(range(2, 102))
    assert 0 < len(messages) < len(owner.messages) - 1
    assert [message.seq for message in messages] == sorted(message.seq for message in messages)
    assert messages[-1] == owner.messages[-1]


def test_a_resume_after_which_a_viewer_would_count_as_slow_is_left_to_a_pull() -> None:
    owner = Owner()
    owner.take(Kind.DANMAKU)
    for number in range(60):
        owner.take(Kind.GIFT, text="".join(f"{number * 7919 * place % 2**32:08x}" for place in range(1200)))
    assert sum(prepared.reliable_size for prepared in owner.room.ring) > RESUME_BYTES
    assert missed(owner, 1, 0) is None


def test_a_hole_in_what_came_empties_the_ring() -> None:
    owner = Owner()
    owner.take(Kind.GIFT)
    owner.messages.append(owner.messages[-1])  # a batch that never came
    owner.take(Kind.GIFT)
    assert missed(owner, 1, 1) is None
    assert missed(owner, 2, 2) is not None
    assert len(owner.room.ring) == 1


def test_a_newcomer_gets_the_card_and_what_followed_it() -> None:
    owner = Owner()
    owner.take(Kind.GIFT)
    owner.card(1, likes=9)
    owner.take(Kind.DANMAKU, Kind.GIFT)
    joined, messages = read(owner.room.greeting(2, 1))
    assert joined.card is not None
    assert (joined.seq, joined.rseq, joined.card.likes, joined.resumed) == (1, 1, 9, False)
    assert messages == owner.messages[1:]


def test_a_newcomer_to_a_busy_room_gets_the_newest_chat_and_everything_reliable_since_the_card() -> None:
    owner = Owner()
    owner.card(1)
    for _ in range(100):
        owner.take(Kind.GIFT, *[Kind.DANMAKU] * 20, pad=50)
    parts = owner.room.greeting(2, 0)
    _, messages = read(parts)
    assert [message.rseq for message in messages if message.rseq] == list(range(1, 101))
    assert 100 < len(messages) < len(owner.messages) / 2
    assert messages[-1] == owner.messages[-1]


def test_a_card_grows_old_only_when_something_happened_since() -> None:
    owner = Owner()
    owner.take(Kind.DANMAKU)
    assert not owner.room.has_fresh_snapshot(1)
    owner.card(1)
    assert owner.room.has_fresh_snapshot(1000)
    owner.take(Kind.DANMAKU)
    assert owner.room.has_fresh_snapshot(1 + SNAPSHOT_FRESH_S)
    assert not owner.room.has_fresh_snapshot(1.1 + SNAPSHOT_FRESH_S)
    joined, messages = read(owner.room.greeting(1000, 1))
    assert (joined.card, joined.seq, messages) == (None, 2, [])


def test_who_enters_learns_the_newest_viewers_though_they_changed_after_the_card() -> None:
    owner = Owner()
    owner.take(Kind.GIFT)
    owner.take(viewers=(40, 40))
    owner.offset += 1  # the card comes in another record
    owner.card(1, users=50, connections=50)
    assert viewers(owner.room.greeting(2, 1)) == []  # the card is newer
    for number in range(51, 60):
        owner.take(viewers=(number, number))
    assert viewers(owner.room.greeting(2, 1)) == [(59, 59)]
    owner.take(Kind.GIFT)
    assert viewers(owner.room.greeting(2, 1)) == [(59, 59), None]
    assert viewers(owner.room.missed(Position(EPOCH, 1, 1), 1)) == [(59, 59), None]
    assert viewers(owner.room.missed(Position(EPOCH, 2, 2), 1)) == []
    assert viewers(owner.room.missed(Position(EPOCH, 0, 0), 1)) == [None, (59, 59), None]


def test_a_card_sets_the_numbers_of_a_room_without_batches() -> None:
    owner = Owner()
    owner.card(1, seq=40, rseq=12)
    room = owner.room
    assert (room.epoch, room.seq, room.rseq) == (EPOCH, 40, 12)
    assert room.missed(Position(EPOCH, 40, 12), 1) is not None
    assert room.missed(Position(EPOCH, 39, 11), 1) is None


def test_cards_are_asked_for_once_a_second() -> None:
    room = Owner().room
    assert [room.wants_snapshot(now_s) for now_s in (5, 5.5, 6, 6.5, 7.1)] == [True, False, True, False, True]


def test_an_owner_that_does_not_answer_is_asked_less_and_less_until_something_comes_of_the_room() -> None:
    owner = Owner()
    asked = [second for second in range(100) if owner.room.wants_snapshot(second)]
    assert asked == [0, 1, 2, 3, 4, 5, 7, 11, 19, 35, 51, 67, 83, 99]
    owner.take(Kind.DANMAKU)
    assert [second for second in range(100, 104) if owner.room.wants_snapshot(second)] == [100, 101, 102, 103]


def test_a_cleared_message_is_in_no_ring_and_no_queue_and_leaves_no_hole() -> None:
    owner = Owner()
    earlier = owner.take(Kind.DANMAKU, Kind.GIFT, by="rude")
    owner.take(Kind.DANMAKU)
    owner.card(1)
    owner.take(Kind.CLEAR, **msgspec.to_builtins(Clear(user="rude")))
    assert owner.room.read_snapshot() is None
    later = owner.take(Kind.DANMAKU, by="rude")
    messages = missed(owner, 0, 0)
    assert messages is not None
    assert [(message.seq, message.rseq, message.kind) for message in messages] == [
        (2, 1, Kind.CLEAR),
        (3, 0, Kind.DANMAKU),
        (4, 2, Kind.CLEAR),
        (5, 0, Kind.DANMAKU),
    ]
    assert b"i1" not in earlier.make(0)
    assert b"i5" in later.make(0)


@pytest.mark.parametrize(("sender", "is_gone"), [("", True), ("rude", True), ("star", False)])
def test_a_message_is_cleared_by_its_id_and_sender(sender: str, is_gone: bool) -> None:
    line = MessageHead(1, Kind.DANMAKU, "i1", "rude", 1)
    cleared = Cleared(2, Clear(id="i1", sender=sender))
    assert cleared.takes(line) == is_gone
    assert Clears([cleared]).takes(line) == is_gone
    assert Clears([Cleared(2, Clear(id="i1", sender="star")), cleared]).takes(line) == is_gone


def test_one_message_is_cleared_by_its_id() -> None:
    owner = Owner()
    owner.take(Kind.DANMAKU, Kind.DANMAKU)
    owner.take(Kind.CLEAR, **msgspec.to_builtins(Clear(id="i1")))
    messages = missed(owner, 0, 0)
    assert messages is not None
    assert [message.id for message in messages] == ["i2", "i3"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.floats(0, 30)), min_size=1, max_size=40), st.data())
def test_a_resume_has_every_reliable_message_after_the_position(
    steps: list[tuple[int, int, float]], data: st.DataObject
) -> None:
    owner = Owner()
    now_s = 0.0
    for chatter, gifts, pause_s in steps:
        now_s += pause_s
        owner.take(*[Kind.DANMAKU] * chatter, *[Kind.GIFT] * gifts, at_s=now_s)
    seq = data.draw(st.integers(0, len(owner.messages)))
    rseq = max((message.rseq for message in owner.messages[:seq]), default=0)
    messages = missed(owner, seq, rseq)
    if messages is not None:
        wanted = [message for message in owner.messages if message.rseq > rseq]
        assert [message for message in messages if message.rseq > rseq] == wanted
        assert [message.seq for message in messages if message.seq > seq] == sorted(
            {message.seq for message in messages if message.seq > seq}
        )
    else:
        assert owner.room.base[0] > seq
        assert owner.room.base[1] > rseq
