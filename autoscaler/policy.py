"""The policy file (TOML) by which the pool is sized. Pure.

Owns its fields, defaults and limits. The service and the simulator read it.
"""

from datetime import datetime
from typing import Annotated, Final

import msgspec

from liveroom.nesting import UNDECODABLE
from liveroom.texts import without_mark

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Gateways = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class PolicyError(ValueError):
    """A policy that cannot be used; the message says where and why."""


class Targets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The share of its limit to which a gateway should use each resource.

    The rest is for the load that comes before new gateways are ready.
    """

    connections: Share = 0.7
    joins: Share = 0.7
    cpu: Share = 0.8
    bytes: Share = 0.8
    packets: Share = 0.8


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A crowd that is known in advance.

    From `at` on (a TOML time with its zone) there will be `viewers` more than now, for `hold_s`
    seconds at least. The pool prepares for it `lead_s` seconds before.
    """

    name: str
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    viewers: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
    lead_s: Seconds = 120.0
    hold_s: Seconds = 900.0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the pool is sized. Times are seconds, shares are 0 to 1.

    - `min`, `max`: the least and the most gateways.
    - `tolerance`: a need that differs from the pool by a smaller share changes nothing.
    - `step_up`, `step_up_least`: one step up multiplies the pool by `step_up` at most, or adds
      `step_up_least` gateways, whichever is more.
    - `step_down`: one step down stops this share of the gateways at most.
    - `up_window_s`: the time between two steps up.
    - `down_window_s`: how long fewer gateways must have been enough, and the time between two steps
      down.
    - `down_after_up_s`: the time between a step up and the next one down.
    - `warm_up_s`: the time from a gateway's start until it takes viewers.
    - `ahead_s`: how far beyond that the growth of viewers is extrapolated.
    - `shed_over`: by which share a gateway may be fuller than the mean before it must shed.
    - `shed_s`: the time in which shedding makes all gateways even.
    - `shed_joins`: the share of their join rate that other gateways may spend on shed viewers.
    - `events`: crowds that are known in advance.
    """

    min: Gateways = 2
    max: Gateways = 100
    targets: Targets = Targets()
    tolerance: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.1
    step_up: Annotated[float, msgspec.Meta(gt=1, le=10)] = 2.0
    step_up_least: Gateways = 4
    step_down: Share = 0.1
    up_window_s: Seconds = 5.0
    down_window_s: Seconds = 120.0
    down_after_up_s: Seconds = 600.0
    warm_up_s: Seconds = 15.0
    ahead_s: Seconds = 5.0
    shed_over: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.05
    shed_s: Annotated[float, msgspec.Meta(ge=5, le=3600)] = 30.0
    shed_joins: Share = 0.5
    events: tuple[Event, ...] = ()


USUAL: Final = Policy()
_decoder: Final = msgspec.toml.decode


def read_policy(text: bytes | str) -> Policy:
    """Return the policy in a TOML file's content; raise PolicyError where it cannot be used."""
    try:
        policy = _decoder(without_mark(text), type=Policy)
    except UNDECODABLE as error:
        raise PolicyError(str(error)) from None
    if policy.min > policy.max:
        raise PolicyError(f"min {policy.min} is above max {policy.max}")
    return policy
