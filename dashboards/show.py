"""Shows a panel without Grafana: `python -m dashboards.show 'Late, by stage' --prometheus URL`.

Owns the printed form of a panel. It asks Prometheus for the panel's queries as of now, with every
cluster and process chosen; without `--prometheus` it prints the queries.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping
from typing import Final
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

from dashboards.board import Panel
from dashboards.boards import ALL

CHOSEN: Final = {"$cluster": ".*", "$instance": ".*", "$service": ".*", "$__rate_interval": "1m"}
TIMEOUT_S: Final = 10.0


def find_panel(title: str) -> Panel | None:
    """Return the panel with a title, whatever its case; None: there is none."""
    panels = (panel for board in ALL for row in board.rows for panel in row.panels)
    return next((panel for panel in panels if panel.title.lower() == title.lower()), None)


def query_of(expr: str) -> str:
    """Return a panel's query as Prometheus takes it: everything is chosen."""
    for variable, value in CHOSEN.items():
        expr = expr.replace(variable, value)
    return expr


def named(legend: str, labels: Mapping[str, str]) -> str:
    """Return the name of a series, as Grafana makes it of a panel's legend."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), legend)


def ask(url: str, panel: Panel) -> Iterator[tuple[str, str]]:
    """Yield the name and the present value of each series of a panel. Raises OSError."""
    for query in panel.queries:
        address = f"{url.rstrip('/')}/api/v1/query?{urlencode({'query': query_of(query.expr)})}"
        with urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the address is the caller's own
            for found in json.load(answer)["data"]["result"]:
                yield named(query.legend, found["metric"]), found["value"][1]


def say(line: str) -> None:
    """Print a line."""
    sys.stdout.write(f"{line}\n")


def main() -> int:
    """Print a panel; return 1 where there is none, or Prometheus does not answer."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.show", description="Show a panel without Grafana.")
    parser.add_argument("panel", metavar="PANEL", help="the panel's title, such as 'Late, by stage'")
    parser.add_argument("--prometheus", metavar="URL", default="", help="where to ask; without it the queries are printed")
    options = parser.parse_args()
    panel = find_panel(options.panel)
    if panel is None:
        titles = sorted(panel.title for board in ALL for row in board.rows for panel in row.panels)
        sys.stderr.write(f"there is no panel {options.panel!r}; there are: {', '.join(titles)}\n")
        return 1
    say(panel.about)
    if not options.prometheus:
        for query in panel.queries:
            say(f"{query.legend}\n  {query_of(query.expr)}")
        return 0
    try:
        for name, value in ask(options.prometheus, panel):
            say(f"{float(value):12g}  {name}")
    except (URLError, OSError) as error:
        sys.stderr.write(f"no answer from {options.prometheus}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
