"""The advice to KEDA: raw demand, and no advice rather than a wrong one.

A real gRPC server and a real client.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoscaler.advisory import SERVICE, Advice, Advisor, advice, serve_scaler
from autoscaler.by_hand import POOL
from autoscaler.decide import STALE_S, History, Observation, ReportedGateway, decide
from autoscaler.externalscaler import externalscaler_pb2 as messages
from autoscaler.policy import Policy
from autoscaler.pool import FORGET_S, Pool
from liveroom import metric_catalog
from liveroom.ports import HOST, free_ports
from liveroom.records.control import GatewayState, Limits, LoadReport, Order, OrderKind
from liveroom.registry import Metrics
from tests.autoscaler.test_pool import Names

pytestmark = pytest.mark.usefixtures("grpc_channels")
REF = messages.ScaledObjectRef(name="edge", namespace="liveroom")


def report(name: str, connections: int, state: GatewayState = GatewayState.SERVING) -> LoadReport:
    return LoadReport(1, name, 7, state, 0, "", "", "", 0, connections=connections, limits=Limits(connections=100))


def seen(*connections: int, silent: int = 0) -> list[ReportedGateway]:
    """Gateways with so many viewers each; the first `silent` of them say nothing any more."""
    return [
        ReportedGateway(report(f"g{number}", count), 9 if number < silent else 0) for number, count in enumerate(connections)
    ]


def demand_of(gateways: list[ReportedGateway]) -> float:
    return decide(Observation(gateways, len(gateways)), History(), Policy(), 1000.0).exact


@pytest.mark.parametrize(
    ("gateways", "last", "paused_by", "told"),
    [
        pytest.param([], None, "", Advice(None, "no gateway reports"), id="nothing yet"),
        pytest.param(seen(70, 70), None, "", Advice(2.0, ""), id="all known"),
        pytest.param(seen(35), None, "", Advice(0.5, ""), id="not rounded"),
        pytest.param(seen(0), 3.0, "", Advice(0.0, ""), id="less, and all known"),
        pytest.param(seen(70, 70, silent=1), 2.0, "", Advice(None, "gateways that do not report: 1"), id="less, one silent"),
        pytest.param(seen(70, 70, silent=1), None, "", Advice(None, "gateways that do not report: 1"), id="first, one silent"),
        pytest.param(seen(70, 140, silent=1), 2.0, "", Advice(2.0, ""), id="one silent, and no less"),
        pytest.param(seen(70, 70, silent=2), 2.0, "", Advice(None, "no gateway reports"), id="all silent"),
        pytest.param(seen(70, 70), 2.0, "op", Advice(None, "paused by op"), id="paused"),
        pytest.param(
            [*seen(70), ReportedGateway(report("old", 0, GatewayState.DRAINING), 9)],
            2.0,
            "",
            Advice(1.0, ""),
            id="one was emptied and is gone",
        ),
        pytest.param(
            [*seen(70), ReportedGateway(report("old", 70, GatewayState.DRAINING), 9)],
            2.0,
            "",
            Advice(None, "gateways that do not report: 1"),
            id="one fell silent before it was empty",
        ),
    ],
)
def test_what_may_be_said(gateways: list[ReportedGateway], last: float | None, paused_by: str, told: Advice) -> None:
    assert advice(gateways, demand_of(gateways), last, paused_by) == told


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20), st.integers(1, 20))
def test_it_never_falls_because_somebody_says_nothing(connections: list[int], silent: int) -> None:
    before = demand_of(seen(*connections))
    gateways = seen(*connections, silent=silent)
    told = advice(gateways, demand_of(gateways), before, "")
    assert told.demand is None or told.demand >= before


@given(st.lists(st.integers(0, 100), min_size=1, max_size=20))
def test_rounded_up_it_is_what_the_pool_itself_would_need(connections: list[int]) -> None:
    decision = decide(Observation(seen(*connections), len(connections)), History(), Policy(), 1000.0)
    assert decision.needed - 1 < decision.exact <= decision.needed + 1e-9


class Asker:
    """KEDA."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel

    async def ask(self, method: str, request: Any, answer: Any) -> Any:
        call = self.channel.unary_unary(f"/{SERVICE}/{method}", type(request).SerializeToString, answer.FromString)
        return await call(request, timeout=5)

    async def metrics(self) -> Any:
        return await self.ask("GetMetrics", messages.GetMetricsRequest(scaledObjectRef=REF), messages.GetMetricsResponse)


@asynccontextmanager
async def asking(told: list[Advice]) -> AsyncIterator[Asker]:
    [port] = free_ports(1)
    async with serve_scaler(lambda: told[-1], HOST, port) as bound, grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        assert bound == port
        yield Asker(channel)


async def test_keda_is_told_hundredths_of_gateways() -> None:
    async with asking([Advice(12.341, "")]) as keda:
        spec = await keda.ask("GetMetricSpec", REF, messages.GetMetricSpecResponse)
        assert [(one.metricName, one.targetSize, one.targetSizeFloat) for one in spec.metricSpecs] == [("gateways", 100, 100.0)]
        (value,) = (await keda.metrics()).metricValues
        assert (value.metricName, value.metricValue) == ("gateways", 1235), "rounded up"
        assert value.metricValueFloat == pytest.approx(1234.1)
        assert (await keda.ask("IsActive", REF, messages.IsActiveResponse)).result


