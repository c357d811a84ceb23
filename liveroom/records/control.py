"""JSON records of `presence`, `gateways`, `control`, `moderation` and `audit`. Pure."""

from enum import Enum
from typing import Annotated, Any, Final

import msgspec

from liveroom.kinds import Role
from liveroom.records.codec import Count, Generation, Millis, RoomId

PRESENCE_INTERVAL_S: Final = 60.0


class Presence(msgspec.Struct, frozen=True):
    """Viewers of one room on one gateway. Users and connections apart: one user may watch on
    several devices.

    Sent at once when a room gets its first viewer there (the owner then puts the room's card into
    its next batch), on change at most every 2 s, and again every `PRESENCE_INTERVAL_S` without a
    change, so that a new owner knows all rooms soon. `card`: it asks for the room's card (an
    ingress may too, without viewers).
    """

    v: int
    room: RoomId
    gateway: str
    generation: Generation
    users: Count
    connections: Count
    at_ms: Millis
    card: bool = False


class GatewayState(Enum):
    """What a gateway does with new viewers."""

    STARTING = "starting"
    SERVING = "serving"
    DRAINING = "draining"


_Limit = Annotated[float, msgspec.Meta(ge=1e-3, le=1e15)]
_Measured = Annotated[float, msgspec.Meta(ge=0, le=1e15)]


class Limits(msgspec.Struct, frozen=True):
    """What one gateway can carry; a load test sets them. Others divide by them: none is 0."""

    connections: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 10_000
    joins_per_s: _Limit = 500.0
    cpu: _Limit = 0.7
    loop_lag_ms: _Limit = 50.0
    bytes_per_s: _Limit = 100e6
    packets_per_s: _Limit = 100e3


class HotRoom(msgspec.Struct, frozen=True):
    """A room with many viewers at a gateway."""

    room: str
    connections: Count


class LoadReport(msgspec.Struct, frozen=True):
    """One gateway's load, every second. Rates are per second over the last one; None: not known
    (never zero).

    `cpu` is the busy share of one core, `generation` the start time in milliseconds: a restarted
    gateway has another one. `delay_ms` is the longest from an interaction's acceptance to its push
    since the last report, `hot` the rooms with most viewers here.
    """

    v: int
    gateway: str
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


class OrderKind(Enum):
    """What the pool may ask of a gateway; of the pool itself: not to change (`pause`), and to go on
    (`resume`).
    """

    DRAIN = "drain"
    SHED = "shed"
    RESUME = "resume"
    PAUSE = "pause"


class Order(msgspec.Struct, frozen=True):
    """An order to one gateway, void for any other generation of it. `rate_per_s`: viewers a second,
    for `shed`.

    `gateway` "*": to the pool, by the operator `reason` names.
    """

    v: int
    gateway: str
    generation: Generation
    kind: OrderKind
    at_ms: Millis
    reason: str
    rate_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e6)] = 0.0


class RuleKind(Enum):
    """What a record of `moderation` sets: one mode of a room, one user's mute or ban in it, or a
    word it does not take.
    """

    MODE = "mode"
    MUTE = "mute"
    BAN = "ban"
    WORD = "word"


class Moderation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of `moderation`: one rule, by which the last one of its key holds (`rule_key`).

    `name`: the mode, the user, or the word. `until_ms`: of mutes and bans; 0: lifted, -1: for good.
    `value`: the mode's value; of a word what to do (WordAction; null: taken off). `by`, `why`,
    `id`: who set it, why, and the request's id. `room` "*": all rooms.
    """

    v: int
    room: Annotated[str, msgspec.Meta(pattern=r"^([A-Za-z0-9_-]{1,64}|\*)\Z")]
    at_ms: Millis
    kind: RuleKind
    name: str
    by: str = ""
    why: str = ""
    id: str = ""
    until_ms: int = 0
    value: Any = None


class Audit(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who did what in which room, to whom or what (`target`), and why.

    `what`: the details, as they were asked for.
    """

    v: int
    at_ms: Millis
    room: str
    by: str
    role: Role
    action: str
    target: str = ""
    why: str = ""
    id: str = ""
    what: Any = None
