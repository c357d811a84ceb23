"""OpenTelemetry traces of a few interactions, from the ingress to the gateways' fan-out.

Off by default (`LIVEROOM_TRACE_RATIO`). Room and id alone decide whether an interaction is traced
and to which trace it belongs. So ingress and broadcaster agree without communicating, and an
interaction that another program wrote into the uplink is traced too. Gateways see no ids: a batch
with traced interactions names their traces and rooms in its Kafka headers. OpenTelemetry's own
settings say where traces go: OTEL_EXPORTER_OTLP_ENDPOINT.
"""

from hashlib import blake2b
from threading import Thread
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from liveroom import __version__
from liveroom.chance import Chance

END_S: Final = 1.5  # a collector that is away must not hold up an end
_LOW: Final = 2**64 - 1
_Attribute = str | int | float


class Tracing:
    """The traces of one process.

    `ratio`: the share of interactions that are traced. `chance`: draws the ids of spans.
    """

    def __init__(self, service: str, instance: str, ratio: float, chance: Chance) -> None:
        self._bound = round(ratio * 2**64)
        self._ids = _SpanIds(chance)
        about = {
            "service.name": f"liveroom-{service}",
            "service.instance.id": instance,
            "service.version": __version__,
        }
        self._provider = TracerProvider(id_generator=self._ids, resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("liveroom", __version__)

    def trace_of(self, room: str, id_: str) -> int | None:
        """Return the trace of an interaction; None if it is not traced."""
        trace = int.from_bytes(blake2b(f"{room}/{id_}".encode(), digest_size=16).digest(), "big")
        return trace if trace & _LOW < self._bound else None

    def begin(self, trace: int, name: str, began_ns: int, ended_ns: int, **attributes: _Attribute) -> None:
        """Record the root span of a trace. Times: nanoseconds since 1970."""
        self._ids.trace, self._ids.span = trace, _root(trace)
        self._tracer.start_span(name, attributes=attributes, start_time=began_ns).end(ended_ns)

    def go_on(self, trace: int, name: str, began_ns: int, ended_ns: int, **attributes: _Attribute) -> None:
        """Record a later span of a trace. Times: nanoseconds since 1970."""
        self._ids.span = 0
        above = SpanContext(trace, _root(trace), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        context = set_span_in_context(NonRecordingSpan(above))
        self._tracer.start_span(name, context, attributes=attributes, start_time=began_ns).end(ended_ns)

    def close(self) -> None:
        """Send the spans that wait, for at most `END_S` seconds. Blocks that long."""
        ending = Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(END_S)


class _SpanIds(IdGenerator):
    """Returns the ids that were set; spans without one get random ids."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self.trace = self.span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span or self._chance.getrandbits(64) or 1


def _root(trace: int) -> int:
    """Return the id of a trace's root span, which follows from the trace's id."""
    return trace >> 64 or 1
