"""JSON records of `revocations`, `connection-orders` and `connection-reports`. Pure."""

from enum import Enum
from typing import Annotated

import msgspec

from liveroom.kinds import Role
from liveroom.records.codec import Count, GatewayId, Generation, ItemId, JsonRecord, Millis, NoUserOrId, UserId

Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**43, description="seconds since 1970-01-01 UTC")]
NoDeviceOrId = Annotated[
    str, msgspec.Meta(pattern=r"^([A-Za-z0-9_.:-]{1,64})?\Z", description="a device of a user, or empty for all")
]


class Revocation(JsonRecord, frozen=True, omit_defaults=True):
    """Revoked tokens. The key is `id`; a record without a value withdraws the revocation.

    - `issued_before_s`: the tokens that were issued earlier (claim `iat`), or at an unknown time.
    - `until_ms`: when all of these have expired, so that nobody needs the record any more.
    - `user`: the tokens of this user only; empty: of every user.
    - `device`: the tokens for this device of the user only; empty: for every device.
    - `by`, `why`: who revoked them, and why.
    """

    id: ItemId
    at_ms: Millis
    issued_before_s: Seconds
    until_ms: Millis
    user: NoUserOrId = ""
    device: NoDeviceOrId = ""
    by: str = ""
    why: str = ""


class ConnectionOrderKind(Enum):
    """What a gateway does with the connections of a user: list them, or list and end them."""

    LIST = "list"
    END = "end"


class ConnectionOrder(JsonRecord, frozen=True, omit_defaults=True):
    """An order to all gateways about the connections of a user. The key is `id`.

    Each gateway answers with a ConnectionReport of the same `id`, also where the user has no
    connection.
    """

    id: ItemId
    at_ms: Millis
    user: UserId
    kind: ConnectionOrderKind


class UserConnection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One connection of a user.

    - `device`: empty where the viewer named none.
    - `transport`: `websocket` or `events`.
    - `issued_s`: when the token was issued; null: not known.
    """

    role: Role
    transport: str
    rooms: tuple[str, ...] = ()
    device: str = ""
    issued_s: int | None = None


class ConnectionReport(JsonRecord, frozen=True, omit_defaults=True):
    """The connections of a user at one gateway, as the answer to a ConnectionOrder.

    - `total`: how many there are; `connections` has at most 100 of them.
    """

    id: ItemId
    gateway: GatewayId
    generation: Generation
    at_ms: Millis
    total: Count = 0
    connections: tuple[UserConnection, ...] = ()
