"""Writes the dashboards, rules and examples: `python -m dashboards.generate`.

Owns the files in `dashboards/grafana` and `dashboards/prometheus`, and `kustomization.yaml`; do not
edit them by hand. `--check` writes nothing and lists what is not up to date.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from dashboards.alerts import Windows, rule_file
from dashboards.boards import ALL
from dashboards.cases import rule_tests
from dashboards.cluster import kustomization, rule_object
from dashboards.scrape import SERVICES, alertmanager, prometheus, targets

HERE: Final = Path(__file__).parent
RULE_OBJECT: Final = "prometheus/prometheusrule.yaml"
NOTE: Final = "# Made by: python -m dashboards.generate\n"


def files() -> dict[str, str]:
    """Return every file's text by its path below this folder."""
    services = {service: {"static_configs": targets([f"127.0.0.1:{port}"], "example")} for service, port in SERVICES.items()}
    boards = {board.uid: f"grafana/{board.uid}.json" for board in ALL}
    return {
        **{boards[board.uid]: json.dumps(board.json(), indent=2) + "\n" for board in ALL},
        "kustomization.yaml": as_yaml(kustomization([RULE_OBJECT], boards)),
        "prometheus/rules.yml": as_yaml(rule_file(Windows())),
        RULE_OBJECT: as_yaml(rule_object(rule_file(Windows()))),
        "prometheus/rules_test.yml": as_yaml(rule_tests("rules.yml")),
        "prometheus/prometheus.yml": as_yaml(prometheus(services, "rules.yml", managers=["127.0.0.1:9093"])),
        "prometheus/alertmanager.yml": as_yaml(alertmanager()),
    }


def as_yaml(data: Any) -> str:
    """Return YAML with a note that it is generated."""
    return NOTE + yaml.safe_dump(data, sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Write what is not up to date, or check it; exit with 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is not up to date")
    check = parser.parse_args().check
    stale = [
        path
        for path, text in files().items()
        if not (HERE / path).is_file() or (HERE / path).read_text(encoding="utf-8") != text
    ]
    for path in [] if check else stale:
        (HERE / path).parent.mkdir(parents=True, exist_ok=True)
        (HERE / path).write_text(files()[path], encoding="utf-8")
    if stale:
        sys.stdout.write(f"{'not up to date' if check else 'wrote'}: {', '.join(stale)}\n")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
