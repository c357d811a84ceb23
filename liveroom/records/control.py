"""JSON records of `presence`, `gateways`, `control`, `moderation` and `audit`. Pure."""

from enum import Enum
from typing import Annotated, Any, Final

import msgspec

from liveroom.kinds import Role
from liveroom.records.codec import GATEWAY_PATTERN, Count, GatewayId, Generation, JsonRecord, Millis, RoomId

PRESENCE_INTERVAL_S: Final = 60.0
MAX_PARTS: Final = 1024  # of a list of users
_GATEWAY: Final = GATEWAY_PATTERN[0][1:-2]


class Presence(JsonRecord, frozen=True):
    """The viewers of one room at one gateway: how many, and which users came and left.

    A gateway sends it at once when a room gets its first viewer there, on a change at most every
    1.5 s, and every `PRESENCE_INTERVAL_S` with the list of all users, so that a new owner soon
    knows all rooms. Users are named by their hashes (`room_hash`), so that one who watches at
    several gateways counts once. Hashes are packed, 8 bytes each, the lowest byte first; in JSON
    they are base64.

    - `gateway`: the gateway's id, or `ingress/` and the name of an ingress that asks for a `card`.
    - `generation`: the gateway's start time in milliseconds.
    - `users`, `connections`: they differ when a user watches on several devices.
    - `card`: asks the room's owner for a room snapshot in its next batch. An ingress may ask too,
      without viewers.
    - `devices`: distinct devices of users, at least `users` and at most `connections`: a connection
      that names no device counts as one of its own. `null` means unknown.
    - `serial`: counts the records of this room and gateway, so that a missing one is noticed.
      `null` in version 0.1, which names no users: then `users` is added to the sum.
    - `came`, `left`: the users who came and left since the record before.
    - `part`, `parts`: `came` is part `part` of `parts` of the list of all users here, which
      replaces what was known. `parts` is a power of two: each part has an equal range of hashes.
      0: no list.
    """

    room: RoomId
    gateway: Annotated[str, msgspec.Meta(pattern=rf"^(ingress/)?{_GATEWAY}\Z")]
    generation: Generation
    users: Count
    connections: Count
    at_ms: Millis
    card: bool = False
    devices: Count | None = None
    serial: Count | None = None
    came: bytes = b""
    left: bytes = b""
    part: Annotated[int, msgspec.Meta(ge=0, lt=MAX_PARTS)] = 0
    parts: Annotated[int, msgspec.Meta(ge=0, le=MAX_PARTS)] = 0

    @property
    def has_users(self) -> bool:
        """Whether it names users."""
        return bool(self.came or self.left or self.parts)


