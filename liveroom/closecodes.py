"""Why a connection ends: one table of WebSocket close codes for gateways, SDKs and documents.

A gateway sends a code of `TABLE`, and a viewer does what the code's row says (`rule_for`). Data
only, pure.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Close(IntEnum):
    """The close codes; 4000 and above are ours (RFC 6455, 7.4.2)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED_DATA = 1003
    ABNORMAL = 1006
    INVALID_TEXT = 1007
    TOO_BIG = 1009
    SERVICE_RESTART = 1012
    BANNED = 4003
    ROOM_DISSOLVED = 4004
    HEARTBEAT_LATE = 4005
    HANDSHAKE_LATE = 4006
    SLOW = 4008
    SHED = 4009
    BAD_FRAME = 4010
    TOO_FAST = 4011
    KICKED = 4012
    REVOKED = 4013


@dataclass(frozen=True, slots=True)
class CloseRule:
    """What a viewer does when its connection ends with `code`.

    `reconnect`: whether it asks the scheduler for another gateway and comes back; if not, the
    same client would be closed again. `after_s`: the base of its random wait, in seconds.
    `reason`: the text of the close frame. `about`: when the code is sent, for the documents.
    """

    code: Close
    reason: str
    reconnect: bool
    after_s: float
    about: str


def _ends(code: Close, reason: str, about: str) -> CloseRule:
    return CloseRule(code, reason, reconnect=False, after_s=0, about=about)


def _comes_back(code: Close, reason: str, after_s: float, about: str) -> CloseRule:
    return CloseRule(code, reason, reconnect=True, after_s=after_s, about=about)


_RULES: Final = (
    _ends(Close.NORMAL, "bye", "The viewer or the service ended the connection on purpose."),
    _comes_back(Close.GOING_AWAY, "going away", 0.5, "A viewer left its page, or received nothing for too long."),
    _ends(Close.PROTOCOL_ERROR, "protocol error", "The viewer broke RFC 6455; the same client would again."),
    _ends(Close.UNSUPPORTED_DATA, "text frames only", "A binary frame; the protocol is text."),
    _ends(Close.INVALID_TEXT, "invalid UTF-8", "A text frame that is not UTF-8."),
    _ends(Close.TOO_BIG, "frame too big", "A frame over 4 KiB, or one that inflates to more."),
    _comes_back(Close.SERVICE_RESTART, "restart", 0.2, "The gateway drains; take another one."),
    _ends(Close.BANNED, "banned", "The user is banned from all rooms of the connection."),
    _ends(Close.ROOM_DISSOLVED, "room dissolved", "The only room of the connection is gone."),
    _comes_back(Close.HEARTBEAT_LATE, "no heartbeat", 0.5, "Nothing came from the viewer for three heartbeats."),
    _comes_back(Close.HANDSHAKE_LATE, "no join", 1, "No room was joined in time."),
    _comes_back(Close.SLOW, "too slow", 1, "Unsent bytes or their age went over the limit."),
    _comes_back(Close.SHED, "moved", 0.2, "The gateway sheds load; take another one."),
    _ends(Close.BAD_FRAME, "bad frame", "A frame that is not of the viewer protocol."),
    _ends(Close.TOO_FAST, "too many frames", "Far more frames than a viewer has reason to send."),
    _ends(
        Close.KICKED,
        "put out",
        "The user was put out of the only room of the connection, or an operator ended the user's connections.",
    ),
    _ends(Close.REVOKED, "revoked", "The user's token was revoked. The SDKs ask the application for a new one, once."),
)

TABLE: Final[dict[int, CloseRule]] = {int(rule.code): rule for rule in _RULES}
# RFC 6455, 7.4.1: no frame carries 1006; it stands for a connection that ended without one.
ABNORMAL: Final = _comes_back(
    Close.ABNORMAL, "connection lost", 0.5, "No close frame came, or one with a code not listed here."
)


def rule_for(code: int | None) -> CloseRule:
    """Return what a viewer does after a connection ended with `code` (None: without a code)."""
    return TABLE.get(code, ABNORMAL) if code is not None else ABNORMAL
