"""The policy file: what the pool is steered by.

TOML; read by the service and the simulator. Pure.
"""

from datetime import datetime
from typing import Annotated, Final

import msgspec

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Gateways = Annotated[int, msgspec.Meta(ge=1, le=10_000)]


class PolicyError(ValueError):
    """A policy that cannot be used; the message says where and why."""


class Targets(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """To which share of its limit each resource of a gateway is to be used.

    What is left is for what comes before more are ready.
    """

    connections: Share = 0.7
    joins: Share = 0.7
    cpu: Share = 0.8
    bytes: Share = 0.8
    packets: Share = 0.8


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A crowd that is known before: `viewers` more than now, from `at` on, for `hold_s` at least;
    prepared for `lead_s` before.

    `at` is a TOML time with its zone.
    """

    name: str
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    viewers: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)]
    lead_s: Seconds = 120.0
    hold_s: Seconds = 900.0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the pool is steered. Times are seconds.

    `tolerance`: a wish that differs by less is none. `step_up`: at most so many times as many at
    once, or `step_up_least` more. `step_down`: at most this share fewer at once. `up_window_s`:
    between two steps up. `down_window_s`: for so long fewer must have been enough, and between two
    steps down. `down_after_up_s`: no step down so soon after one up. `warm_up_s`: from a gateway's
    start until it takes viewers. `ahead_s`: beyond that, how far the trend of joins is followed.
    `shed_over`: how much fuller than the mean a gateway may be before it is asked to shed, so that
    it is even again in `shed_s`; others are to take at most `shed_joins` of the joins they can.
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


def read_policy(text: bytes) -> Policy:
    """Return the policy of a TOML file."""
    try:
        policy = _decoder(text, type=Policy)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PolicyError(str(error)) from None
    if policy.min > policy.max:
        raise PolicyError(f"min {policy.min} is above max {policy.max}")
    return policy
