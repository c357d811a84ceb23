"""Traced interactions, as a collector gets them: one trace from ingress to the gateway's
fan-out.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from devstack.system import System
from liveroom.chance import SystemChance
from liveroom.ports import HOST, free_ports
from liveroom.records.broadcast import MAX_TRACED, TRACE_HEADER, Traced, decode_traces, encode_traces
from liveroom.tracing import Tracing
from liveroom.web import serve
from tests.e2e.audience import knows_gateways, settled
from viewer.client import Viewer
from viewer.effects import Delivered, Effect
from viewer.sender import Accepted, Sender

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(90)]
NAMES = ["ingress accept", "broadcaster number and write", "edge fan-out"]


class Collector:
    """Takes what OTLP exporters post."""

    def __init__(self) -> None:
        self.traces: dict[bytes, list[tuple[str, Span]]] = defaultdict(list)

    async def take(self, request: web.Request) -> web.Response:
        told = ExportTraceServiceRequest.FromString(await request.read())
        for resource in told.resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.traces[span.trace_id].append((service, span))
        return web.Response(content_type="application/x-protobuf")


@asynccontextmanager
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    here = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", here.take)
    async with serve(app, HOST, 0, shutdown_timeout_s=0.2) as (_, port):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{HOST}:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        yield here


@asynccontextmanager
async def system(bootstrap: str, ratio: str) -> AsyncIterator[System]:
    settings = {"TRACE_RATIO": ratio}
    async with System(bootstrap, prefix=f"t{secrets.token_hex(4)}.", partitions=2, edges=1, settings=settings) as made:
        await knows_gateways(made, 1)
        yield made


async def test_a_gift_is_one_trace_from_ingress_to_the_gateway(kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with (
        collector(monkeypatch) as collected,
        system(kafka_bootstrap, "1") as running,
        aiohttp.ClientSession() as http,
        Viewer(running.scheduler_url, ["lobby"], http=http) as viewer,
    ):
        await viewer.joined()
        sent = await Sender(running.ingress_url, running.token("anna"), http).gift("lobby", "rose")
        assert isinstance(sent, Accepted)
        await settled(lambda: sum(map(len, collected.traces.values())) >= len(NAMES))
        assert len(collected.traces) == 1
        spans = {span.name: (service, span) for told in collected.traces.values() for service, span in told}
        assert sorted(spans) == sorted(NAMES)
        assert [spans[name][0] for name in NAMES] == ["liveroom-ingress", "liveroom-broadcaster", "liveroom-edge"]
        first, second, third = (spans[name][1] for name in NAMES)
        assert first.parent_span_id == b""
        assert second.parent_span_id == third.parent_span_id == first.span_id
        assert first.start_time_unix_nano <= second.start_time_unix_nano <= third.end_time_unix_nano
        told = {one.key: one.value for one in first.attributes}
        assert (told["kind"].string_value, told["id"].string_value) == ("gift", sent.id)
        assert {one.key: one.value.int_value for one in third.attributes}["viewers"] == 1


async def test_the_ratio_is_the_share_that_is_traced_and_all_services_agree(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gifts: set[str] = set()

    def note(effect: Effect) -> None:
        if isinstance(effect, Delivered):
            gifts.add(effect.message.id)

    async with (
        collector(monkeypatch) as collected,
        system(kafka_bootstrap, "0.3") as running,
        aiohttp.ClientSession() as http,
        Viewer(running.scheduler_url, ["lobby"], http=http, on_effect=note) as viewer,
    ):
        await viewer.joined()
        sender = Sender(running.ingress_url, running.token("anna"), http)
        judge = await asyncio.to_thread(Tracing, "test", "test", 0.3, SystemChance())
        expected: set[bytes] = set()
        for number in range(1, 101):
            sent = await sender.gift("lobby", "rose")
            assert isinstance(sent, Accepted)
            if (trace := judge.trace_of("lobby", sent.id)) is not None:
                expected.add(trace.to_bytes(16, "big"))
            if number % MAX_TRACED == 0:  # so no batch has more than it may name
                await settled(lambda number=number: len(gifts) == number)  # type: ignore[misc]
                assert len(gifts) == number
        await settled(lambda: sum(map(len, collected.traces.values())) >= len(expected) * len(NAMES))
        assert 10 < len(expected) < 60
        assert collected.traces.keys() == expected
        names = [sorted(span.name for _, span in spans) for spans in collected.traces.values()]
        assert [each for each in names if each != sorted(NAMES)] == []


async def test_without_a_collector_everything_goes_on_and_ends_in_time(
    kafka_bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{HOST}:{free_ports(1)[0]}")
    async with system(kafka_bootstrap, "1") as running, aiohttp.ClientSession() as http:
        async with Viewer(running.scheduler_url, ["lobby"], http=http) as viewer:
            await viewer.joined()
            for _ in range(20):
                assert isinstance(
                    await Sender(running.ingress_url, running.token("anna"), http).gift("lobby", "rose"), Accepted
                )
        began = time.monotonic()
    assert time.monotonic() - began < 9, "a service that had to be killed would be a death as well"


def test_headers_of_others_are_passed_over() -> None:
    traced = [Traced(number, number + 1) for number in range(1, 5)]
    assert decode_traces([("x", b"1"), *encode_traces(traced), (TRACE_HEADER, b"short")]) == tuple(traced)
    assert len(decode_traces(encode_traces([Traced(1, 1)] * (MAX_TRACED + 5)))) == MAX_TRACED
