"""After an hour of names that callers invent, every table of the cores is within its cap.

The time is virtual. A test walks all that an object reaches, so a table that somebody adds is held
to the same cap without being named here. `docs/security.md` lists the caps.
"""

from collections import deque
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest

from broadcaster import dedupe
from broadcaster.dedupe import RecentIds, SeenIds
from broadcaster.rooms import AUDIENCE_KNOWN_MS, PACKED_PER_ROOM, Rooms
from edge.hub import Hub, Space
from edge.presence_pace import Pace
from edge.spent_tickets import SpentTickets
from ingress import words
from ingress.ended_rules import EndedRules
from ingress.offences import Offences
from ingress.permissions import BY_KIND
from ingress.slow_mode import SlowMode
from ingress.user_connections import UserConnectionService
from ingress.words import WordLibraries, WordLibrary
from liveroom import moderation
from liveroom.audience import NOBODY, Audience, Viewers
from liveroom.bad_records import Refusals
from liveroom.budgets import Caller, Rate, Rates
from liveroom.kafka_port import AioKafka
from liveroom.kinds import Kind
from liveroom.limits import Buckets
from liveroom.moderation import Rules
from liveroom.records.codec import BadRecord
from liveroom.records.control import GatewayState, LoadReport, Moderation, Presence, RuleKind, WordAction
from liveroom.records.revocations import Revocation
from liveroom.records.snapshot import encode_state
from liveroom.revocations import Revocations
from liveroom.service import Runtime
from liveroom.settings import KafkaSettings
from liveroom.tickets import ENTRY, Ticket, User
from liveroom.topics import UPLINK
from tests.broadcaster.ticks import T0, tick, uplink
from tests.edge.test_hub import FakeMember, join
from tests.ingress.harness import FakeLogWriter

HOUR_S = 3600
PER_S = 5
MOST = 100
OURS = ("broadcaster", "edge", "ingress", "liveroom", "tests")


def sizes(root: object) -> dict[str, int]:
    """The size of every container that `root` reaches, by its path."""
    found: dict[str, int] = {}
    met: set[int] = set()
    queue: deque[tuple[str, object]] = deque([(type(root).__name__, root)])
    while queue:
        path, one = queue.popleft()
        if id(one) in met:
            continue
        met.add(id(one))
        if isinstance(one, dict | set | frozenset | list | deque):
            found[path] = max(len(one), found.get(path, 0))
            values = one.values() if isinstance(one, dict) else one
            queue += [(f"{path}[]", value) for value in values]
            if isinstance(one, dict):
                queue += [(f"{path}{{}}", key) for key in one]
        elif isinstance(one, tuple):
            queue += [(f"{path}()", value) for value in one]
        elif type(one).__module__.partition(".")[0] in OURS:
            queue += [(f"{path}.{name}", value) for name, value in attributes(one)]
    return found


def attributes(one: object) -> Iterator[tuple[str, object]]:
    names = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
    for name in dict.fromkeys([*names, *getattr(one, "__dict__", {})]):
        yield name, getattr(one, name, None)


def name_of(chance: Random) -> str:
    return f"x{chance.randrange(10**12)}"


Hour = Callable[[pytest.MonkeyPatch], tuple[Callable[[int, str, Random], None], object]]


