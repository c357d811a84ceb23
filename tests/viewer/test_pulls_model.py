"""A room, a network that loses and repeats, gateways that answer pulls partly, late or never: none
is lost, none doubled.
"""

import re
from dataclasses import dataclass, field

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from liveroom.closecodes import Close
from liveroom.kinds import Kind
from liveroom.wire import BatchHeader, Hello, Joined, Message, Pulled, encode_frame, encode_message
from viewer.effects import Connect, Delivered, Effect, Lost, Progress, Pull, Send
from viewer.ledger import Ledger
from viewer.session import Session, State

EPOCH = 7
FEW = 6  # answers in a row by which the log has nothing any more
GIVEN_UP = re.compile(rb'"seq":(\d+)')


@dataclass
class Batch:
    """One tick of the room; `number` is its cursor."""

    number: int
    first: int
    last: int
    rseq: int
    messages: list[Message]

    @property
    def text(self) -> bytes:
        header = BatchHeader("r", EPOCH, (self.first, self.last), self.rseq, at=1, pos=str(self.number))
        return b"\n".join((msgspec.json.encode(header), *(encode_message(told) for told in self.messages)))


@dataclass
class World:
    """The room's log, the session, and what it said."""

    log: list[Batch] = field(default_factory=lambda: [Batch(0, 1, 0, 0, [])])
    kept_from: int = 0
    session: Session = field(default_factory=lambda: Session(["r"]))
    ledger: Ledger = field(default_factory=Ledger)
    effects: list[Effect] = field(default_factory=list)
    out: Pull | None = None
    now: float = 0.0

    @property
    def is_open(self) -> bool:
        return self.session.state is State.OPEN

    def take(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            self.ledger.observe("v", effect)
            if isinstance(effect, Pull):
                assert self.out is None, "one pull at a time"
                self.out = effect
        self.effects += effects
        return effects

    def hear(self, text: bytes) -> None:
        self.take(self.session.received(text, self.now))

    def say(self, reliable: list[bool]) -> Batch:
        """The room has a batch more."""
        seq, rseq = self.log[-1].last, self.log[-1].rseq
        messages = []
        for is_reliable in reliable:
            seq += 1
            rseq += is_reliable
            kind = Kind.GIFT if is_reliable else Kind.DANMAKU
            messages.append(Message(seq, kind, f"i{seq}", "u", 1, rseq if is_reliable else 0))
        self.log.append(Batch(len(self.log), self.log[-1].last + 1, seq, rseq, messages))
        return self.log[-1]

    def lose_connection(self, code: int | None, uniform: float) -> None:
        self.out = None
        self.take(self.session.closed(code, self.now, uniform))

    def come(self, resumed: bool) -> None:
        """Connect and join; a gateway that resumes pushes what it has behind the number that was
        told.
        """
        if self.session.state is State.IDLE:
            self.take(self.session.start())
        else:
            self.now = max(self.now, self.session.wake_at or 0.0)
            assert Connect() in self.take(self.session.tick(self.now))
        (join,) = [effect.text for effect in self.take(self.session.opened(self.now)) if isinstance(effect, Send)]
        self.hear(encode_frame(Hello("e", 1, 20, 25, "u", pull="t")))
        newest = self.log[-1]
        if resumed and (told := GIVEN_UP.search(join)):
            self.hear(encode_frame(Joined("r", EPOCH, newest.last, newest.rseq, str(newest.number), resumed=True)))
            for batch in self.log:
                if batch.last > int(told[1]):
                    self.hear(batch.text)
        else:
            self.hear(encode_frame(Joined("r", EPOCH, newest.last, newest.rseq, str(newest.number))))

    def answer(self, upto: int, page: int) -> bytes:
        """Search the log as far as `upto`, at most `page` batches of it."""
        assert self.out is not None
        params = self.out.params
        assert params["epoch"] == str(EPOCH)
        start = int(params.get("pos", "0"))
        begin = max(start, self.kept_from)
        found = self.log[begin + 1 : upto + 1]
        last = found[:page][-1] if found else self.log[begin]
        after = int(params["after_rseq"])
        messages = [told for batch in found[:page] for told in batch.messages if told.rseq > after]
        lines = [msgspec.Raw(encode_message(told)) for told in messages]
        answer = Pulled("r", EPOCH, last.last, last.rseq, str(last.number), len(found) > page, begin > start, lines)
        return encode_frame(answer)

    def pass_time(self, until: float) -> None:
        """Tick when the session asks for it; its beats are answered."""
        while self.is_open and self.session.wake_at is not None and self.session.wake_at <= until:
            self.now = max(self.now, self.session.wake_at)
            self.take(self.session.tick(self.now))
            self.hear(b'{"t":"hb","at":1}')
        self.now = max(self.now, until)

    def settle(self) -> None:
        """Let everything arrive."""
        if not self.is_open:
            self.come(resumed=False)
        self.hear(self.say([True]).text)
        for _ in range(10 * len(self.log)):
            if self.out is not None:
                text, self.out = self.answer(len(self.log), 2), None
                self.take(self.session.pulled("r", text, self.now, 0.9))
            if not self.session.rooms["r"].missing:
                return
            self.pass_time(self.now + 1)
        raise AssertionError("holes stay open")


ACTIONS = st.sampled_from(
    ["say", "say", "say", "lose", "repeat", "repeat", "close", "come", "answer", "answer", "fail", "wait", "forget"]
)


def act(world: World, action: str, data: st.DataObject) -> None:
    match action:
        case "say" | "lose":
            batch = world.say(data.draw(st.lists(st.booleans(), min_size=0, max_size=4), label="reliable?"))
            if world.is_open and action == "say":
                world.hear(batch.text)
        case "repeat" if world.is_open:
            world.hear(data.draw(st.sampled_from(world.log), label="which").text)
        case "close" if world.is_open:
            world.lose_connection(data.draw(st.sampled_from([None, Close.SERVICE_RESTART])), data.draw(st.floats(0, 0.9)))
            if data.draw(st.booleans(), label="an answer to a pull that is forgotten?"):
                assert world.session.pulled("r", b"{}", world.now, 0.5) == []
        case "come" if not world.is_open:
            world.come(resumed=data.draw(st.booleans(), label="resumed?"))
        case "answer" if world.out is not None:
            forced = world.session.rooms["r"].gone >= FEW
            upto = len(world.log) if forced else data.draw(st.integers(0, len(world.log)), label="read up to")
            text = world.answer(upto, len(world.log) if forced else data.draw(st.integers(1, 3), label="page"))
            world.out = None
            world.take(world.session.pulled("r", text, world.now, data.draw(st.floats(0, 0.9))))
        case "fail" if world.out is not None:
            world.out = None
            world.take(
                world.session.pull_failed("r", world.now, data.draw(st.floats(0, 0.9)), data.draw(st.none() | st.just(2)))
            )
        case "forget":
            world.kept_from = data.draw(st.integers(world.kept_from, len(world.log) - 1), label="kept from")
        case _:
            world.pass_time(world.now + data.draw(st.floats(0, 20), label="seconds"))


def judge(world: World, start: int) -> set[int]:
    """Check what the session said; return the numbers that it lost."""
    delivered = [effect for effect in world.effects if isinstance(effect, Delivered)]
    in_order = [effect.message.seq for effect in delivered if not effect.late]
    assert in_order == sorted(set(in_order))
    numbers = [effect.message.rseq for effect in delivered if effect.message.rseq]
    assert len(numbers) == len(set(numbers))
    lost = [n for e in world.effects if isinstance(e, Lost) for n in range(e.after_rseq + 1, e.to_rseq + 1)]
    assert sorted(numbers + lost) == list(range(start + 1, world.log[-1].rseq + 1))
    verdict = world.ledger.verdict(world.now, settled=True)
    assert (verdict.lost, verdict.doubled, verdict.disordered) == (len(lost), 0, 0)
    assert verdict.pulled == sum(effect.late for effect in delivered)
    return set(lost)


@settings(max_examples=300)
@given(st.data())
def test_every_reliable_message_comes_once_or_is_gone(data: st.DataObject) -> None:
    world = World()
    for reliable in data.draw(st.lists(st.lists(st.booleans(), max_size=3), max_size=3), label="before"):
        world.say(reliable)
    world.come(resumed=False)
    for action in data.draw(st.lists(ACTIONS, max_size=40), label="actions"):
        act(world, action, data)
    world.settle()
    (start,) = [effect.rseq for effect in world.effects if isinstance(effect, Progress) and effect.first]
    gone = {told.rseq for batch in world.log[: world.kept_from + 1] for told in batch.messages}
    assert judge(world, start) <= gone
