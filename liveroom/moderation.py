"""The moderation rules in force, as the topic `moderation` holds them. Pure.

Owns what every ingress and every edge must agree on: rooms' modes, mutes, bans, words. Each rule is
one record, so the order of different rules does not matter; of one rule the last record wins.
Refuses what a newer service may have set, an unknown mode or action (`BadRecordError`). Who may set
rules is up to `ingress.permissions`.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import msgspec

from liveroom.records.codec import BadRecord, BadRecordError
from liveroom.records.control import Moderation, RuleKind, WordAction
from liveroom.records.snapshot import RoomChange, RoomSettings
from liveroom.topics import rule_key

EVERYWHERE: Final = "*"
FOR_GOOD: Final = -1
REMEMBERED_MS: Final = 600_000
MAX_REMEMBERED: Final = 100_000
NO_MODES: Final = RoomSettings()


class _Modes(RoomChange, frozen=True, omit_defaults=True):
    """The modes that rules set: those of `RoomChange`, and the end of the room."""

    dissolved: bool | msgspec.UnsetType = msgspec.UNSET


def key_of(rule: Moderation) -> bytes:
    """Return the key of a rule's record."""
    return rule_key(rule.room, rule.kind.value, rule.name)


def holds(rule: Moderation, now_ms: int) -> bool:
    """Return whether a mute or ban is in force."""
    return rule.until_ms == FOR_GOOD or now_ms < rule.until_ms


class Rules:
    """All rules in force.

    `modes`: of rooms with any mode that is not the default. `words`: by room, the action for each.
    `are_read`: whether the whole topic has been read; until then no check may rely on the rules.
    """

    def __init__(self) -> None:
        self.are_read = False
        self.modes: dict[str, RoomSettings] = {}
        self.words: dict[str, dict[str, WordAction]] = {}
        self._users: dict[RuleKind, dict[str, dict[str, Moderation]]] = {RuleKind.MUTE: {}, RuleKind.BAN: {}}
        self._mutes, self._bans = self._users[RuleKind.MUTE], self._users[RuleKind.BAN]
        self._done: OrderedDict[tuple[bytes, str], Moderation] = OrderedDict()

    def apply(self, rule: Moderation) -> None:
        """Set or lift a rule. Idempotent.

        Raises `BadRecordError`, and changes nothing, for a mode or a word's action that this
        version does not know (unknown), and for a mode's value that cannot be (schema).
        """
        room = rule.room
        match rule.kind:
            case RuleKind.MODE:
                self._set_mode(rule)
            case RuleKind.WORD:
                self._set_word(rule)
            case kind:
                users = self._users[kind].setdefault(room, {})
                if rule.until_ms:
                    users[rule.name] = rule
                else:
                    users.pop(rule.name, None)
                if not users:
                    del self._users[kind][room]
        if rule.id:
            self._remember(rule)

    def _set_word(self, rule: Moderation) -> None:
        try:
            action = None if rule.value is None else WordAction(rule.value)
        except ValueError:
            raise BadRecordError(BadRecord.UNKNOWN, f"action {rule.value!r} of a word") from None
        words = self.words.setdefault(rule.room, {})
        if action is None:
            words.pop(rule.name, None)
        else:
            words[rule.name] = action
        if not words:
            del self.words[rule.room]

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
        return _found(self._mutes, room, user, now_ms)

    def banned(self, room: str, user: str, now_ms: int) -> Moderation | None:
        """Return the ban in force of a user from a room, or None."""
        return _found(self._bans, room, user, now_ms)

    def all_of(self, kind: RuleKind, room: str, now_ms: int) -> Iterator[Moderation]:
        """Yield the mutes or bans in force of a room, ordered by user."""
        users = self._users[kind].get(room, {})
        for user in sorted(users):
            if holds(users[user], now_ms):
                yield users[user]


def _found(rules: dict[str, dict[str, Moderation]], room: str, user: str, now_ms: int) -> Moderation | None:
    users = rules.get(room)
    if users is None or (rule := users.get(user)) is None:
        return None
    if holds(rule, now_ms):
        return rule
    del users[user]  # it has ended
    if not users:
        del rules[room]
    return None