def buckets(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table = Buckets(1e-4, 1, most=MOST)
    return lambda now_s, name, _: table.take(name, now_s), table


def rates(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    rate = Rate(1e-4, 1)
    table = Rates(connection=rate, user=rate, address=rate, most=MOST)
    return lambda now_s, name, _: table.take(Caller(name, name, name), now_s), table


def spent_tickets(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table = SpentTickets(most=MOST)
    return lambda now_s, name, _: table.spend(Ticket(ENTRY, User("u"), 1000 * now_s + 60_000, name), 1000 * now_s), table


def slow_mode(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    rules = Rules()
    rules.apply(Moderation(1, "r", 1, RuleKind.MODE, "slow_s", value=86_400))
    table = SlowMode(rules, most=MOST)
    return lambda now_s, name, _: table.take_turn([BY_KIND[Kind.DANMAKU]], "r", User(name), now_s), table


def offences(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table = Offences(5, HOUR_S, most=MOST)
    return lambda now_s, name, _: table.add((name,), now_s), table


def word_libraries(patch: pytest.MonkeyPatch) -> tuple[Any, object]:
    patch.setattr(words, "MAX_LIBRARIES", MOST)

    class EveryRoom(dict[str, dict[str, WordAction]]):
        def __contains__(self, room: object) -> bool:
            return room != "*"

        def __bool__(self) -> bool:
            return True

        def __missing__(self, room: str) -> dict[str, WordAction]:
            return {"darn": WordAction.MASK}

    table = WordLibraries(EveryRoom())

    def act(_: int, name: str, __: Random) -> None:
        for due in table.due(name):
            table.end_build(due, WordLibrary(table.begin_build(due) or {}))
        table.judge(name, "darn")

    return act, table._set


def commands(patch: pytest.MonkeyPatch) -> tuple[Any, object]:
    for name in ("MAX_REMEMBERED", "MAX_LIFTED", "_FEW"):
        patch.setattr(moderation, name, MOST // 2)
    rules = Rules()

    def act(now_s: int, name: str, _: Random) -> None:
        rules.apply(Moderation(1, "r", 1000 * now_s, RuleKind.MUTE, name, id=name, until_ms=1000 * now_s + 1))
        rules.apply(Moderation(1, "r", 1000 * now_s, RuleKind.BAN, name, id=name, until_ms=0))
        rules.apply(Moderation(1, "r", 1000 * now_s, RuleKind.BAN, "again", until_ms=1000 * now_s + 10**9))
        rules.expire(1000 * now_s)

    return act, rules


def ended_rules(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table = EndedRules(most=MOST // 2)

    def act(now_s: int, name: str, chance: Random) -> None:
        rule = Moderation(1, "r", 1000 * now_s, RuleKind.BAN, name)
        table.note(rule, 1000 * now_s, chance.randrange(1000))
        table.lost(name.encode(), 1000 * now_s, 0)
        table.due(1000 * now_s)

    return act, table


def revoked(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    """An ingress refuses further ones, and withdraws those that have ended."""
    table = Revocations()

    def act(now_s: int, name: str, chance: Random) -> None:
        if len(table) < MOST:
            before_s, until_ms = now_s - chance.randrange(3), 1000 * (now_s + chance.randrange(60))
            device = chance.choice(["", name])
            table.apply(Revocation(1, name, 1000 * now_s, before_s, until_ms, chance.choice(["", "u", name]), device))
        for each in table:
            if each.until_ms <= 1000 * now_s:
                table.withdraw(each.id)

    return act, table


def user_connections(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    """Gateways that restart have new names."""
    table = UserConnectionService(AioKafka(KafkaSettings()), FakeLogWriter(), Runtime("ingress"))

    def act(now_s: int, name: str, _: Random) -> None:
        table.gateways_reported([LoadReport(1, name, 1, GatewayState.SERVING, 0, "ws://x", "x", "127.0.0.1", 1)], now_s)

    return act, [table._gateways, table._waiting]


def seen_ids(patch: pytest.MonkeyPatch) -> tuple[Any, object]:
    patch.setattr(dedupe, "MAX_SEEN", MOST)
    table = SeenIds(HOUR_S * 1000, {})
    return lambda now_s, name, _: table.meet(name, 1000 * now_s, 1), table


def recent_ids(patch: pytest.MonkeyPatch) -> tuple[Any, object]:
    patch.setattr(dedupe, "MAX_RECENT", MOST)
    table = RecentIds(HOUR_S * 1000)
    return lambda now_s, name, _: table.meet("r", "u", name, 1000 * now_s), table


def audience(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    """A gateway names no more rooms at once than it may have."""
    table, local = Audience(), deque[str]()

    def report(room: str, count: int, now_s: int) -> None:
        table.update(Presence(1, room, "e1", 1, count, count, 1000 * now_s), now_s)

    def act(now_s: int, name: str, _: Random) -> None:
        local.append(name)
        report(name, 1, now_s)
        if len(local) > MOST // 2:
            report(local.popleft(), 0, now_s)
        table.expire(now_s)
        for _room in table.due(now_s):
            pass

    return act, table


def audience_while_nobody_rules(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    """A partition that cannot be taken over publishes nothing."""
    table = Audience()

    def act(now_s: int, name: str, _: Random) -> None:
        for count in (1, 0):
            table.update(Presence(1, name, "e1", 1, count, count, 1000 * now_s), now_s)

    return act, table


def audience_of_an_ingress(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table = Audience(publishes=False)

    def act(now_s: int, name: str, _: Random) -> None:
        for count in (1, 0):
            table.update(Presence(1, name, "e1", 1, count, count, 1000 * now_s), now_s)
        table.expire(now_s)

    return act, table


def rooms(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table, watched = Rooms(max_rooms=MOST // (PACKED_PER_ROOM + 5)), deque[str]()
    table.forget_silent(T0 - AUDIENCE_KNOWN_MS)

    def act(now_s: int, name: str, chance: Random) -> None:
        now_ms = T0 + 1000 * now_s
        watched.append(name)
        table.watch(name, Viewers(1, 1))
        table.want_card(name)
        if chance.random() < 0.3:
            kind = chance.choice([Kind.DANMAKU, Kind.LIKE, Kind.CUSTOM])  # of all that a viewer may send
            table.take(uplink("a", kind, room=name), now_s, now_ms)
        if len(watched) > 4:
            table.watch(watched.popleft(), NOBODY)
        tick(table, now_ms)
        table.forget_silent(now_ms)
        if now_s % 10 == 0:
            table.store(10**6)
            encode_state(table.snapshot())

    return act, table


def refusals(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table = Refusals(UPLINK)
    return lambda _, name, __: table.is_logged(BadRecord.UNKNOWN, name), table


def hub(_: pytest.MonkeyPatch) -> tuple[Any, object]:
    table, pace, members = Hub(max_rooms=MOST // 2), Pace(), deque[FakeMember]()

    def act(now_s: int, name: str, chance: Random) -> None:
        member = FakeMember(user_hash=chance.randrange(10**9), address=name_of(chance))
        assert not isinstance(table.make_space(name, member.address, now_s), Space)
        join(table, member, name, now_s)
        members.append(member)
        if len(members) > MOST:
            table.drop(members.popleft(), now_s)
        table.forget_vacant(now_s)
        pace.changed(table.changed)
        for room in pace.due(now_s):
            if pace.wants(room, table.audience(room), now_s, has_changes=bool(table.take_changes(room))):
                pace.reported(room, table.audience(room), now_s, is_list=pace.needs_list(room, now_s))

    return act, [table, pace]


@pytest.mark.parametrize(
    "make",
    [
        buckets,
        rates,
        spent_tickets,
        slow_mode,
        offences,
        word_libraries,
        commands,
        ended_rules,
        revoked,
        user_connections,
        seen_ids,
        recent_ids,
        audience,
        audience_while_nobody_rules,
        audience_of_an_ingress,
        rooms,
        refusals,
        hub,
    ],
)
def test_an_hour_of_invented_names_leaves_every_table_within_its_cap(make: Hour, monkeypatch: pytest.MonkeyPatch) -> None:
    act, table = make(monkeypatch)
    chance = Random(11)
    for now_s in range(HOUR_S):
        for _ in range(PER_S):
            act(now_s, name_of(chance), chance)
        if now_s % 60 == 0:
            above = {path: size for path, size in sizes(table).items() if size > MOST + PER_S}
            assert not above, now_s
    assert sizes(table), "the walk has found tables"


def test_a_limit_of_names_makes_limits_milder_and_refuses_nobody() -> None:
    table = Buckets(0.001, 1, most=10)
    assert not any(table.take(f"u{number}", 0.0) for number in range(100))


def test_the_walk_finds_a_table_wherever_it_is() -> None:
    slow = SlowMode(Rules())
    for number in range(7):
        slow._again_s["r", f"u{number}"] = 1.0
    assert sizes([{"a": (slow,)}])["list[][]()._again_s"] == 7
