"""The values that some options choose from.

The commands import it at every start, so it imports nothing that is slow.
"""

from enum import StrEnum

from liveroom.kinds import Role


class PoolAct(StrEnum):
    """The actions of `liveroom pool`."""

    SHOW = "show"
    PAUSE = "pause"
    RESUME = "resume"
    DECISIONS = "decisions"
    DRAIN = "drain"
    ADD = "add"


class LetterAct(StrEnum):
    """The actions of `liveroom dead-letters`."""

    SHOW = "show"
    SEND_AGAIN = "send-again"


class RampKind(StrEnum):
    """What a ramp of `liveroom loadtest` raises.

    `viewers`: viewers in busy rooms. `joins`: how many a second join and leave. `bytes`: what is
    sent to uncompressed viewers.
    """

    VIEWERS = "viewers"
    JOINS = "joins"
    BYTES = "bytes"


class RoleName(StrEnum):
    """The roles of `liveroom token`."""

    VIEWER = Role.VIEWER.value
    STREAMER = Role.STREAMER.value
    MODERATOR = Role.MODERATOR.value
    OPERATOR = Role.OPERATOR.value
    SERVICE = Role.SERVICE.value
