"""Rooms under random use, held against a model after every batch: numbers, delivery, balance; over
snapshots and crashes.
"""

import copy
from collections import defaultdict
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from broadcaster.dedupe import BEST_EFFORT_DEDUPE_MS, DEDUPE_MS
from broadcaster.items import BAN_KNOWN_MS, NUMBERED, RELIABLE, BadBodyError
from broadcaster.lines import RECENT_MESSAGES
from broadcaster.rooms import Rooms
from liveroom.audience import Viewers
from liveroom.bodies import BODY_OF, Clear
from liveroom.far_times import AHEAD_MS, is_far
from liveroom.kinds import Kind, Role
from liveroom.records.balance import Balance
from liveroom.records.broadcast import RoomFlags
from liveroom.records.codec import BadRecordError
from liveroom.records.snapshot import RoomChange, RoomSettings, RoomState
from liveroom.records.uplink import Item, Uplink
from liveroom.wire import Message
from tests.broadcaster.ticks import SANCTIONS, T0, Tick, item, loaded, read, snapshot, states, tick, uplink

LIMIT = 4
OWN_LIMIT = 2
USERS = st.sampled_from(["u", "v", "troll"])
DANMAKU = st.sampled_from(["666", "hi"]).map(lambda text: item(Kind.DANMAKU, text=text))
PLAIN = st.sampled_from([Kind.GIFT, Kind.LIKE, Kind.ENTER, Kind.ANNOUNCEMENT, Kind.DISSOLVE, Kind.REOPEN]).map(item)
MODES = st.builds(
    lambda fold, limit: item(Kind.ROOM, fold_identical=fold, limit_per_s=limit), st.booleans(), st.sampled_from([0, OWN_LIMIT])
)
CLEARS = st.builds(lambda user: item(Kind.CLEAR, user=user), USERS) | st.builds(
    lambda first, number, sender: item(Kind.CLEAR, id=f"{first}{number}", sender=sender),
    st.sampled_from("gd"),
    st.integers(0, 12),
    st.just("") | USERS,
)
BANS = st.builds(lambda user: item(Kind.BAN, user=user), USERS)
SMALL = st.one_of(DANMAKU, DANMAKU, DANMAKU, PLAIN, PLAIN, MODES, CLEARS, BANS)
PACKAGES = st.lists(DANMAKU, min_size=2, max_size=3) | st.lists(SMALL, min_size=2, max_size=4)
ITEMS = st.one_of(SMALL.map(lambda one: [one]), SMALL.map(lambda one: [one]), PACKAGES)
NOTICES = st.sampled_from([Kind.MUTE, Kind.UNBAN, Kind.KICK]).map(item)
BAD = st.sampled_from([(Kind.LIKE, b'{"count":0}'), (Kind.BAN, b"{}"), (Kind.ROOM, b'{"slow_s":""}')])
SENDERS = st.fixed_dictionaries(
    {
        "room": st.sampled_from(["a", "b"]),
        "user": USERS,
        "role": st.sampled_from([Role.VIEWER, Role.VIEWER, Role.MODERATOR, Role.STREAMER]),
        "level": st.integers(0, 2),
        "package": st.sampled_from(["", "", "p"]),
    }
)


Name = tuple[str, str]


def names(messages: list[Message]) -> list[Name]:
    """Whose they are and their ids: an id is a user's own."""
    return [(message.user, message.id) for message in messages]


def package_of(name: Name) -> Name:
    user, id_ = name
    return user, id_.partition("#")[0]


Key = tuple[str, str, str]


def content_of(record: Uplink) -> list[Any] | None:
    """What tells a record from another one under its id; None: nothing but the id does."""
    kinds = {each.kind for each in record.items}
    if not kinds & RELIABLE or kinds - BODY_OF.keys():
        return None
    return [(each.kind, msgspec.json.decode(each.data)) for each in record.items]


