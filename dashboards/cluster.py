"""Rules, dashboards and the scrape configuration as Kubernetes objects: for a Prometheus with its
operator or without, and for Grafana's sidecar. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

DASHBOARD: Final = {"grafana_dashboard": "1"}  # what the sidecar of Grafana's chart looks for


def rule_object(rules: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rules as a PrometheusRule."""
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "liveroom"},
        "spec": dict(rules),
    }


def kustomization(
    resources: Sequence[str] = (), configs: Mapping[str, Sequence[str]] | None = None, labels: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return a kustomization.yaml: `resources`, and ConfigMaps of files, by name, with `labels`.

    It lies beside the files, since kustomize reads none outside the folder of a kustomization.
    """
    made: dict[str, Any] = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization"}
    if resources:
        made["resources"] = list(resources)
    if configs:
        made["configMapGenerator"] = [{"name": name, "files": list(files)} for name, files in configs.items()]
        made["generatorOptions"] = {"disableNameSuffixHash": True} | ({"labels": dict(labels)} if labels else {})
    return made
