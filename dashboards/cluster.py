"""Rules and dashboards as Kubernetes objects, for the Prometheus operator and Grafana's sidecar.
Pure.
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


def kustomization(resources: Sequence[str], dashboards: Mapping[str, str]) -> dict[str, Any]:
    """Return a kustomization.yaml: `resources`, and a ConfigMap for each dashboard (name -> file).

    It lies beside the files, since kustomize reads none outside the folder of a kustomization.
    """
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": list(resources),
        "configMapGenerator": [{"name": name, "files": [file]} for name, file in dashboards.items()],
        "generatorOptions": {"disableNameSuffixHash": True, "labels": dict(DASHBOARD)},
    }
