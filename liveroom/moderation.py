"""The moderation rules in force, as the topic `moderation` holds them. Pure.

Owns the rules that every ingress and every gateway must agree on: rooms' modes, mutes, bans, hosts,
words. Each rule is one record, so the order of different rules does not matter; of one rule the
last record wins. The records of a rule that is over are withdrawn after a while
(`ingress.ended_rules`). Refuses what a newer service may have set, an unknown mode or action
(`BadRecordError`). `ingress.permissions` decides who may set rules, and `ingress.moderation` how
many.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, TypeVar

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
NO_MODES: Final = RoomSettings()
_HOST_ROLES: Final = frozenset(role.value for role in Role if is_host(role))
T = TypeVar("T")
_USUAL: Final = msgspec.structs.asdict(NO_MODES)


class _Modes(RoomChange, frozen=True, omit_defaults=True):
    """The modes that rules set: those of `RoomChange`, and the end of the room."""

    dissolved: bool | msgspec.UnsetType = msgspec.UNSET


def key_of(rule: Moderation) -> bytes:
    """Return the key of a rule's record."""
    return rule_key(rule.room, rule.kind.value, rule.name)


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
    `numbers`: how many rules of each kind are kept; the modes of a room count as one.
    """

    def __init__(self) -> None:
        self.are_read = False
        self.modes: dict[str, RoomSettings] = {}
        self.words: dict[str, dict[str, WordAction]] = {}
        self._hosts: dict[str, dict[str, Moderation]] = {}
        self._users: dict[RuleKind, dict[str, dict[str, Moderation]]] = {
            RuleKind.MUTE: {},
            RuleKind.BAN: {},
            RuleKind.HOST: self._hosts,
        }
        self.numbers = dict.fromkeys(RuleKind, 0)
        self._done: OrderedDict[tuple[bytes, str], Moderation] = OrderedDict()

    @property
    def remembered(self) -> int:
        """How many requests are remembered, so that none is carried out twice (`done`)."""
        return len(self._done)

    def apply(self, rule: Moderation) -> None:
        """Set or lift a rule. Idempotent.

        Raises `BadRecordError`, and changes nothing, for a mode or a word's action that this
        version does not know (unknown), and for a mode's value or a host's role that cannot be
        (schema).
        """
        room = rule.room
        match rule.kind:
            case RuleKind.MODE:
                self._set_mode(rule)
            case RuleKind.WORD:
                self._set_word(rule)
            case kind:
                if kind is RuleKind.HOST and rule.until_ms and rule.value not in _HOST_ROLES:
                    raise BadRecordError(BadRecord.SCHEMA, "the role of a host is moderator, streamer or operator")
                self._set(kind, room, rule.name, rule if rule.until_ms else None)
        if rule.id:
            self._remember(rule)

    def _set_word(self, rule: Moderation) -> None:
        try:
            action = None if rule.value is None else WordAction(rule.value)
        except ValueError:
            raise BadRecordError(BadRecord.UNKNOWN, f"action {rule.value!r} of a word") from None
        self.numbers[RuleKind.WORD] += _put(self.words, rule.room, rule.name, action)

    def _set_mode(self, rule: Moderation) -> None:
        if rule.name not in _Modes.__struct_fields__:
            raise BadRecordError(BadRecord.UNKNOWN, f"mode {rule.name!r}")
        try:
            change = msgspec.convert({rule.name: rule.value}, _Modes).modes()
        except msgspec.ValidationError as error:
            raise BadRecordError(BadRecord.SCHEMA, str(error)) from None
        after = msgspec.structs.replace(self.modes.get(rule.room, NO_MODES), **change)
        if after == NO_MODES:
            self.modes.pop(rule.room, None)
        else:
            self.modes[rule.room] = after
        self.numbers[RuleKind.MODE] = len(self.modes)

    def withdraw(self, key: str, now_ms: int) -> Moderation | None:
        """Forget the rule whose records were withdrawn, if it is over.

        Returns the rule if it holds now: it was set while the withdrawal was under way. It stays in
        force here, and somebody must write it again, because the topic will lose it.
        """
        room, _, rest = key.partition("/")
        kind_name, _, name = rest.partition("/")
        try:
            kind = RuleKind(kind_name)
        except ValueError:
            return None
        match kind:
            case RuleKind.MODE:
                value = getattr(self.settings(room), name, None)
                is_over = value == _USUAL.get(name)
            case RuleKind.WORD:
                action = self.words.get(room, {}).get(name)
                value, is_over = action.value if action is not None else None, action is None
            case _:
                return self._found(kind, room, name, now_ms)
        return None if is_over else Moderation(Moderation.VERSION, room, now_ms, kind, name, value=value)

    def may_add(self, kind: RuleKind, room: str, user: str, most: int, now_ms: int) -> bool:
        """Return whether one more mute or ban leaves at most `most` in force in a room.

        A user that is muted or banned already may be so for another time. Forgets ended ones where
        that makes space.
        """
        users = self._users[kind].get(room, {})
        if len(users) >= most and user not in users:
            for name in [name for name, rule in users.items() if not holds(rule, now_ms)]:
                self._set(kind, room, name, None)
        return len(users) < most or user in users

    def _set(self, kind: RuleKind, room: str, user: str, rule: Moderation | None) -> None:
        self.numbers[kind] += _put(self._users[kind], room, user, rule)

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
        users = self._users[kind].get(room)
        if users is None or (rule := users.get(user)) is None:
            return None
        if holds(rule, now_ms):
            return rule
        self._set(kind, room, user, None)
        return None

    def host(self, room: str, user: str, now_ms: int) -> Moderation | None:
        """Return the record of a user as a host of a room (`EVERYWHERE`: an operator), or None.

        Its `value` is the role.
        """
        return self._found(RuleKind.HOST, room, user, now_ms)

    def hosts(self, room: str) -> int:
        """Return how many hosts of a room are recorded."""
        return len(self._hosts.get(room, ()))

    def role_of(self, room: str, user: str, now_ms: int) -> Role | None:
        """Return the role that a user is recorded with in a room, or None for no host."""
        found = [rule for scope in (EVERYWHERE, room) if (rule := self.host(scope, user, now_ms)) is not None]
        return Role(found[0].value) if found else None

    def all_of(self, kind: RuleKind, room: str, now_ms: int) -> Iterator[Moderation]:
        """Yield the mutes or bans in force of a room, ordered by user."""
        users = self._users[kind].get(room, {})
        for user in sorted(users):
            if holds(users[user], now_ms):
                yield users[user]


def _put(rules: dict[str, dict[str, T]], room: str, name: str, rule: T | None) -> int:
    """Keep a rule of a room; None: keep none under this name. Return how many more are kept."""
    named = rules.get(room)
    before = len(named) if named is not None else 0
    if rule is not None:
        named = rules.setdefault(room, {})
        named[name] = rule
    elif named is None:
        return 0
    else:
        named.pop(name, None)
        if not named:
            del rules[room]
    return len(named) - before
