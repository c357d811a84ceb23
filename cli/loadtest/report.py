"""The output of a load test: lines on the terminal, the limits file, an HTML report with plots.

The plots need matplotlib (`liveroom[plots]`); a report without it has its tables and a note.
"""

import io
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

import psutil

from cli.choices import RampKind
from cli.loadtest.knee import CLIENT_BUSY, Found, Inconclusive, Measures, Objectives, Ramp, Resource
from liveroom import __version__

UNITS: Final = {RampKind.VIEWERS: "viewers", RampKind.JOINS: "joins/s", RampKind.BYTES: "messages/s"}
TITLES: Final = {
    RampKind.VIEWERS: "Viewers: a growing number in busy rooms",
    RampKind.JOINS: "Joins: half the viewers of the knee (where one was found), and a growing number that join and leave",
    RampKind.BYTES: "Bytes: a growing number of messages to a quarter of the viewers of the knee, uncompressed",
}
_HEADS: Final = ("load", "cpu", "loop lag", "delay, 99%", "skipped", "missing", "load's own core", "pushes/s", "MB/s", "memory")
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #ddd}"
    ".over{color:#b00;font-weight:600}svg{max-width:100%;height:auto}"
)


def ramp_line(ramp: Ramp) -> str:
    """Return the result of a ramp, in a line."""
    unit, result = UNITS[ramp.kind], ramp.result
    if isinstance(result, Inconclusive):
        held = f"; it held {result.held:,.0f} {unit}" if result.held is not None else ""
        return f"{ramp.kind.value}: inconclusive: {result.why}{held}"
    knee = result.median
    return (
        f"{ramp.kind.value}: the knee is at {knee.level:,.0f} {unit}, where {knee.resource.value} breaks first"
        f" (median of {len(result.levels)}, spread {result.spread:.0%})"
    )


def step_line(kind: RampKind, step: Measures, objectives: Objectives) -> str:
    """Return the measures of a step, in a line."""
    broken = step.broken(objectives)
    cells = "  ".join(f"{head} {cell}" for head, cell in zip(_HEADS[1:7], _cells(step)[1:7], strict=True))
    verdict = f"  BROKEN: {', '.join(resource.value for resource in broken)}" if broken else ""
    return f"  {step.level:>8,.0f} {UNITS[kind]}  {cells}{verdict}"


def limits_of(objectives: Objectives, ramps: Sequence[Ramp]) -> dict[str, Any]:
    """Return the settings of a gateway that follow from the ramps."""
    limits: dict[str, Any] = {"max_loop_lag_ms": objectives.loop_lag_ms}
    for ramp in ramps:
        if isinstance(ramp.result, Inconclusive):
            continue
        knee = ramp.result.median
        match ramp.kind:
            case RampKind.VIEWERS:
                limits["max_connections"] = max(1, int(knee.level))
                limits["max_cpu"] = max(0.01, round(min(knee.there.cpu, objectives.cpu), 2))
                limits["max_packets_per_s"] = max(1, round(knee.there.packets_per_s))
                limits.setdefault("max_bytes_per_s", max(1, round(knee.there.bytes_per_s)))
            case RampKind.JOINS:
                limits["max_joins_per_s"] = max(1, round(knee.there.joins_per_s))
            case RampKind.BYTES:
                limits["max_bytes_per_s"] = round(max(knee.there.bytes_per_s, limits.get("max_bytes_per_s", 0)))
    return limits


def write_limits(path: Path, objectives: Objectives, ramps: Sequence[Ramp]) -> None:
    """Write the limits file, with the machine and the objectives it was measured with."""
    measured = {"liveroom": __version__, "machine": _machine(), "objectives": objectives._asdict()}
    measured |= {"knees": {ramp.kind.value: ramp_line(ramp) for ramp in ramps}}
    path.write_text(json.dumps(limits_of(objectives, ramps) | {"measured": measured}, indent=2) + "\n", encoding="utf-8")


def write_report(path: Path, objectives: Objectives, ramps: Sequence[Ramp], wrong: str) -> None:
    """Write the report. `wrong`: the errors that checking viewers found; empty: none."""
    verdict = (
        f"Viewers that checked everything found: {wrong}." if wrong else "Viewers that checked everything found nothing wrong."
    )
    parts = [
        f"<p>{escape(_machine())}; liveroom {__version__}. The gateway had a processor core of its own.</p>",
        f"<p>{escape(verdict)}</p>",
        _table(("objective", "at most"), ((name, f"{value:g}") for name, value in objectives._asdict().items())),
    ]
    for ramp in ramps:
        parts += _section(ramp, objectives)
    parts += ["<h2>Limits</h2><pre>", escape(json.dumps(limits_of(objectives, ramps), indent=2)), "</pre>"]
    page = "".join(parts)
    path.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Load test of a gateway</title><style>{_STYLE}</style>'
        f"<body><h1>Load test of a gateway</h1>{page}</body></html>\n",
        encoding="utf-8",
    )


def _section(ramp: Ramp, objectives: Objectives) -> Iterable[str]:
    unit = UNITS[ramp.kind]
    yield f"<h2>{escape(TITLES[ramp.kind])}</h2><p><strong>{escape(ramp_line(ramp))}</strong></p>"
    if isinstance(ramp.result, Found):
        found = (
            (crossing.resource.value, f"{crossing.level:,.0f} {unit}" if crossing.level is not None else "not reached")
            for crossing in ramp.result.median.crossings
        )
        yield _table(("resource", "meets its objective at"), found)
    yield _plots(ramp, objectives)
    for number, run in enumerate(ramp.runs, 1):
        yield f"<h3>Run {number}</h3>" + _table(_HEADS, (_cells(step) for step in run))


def _cells(step: Measures) -> tuple[str, ...]:
    return (
        f"{step.level:,.0f}",
        f"{step.cpu:.0%}",
        f"{step.loop_lag_ms:.1f} ms",
        f"{step.delay_ms:.0f} ms" if step.delay_ms is not None else "?",
        f"{step.skipped:.2%}",
        f"{step.missing:.1%}",
        f"{step.client:.0%}",
        f"{step.packets_per_s:,.0f}",
        f"{step.bytes_per_s / 1e6:.1f}",
        f"{step.rss_bytes / 2**20:.0f} MiB",
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _plots(ramp: Ramp, objectives: Objectives) -> str:
    """Return plots (SVG) of each measure over the load, with its objective and a line a run."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 - large, and an extra
    except ImportError:
        return "<p>Plots need matplotlib: pip install 'liveroom[plots]'.</p>"
    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    names = [resource.value for resource in Resource] + ["client"]
    figure, panels = plt.subplots(2, 3, figsize=(11, 5.5), sharex=True)
    for name, panel in zip(names, panels.flat, strict=True):
        for number, run in enumerate(ramp.runs, 1):
            panel.plot([step.level for step in run], [getattr(step, name) for step in run], marker=".", label=f"run {number}")
        panel.axhline(getattr(objectives, name, CLIENT_BUSY), color="tab:red", lw=0.8, ls="--")
        panel.set_title("the load's own core" if name == "client" else name, fontsize=10)
        panel.set_ylim(bottom=0)
    panels[0, 0].legend(frameon=False, fontsize=8)
    for panel in panels[1]:
        panel.set_xlabel(UNITS[ramp.kind])
    figure.tight_layout()
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg")
    plt.close(figure)
    svg = drawn.getvalue()
    return svg[svg.index("<svg") :]


def _machine() -> str:
    python = f"Python {platform.python_version()}"
    return f"{_processor()}, {psutil.cpu_count()} cores; {platform.system()} {platform.release()}, {python} ({sys.platform})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
