"""The pool where something else scales it: the autoscaler advises, over KEDA's gRPC and as a gauge.

Owns the advice, and when there is none: missing is not zero. The advice is the raw demand, not
rounded, without steps and windows. Those belong to whatever scales the pool, and an HPA's tolerance
of a tenth would swallow small steps of a whole number. While reports are missing, a demand below
the last one is answered with an error, which leaves the number of gateways as it is. There is no
leader: every instance answers. The service is KEDA's `externalscaler.ExternalScaler`. Called by
`__main__`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import grpc
import grpc.aio
import structlog

from autoscaler.decide import STALE_S, History, Observation, ReportedGateway, decide
from autoscaler.externalscaler import externalscaler_pb2 as messages
from autoscaler.pool import Pool
from liveroom import clock, metric_catalog
from liveroom.addresses import authority
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
    """How many gateways are needed, not rounded. `demand` None: no advice, for the reason `why`."""

    demand: float | None
    why: str


def advice(gateways: Sequence[ReportedGateway], demand: float, last: float | None, paused_by: str) -> Advice:
    """Return the advice for a demand computed from the reports of `gateways`.

    `last` is the last demand that was advised, None before the first. `paused_by` names the
    operator who paused the pool, empty where nobody did.
    """
    if paused_by:
        return Advice(None, f"paused by {paused_by}")
    # A gateway that drained and is gone sends no more reports; one that still had viewers should.
    silent = sum(
        not one.is_known and (one.report.state is not GatewayState.DRAINING or one.report.connections != 0) for one in gateways
    )
    if not any(one.is_known for one in gateways):
        return Advice(None, "no gateway reports")
    if silent and (last is None or demand < last):
        return Advice(None, f"gateways that do not report: {silent}")
    return Advice(demand, "")


class Advisor:
    """Computes the advice once a tick and keeps it for those who ask.

    There is no advice until it has received reports for as long as a report is valid. Gateways
    report at different moments of a second, and a gateway's first report would look like growth.
    The same holds after a time without any report.
    """

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self.advice = Advice(None, "no tick was made yet")
        self._pool = pool
        self._history = History()
        self._last: float | None = None
        self._since_s: float | None = None  # reports arrive
        self._actual, self._paused = metrics.gauge(metric_catalog.POOL_ACTUAL), metrics.gauge(metric_catalog.POOL_PAUSED)
        self._min, self._max = metrics.gauge(metric_catalog.POOL_MIN), metrics.gauge(metric_catalog.POOL_MAX)
        self._demand = metrics.gauge(metric_catalog.POOL_DEMAND)
        metrics.gauge(metric_catalog.POOL_ADVISES).set(1)

    def tick(self, now_s: float) -> None:
        """Compute the advice. `now_s`: monotonic seconds, by the clock of the pool."""
        gateways = self._pool.gateways(now_s)
        known = sum(one.is_known for one in gateways)
        if not known:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = now_s
        has_all_reports = self._since_s is not None and now_s - self._since_s >= STALE_S
        serving = sum(one.is_known and one.report.state is GatewayState.SERVING for one in gateways)
        decision = decide(Observation(gateways, serving), self._history, self._pool.policy, now_s, clock.unix_s())
        self._history = decision.history if has_all_reports else self._history._replace(totals=())
        if self._pool.has_read_orders:
            given = advice(gateways, decision.exact, self._last, self._pool.by_hand.paused_by)
            if given.demand is not None and not has_all_reports:
                given = Advice(None, "not all gateways have reported yet")
            self.advice = given
            self._last = self._last if self.advice.demand is None else self.advice.demand
        self._pool.note(decision, is_done=False)
        self._actual.set(known)
        self._paused.set(bool(self._pool.by_hand.paused_by))
        self._min.set(self._pool.policy.min)
        self._max.set(self._pool.policy.max)
        self._demand.set(self._last or 0)  # what was known last stays: Prometheus has no errors


class _Scaler:
    """Answers KEDA's requests."""

    def __init__(self, ask: Callable[[], Advice]) -> None:
        self._ask = ask

    async def is_active(self, request: Any, context: Any) -> Any:
        """Answer that the pool is active: it never scales to zero."""
        del request, context
        return messages.IsActiveResponse(result=True)

    async def stream_is_active(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Answer that once; then wait until the caller ends the stream."""
        del request, context
        yield messages.IsActiveResponse(result=True)
        await asyncio.Event().wait()

    async def get_metric_spec(self, request: Any, context: Any) -> Any:
        """Return the metric, and how much of it one gateway is."""
        del request, context
        spec = messages.MetricSpec(metricName=METRIC, targetSize=PER_GATEWAY, targetSizeFloat=PER_GATEWAY)
        return messages.GetMetricSpecResponse(metricSpecs=[spec])

    async def get_metrics(self, request: Any, context: Any) -> Any:
        """Return the demand; abort with UNAVAILABLE where there is no advice."""
        del request
        given = self._ask()
        if given.demand is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, given.why)
            raise AssertionError  # `abort` has raised
        value = given.demand * PER_GATEWAY
        return messages.GetMetricsResponse(
            metricValues=[messages.MetricValue(metricName=METRIC, metricValue=-int(-value // 1), metricValueFloat=value)]
        )


@asynccontextmanager
async def serve_scaler(ask: Callable[[], Advice], host: str, port: int) -> AsyncIterator[int]:
    """Serve KEDA while the block runs and yield the port; raise ListenError where it is taken."""
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
    address = authority(host, port)
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ListenError(f"cannot listen at {address}: address already in use") from error
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(ENDING_S)


async def run_advisor(advisor: Advisor, interval_s: float) -> None:
    """Tick every `interval_s` seconds and log when the advice ends or comes back. Never returns."""
    before: Advice | None = None
    while True:
        advisor.tick(clock.monotonic_s())
        if before is None or (advisor.advice.why != before.why):
            log.info("advises", demand=advisor.advice.demand, why=advisor.advice.why)
        before = advisor.advice
        await clock.sleep(interval_s)
