"""The figures of a gateway's load report."""

import pytest

from edge.fanout import FanOut
from edge.load_report import MIN_PERIOD_S, LoadReporter, Usage
from liveroom import clock
from liveroom.records.control import LoadReport
from liveroom.service import Runtime
from tests.edge.harness import line, settings_of
from tests.edge.memory import in_memory
from tests.manual_clock import ManualClock


async def test_rates_are_between_two_reports_and_unknown_over_a_time_that_is_too_short() -> None:
    time = ManualClock(1000)
    with clock.running_on(time):
        async with in_memory(settings_of()) as edge:
            runtime = Runtime("edge")
            usages = iter([Usage(5.0, 1, 2, 0.5, 100), Usage(6.5, 10, 20, 0.7, 160), Usage(6.6, 10, 20, 0.7)])
            fan_out = FanOut(edge.gateway, runtime)
            reporter = LoadReporter(edge.gateway, fan_out, runtime, 8080, lambda: next(usages), lag_records=lambda: 7)
            viewer = await edge.viewer()
            viewer.say(t="join", room="r")
            time.now_s += 2
            edge.keepalive.turn()
            await edge.deliver("r", [line(1)])

            report = reporter._measure()
            assert isinstance(report, LoadReport)
            assert (report.at_ms, report.connections, report.users, report.rooms) == (1_002_000, 1, 1, 1)
            assert (report.cpu, report.joins_per_s, report.leaves_per_s) == (0.75, 0.5, 0.0)
            assert (report.rss_bytes, report.sockets, report.load1) == (10, 20, 0.7)
            assert (report.io_per_s, report.lag_records) == (30.0, 7)

            time.now_s += MIN_PERIOD_S / 2
            report = reporter._measure()
            assert (report.cpu, report.joins_per_s, report.batches_per_s, report.io_per_s) == (None, None, None, None)
            assert report.connections == 1


@pytest.mark.parametrize(
    ("settings", "url", "ip"),
    [
        pytest.param({"host": "::1"}, "ws://[::1]:8080/v1/live", "::1", id="IPv6"),
        pytest.param({"host": "::"}, "ws://[::1]:8080/v1/live", "::1", id="all of IPv6"),
        pytest.param({"host": "0.0.0.0"}, "ws://127.0.0.1:8080/v1/live", "127.0.0.1", id="all of IPv4"),
        pytest.param(
            {"host": "::", "public_url": "wss://a.example/v1/live", "public_ip": "2001:db8::7"},
            "wss://a.example/v1/live",
            "2001:db8::7",
            id="named",
        ),
    ],
)
async def test_a_gateway_announces_an_address_to_which_viewers_can_connect(settings: dict[str, str], url: str, ip: str) -> None:
    async with in_memory(settings_of(**settings)) as edge:
        runtime = Runtime("edge")
        reporter = LoadReporter(edge.gateway, FanOut(edge.gateway, runtime), runtime, 8080, lambda: Usage(0.0, 1, 1, 0.0))
        report = reporter._measure()
        assert (report.url, report.ip, report.port) == (url, ip, 8080)
