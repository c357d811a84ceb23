"""Writes the dashboards, rules and scrape configurations: `python -m dashboards.generate`.

Owns the files in `dashboards/grafana` and `dashboards/prometheus`, and `kustomization.yaml`; do not
edit them by hand. `--check` writes nothing and lists what is not up to date. With `--folder` it
writes files for a place of your own: `--runbooks` is where their alerts link to, `--namespace` has
the pods.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from dashboards.alerts import RUNBOOKS, Windows, rule_file
from dashboards.boards import ALL
from dashboards.cases import rule_tests
from dashboards.cluster import DASHBOARD, kustomization, rule_object
from dashboards.scrape import SERVICES, alertmanager, pods, prometheus, targets

HERE: Final = Path(__file__).parent
RULE_OBJECT: Final = "prometheus/prometheusrule.yaml"
NAMESPACE: Final = "liveroom"  # of deploy/overlays/production
NOTE: Final = "# Made by: python -m dashboards.generate\n"


def files(runbooks: str = RUNBOOKS, namespace: str = NAMESPACE) -> dict[str, str]:
    """Return every file's text by its path below this folder.

    `runbooks`: as of `rule_file`; `namespace`: of the pods that a Prometheus without its operator
    finds.
    """
    services = {service: {"static_configs": targets([f"127.0.0.1:{port}"], "example")} for service, port in SERVICES.items()}
    rules = rule_file(Windows(), runbooks)
    boards = {board.uid: [f"{board.uid}.json"] for board in ALL}
    return {
        **{f"grafana/{board.uid}.json": json.dumps(board.json(), indent=2) + "\n" for board in ALL},
        "grafana/kustomization.yaml": as_yaml(kustomization(configs=boards, labels=DASHBOARD)),
        "kustomization.yaml": as_yaml(kustomization(["grafana", RULE_OBJECT])),
        "prometheus/rules.yml": as_yaml(rules),
        RULE_OBJECT: as_yaml(rule_object(rules)),
        "prometheus/rules_test.yml": as_yaml(rule_tests("rules.yml")),
        "prometheus/prometheus.yml": as_yaml(prometheus(services, "rules.yml", managers=["127.0.0.1:9093"])),
        "prometheus/pods.yml": as_yaml(pods(namespace)),
        "prometheus/kustomization.yaml": as_yaml(kustomization(configs={"liveroom-prometheus": ["pods.yml", "rules.yml"]})),
        "prometheus/alertmanager.yml": as_yaml(alertmanager()),
    }


def as_yaml(data: Any) -> str:
    """Return YAML with a note that it is generated."""
    return NOTE + yaml.safe_dump(data, sort_keys=False, width=120, allow_unicode=True)


def main() -> None:
    """Write what is not up to date, or check it; exit with 1 where a check fails."""
    parser = argparse.ArgumentParser(prog="python -m dashboards.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if a file is not up to date")
    parser.add_argument(
        "--runbooks", metavar="URL", default=RUNBOOKS, help="address of the page of runbooks; default: %(default)s"
    )
    parser.add_argument("--folder", metavar="FOLDER", type=Path, default=HERE, help="where to write; default: this package")
    parser.add_argument("--namespace", metavar="NAME", default=NAMESPACE, help="whose pods are scraped; default: %(default)s")
    options = parser.parse_args()
    wanted = {options.folder / path: text for path, text in files(options.runbooks, options.namespace).items()}
    stale = [path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in [] if options.check else stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    if stale:
        names = ", ".join(str(path.relative_to(options.folder)) for path in stale)
        sys.stdout.write(f"{'not up to date' if options.check else 'wrote'}: {names}\n")
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
