"""What a gateway must bear in a load test."""

from typing import NamedTuple

from liveroom.errors import ExplainedError


class LoadError(ExplainedError):
    """This machine, or a part of the load generator, cannot carry a load test."""


class GatewayLoad(NamedTuple):
    """What the gateway must bear.

    `viewers` are in rooms at once, `turnover_per_s` of them leave and others join each second, and
    `messages_per_s` are sent. `is_plain`: viewers take them uncompressed.
    """

    viewers: int = 0
    turnover_per_s: float = 0.0
    messages_per_s: float = 100.0
    is_plain: bool = False
