"""The configuration of Prometheus and Alertmanager. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

SERVICES: Final = {"ingress": 9001, "broadcaster": 9002, "edge": 9010, "scheduler": 9003, "autoscaler": 9004, "canary": 9005}
EVERY: Final = "15s"


def prometheus(
    services: Mapping[str, Mapping[str, Any]], rules: str, *, every: str = EVERY, managers: Sequence[str] = ()
) -> dict[str, Any]:
    """Return prometheus.yml, with a job for each service.

    `services` maps a service to its discovery (`static_configs`, `file_sd_configs`, ...). Its
    targets must have the label `cluster`, by which the dashboards choose. `every` is the interval.
    """
    made: dict[str, Any] = {
        "global": {"scrape_interval": every, "evaluation_interval": every, "scrape_timeout": every},
        "rule_files": [rules],
        "scrape_configs": [{"job_name": service, **found} for service, found in services.items()],
    }
    if managers:
        made["alerting"] = {"alertmanagers": [{"static_configs": [{"targets": list(managers)}]}]}
    return made


def pods(namespace: str) -> dict[str, Any]:
    """Return what a Prometheus without its operator includes in its configuration.

    It finds the pods of a namespace by itself, and names them like the PodMonitor of
    deploy/components/monitoring.
    """
    labels = "__meta_kubernetes_pod_label_app_kubernetes_io_"

    def of(source: str, **rule: str) -> dict[str, Any]:
        return {"source_labels": [source], **rule}

    return {
        "scrape_configs": [
            {
                "job_name": "liveroom",
                "scrape_interval": EVERY,
                "kubernetes_sd_configs": [{"role": "pod", "namespaces": {"names": [namespace]}}],
                "relabel_configs": [
                    of(f"{labels}part_of", regex="liveroom", action="keep"),
                    of("__meta_kubernetes_pod_container_port_name", regex="internal", action="keep"),
                    of("__meta_kubernetes_pod_phase", regex="Failed|Succeeded", action="drop"),
                    of(f"{labels}name", target_label="job"),
                    of("__meta_kubernetes_pod_name", target_label="instance"),
                    of("__meta_kubernetes_namespace", target_label="cluster"),
                ],
            }
        ]
    }


def targets(addresses: Sequence[str], cluster: str, **labels: str) -> list[dict[str, Any]]:
    """Return targets for static and file discovery. `labels`: more of them, such as `instance`."""
    return [{"targets": list(addresses), "labels": {"cluster": cluster, **labels}}]


def alertmanager() -> dict[str, Any]:
    """Return an example of alertmanager.yml.

    It sends pages at once and groups tickets. A partition without an owner or a leader, and a
    broker that is away, hide the alerts that follow from them.
    """
    return {
        "route": {
            "receiver": "tickets",
            "group_by": ["alertname", "cluster"],
            "group_wait": "30s",
            "repeat_interval": "12h",
            "routes": [{"matchers": ['severity="page"'], "receiver": "pager", "group_wait": "10s", "repeat_interval": "1h"}],
        },
        "receivers": [
            {"name": "pager", "webhook_configs": [{"url": "http://127.0.0.1:8800/page"}]},
            {"name": "tickets", "webhook_configs": [{"url": "http://127.0.0.1:8800/ticket"}]},
        ],
        "inhibit_rules": [
            {
                "source_matchers": ['alertname="PartitionWithoutOwner"'],
                "target_matchers": ['alertname=~"UplinkBehind|ReliableLate.*"'],
                "equal": ["cluster"],
            },
            {
                "source_matchers": ['alertname="KafkaPartitionsOffline"'],
                "target_matchers": ['alertname=~"IngressRefusesForKafka|UnacknowledgedRecords"'],
                "equal": ["cluster"],
            },
            {
                "source_matchers": ['alertname="KafkaBrokersAway"'],
                "target_matchers": ['alertname="KafkaUnderReplicated"'],
                "equal": ["cluster"],
            },
        ],
    }
