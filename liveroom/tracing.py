"""Traces of a few interactions on their way from ingress to the gateways' fan-out, for
OpenTelemetry. Off unless asked for.

Which ones, and the trace they belong to, follows from room and id alone, so ingress and broadcaster
agree without a word and an interaction that an upstream service wrote into the uplink itself is
traced as well. Gateways see no ids: a batch with traced interactions in it names their traces and
rooms in its Kafka headers. Where to is OpenTelemetry's own to set: OTEL_EXPORTER_OTLP_ENDPOINT.
"""

import secrets
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

END_S: Final = 1.5  # a collector that is away must not hold up an end
_LOW: Final = 2**64 - 1
_Attribute = str | int | float


class Tracing:
    """The traces of one process. `ratio`: the share of interactions that are traced."""

    def __init__(self, service: str, instance: str, ratio: float) -> None:
        self._bound = round(ratio * 2**64)
        self._ids = _Ids()
        about = {
            "service.name": f"liveroom-{service}",
            "service.instance.id": instance,
            "service.version": __version__,
        }
        self._provider = TracerProvider(id_generator=self._ids, resource=Resource.create(about), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("liveroom", __version__)

    def trace_of(self, room: str, id_: str) -> int | None:
        """Return the trace of an interaction, None if it is not among those that are traced."""
        trace = int.from_bytes(blake2b(f"{room}/{id_}".encode(), digest_size=16).digest(), "big")
        return trace if trace & _LOW < self._bound else None

    def begin(self, trace: int, name: str, began_ns: int, ended_ns: int, **attributes: _Attribute) -> None:
        """Tell the first span of a trace, which all others lie under.

        Times: nanoseconds since 1970.
        """
        self._ids.trace, self._ids.span = trace, _root(trace)
        self._tracer.start_span(name, attributes=attributes, start_time=began_ns).end(ended_ns)

    def go_on(self, trace: int, name: str, began_ns: int, ended_ns: int, **attributes: _Attribute) -> None:
        """Tell a later span of a trace."""
        self._ids.span = 0
        above = SpanContext(trace, _root(trace), is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
        context = set_span_in_context(NonRecordingSpan(above))
        self._tracer.start_span(name, context, attributes=attributes, start_time=began_ns).end(ended_ns)

    def close(self) -> None:
        """Send what was not sent yet, as far as a moment suffices. Blocks that long."""
        ending = Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(END_S)


class _Ids(IdGenerator):
    """Gives the ids that were set; spans without one get random ones."""

    def __init__(self) -> None:
        self.trace = self.span = 0

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span or secrets.randbits(64) or 1


def _root(trace: int) -> int:
    """Return the id of a trace's first span: it follows from the trace's own."""
    return trace >> 64 or 1