class GatewayState(Enum):
    """Whether a gateway accepts new viewers, and if not, why."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


_Limit = Annotated[float, msgspec.Meta(ge=1e-3, le=1e15)]
_Measured = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class Limits(msgspec.Struct, frozen=True):
    """What one gateway can carry, measured by the load test.

    None is 0, because others divide by them.

    - `cpu`: busy share of one core.
    - `packets_per_s`: pushes to viewers.
    """

    connections: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 10_000
    joins_per_s: _Limit = 500.0
    cpu: _Limit = 0.7
    loop_lag_ms: _Limit = 50.0
    bytes_per_s: _Limit = 100e6
    packets_per_s: _Limit = 100e3


class HotRoom(msgspec.Struct, frozen=True):
    """A room with many viewers at one gateway."""

    room: str
    connections: Count


class LoadReport(JsonRecord, frozen=True):
    """The load of one gateway, reported every second.

    Rates are per second over the last second. `null` means unknown, never zero.

    - `generation`: the gateway's start time in milliseconds; a restarted gateway has a new one.
    - `at_ms`: by the clock of the gateway's machine, right or wrong. Compared with Kafka's time of
      the record it shows by how much that clock is off.
    - `url`, `host`, `ip`, `port`: where viewers connect.
    - `limits`: what this gateway can carry.
    - `cpu`: busy share of one core.
    - `loop_lag_ms`: how late the event loop runs.
    - `io_per_s`: read and write operations of the gateway's process.
    - `slow`: viewers with unsent bytes.
    - `lag_records`: records of `broadcast` that the gateway has not read yet.
    - `delay_ms`: the longest time from an interaction's acceptance to its push since the last
      report.
    - `hot`: the rooms with the most viewers at this gateway.
    - `ticket_version`: the newest version of entry tickets that the gateway has keys for.
    """

    gateway: GatewayId
    generation: Generation
    state: GatewayState
    at_ms: Millis
    url: str
    host: str
    ip: str
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    zone: str = ""
    limits: Limits = Limits()
    connections: Count | None = None
    users: Count | None = None
    rooms: Count | None = None
    joins_per_s: _Measured | None = None
    leaves_per_s: _Measured | None = None
    batches_per_s: _Measured | None = None
    bytes_per_s: _Measured | None = None
    packets_per_s: _Measured | None = None
    cpu: _Measured | None = None
    loop_lag_ms: _Measured | None = None
    rss_bytes: Count | None = None
    load1: _Measured | None = None
    io_per_s: _Measured | None = None
    sockets: Count | None = None
    slow: Count | None = None
    lag_records: Count | None = None
    delay_ms: _Measured | None = None
    hot: tuple[HotRoom, ...] = ()
    ticket_version: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 1


class OrderKind(Enum):
    """What an order asks of a gateway, or of the pool itself.

    For the pool: not to change its size (`pause`), and to continue (`resume`).
    """

    DRAIN = "drain"
    SHED = "shed"
    RESUME = "resume"
    PAUSE = "pause"


class Decided(msgspec.Struct, frozen=True):
    """A decision about the size of the pool, as its leader tells the other autoscalers.

    - `instance`: the autoscaler that decided, at `at_ms`.
    - `desired`, `actual`, `needed`: how many gateways there should be, there are, and the load
      needs.
    - `reason`, `detail`: why; `detail` is for people.
    - `drain`: the gateways that it drains.
    - `done`: whether it was carried out.
    """

    at_ms: Millis
    instance: str
    desired: Count
    actual: Count
    needed: Count
    reason: str
    detail: str
    drain: tuple[str, ...]
    done: bool


FLOOR: Final = "-floor"
DECISION: Final = "-decision"


class Order(JsonRecord, frozen=True, omit_defaults=True):
    """An order to one gateway or to the pool, or what its leader tells the other autoscalers.

    - `gateway`: the gateway's id, or `*` for the pool; then `reason` names the operator. The ids
      -floor and -decision are of no gateway: their records have `least` or `decided`, and the kind
      `resume`, which says nothing there.
    - `generation`: the gateway's start time; the order is void for any other generation.
    - `rate_per_s`: for `shed`, how many viewers per second move.
    - `by`: the operator who gave the order by hand; empty where the pool gave it.
    - `least`, `until_ms`: until then the pool has at least so many gateways.
    - `decided`: the leader's decision.
    """

    gateway: Annotated[str, msgspec.Meta(pattern=rf"^({_GATEWAY}|\*)\Z")]
    generation: Generation
    kind: OrderKind
    at_ms: Millis
    reason: str
    rate_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0
    by: str = ""
    least: Count = 0
    until_ms: Millis = 0
    decided: Decided | None = None


class RuleKind(Enum):
    """What a rule is about: one mode of a room, one user's mute, ban or rank, or one word.

    HOST: the user is a host, of this room or (an operator) of all rooms. It is in no record:
    `record_of` explains why.
    """

    MODE = "mode"
    MUTE = "mute"
    BAN = "ban"
    HOST = "host"
    WORD = "word"


class WordAction(Enum):
    """The action on a text with the word: refuse it, mask the word, or only count it."""

    REFUSE = "refuse"
    MASK = "mask"
    COUNT = "count"


class Moderation(JsonRecord, frozen=True, omit_defaults=True):
    """One moderation rule; the latest record per key wins (`rule_key`), unless it is a repeat.

    - `room`: the room, or `*` for all rooms.
    - `kind`, `name`: what the rule is about, and its mode, user or word.
    - `until_ms`: end of a mute or ban; 0 means lifted, -1 permanent.
    - `value`: the mode's value; for a word the action, or `null` if the word is removed.
    - `by`, `by_role`, `why`, `id`: who set the rule and in which role, why, and the id of the
      request. A role that a reader does not know ranks with operators.
    - `is_automatic`: the system set the rule by itself; every host may lift it.
    - `repeats`: the record repeats the rule that the record at this offset set. It does not count
      where a later record of the key has come in between.
    - `host`, `host_until_ms`: the record is about a host of the room, the user after the `!` in
      `name`: the role and the end of the record; 0 means that the user is no host any more.
    - `mode`: the record is about a mode that version 0.1 does not know, the one after the `!` in
      `name`: its value.
    """

    room: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-]{1,64}|\*)\Z")]
    at_ms: Millis
    kind: RuleKind
    name: str
    by: str = ""
    why: str = ""
    id: str = ""
    until_ms: int = 0
    value: Any = None
    by_role: str | None = None
    host: str | None = None
    host_until_ms: int = 0
    mode: Any = None
    is_automatic: bool = False
    repeats: Count | None = None


LATER_MODES: Final = frozenset({"guests", "restricted"})  # that version 0.1 does not know
_MARK: Final = "!"


def record_of(rule: Moderation) -> Moderation:
    """Return the record of a rule.

    Readers of version 0.1 do not know the kind HOST and the `LATER_MODES`, and would refuse them.
    In the record of such a rule they find the end of a mute of nobody, since no user id begins with
    `!`, and pass over the rest.
    """
    name = f"{_MARK}{rule.name}"
    if rule.kind is RuleKind.MODE and rule.name in LATER_MODES:
        return msgspec.structs.replace(rule, kind=RuleKind.MUTE, name=name, value=None, mode=rule.value)
    if rule.kind is not RuleKind.HOST:
        return rule
    role = str(rule.value) if rule.until_ms else Role.VIEWER.value
    return msgspec.structs.replace(
        rule, kind=RuleKind.MUTE, name=name, until_ms=0, value=None, host=role, host_until_ms=rule.until_ms
    )


def rule_of(record: Moderation) -> Moderation:
    """Return the rule that a record of `moderation` is about; the reverse of `record_of`."""
    name = record.name.removeprefix(_MARK)
    if record.mode is not None:
        return msgspec.structs.replace(record, kind=RuleKind.MODE, name=name, value=record.mode, mode=None)
    if record.host is None:
        return record
    until_ms = record.host_until_ms
    value = record.host if until_ms else None
    return msgspec.structs.replace(
        record, kind=RuleKind.HOST, name=name, until_ms=until_ms, value=value, host=None, host_until_ms=0
    )


class Audit(JsonRecord, frozen=True, omit_defaults=True):
    """One moderation command: who did what in which room, and why.

    - `by`, `role`: who gave the command, and in which role.
    - `action`, `target`: the command, and the user, message or word that it was about.
    - `id`: the id of the request.
    - `what`: the details of the request.
    """

    at_ms: Millis
    room: str
    by: str
    role: Role
    action: str
    target: str = ""
    why: str = ""
    id: str = ""
    what: Any = None
