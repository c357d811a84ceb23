"""Why a connection ends: one table of WebSocket close codes, for the edge, the SDKs and the docs.

Data only, pure.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Close(IntEnum):
    """The codes; 4000 and up are ours (RFC 6455, 7.4.2)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    INTERNAL = 1011
    SERVICE_RESTART = 1012
    TRY_AGAIN_LATER = 1013
    TICKET_INVALID = 4001
    TICKET_EXPIRED = 4002
    BANNED = 4003
    ROOM_DISSOLVED = 4004
    HEARTBEAT_LATE = 4005
    HANDSHAKE_LATE = 4006
    TOO_MANY = 4007
    SLOW = 4008
    SHED = 4009
    BAD_FRAME = 4010
    TOO_FAST = 4011
    KICKED = 4012


@dataclass(frozen=True, slots=True)
class CloseRule:
    """What a viewer does on a code.

    `reconnect`: whether it asks the scheduler for another gateway and comes back; it gives up
    otherwise. `after_s`: the base of its random wait, in seconds.
    """

    code: Close
    reason: str
    reconnect: bool
    after_s: float
    about: str


_RULES: Final = (
    CloseRule(
        Close.NORMAL, "bye", reconnect=False, after_s=0, about="The viewer or the service ended the connection on purpose."
    ),
    CloseRule(Close.GOING_AWAY, "going away", reconnect=True, after_s=0.5, about="The gateway stops."),
    CloseRule(
        Close.PROTOCOL_ERROR,
        "protocol error",
        reconnect=False,
        after_s=0,
        about="The viewer broke RFC 6455; the same client would again.",
    ),
    CloseRule(
        Close.UNSUPPORTED_DATA, "text frames only", reconnect=False, after_s=0, about="A binary frame; the protocol is text."
    ),
    CloseRule(Close.INVALID_TEXT, "invalid UTF-8", reconnect=False, after_s=0, about="A text frame that is not UTF-8."),
    CloseRule(
        Close.TOO_BIG, "frame too big", reconnect=False, after_s=0, about="A frame over 4 KiB, or one that inflates to more."
    ),
    CloseRule(Close.INTERNAL, "internal error", reconnect=True, after_s=2, about="The gateway failed on this connection."),
    CloseRule(Close.SERVICE_RESTART, "restart", reconnect=True, after_s=0.2, about="The gateway drains; take another one."),
    CloseRule(Close.TRY_AGAIN_LATER, "full", reconnect=True, after_s=2, about="The gateway is at one of its limits."),
    CloseRule(
        Close.TICKET_INVALID,
        "ticket refused",
        reconnect=True,
        after_s=1,
        about="The ticket is not for this gateway, or not ours: get a new one.",
    ),
    CloseRule(
        Close.TICKET_EXPIRED,
        "ticket expired",
        reconnect=True,
        after_s=0.2,
        about="The ticket is older than its 60 s: get a new one.",
    ),
    CloseRule(Close.BANNED, "banned", reconnect=False, after_s=0, about="The user is banned from all rooms of the connection."),
    CloseRule(
        Close.ROOM_DISSOLVED, "room dissolved", reconnect=False, after_s=0, about="The only room of the connection is gone."
    ),
    CloseRule(
        Close.HEARTBEAT_LATE,
        "no heartbeat",
        reconnect=True,
        after_s=0.5,
        about="Nothing came from the viewer for three heartbeats.",
    ),
    CloseRule(Close.HANDSHAKE_LATE, "no join", reconnect=True, after_s=1, about="No room was joined in time."),
    CloseRule(
        Close.TOO_MANY,
        "too many connections",
        reconnect=False,
        after_s=0,
        about="Over the limit of connections for this user or address.",
    ),
    CloseRule(Close.SLOW, "too slow", reconnect=True, after_s=1, about="Unsent bytes or their age went over the limit."),
    CloseRule(Close.SHED, "moved", reconnect=True, after_s=0.2, about="The gateway sheds load; take another one."),
    CloseRule(Close.BAD_FRAME, "bad frame", reconnect=False, after_s=0, about="A frame that is not of the viewer protocol."),
    CloseRule(
        Close.TOO_FAST, "too many frames", reconnect=False, after_s=0, about="Far more frames than a viewer has reason to send."
    ),
    CloseRule(
        Close.KICKED, "put out", reconnect=False, after_s=0, about="The user was put out of the only room of the connection."
    ),
)

TABLE: Final[dict[int, CloseRule]] = {int(rule.code): rule for rule in _RULES}
ABNORMAL: Final = CloseRule(
    Close.INTERNAL,
    "connection lost",
    reconnect=True,
    after_s=0.5,
    about="No close frame came, or one with a code not listed here.",
)


def rule_for(code: int | None) -> CloseRule:
    """Return what a viewer does when a connection ended with `code` (None: without one)."""
    return TABLE.get(code, ABNORMAL) if code is not None else ABNORMAL
