"""The weight of a gateway: its free share, tickets on their way, and the level of all."""

from typing import Any

import pytest

from liveroom.records.control import Limits
from scheduler.weights import BUSY_SHARE, EVEN, GatewayLoad, WeightedGateways
from tests.scheduler.test_placement import report

LIMITS = Limits(connections=1000, joins_per_s=100, cpu=0.8)


def load(connections: int | None = 0, **fields: Any) -> GatewayLoad:
    return GatewayLoad(report(connections=connections, limits=LIMITS, **fields), 0.0)


@pytest.mark.parametrize(
    ("gateway", "free"),
    [
        pytest.param(load(250), 0.75, id="connections"),
        pytest.param(load(250, cpu=0.6), 0.25, id="a tighter processor"),
        pytest.param(load(250, joins_per_s=90.0), 0.1, id="tighter joins"),
        pytest.param(load(250, cpu=None, joins_per_s=None), 0.75, id="unknown does not count"),
        pytest.param(load(250, cpu=5.0), 0.75 * BUSY_SHARE, id="busy"),
        pytest.param(load(1000), 0.0, id="full"),
        pytest.param(load(1001), 0.0, id="more than full"),
        pytest.param(load(None), 0.0, id="unknown connections"),
    ],
)
def test_the_free_share_is_that_of_the_tightest_resource(gateway: GatewayLoad, free: float) -> None:
    assert gateway.free == pytest.approx(free)


def test_a_ticket_counts_until_the_second_report_after_it() -> None:
    gateway = load(500)
    gateway.hand_out(100)
    assert gateway.free == pytest.approx(0.4)
    gateway.update(gateway.report, 1.0)
    assert gateway.free == pytest.approx(0.4)
    gateway.update(gateway.report, 2.0)
    assert gateway.free == pytest.approx(0.5)


def test_the_weight_is_what_lies_above_the_level_and_hardly_anything_below_it() -> None:
    gateways = WeightedGateways([load(0), load(500)])
    assert gateways.level == pytest.approx(0.75 - EVEN)
    assert gateways.weights == pytest.approx([(1.0 - gateways.level) * 1000, BUSY_SHARE * 0.5 * 1000])
    assert gateways.sums[-1] == pytest.approx(sum(gateways.weights))
