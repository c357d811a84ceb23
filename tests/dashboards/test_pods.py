"""A Prometheus without its operator: which pods it finds by its file, and how it names them."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from dashboards.generate import HERE, NAMESPACE, files
from devstack.programs import KUBECTL, PROMTOOL, need
from devstack.prometheus import prometheus_in
from tests.deploy.test_manifests import DEPLOY, NAME, SETTINGS, objects

SCRAPE: dict[str, Any] = yaml.safe_load(files()["prometheus/pods.yml"])
META = "__meta_kubernetes_"


def targets_of_pods() -> list[dict[str, Any]]:
    """What Prometheus finds in the namespace: one target for each container port of each pod, with
    all that it knows of it, and pods of others.
    """
    found: list[dict[str, Any]] = []
    others = {"metadata": {"labels": {NAME: "kafka"}}, "spec": {"containers": [{"ports": [{"name": "internal"}]}]}}
    pods = [(made["metadata"]["name"], made["spec"]["template"]) for made in objects("production", "Deployment")]
    for phase, name, pod in [*(("Running", *each) for each in [*pods, ("kafka", others)]), ("Failed", *pods[0])]:
        labels = {
            META + "pod_label_" + key.translate(str.maketrans("./-", "___")): value
            for key, value in pod["metadata"]["labels"].items()
        }
        about = labels | {META + "pod_name": f"{name}-{phase}", META + "namespace": NAMESPACE, META + "pod_phase": phase}
        found += [
            {"targets": [f"127.0.0.1:{len(found) + 1}"], "labels": about | {META + "pod_container_port_name": port["name"]}}
            for container in pod["spec"]["containers"]
            for port in container.get("ports", [])
        ]
    return found


def configuration(folder: Path) -> Path:
    """Write a configuration with ours in it; return its file.

    Debian's Prometheus is built without the discovery of Kubernetes, so a file of targets stands in
    for that alone.
    """
    (job,) = SCRAPE["scrape_configs"]
    ours = {key: value for key, value in job.items() if key != "kubernetes_sd_configs"}
    (folder / "pods.json").write_text(json.dumps(targets_of_pods()))
    config = {
        "scrape_configs": [ours | {"file_sd_configs": [{"files": [str(folder / "pods.json")]}]}],
        "rule_files": [str(HERE / "prometheus" / "rules.yml")],
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))
    return folder / "prometheus.yml"


async def test_each_pod_of_ours_is_scraped_once_under_the_names_that_the_dashboards_choose_by(tmp_path: Path) -> None:
    configuration(tmp_path)
    found: list[dict[str, str]] = []
    async with prometheus_in(tmp_path) as url, aiohttp.ClientSession() as http, asyncio.timeout(30):
        while not found:
            async with http.get(f"{url}/api/v1/targets", params={"state": "active"}) as answer:
                found = [target["labels"] for target in (await answer.json())["data"]["activeTargets"]]
    expected = [{"job": service, "instance": f"{service}-Running", "cluster": NAMESPACE} for service in SETTINGS]
    assert sorted(found, key=str) == sorted(expected, key=str)


def test_promtool_takes_the_configuration_with_the_rules(tmp_path: Path) -> None:
    command = [need(PROMTOOL), "check", "config", str(configuration(tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def built(folder: Path, **parts: Any) -> list[dict[str, Any]]:
    """What kubectl makes of an overlay on top of the production one."""
    own = {"kind": "Kustomization", "resources": [os.path.relpath(DEPLOY / "overlays" / "production", folder)], **parts}
    (folder / "kustomization.yaml").write_text(json.dumps(own))
    command = [need(KUBECTL), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def test_an_overlay_lets_a_prometheus_without_the_operator_list_the_pods(tmp_path: Path) -> None:
    found = built(tmp_path, components=[os.path.relpath(DEPLOY / "components" / "prometheus", tmp_path)])
    (role,) = (made for made in found if made["kind"] == "Role" and made["metadata"]["name"] == "liveroom-prometheus")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    (binding,) = (made for made in found if made["kind"] == "RoleBinding" and made["metadata"]["name"] == "liveroom-prometheus")
    (job,) = SCRAPE["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": [role["metadata"]["namespace"]]}}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [subject["namespace"] for subject in binding["subjects"]] == ["monitoring"]


def test_an_overlay_has_the_rules_that_link_to_runbooks_of_one_s_own(tmp_path: Path) -> None:
    address = "https://wiki.example.com/liveroom/runbooks"
    command = [sys.executable, "-m", "dashboards.generate", "--runbooks", address, "--folder", str(tmp_path / "monitoring")]
    subprocess.run([*command, "--namespace", "show"], check=True, capture_output=True, cwd=HERE.parent)
    (job,) = yaml.safe_load((tmp_path / "monitoring" / "prometheus" / "pods.yml").read_text())["scrape_configs"]
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == ["show"]
    monitoring = os.path.relpath(DEPLOY / "components" / "monitoring", tmp_path)
    found = built(tmp_path, components=[monitoring], patches=[{"path": "monitoring/prometheus/prometheusrule.yaml"}])
    (rules,) = (made for made in found if made["kind"] == "PrometheusRule")
    alerts = [rule for group in rules["spec"]["groups"] for rule in group["rules"] if "alert" in rule]
    assert [rule["annotations"]["runbook_url"] for rule in alerts] == [f"{address}#{rule['alert'].lower()}" for rule in alerts]


def test_what_prometheus_reads_is_a_config_map_of_its_own() -> None:
    command = [need(KUBECTL), "kustomize", str(HERE / "prometheus")]
    (made,) = yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (made["kind"], made["metadata"]["name"]) == ("ConfigMap", "liveroom-prometheus")
    assert made["data"] == {name: files()[f"prometheus/{name}"] for name in ("pods.yml", "rules.yml")}
