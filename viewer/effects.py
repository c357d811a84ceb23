"""What a viewer's session asks its caller to do, and what it reports. Values; pure.

`viewer.session` makes them. The caller acts on `Connect`, `Send`, `Disconnect` and `Pull`; the rest
are reports.
"""

from typing import NamedTuple

from liveroom.closecodes import Close, CloseRule
from liveroom.wire import Card, Error, Left, Message, Notice


class Connect(NamedTuple):
    """Ask the scheduler and connect; then call `opened` or `failed`."""


class Send(NamedTuple):
    """Send this text frame."""

    text: bytes


class Disconnect(NamedTuple):
    """Close the connection with this code; then call `closed`."""

    code: Close


class Pull(NamedTuple):
    """Get missing messages: `GET /v1/rooms/{room}/messages` with `params` at this connection's
    gateway.

    Then call `pulled`, `pull_failed` or `pull_refused`. `token` is for `Authorization: Bearer`. The
    caller cancels the pulls of a connection that ends, and a room's pull when the next one of that
    room is asked for.
    """

    room: str
    token: str
    params: dict[str, str]


class Entered(NamedTuple):
    """The gateway has joined the viewer to the room.

    `epoch`, `seq` and `rseq` are None until the room's first batch. `resumed`: the gateway sends
    what was missed since the last connection.
    """

    room: str
    epoch: int | None
    seq: int | None
    rseq: int | None
    card: Card | None = None
    resumed: bool = False


class RoomCard(NamedTuple):
    """The snapshot of a room whose `Entered` came without one."""

    room: str
    card: Card


class Delivered(NamedTuple):
    """A message, once.

    Messages come in order of `seq`, except those that fill a hole (`late`). A message's kind and
    role are texts, since a later version may have more of them: compare with `==`, not by identity.
    """

    room: str
    epoch: int
    message: Message
    late: bool = False


class Counts(NamedTuple):
    """The room's totals. None: unchanged."""

    room: str
    likes: int | None
    viewers: tuple[int, int] | None


class Progress(NamedTuple):
    """The newest reliable number of a room that the gateway has reported.

    `first`: the viewer's numbers in this epoch start here.
    """

    room: str
    epoch: int
    rseq: int
    first: bool


class Hole(NamedTuple):
    """The reliable messages after `after_rseq` up to `to_rseq` did not arrive.

    Each of them follows as a late `Delivered` or in a `Lost`.
    """

    room: str
    epoch: int
    after_rseq: int
    to_rseq: int


class Lost(NamedTuple):
    """The reliable messages after `after_rseq` up to `to_rseq` will not arrive any more."""

    room: str
    epoch: int
    after_rseq: int
    to_rseq: int


class Renumbered(NamedTuple):
    """The room's history was lost: its numbers start over under another epoch."""

    room: str
    epoch: int


class Told(NamedTuple):
    """A frame for this user alone: a notice, a refusal, or the end of the stay in a room."""

    what: Notice | Error | Left


class Moved(NamedTuple):
    """The gateway asks the viewer to move to another one; `reason` is the gateway's."""

    reason: str


class Ended(NamedTuple):
    """The session is over; `rule` says why.

    `refusal`: what a service said about it, None where it said nothing.
    """

    rule: CloseRule
    refusal: Error | None = None


Effect = (
    Connect
    | Send
    | Disconnect
    | Pull
    | Entered
    | RoomCard
    | Delivered
    | Counts
    | Progress
    | Hole
    | Lost
    | Renumbered
    | Told
    | Moved
    | Ended
)
