"""The table of sizes in docs/operations.md follows from the figures and formulas above it."""

import json
import math
import re
from typing import Final

from tests.docs.names import ROOT

TEXT: Final = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("## Sizing\n")[2].partition("\n## ")[0]
BATCHES_PER_S: Final = 10
TARGET: Final = 0.7
MEGA: Final = 1e6


def number(pattern: str) -> float:
    """The only number of the section that stands in these words."""
    (found,) = re.findall(pattern, TEXT)
    return float(found.replace(",", ""))


def test_the_limits_with_tls_are_those_without_less_what_tls_costs() -> None:
    plain, joins = number(r"carried ([\d,]+) viewers"), number(r"and ([\d,]+) joins a second without TLS")
    limits = json.loads((ROOT / "deploy/overlays/production/limits.json").read_bytes())
    assert round(plain / 1.2, -2) == number(r"13,000 / 1\.2 = ([\d,]+)") == limits["max_connections"]
    handshake_s = number(r"([\d.]+) ms with P-256") / 1000
    assert round(1 / (1 / joins + handshake_s)) == number(r"0\.65 ms\) = ([\d,]+)") == limits["max_joins_per_s"]


def test_each_row_is_what_the_formulas_give() -> None:
    payload, head = number(r"\| 10 \| ([\d,]+) bytes"), number(r"payload of a batch \+ (\d+)")
    viewer = BATCHES_PER_S * (payload + head)
    with_tls, without = number(r"= ([\d,]+) \|\n\| processor time of a full"), number(r"carried ([\d,]+) viewers")
    joins, plain_joins = number(r"0\.65 ms\) = ([\d,]+)"), number(r"and ([\d,]+) joins a second without TLS")
    rows = re.findall(r"^\| (\d[\d,]*,000) \| (.*) \|$", TEXT, re.MULTILINE)
    assert len(rows) == 4
    for shown, cells in rows:
        viewers = int(shown.replace(",", ""))
        gateways, plain = (math.ceil(viewers / (limit * TARGET)) for limit in (with_tls, without))
        assert [cell.split(",")[0] for cell in cells.split(" | ")] == [
            str(gateways),
            str(plain),
            f"{viewers / gateways * viewer * 8 / MEGA:.0f} Mbit/s",
            f"{viewers * viewer * 8 / MEGA / 1000:.1f} Gbit/s",
            f"{gateways} MB/s",
            f"{viewers / gateways / joins:.1f} s",
            f"{viewers / plain / plain_joins:.1f} s",
        ]
