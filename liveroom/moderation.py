"""The moderation rules in force, as the topic `moderation` holds them. Pure.

Owns the rules that every ingress and every gateway must agree on: rooms' modes, mutes, bans, hosts,
words. Each rule is one record, so the order of different rules does not matter; of one rule the
last record wins, except a repeat that comes behind a later record (`Moderation.repeats`). The
records of a rule that is over are withdrawn after a while (`ingress.ended_rules`). Refuses what a
newer service may have set, an unknown mode or action (`BadRecordError`). `ingress.permissions`
decides who may set rules, and `ingress.moderation` how many.
"""

import heapq
import sys
from collections import OrderedDict
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from liveroom.kinds import Role, is_host, outranks
from liveroom.records.codec import BadRecord, BadRecordError
from liveroom.records.control import Moderation, RuleKind, WordAction
from liveroom.records.snapshot import RoomChange, RoomSettings
from liveroom.topics import rule_key

EVERYWHERE: Final = "*"
FOR_GOOD: Final = -1
REMEMBERED_MS: Final = 600_000
MAX_REMEMBERED: Final = 100_000
MAX_LIFTED: Final = 10_000  # far more than are lifted while a repeat is on its way
NEWEST: Final = sys.maxsize  # the version of a rule whose record is written, and not read yet
NO_MODES: Final = RoomSettings()
_EXPIRED_AT_ONCE: Final = 200  # in one turn: 2 ms
_SWEPT_AT_ONCE: Final = 4  # for each end that comes, so that sweeping them never takes a turn of its own
_FEW: Final = 512
_ENDING: Final = frozenset({RuleKind.MUTE, RuleKind.BAN, RuleKind.HOST})
_NO_HOSTS: Final = frozenset(role.value for role in Role if not is_host(role))
_USUAL: Final = msgspec.structs.asdict(NO_MODES)


class _Modes(RoomChange, frozen=True, omit_defaults=True):
    """The modes that rules set: those of `RoomChange`, and the end of the room."""

    dissolved: bool | msgspec.UnsetType = msgspec.UNSET


class RuleName(NamedTuple):
    """A rule's identity: what its key consists of."""

    kind: RuleKind
    room: str
    name: str


class _Held(NamedTuple):
    """A rule in force, and the offset of the record that set it.

    `end`: the number of its entry among the ends; 0 for none.
    """

    rule: Moderation
    version: int
    end: int = 0


# The end of a rule, in a heap: its time, its number, and the rule's kind, room and name. It is
# outdated where the rule is over or was set again. A plain tuple of plain values is left out of
# garbage collections, which took 650 ms with 200,000 rules, and take 200.
_End = tuple[int, int, str, str, str]


class State(NamedTuple):
    """What holds for a rule's key: the rule, be it one that is over, and its version.

    `version`: the offset of the record that set or lifted it; None: unknown, or not read yet.
    """

    rule: Moderation
    version: int | None


def key_of(rule: Moderation) -> bytes:
    """Return the key of a rule's record."""
    return rule_key(rule.room, rule.kind.value, rule.name)


def name_of(key: str) -> RuleName | None:
    """Return the identity of the rule with this key; None for a kind of a later version."""
    room, _, rest = key.partition("/")
    kind, _, name = rest.partition("/")
    try:
        return RuleName(RuleKind(kind), room, name)
    except ValueError:
        return None


def holds(rule: Moderation, now_ms: int) -> bool:
    """Return whether a mute or ban, or the record of a host, is in force."""
    return rule.until_ms == FOR_GOOD or now_ms < rule.until_ms


def binds(rule: Moderation, role: Role) -> bool:
    """Return whether a mute or ban holds for its user, whose role is `role`.

    Nobody can mute or ban an equal or a better. So a host is bound by the rules of a better only,
    which the rule's `by_role` proves. A rule without it was written by an earlier version; it holds
    for moderators, as it did there.
    """
    if not is_host(role):
        return role is not Role.SERVICE
    return outranks(rule.by_role, role) if rule.by_role is not None else role is Role.MODERATOR