async def test_what_is_not_known_is_an_error_in_words_and_not_zero() -> None:
    told = [Advice(None, "gateways that do not report: 2")]
    async with asking(told) as keda:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await keda.metrics()
        assert (caught.value.code(), caught.value.details()) == (
            grpc.StatusCode.UNAVAILABLE,
            "gateways that do not report: 2",
        )
        told.append(Advice(1.0, ""))
        assert (await keda.metrics()).metricValues[0].metricValue == 100


async def test_garbage_is_refused_and_the_next_question_answered() -> None:
    async with asking([Advice(1.0, "")]) as keda:
        for method, code in (("GetMetrics", grpc.StatusCode.UNKNOWN), ("Nothing", grpc.StatusCode.UNIMPLEMENTED)):
            call = keda.channel.unary_unary(f"/{SERVICE}/{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff\xff", timeout=5)
            assert caught.value.code() is code
        assert (await keda.metrics()).metricValues[0].metricValue == 100


async def test_it_ends_in_time_with_a_stream_open() -> None:
    [port] = free_ports(1)
    async with grpc.aio.insecure_channel(f"{HOST}:{port}") as channel:
        async with serve_scaler(lambda: Advice(1.0, ""), HOST, port):
            call = channel.unary_stream(
                f"/{SERVICE}/StreamIsActive", messages.ScaledObjectRef.SerializeToString, messages.IsActiveResponse.FromString
            )
            stream = call(REF)
            assert (await stream.read()).result
            began_s = time.monotonic()
        assert time.monotonic() - began_s < 5
        with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
            await stream.read()


async def test_a_taken_port_is_named() -> None:
    [port] = free_ports(1)
    async with serve_scaler(lambda: Advice(1.0, ""), HOST, port):
        with pytest.raises(OSError, match=f"{HOST}:{port}: address already in use"):
            async with serve_scaler(lambda: Advice(1.0, ""), HOST, port):
                pass


def quiet_pool() -> Pool:
    """A pool that starts and orders nothing, and has read the orders."""

    async def send(_: Order) -> bool:
        raise AssertionError("it orders nothing")

    pool = Pool(Policy(), Names(), send, Metrics("autoscaler"), empty_s=30, dry_run=False, instance="a1")
    pool.has_read_orders = True
    return pool


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8), st.integers(0, 10), st.integers(1, 50))
def test_neither_a_start_nor_a_silence_makes_it_say_less_or_more_than_all_take(
    reporting: list[float], first_s: int, silent_s: int
) -> None:
    pool = quiet_pool()
    advisor = Advisor(pool, Metrics("autoscaler"))
    silent, told = range(first_s + 10, first_s + 10 + silent_s), []
    for second in range(silent.stop + 10):
        hears = second >= first_s and second not in silent
        for is_before in (True, False):  # each reports once a second, at its own moment of it, and the advisor looks between
            for number, part_s in enumerate(reporting):
                if hears and (part_s < 0.5) is is_before:
                    pool.take_report(report(f"g{number}", 70), second + part_s)
            if is_before:
                advisor.tick(second + 0.5)
                told.append(advisor.advice)
    assert {one.demand for one in told} <= {None, float(len(reporting))}
    assert told[first_s + 5].demand is not None, "it has heard all by then"
    assert told[-1].demand is not None


async def test_the_advisor_says_what_the_reports_say_and_holds_what_it_knew() -> None:
    metrics = Metrics("autoscaler")
    driver = Names()

    async def send(_: Order) -> bool:
        raise AssertionError("it orders nothing")

    pool = Pool(Policy(), driver, send, metrics, empty_s=30, dry_run=False, instance="a1")
    advisor = Advisor(pool, metrics)
    gauge = metrics.gauge(metric_catalog.POOL_DEMAND)
    pool.take_report(report("a", 70), 0.0)
    pool.take_report(report("b", 35), 0.0)
    advisor.tick(0.0)
    assert advisor.advice.demand is None, "a pause may be in force that it has not read yet"
    pool.has_read_orders = True
    advisor.tick(0.0)
    assert advisor.advice.why == "not all gateways have reported yet"
    assert gauge._value.get() == 0
    pool.take_report(report("a", 70), STALE_S)
    pool.take_report(report("b", 35), STALE_S)
    advisor.tick(STALE_S)
    assert (advisor.advice, gauge._value.get()) == (Advice(1.5, ""), 1.5)
    pool.take_report(report("b", 35), STALE_S + 4)
    advisor.tick(STALE_S + 4)
    assert (advisor.advice.why, gauge._value.get()) == ("gateways that do not report: 1", 1.5)
    pool.take_report(report("b", 35), STALE_S + FORGET_S + 1)
    advisor.tick(STALE_S + FORGET_S + 1)
    assert (advisor.advice, gauge._value.get()) == (Advice(0.5, ""), 0.5), "who is gone for half a minute is gone"
    pool.apply_order(Order(1, POOL, 0, OrderKind.PAUSE, 0, "op"))
    advisor.tick(STALE_S + FORGET_S + 1)
    assert advisor.advice == Advice(None, "paused by op")
    shown = (metric_catalog.POOL_ACTUAL, metric_catalog.POOL_MIN, metric_catalog.POOL_MAX, metric_catalog.POOL_PAUSED)
    assert [metrics.gauge(one)._value.get() for one in shown] == [1, Policy().min, Policy().max, 1]
    assert pool.last is not None
    assert not pool.last.done
    assert driver.names == []