class Expected:
    """What the next batch must hold, and what was delivered and may be met again."""

    def __init__(self) -> None:
        self.balance = Balance()
        self.contents: dict[Key, list[Any]] = {}
        self.lasting: dict[tuple[str, str, str], int] = {}
        self.brief: dict[tuple[str, str, str], int] = {}
        self.reliable: dict[str, list[Name]] = defaultdict(list)
        self.best_effort: dict[str, list[Name]] = defaultdict(list)
        self.may_go: set[Name] = set()
        self.likes: dict[str, int] = defaultdict(int)
        self.like_items = 0
        self.hidden: dict[tuple[str, str], int] = defaultdict(int)
        self.clears_of_bans = 0
        self.numbers: dict[str, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self.epochs: dict[str, int] = {}
        self.settings: dict[str, RoomSettings] = defaultdict(RoomSettings)
        self.shown: dict[str, list[Message]] = defaultdict(list)
        self.best_effort_total: dict[str, int] = defaultdict(int)
        self.skipped: dict[str, int] = defaultdict(int)

    def is_reused(self, record: Uplink, at_ms: int) -> bool:
        """Whether the record's id named another content within 10 minutes."""
        key = record.room, record.user, record.id
        before, content = self.contents.get(key), content_of(record)
        is_known = before is not None and content is not None and at_ms - self.lasting[key] < DEDUPE_MS
        return is_known and before != content

    def forget_packages(self, kept: set[Key]) -> None:
        """Forget the contents of packages that are only in batches, where their items are apart."""
        for key, content in list(self.contents.items()):
            if len(content) > 1 and key not in kept:
                del self.contents[key]

    def take(self, record: Uplink, at_ms: int) -> None:
        if is_far(record.at_ms, at_ms):
            record = msgspec.structs.replace(record, at_ms=at_ms)
        kinds = [each.kind for each in record.items]
        self.balance.taken += len(kinds)
        is_reliable = any(kind in RELIABLE for kind in kinds)
        lasts = is_reliable or any(kind in SANCTIONS for kind in kinds)
        met, window_ms = (self.lasting, DEDUPE_MS) if lasts else (self.brief, BEST_EFFORT_DEDUPE_MS)
        key = record.room, record.user, record.id
        if at_ms - met.get(key, at_ms - window_ms) < window_ms:
            self.balance.duplicate += len(kinds)
            return
        met[key] = at_ms
        if lasts:
            self.contents.pop(key, None)
            if (content := content_of(record)) is not None:
                self.contents[key] = content
        if (
            all(kind in NUMBERED and kind not in RELIABLE for kind in kinds)
            and record.at_ms < self.hidden[record.room, record.user]
        ):
            self.balance.skipped += len(kinds)
            return
        self._hide(record, at_ms)
        self._take(record, kinds, is_reliable=is_reliable)

    def _hide(self, record: Uplink, at_ms: int) -> None:
        for each in record.items:
            if each.kind is Kind.BAN:
                user, before_ms = msgspec.json.decode(each.data)["user"], record.at_ms + BAN_KNOWN_MS
            elif each.kind is Kind.CLEAR:
                body = msgspec.json.decode(each.data)
                user, before_ms = body.get("user", ""), body.get("before_ms", 0)
                if before_ms > at_ms + AHEAD_MS + BAN_KNOWN_MS:
                    before_ms = at_ms
            else:
                continue
            self.hidden[record.room, user] = max(before_ms, self.hidden[record.room, user])

    def _take(self, record: Uplink, kinds: list[Kind], *, is_reliable: bool) -> None:
        for index, each in enumerate(record.items):
            id_ = record.user, record.id if len(record.items) == 1 else f"{record.id}#{index}"
            if each.kind in RELIABLE:
                self.reliable[record.room].append(id_)
            elif each.kind in NUMBERED:
                self.best_effort[record.room].append(id_)
                if not is_reliable:
                    self.may_go.add(id_)
            elif each.kind is Kind.LIKE:
                self.like_items += 1
                self.likes[record.room] += msgspec.json.decode(each.data)["count"]
            else:
                self.balance.noticed += 1
        for _ in range(kinds.count(Kind.BAN)):
            self.reliable[record.room].append((record.user, record.id))
            self.clears_of_bans += 1

    def hold(self, got: Tick, balance: Balance) -> None:
        """Hold a batch against what was taken, and recount the balance from what viewers get."""
        folds = 0
        for room, frame in got.frames.items():
            header, messages = frame
            seq, rseq = self.numbers[room]
            assert header.seq == (seq + 1, seq + len(messages))
            reliable = [message for message in messages if message.rseq]
            assert [message.rseq for message in reliable] == list(range(rseq + 1, rseq + 1 + len(reliable)))
            assert names(reliable) == self.reliable.pop(room, [])
            assert header.rseq == rseq + len(reliable)
            self.numbers[room] = header.seq[1], header.rseq
            assert self.epochs.setdefault(room, header.epoch) == header.epoch
            self._hold_best_effort(room, [message for message in messages if not message.rseq], header.skipped)
            folds += sum(message.n - 1 for message in messages)
            if header.likes is not None:
                assert header.likes == self.likes[room]
            flags = got.entries[room].flags
            kinds = {message.kind for message in messages}
            assert bool(flags & RoomFlags.CLEAR) == (Kind.CLEAR in kinds)
            assert bool(flags & RoomFlags.DISSOLVED) == (Kind.DISSOLVE in kinds)
            self.balance.numbered += len(messages)
            self.balance.skipped += header.skipped
            self.skipped[room] += header.skipped
            for message in messages:
                self._show(room, message)
        assert not any(self.reliable.values()), "something reliable was not delivered"
        assert not any(self.best_effort.values())
        self.balance.numbered -= self.clears_of_bans
        self.balance.folded += self.like_items + folds
        self.like_items = self.clears_of_bans = 0
        self.may_go = set()
        assert balance == self.balance
        assert balance.is_exact()

    def _hold_best_effort(self, room: str, messages: list[Message], skipped: int) -> None:
        taken, stayed = self.best_effort.pop(room, []), names(messages)
        rest = iter(taken)
        assert all(name in rest for name in stayed), "in the order they were sent in"
        assert sum(message.n for message in messages) + skipped == len(taken)
        modes = self.settings[room]
        assert modes.fold_identical or all(message.n == 1 for message in messages)
        assert sum(name in self.may_go for name in stayed) <= (modes.limit_per_s or LIMIT)
        for package in {package_of(name) for name in stayed if "#" in name[1]}:
            whole = [name for name in taken if package_of(name) == package]
            assert [name for name in stayed if package_of(name) == package] == whole, "a package is whole"
        self.best_effort_total[room] += len(messages)

    def _show(self, room: str, message: Message) -> None:
        if message.kind == Kind.CLEAR:
            clear = msgspec.json.decode(message.data, type=Clear)
            self.shown[room] = [
                before
                for before in self.shown[room]
                if before.kind == Kind.CLEAR
                or (before.user != clear.user and (before.id != clear.id or clear.sender not in {"", before.user}))
            ]
        elif message.kind == Kind.ROOM:
            change = msgspec.json.decode(message.data, type=RoomChange)
            self.settings[room] = msgspec.structs.replace(self.settings[room], **change.modes())
        elif message.kind in {Kind.DISSOLVE, Kind.REOPEN}:
            is_gone = message.kind == Kind.DISSOLVE
            self.settings[room] = msgspec.structs.replace(self.settings[room], dissolved=is_gone)
        self.shown[room].append(message)

    def hold_state(self, state: RoomState) -> None:
        """Hold what lasts of a room against what was delivered."""
        room = state.room
        assert (state.seq, state.rseq) == self.numbers[room]
        assert state.likes == self.likes[room]
        assert state.settings == self.settings[room]
        shown = self.shown[room]
        for kept, expected, total in (
            (state.recent, [message for message in shown if not message.rseq], self.best_effort_total[room]),
            (state.recent_reliable, [message for message in shown if message.rseq], state.rseq),
        ):
            lines = [msgspec.json.decode(line, type=Message) for line in kept]
            assert lines == expected[len(expected) - len(lines) :], "only the newest, and nothing that was cleared"
            assert len(lines) <= RECENT_MESSAGES
            assert total > RECENT_MESSAGES or len(lines) == len(expected)
        announced = [message for message in shown if message.kind == Kind.ANNOUNCEMENT]
        if announced:
            assert state.announcement == b"" or msgspec.json.decode(state.announcement, type=Message) == announced[-1]
        else:
            assert state.announcement == b""


def lasting(rooms: Rooms) -> dict[str, dict[str, Any]]:
    """What a new owner must know.

    It has an id's time from its batch, and knows nothing of rooms with notices alone.
    """
    told: dict[str, dict[str, Any]] = {}
    for name, state in states(rooms).items():
        if not (state.seq or state.likes):
            continue
        fields = msgspec.structs.asdict(state)
        since = rooms.clock_ms - DEDUPE_MS
        fields["seen"] = {(seen.user, seen.id) for seen in state.seen if seen.at_ms > since and not seen.id.startswith("n")}
        del fields["last_ms"]
        told[name] = fields
    return told


class Owner(RuleBasedStateMachine):
    """An owner and its successors.

    What was taken and not written when one dies is taken again by the next.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rooms = Rooms(limit_per_s=LIMIT)
        self.expected = Expected()
        self.written = Expected()
        self.now_ms = T0
        self.offset = 0
        self.snapshot: list[bytes] | None = None
        self.log: list[bytes] = []
        self.in_snapshot: set[Key] = set()
        self.told: dict[tuple[str, str, str], int] = {}
        self.taken: list[tuple[Uplink, int, int]] = []

    @rule(sent=st.lists(st.tuples(st.integers(0, 12), ITEMS, SENDERS), min_size=1, max_size=8))
    def some_send(self, sent: list[tuple[int, list[Item], dict[str, Any]]]) -> None:
        for number, items, sender in sent:
            lasts = any(each.kind in RELIABLE or each.kind in SANCTIONS for each in items)
            self._take(uplink(f"{'g' if lasts else 'd'}{number}", *items, **sender), self.offset, self.now_ms)

    @rule(texts=st.lists(DANMAKU, min_size=3, max_size=12), room=st.sampled_from(["a", "b"]))
    def a_crowd_sends(self, texts: list[Item], room: str) -> None:
        for index, text in enumerate(texts):
            self._take(uplink(f"c{self.offset}", text, room=room, user=f"u{index % 5}"), self.offset, self.now_ms)

    @rule(notice=NOTICES, sender=SENDERS)
    def somebody_is_told(self, notice: Item, sender: dict[str, Any]) -> None:
        self._take(uplink(f"n{self.offset}", notice, **sender), self.offset, self.now_ms)

    @rule(bad=BAD, items=ITEMS, sender=SENDERS)
    def a_record_is_put_aside(self, bad: tuple[Kind, bytes], items: list[Item], sender: dict[str, Any]) -> None:
        kind, body = bad
        with pytest.raises(BadBodyError):
            self.rooms.take(uplink("g0", *items, Item(kind, msgspec.Raw(body)), **sender), self.offset, self.now_ms)
        self.rooms.dead_letter()
        self.expected.balance.taken += 1
        self.expected.balance.dead_lettered += 1
        self._write()

    @rule(passed_ms=st.sampled_from([1, 100, 500, 1_000, 3_000]))
    def time_passes(self, passed_ms: int) -> None:
        if any(self.now_ms + passed_ms - at_ms >= BEST_EFFORT_DEDUPE_MS for _, _, at_ms in self.taken):
            self._write()  # so that no id is twice in one batch
        self.now_ms += passed_ms

    @rule()
    def ten_minutes_pass(self) -> None:
        self._write()
        self.now_ms += DEDUPE_MS

    @rule(room=st.sampled_from(["a", "b"]), users=st.integers(0, 3))
    def somebody_watches(self, room: str, users: int) -> None:
        self.rooms.watch(room, Viewers(users, users))
        self.rooms.want_card(room)

    @rule()
    def a_batch_is_written(self) -> None:
        self._write()

    @rule(reloads=st.booleans())
    def a_snapshot_is_written(self, reloads: bool) -> None:
        self._write()
        self.snapshot, self.log, self.told = snapshot(self.rooms), [], {}
        self.in_snapshot = set(self.expected.contents)
        if reloads:
            self.rooms = self._next_owner()
            self.expected.brief.clear()
            self.written = copy.deepcopy(self.expected)

    @precondition(lambda self: self.log)
    @rule()
    def a_next_owner_would_know_all_that_was_written(self) -> None:
        self._write()
        other = self._next_owner()
        assert lasting(other) == lasting(self.rooms)
        assert other.balance == self.rooms.balance
        assert other.clock_ms == self.rooms.clock_ms

    @rule()
    def the_owner_dies(self) -> None:
        self.rooms = self._next_owner()
        self.written.forget_packages(self.in_snapshot)
        self.expected = copy.deepcopy(self.written)
        self.expected.brief = dict(self.told)
        again, self.taken = self.taken, []
        for record, offset, at_ms in again:
            self._take(record, offset, at_ms)

    def _take(self, record: Uplink, offset: int, at_ms: int) -> None:
        self.offset = max(self.offset, offset + 1)
        if self.expected.is_reused(record, at_ms):
            with pytest.raises(BadRecordError, match="id_reused"):
                self.rooms.take(record, offset, at_ms)
            self.rooms.dead_letter()
            self.expected.balance.taken += 1
            self.expected.balance.dead_lettered += 1
        else:
            self.rooms.take(record, offset, at_ms)
            self.expected.take(record, at_ms)
        self.taken.append((record, offset, at_ms))
        assert self.rooms.balance == self.written.balance, "that of the last batch"

    def _write(self) -> None:
        got = tick(self.rooms, self.now_ms)
        self.expected.hold(got, self.rooms.balance)
        for state in states(self.rooms).values():
            self.expected.hold_state(state)
        self.log.append(got.value)
        for room, frame in got.frames.items():
            for user, id_ in names([message for message in frame.messages if not message.rseq]):
                key, at_ms = (room, *package_of((user, id_))), got.batch.clock_ms
                if at_ms - self.told.get(key, at_ms - BEST_EFFORT_DEDUPE_MS) >= BEST_EFFORT_DEDUPE_MS:
                    self.told[key] = at_ms
        self.taken = []
        self.written = copy.deepcopy(self.expected)

    def _next_owner(self) -> Rooms:
        rooms = Rooms(limit_per_s=LIMIT) if self.snapshot is None else loaded(self.snapshot, limit_per_s=LIMIT)
        for value in self.log:
            rooms.apply(read(value))
        return rooms

    def teardown(self) -> None:
        self._write()
        assert lasting(self._next_owner()) == lasting(self.rooms)


TestOwner = Owner.TestCase
TestOwner.settings = settings(max_examples=250, stateful_step_count=25)
