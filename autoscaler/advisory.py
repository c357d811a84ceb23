"""The pool where something else scales it: how many gateways it takes is said, to KEDA and as a
gauge, and nothing is done.

Owns what is said, and when nothing may be said: missing is not zero. What is told is the raw
demand, not rounded and without steps and windows: those are the asker's, and an HPA's tolerance of
a tenth would swallow small steps of a whole number. While reports are missing a smaller demand than
the last one is an error, and an error leaves the number of gateways as it is. Every instance
answers, whichever leads nothing. The service is KEDA's `externalscaler.ExternalScaler`. Called by
`__main__`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
import structlog

from autoscaler.decide import STALE_S, History, Observation, Seen, decide
from autoscaler.externalscaler import externalscaler_pb2 as messages
from autoscaler.pool import Pool
from liveroom import clock, metric_catalog
from liveroom.records.control import GatewayState
from liveroom.registry import Metrics
from liveroom.web import ListenError

SERVICE: Final = "externalscaler.ExternalScaler"
METRIC: Final = "gateways"
# Hundredths of a gateway: Kubernetes' quantities and older KEDAs round to whole numbers.
PER_GATEWAY: Final = 100
ENDING_S: Final = 0.5
log = structlog.get_logger()


class Advice(NamedTuple):
    """How many gateways it takes, not rounded; None: nothing may be said, and why."""

    demand: float | None
    why: str


def advice(gateways: Sequence[Seen], demand: float, last: float | None, paused_by: str) -> Advice:
    """Say what may be said of a demand that those who report add up to.

    `last`: the demand that was known before.
    """
    if paused_by:
        return Advice(None, f"paused by {paused_by}")
    # One that was emptied and is gone has nothing to say any more; one that still had viewers has.
    silent = sum(
        not one.is_known and (one.report.state is not GatewayState.DRAINING or one.report.connections != 0) for one in gateways
    )
    if not any(one.is_known for one in gateways):
        return Advice(None, "no gateway says how it is")
    if silent and (last is None or demand < last):
        return Advice(None, f"{silent} gateways do not say how they are")
    return Advice(demand, "")


class Advisor:
    """Looks at the reports once a tick, and has the answer ready.

    Says nothing before it has listened for as long as a report is good: gateways tell at different
    moments of a second, and whom it hears for the first time would look like a crowd that comes. So
    at its start, and after it has heard nobody.
    """

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self.advice = Advice(None, "nothing was looked at yet")
        self._pool = pool
        self._history = History()
        self._last: float | None = None
        self._since_s: float | None = None  # somebody is heard
        self._actual, self._paused = metrics.gauge(metric_catalog.POOL_ACTUAL), metrics.gauge(metric_catalog.POOL_PAUSED)
        self._min, self._max = metrics.gauge(metric_catalog.POOL_MIN), metrics.gauge(metric_catalog.POOL_MAX)
        self._demand = metrics.gauge(metric_catalog.POOL_DEMAND)
        metrics.gauge(metric_catalog.POOL_ADVISES).set(1)

    def tick(self, now_s: float) -> None:
        """Look. `now_s`: of the same clock as the pool's."""
        gateways = self._pool.gateways(now_s)
        known = sum(one.is_known for one in gateways)
        if not known:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        has_heard_all = self._since_s is not None and now_s - self._since_s >= STALE_S
        serving = sum(one.is_known and one.report.state is GatewayState.SERVING for one in gateways)
        decision = decide(Observation(gateways, serving), self._history, self._pool.policy, clock.unix_s())
        self._history = decision.history if has_heard_all else self._history._replace(totals=())
        if self._pool.knows_orders:
            told = advice(gateways, decision.exact, self._last, self._pool.paused_by)
            if told.demand is not None and not has_heard_all:
                told = Advice(None, "has not listened for long enough to have heard all")
            self.advice = told
            self._last = self._last if self.advice.demand is None else self.advice.demand
        self._pool.note(decision, is_done=False)
        self._actual.set(known)
        self._paused.set(bool(self._pool.paused_by))
        self._min.set(self._pool.policy.min)
        self._max.set(self._pool.policy.max)
        self._demand.set(self._last or 0)  # what was known last stays: Prometheus has no errors


class _Scaler:
    """KEDA's questions."""

    def __init__(self, ask: Callable[[], Advice]) -> None:
        self._ask = ask

    async def is_active(self, request: Any, context: Any) -> Any:
        """There is always a pool: it never goes down to none."""
        del request, context
        return messages.IsActiveResponse(result=True)

    async def stream_is_active(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Say so once, and no other thing until the asker goes."""
        del request, context
        yield messages.IsActiveResponse(result=True)
        await asyncio.Event().wait()

    async def get_metric_spec(self, request: Any, context: Any) -> Any:
        """Say what a gateway is worth."""
        del request, context
        spec = messages.MetricSpec(metricName=METRIC, targetSize=PER_GATEWAY, targetSizeFloat=PER_GATEWAY)
        return messages.GetMetricSpecResponse(metricSpecs=[spec])

    async def get_metrics(self, request: Any, context: Any) -> Any:
        """Say how many gateways it takes, or that nobody knows."""
        del request
        told = self._ask()
        if told.demand is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, told.why)
            raise AssertionError  # `abort` has raised
        value = told.demand * PER_GATEWAY
        return messages.GetMetricsResponse(
            metricValues=[messages.MetricValue(metricName=METRIC, metricValue=-int(-value // 1), metricValueFloat=value)]
        )


@asynccontextmanager
async def serve_scaler(ask: Callable[[], Advice], host: str, port: int) -> AsyncIterator[int]:
    """Answer KEDA while the block runs; gives the port. Raises ListenError where it is taken."""
    scaler = _Scaler(ask)
    handlers = {
        "IsActive": grpc.unary_unary_rpc_method_handler(
            scaler.is_active, messages.ScaledObjectRef.FromString, messages.IsActiveResponse.SerializeToString
        ),
        "StreamIsActive": grpc.unary_stream_rpc_method_handler(
            scaler.stream_is_active, messages.ScaledObjectRef.FromString, messages.IsActiveResponse.SerializeToString
        ),
        "GetMetricSpec": grpc.unary_unary_rpc_method_handler(
            scaler.get_metric_spec, messages.ScaledObjectRef.FromString, messages.GetMetricSpecResponse.SerializeToString
        ),
        "GetMetrics": grpc.unary_unary_rpc_method_handler(
            scaler.get_metrics, messages.GetMetricsRequest.FromString, messages.GetMetricsResponse.SerializeToString
        ),
    }
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"cannot listen at {address}: address already in use") from error
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(ENDING_S)


async def look(advisor: Advisor, interval_s: float) -> None:
    """Look for ever."""
    before: Advice | None = None
    while True:
        advisor.tick(clock.monotonic_s())
        if before is None or (advisor.advice.why != before.why):
            log.info("advises", demand=advisor.advice.demand, why=advisor.advice.why)
        before = advisor.advice
        await clock.sleep(interval_s)
