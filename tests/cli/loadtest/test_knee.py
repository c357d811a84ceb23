"""The knee: which objective breaks first and where, and when a load test proves nothing."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.choices import RampKind
from cli.loadtest.knee import Found, Inconclusive, Knee, Measures, Objectives, Ramp, Resource, Trust, find_knee, settle
from cli.loadtest.report import limits_of, ramp_line, write_limits, write_report
from liveroom.settings import EdgeSettings

OBJECTIVES = Objectives()
TRUST = Trust()


def step(level: float, **more: float | None) -> Measures:
    """A step that holds, but for `more`."""
    usual: dict[str, float | None] = {
        "cpu": 0.1,
        "loop_lag_ms": 1.0,
        "delay_ms": 10.0,
        "skipped": 0.0,
        "missing": 0.0,
        "client": 0.3,
        "connections": level,
        "joins_per_s": 0.0,
        "packets_per_s": level * 10,
        "bytes_per_s": level * 5000,
        "rss_bytes": 1e8,
    }
    return Measures(level=level, **(usual | more))  # type: ignore[arg-type]


def test_the_knee_lies_where_the_line_between_two_steps_meets_the_objective() -> None:
    knee = find_knee([step(1000, cpu=0.5), step(2000, cpu=0.8), step(3000, cpu=1.0)], OBJECTIVES, TRUST)
    assert isinstance(knee, Knee)
    assert knee.level == pytest.approx(2500)
    assert knee.resource is Resource.CPU
    assert knee.there.cpu == pytest.approx(0.9)
    assert knee.there.packets_per_s == pytest.approx(25_000)


def test_what_breaks_first_is_the_knee_and_each_resource_has_its_own() -> None:
    knee = find_knee([step(1000), step(2000, cpu=1.0, delay_ms=2000.0)], OBJECTIVES, TRUST)
    assert isinstance(knee, Knee)
    where = {crossing.resource: crossing.level for crossing in knee.crossings}
    assert where[Resource.CPU] == pytest.approx(1000 + 1000 * 0.8 / 0.9)
    assert where[Resource.DELAY] == pytest.approx(1000 + 1000 * 990 / 1990)
    assert where[Resource.SKIPPED] is None
    assert knee.resource is Resource.DELAY
    assert knee.level == where[Resource.DELAY]


@pytest.mark.parametrize(
    ("steps", "why", "held"),
    [
        pytest.param([], "no step", None, id="no step"),
        pytest.param([step(1000), step(2000)], "nothing broke", 2000, id="all held"),
        pytest.param([step(1000, delay_ms=5000.0)], "delay_ms broke at the first step", None, id="broken at once"),
        pytest.param([step(1000), step(2000, cpu=1.0, applied=0.5)], "only 50%", 1000, id="half of it was refused"),
        pytest.param([step(1000), step(2000, cpu=1.0, client=0.86)], "86% busy at 2,000", 1000, id="the load's core was busy"),
        pytest.param(
            [step(1000), step(2000, client=0.9), step(3000, cpu=1.0)], "90% busy at 2,000", 1000, id="before it broke"
        ),
    ],
)
def test_where_nothing_is_proven_it_says_why_and_what_held(steps: list[Measures], why: str, held: float | None) -> None:
    result = find_knee(steps, OBJECTIVES, TRUST)
    assert isinstance(result, Inconclusive)
    assert why in result.why
    assert result.held == held


def test_unknown_is_not_broken() -> None:
    assert step(1000, delay_ms=None).broken(OBJECTIVES) == []
    knee = find_knee([step(1000, delay_ms=None), step(2000, delay_ms=5000.0)], OBJECTIVES, TRUST)
    assert isinstance(knee, Knee)
    assert knee.level == 1000, "unknown at the step that held: no line can be drawn, so the safe side"


@given(
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 200), st.floats(0, 5000)), min_size=1, max_size=8),
    st.floats(1.05, 3),
)
def test_a_knee_lies_between_the_last_step_that_held_and_the_first_that_did_not(
    values: list[tuple[float, float, float]], factor: float
) -> None:
    steps = [
        step(100 * factor**number, cpu=cpu, loop_lag_ms=lag, delay_ms=delay) for number, (cpu, lag, delay) in enumerate(values)
    ]
    first = next((number for number, each in enumerate(steps) if each.broken(OBJECTIVES)), None)
    result = find_knee(steps, OBJECTIVES, TRUST)
    if first is None or first == 0:
        assert isinstance(result, Inconclusive)
        return
    assert isinstance(result, Knee)
    assert steps[first - 1].level <= result.level <= steps[first].level
    assert result.level == min(crossing.level for crossing in result.crossings if crossing.level is not None)
    assert result.resource in steps[first].broken(OBJECTIVES)


def knee_at(level: float) -> Knee:
    return Knee(level, Resource.CPU, step(level, cpu=0.9, joins_per_s=level / 10), ())


def test_the_median_of_runs_counts_and_their_spread_is_told() -> None:
    found = settle([knee_at(900), knee_at(1100), knee_at(1000)])
    assert isinstance(found, Found)
    assert found.median.level == 1000
    assert found.spread == pytest.approx(0.2)
    assert settle([knee_at(900), Inconclusive("nothing broke: go higher", 900)]) == Inconclusive(
        "nothing broke: go higher", 900
    )


RAMPS = [
    Ramp(RampKind.VIEWERS, ((step(500), step(2000, cpu=1.0)),), Found(knee_at(1000), 0.1, (1000,))),
    Ramp(RampKind.JOINS, ((step(50), step(60)),), Found(knee_at(500), 0.0, (500,))),
    Ramp(RampKind.BYTES, ((step(100),),), Inconclusive("nothing broke: go higher", 100)),
]


def test_a_gateway_takes_the_limits_file_as_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "limits.json"
    write_limits(file, OBJECTIVES, RAMPS)
    monkeypatch.setenv("LIVEROOM_LIMITS", str(file))
    settings = EdgeSettings(ticket_keys={"k1": "x" * 32})
    limits = settings.limits
    assert (limits.connections, limits.joins_per_s, limits.cpu) == (1000, 50.0, 0.9)
    assert (limits.packets_per_s, limits.bytes_per_s, limits.loop_lag_ms) == (10_000, 5_000_000, 50.0)
    monkeypatch.setenv("LIVEROOM_MAX_CONNECTIONS", "7")
    assert EdgeSettings(ticket_keys={"k1": "x" * 32}).limits.connections == 7, "the environment wins"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("{", "cannot be read as JSON: Expecting", id="no JSON"),
        pytest.param("[1]", "not a JSON object", id="no object"),
        pytest.param("[]", "not a JSON object", id="an empty list"),
        pytest.param('{"max_connections": "many"}', "max_connections", id="no number"),
        pytest.param('{"max_conections": 5}', "unknown limits: max_conections", id="misspelt"),
        pytest.param('{"host": "0.0.0.0"}', "unknown limits: host", id="another setting"),
        pytest.param('{"max_bytes_per_s": Infinity}', "max_bytes_per_s", id="no bound"),
    ],
)
def test_a_limits_file_that_cannot_be_used_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, said: str
) -> None:
    file = tmp_path / "limits.json"
    monkeypatch.setenv("LIVEROOM_LIMITS", str(file))
    with pytest.raises(FileNotFoundError, match="LIVEROOM_LIMITS names"):
        EdgeSettings(ticket_keys={"k1": "x" * 32})
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        EdgeSettings(ticket_keys={"k1": "x" * 32})


def test_the_report_shows_what_was_found_with_plots_and_is_text_only(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_report(file, OBJECTIVES, RAMPS, "lost 1 <script>")
    page = file.read_text()
    for ramp in RAMPS:
        assert ramp_line(ramp) in page
    assert page.count("<svg") == len(RAMPS)
    assert "lost 1 &lt;script&gt;" in page
    assert json.dumps(limits_of(OBJECTIVES, RAMPS)["max_connections"]) in page