def refusal_by_modes(modes: RoomSettings, room: str, role: Role, token_rooms: Collection[str] | None) -> str | None:
    """Return why a room's modes keep out a user who may otherwise be in it; None: they do not.

    `token_rooms`: the rooms that the user's token names; a ticket's `rooms` are the requested ones.
    Without the mode `guests`, guests are refused. With `restricted`, viewers and guests are whose
    token does not name it.
    """
    if modes is NO_MODES or is_host(role) or role is Role.SERVICE:
        return None
    if role is Role.GUEST and not modes.guests:
        return "the room admits no guests"
    if modes.restricted and room not in (token_rooms or ()):
        return "the room is restricted: the token must name it (claim rooms)"
    return None


def ended_at(rule: Moderation) -> int | None:
    """Return the Unix time (ms) at which a rule is over; None where only a later one ends it."""
    match rule.kind:
        case RuleKind.MODE:
            is_over = rule.value == _USUAL.get(rule.name)
        case RuleKind.WORD:
            is_over = rule.value is None
        case _:
            is_over = rule.until_ms != FOR_GOOD
    return max(rule.at_ms, rule.until_ms) if is_over else None


class Rules:
    """All rules in force.

    `modes`: of rooms with any mode that is not the default. `words`: by room, the action for each.
    `are_read`: whether the whole topic has been read; until then no check may rely on the rules.
    """

    def __init__(self) -> None:
        self.are_read = False
        self.modes: dict[str, RoomSettings] = {}
        self.words: dict[str, dict[str, WordAction]] = {}
        self._held: dict[RuleKind, dict[str, dict[str, _Held]]] = {kind: {} for kind in RuleKind}
        self._counts = dict.fromkeys(RuleKind, 0)
        self._lifted: OrderedDict[RuleName, int] = OrderedDict()
        self._ends: list[_End] = []
        self._unswept: list[_End] = []  # a heap too, even without its last entry
        self._end_number = 0
        self._done: OrderedDict[tuple[bytes, str], Moderation] = OrderedDict()

    @property
    def numbers(self) -> dict[RuleKind, int]:
        """How many rules of each kind are kept; the modes of a room count as one."""
        return {**self._counts, RuleKind.MODE: len(self.modes)}

    @property
    def remembered(self) -> int:
        """How many requests are remembered, so that none is carried out twice (`done`)."""
        return len(self._done)

    @property
    def lifted(self) -> int:
        """How many rules are remembered that were lifted lately."""
        return len(self._lifted)

    def apply(self, rule: Moderation, offset: int = NEWEST) -> bool:
        """Set or lift a rule; return whether it counts. Idempotent.

        `offset`: of its record in the topic; `NEWEST` for a record that was written by the caller
        and not read yet. A repeat does not count, and changes nothing, where a later record of its
        key has been applied: then the topic lacks what holds, and somebody must write it again
        (`state`).

        Raises `BadRecordError`, and changes nothing, for a mode or a word's action that this
        version does not know (unknown), and for a mode's value or a host's role that cannot be
        (schema).
        """
        name = RuleName(rule.kind, rule.room, rule.name)
        is_over, change = self._read(rule)
        version = offset
        if rule.repeats is not None:
            version, known = rule.repeats, self._version(name)
            if known is not None and version < known:
                return False
        self._put(name, None if is_over else _Held(rule, version), change)
        if is_over:
            self._note_lifted(name, version)
        else:
            self._lifted.pop(name, None)
        if rule.id:
            self._remember(rule)
        return True

    def _note_lifted(self, name: RuleName, version: int) -> None:
        self._lifted[name] = version
        self._lifted.move_to_end(name)
        if len(self._lifted) > MAX_LIFTED:
            self._lifted.popitem(last=False)

    def _read(self, rule: Moderation) -> tuple[bool, Any]:
        """Return whether a rule ends one, and its value in the form in which it is kept."""
        match rule.kind:
            case RuleKind.MODE:
                value = _mode(rule)
                return value == _USUAL[rule.name], value
            case RuleKind.WORD:
                return rule.value is None, _action(rule)
            case RuleKind.HOST if rule.until_ms and (not isinstance(rule.value, str) or rule.value in _NO_HOSTS):
                raise BadRecordError(BadRecord.SCHEMA, "the role of a host is not one of viewers or services")
            case _:
                return not rule.until_ms, None

    def _version(self, name: RuleName) -> int | None:
        held = self._held[name.kind].get(name.room, {}).get(name.name)
        return held.version if held is not None else self._lifted.get(name)

    def _put(self, name: RuleName, held: _Held | None, value: Any) -> None:
        """Keep a rule; None: keep none under this name. `value`: of a mode or a word."""
        kind, room, _ = name
        if held is not None and kind in _ENDING and held.rule.until_ms != FOR_GOOD:
            held = self._with_end(name, held)
        rooms = self._held[kind]
        rules = rooms.setdefault(room, {}) if held is not None else rooms.get(room)
        if rules is not None:
            before = len(rules)
            if held is not None:
                rules[name.name] = held
            else:
                rules.pop(name.name, None)
            self._counts[kind] += len(rules) - before
            if not rules:
                del rooms[room]
        if kind is RuleKind.MODE:
            self._put_mode(room, name.name, value)
        elif kind is RuleKind.WORD:
            self._put_word(room, name.name, value if held is not None else None)

    def _put_mode(self, room: str, name: str, value: Any) -> None:
        after = msgspec.structs.replace(self.modes.get(room, NO_MODES), **{name: value})
        if after == NO_MODES:
            self.modes.pop(room, None)
        else:
            self.modes[room] = after

    def _put_word(self, room: str, word: str, action: WordAction | None) -> None:
        if action is not None:
            self.words.setdefault(room, {})[word] = action
        elif (words := self.words.get(room)) is not None:
            words.pop(word, None)
            if not words:
                del self.words[room]

    def _with_end(self, name: RuleName, held: _Held) -> _Held:
        """Return a rule with its entry among the ends.

        A rule that is set again or lifted leaves its former entry behind, so these are swept.
        """
        self._end_number += 1
        heapq.heappush(self._ends, (held.rule.until_ms, self._end_number, name.kind.value, name.room, name.name))
        if not self._unswept and len(self._ends) > sum(self._counts.values()) + _FEW:
            self._ends, self._unswept = [], self._ends
        for _ in range(min(_SWEPT_AT_ONCE, len(self._unswept))):
            end = self._unswept.pop()
            if end[1] == self._end_number or self._is_of_rule(end):
                heapq.heappush(self._ends, end)
        return held._replace(end=self._end_number)

    def _is_of_rule(self, end: _End) -> bool:
        _, number, kind, room, name = end
        held = self._held[RuleKind(kind)].get(room, {}).get(name)
        return held is not None and held.end == number

    def expire(self, now_ms: int) -> bool:
        """Forget rules that have ended; return whether more have, and the caller calls again.

        Call it at least once a second, because ended rules take memory until then. It forgets at
        most `_EXPIRED_AT_ONCE`, so the caller lets other tasks run in between.
        """
        left = _EXPIRED_AT_ONCE
        for ends in (self._ends, self._unswept):
            while ends and ends[0][0] <= now_ms:
                if not left:
                    return True
                left -= 1
                end = heapq.heappop(ends)
                if self._is_of_rule(end):
                    _, _, kind, room, name = end
                    self._found(RuleKind(kind), room, name, now_ms)
        return False

    def withdraw(self, key: str, now_ms: int) -> bool:
        """Return whether the rule holds whose records were withdrawn.

        If so, it was set while the withdrawal was under way. It stays in force here, and somebody
        must write it again (`state`), because the topic will lose it.
        """
        name = name_of(key)
        if name is None:
            return False
        held = self._held[name.kind].get(name.room, {}).get(name.name)
        return held is not None and (name.kind in {RuleKind.MODE, RuleKind.WORD} or holds(held.rule, now_ms))

    def state(self, key: str, now_ms: int) -> State | None:
        """Return what holds for a key, for a record that repeats it; None: the kind is unknown."""
        name = name_of(key)
        if name is None:
            return None
        version = self._version(name)
        version = None if version == NEWEST else version
        if self.withdraw(key, now_ms):
            return State(self._held[name.kind][name.room][name.name].rule, version)
        value = _USUAL.get(name.name) if name.kind is RuleKind.MODE else None
        return State(Moderation(Moderation.VERSION, name.room, now_ms, name.kind, name.name, value=value), version)

    def rule(self, kind: RuleKind, room: str, name: str, now_ms: int) -> Moderation | None:
        """Return a rule in force: a mode that is not the default, a mute, ban, host or word."""
        if kind in {RuleKind.MODE, RuleKind.WORD}:
            held = self._held[kind].get(room, {}).get(name)
            return held.rule if held is not None else None
        return self._found(kind, room, name, now_ms)

    def may_add(self, kind: RuleKind, room: str, user: str, most: int, now_ms: int) -> bool:
        """Return whether one more mute or ban leaves at most `most` in force in a room.

        A user that is muted or banned already may be so for another time. Ended ones do not count.
        """
        users = self._held[kind].get(room, {})
        if len(users) < most or user in users:
            return True
        in_force = (name for name, held in users.items() if holds(held.rule, now_ms))
        return next(islice(in_force, most - 1, None), None) is None

    def _remember(self, rule: Moderation) -> None:
        done, name = self._done, (key_of(rule), rule.id)
        while done and next(iter(done.values())).at_ms < rule.at_ms - REMEMBERED_MS:
            done.popitem(last=False)
        done.setdefault(name, rule)
        if len(done) > MAX_REMEMBERED:
            done.popitem(last=False)

    def done(self, rule: Moderation) -> Moderation | None:
        """Return the rule that this very request set before, or None.

        A request is known by its rule's key, its id and its user, for `REMEMBERED_MS`.
        """
        before = self._done.get((key_of(rule), rule.id))
        if before is None or before.by != rule.by or bool(before.until_ms) != bool(rule.until_ms):
            return None
        return before

    def settings(self, room: str) -> RoomSettings:
        """Return a room's modes."""
        return self.modes.get(room, NO_MODES)

    def muted(self, room: str, user: str, now_ms: int) -> Moderation | None:
        """Return the mute in force of a user in a room, or None."""
        return self._found(RuleKind.MUTE, room, user, now_ms)

    def banned(self, room: str, user: str, now_ms: int) -> Moderation | None:
        """Return the ban in force of a user from a room, or None."""
        return self._found(RuleKind.BAN, room, user, now_ms)

    def _found(self, kind: RuleKind, room: str, user: str, now_ms: int) -> Moderation | None:
        users = self._held[kind].get(room)
        if users is None or (held := users.get(user)) is None:
            return None
        if holds(held.rule, now_ms):
            return held.rule
        name = RuleName(kind, room, user)
        self._put(name, None, None)
        self._note_lifted(name, held.version)
        return None

    def host(self, room: str, user: str, now_ms: int) -> Moderation | None:
        """Return the record of a user as a host of a room (`EVERYWHERE`: an operator), or None.

        Its `value` is the role.
        """
        return self._found(RuleKind.HOST, room, user, now_ms)

    def may_be_host(self, room: str, user: str) -> bool:
        """Return whether a user is, or was until lately, recorded as a host of a room."""
        users = self._held[RuleKind.HOST].get(room)
        return users is not None and user in users

    def hosts(self, room: str) -> int:
        """Return how many hosts of a room are recorded."""
        return len(self._held[RuleKind.HOST].get(room, ()))

    def role_of(self, room: str, user: str, now_ms: int) -> str | None:
        """Return the role that a user is recorded with in a room, or None for no host.

        It may be a role that only a later version knows.
        """
        for scope in (EVERYWHERE, room):
            if (rule := self.host(scope, user, now_ms)) is not None:
                return str(rule.value)
        return None

    def all_of(self, kind: RuleKind, room: str, now_ms: int) -> Iterator[Moderation]:
        """Yield the mutes or bans in force of a room, ordered by user."""
        users = self._held[kind].get(room, {})
        for user in sorted(users):
            if holds(users[user].rule, now_ms):
                yield users[user].rule


def _mode(rule: Moderation) -> Any:
    """Return the value of a mode; the very object of the default where it is that."""
    if rule.name not in _Modes.__struct_fields__:
        raise BadRecordError(BadRecord.UNKNOWN, f"mode {rule.name!r}")
    try:
        return msgspec.convert({rule.name: rule.value}, _Modes).modes()[rule.name]
    except msgspec.ValidationError as error:
        raise BadRecordError(BadRecord.SCHEMA, str(error)) from None


def _action(rule: Moderation) -> WordAction | None:
    try:
        return None if rule.value is None else WordAction(rule.value)
    except ValueError:
        raise BadRecordError(BadRecord.UNKNOWN, f"action {rule.value!r} of a word") from None
