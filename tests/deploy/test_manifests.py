"""The manifests, as kustomize builds them: what a service is told it understands, and what nobody
needs nobody may.
"""

import importlib.util
import json
import os
import re
import subprocess
import tempfile
import textwrap
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from autoscaler.drivers.kubernetes.addresses import check_rule
from autoscaler.policy import read_policy
from dashboards.alerts import Windows, alerts, rule_file
from dashboards.boards import ALL as BOARDS
from dashboards.scrape import SERVICES as INTERNAL_PORTS
from devstack.programs import KUBECTL, need
from liveroom.access import SERVICES, user_of
from liveroom.networks import read_networks
from liveroom.settings import (
    AutoscalerSettings,
    BroadcasterSettings,
    CanarySettings,
    EdgeSettings,
    IngressSettings,
    SchedulerSettings,
    ServiceSettings,
    fields,
)
from liveroom.variables import SOURCES
from tests.deploy.own import PAGE, write_overlay
from tests.tickets import PRIVATE_KEYS, PUBLIC_KEYS

Object = dict[str, Any]

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
OWN: Final = "own"  # that of deploy/README.md
WHOLE: Final = "whole"  # the same with KEDA and every component
OVERLAYS: Final = ("demo", "production", "production-keda", OWN)
SETTINGS: Final[dict[str, type[ServiceSettings]]] = {
    "ingress": IngressSettings,
    "broadcaster": BroadcasterSettings,
    "scheduler": SchedulerSettings,
    "edge": EdgeSettings,
    "autoscaler": AutoscalerSettings,
    "canary": CanarySettings,
}
OF_NO_NAMESPACE: Final = {"Namespace", "ClusterRole", "ClusterRoleBinding", "PriorityClass"}
VOLUMES: Final = {"configMap", "emptyDir", "projected", "secret"}  # of those that `restricted` allows
NAME: Final = "app.kubernetes.io/name"
PART_OF: Final = "app.kubernetes.io/part-of"
DRAIN_MARGIN_S: Final = 20  # to close what stays, the Kafka clients and the ports
KEY: Final = "k" * 32
KEY_SET: Final = '{"keys": [{"kty": "oct", "kid": "k1", "k": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s"}]}'
SECRETS: Final = {
    "demo": {
        "liveroom_token_key": KEY,
        "liveroom_ticket_signing_keys": PRIVATE_KEYS,
        "liveroom_ticket_public_keys": PUBLIC_KEYS,
    },
    "production": {
        "liveroom_kafka__bootstrap": "a:9093,b:9093",
        **{f"kafka-{service}-password": f"hush-{service}" for service in SERVICES},
        "kafka-ca.crt": "a certificate",
        "token_keys.json": KEY_SET,
        "ticket_signing_keys.json": PRIVATE_KEYS,
        "ticket_public_keys.json": PUBLIC_KEYS,
        "liveroom_token": "an.operators.token",
    },
}
SECRETS["production-keda"] = SECRETS["production"]
SECRETS[OWN] = {key: text for key, text in SECRETS["production"].items() if key != "liveroom_kafka__bootstrap"}
KAFKA: Final = {"demo": "kafka:9092", OWN: "kafka-1.example.org:9093,kafka-2.example.org:9093"}
OURS: Final = {"matchLabels": {"app.kubernetes.io/part-of": "liveroom"}}
each_overlay = pytest.mark.parametrize("overlay", OVERLAYS)
each_service = pytest.mark.parametrize("service", SETTINGS)


def render(folder: Path) -> tuple[Object, ...]:
    """What kustomize makes of a folder. Needs kubectl, and no cluster."""
    done = subprocess.run([need(KUBECTL), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(yaml.safe_load_all(done.stdout))


@cache
def build(overlay: str) -> tuple[Object, ...]:
    """An overlay below deploy/, or one of one's own on top."""
    if overlay not in {OWN, WHOLE}:
        return render(DEPLOY / "overlays" / overlay)
    with tempfile.TemporaryDirectory() as folder:
        if overlay == OWN:
            write_overlay(Path(folder))
        else:
            write_overlay(Path(folder), "production-keda", ["kafka-usernames", "review"])
        return render(Path(folder))


def objects(overlay: str, kind: str) -> list[Object]:
    return [found for found in build(overlay) if found["kind"] == kind]


def one(overlay: str, kind: str, name: str) -> Object:
    (found,) = (each for each in objects(overlay, kind) if each["metadata"]["name"] == name)
    return found


def pod(overlay: str, service: str) -> Object:
    spec: Object = one(overlay, "Deployment", service)["spec"]["template"]["spec"]
    return spec


def container(overlay: str, service: str) -> Object:
    (found,) = pod(overlay, service)["containers"]
    made: Object = found
    return made


def environment(overlay: str, service: str) -> dict[str, str]:
    """What a container is told; a field of the pod stands for itself."""
    told: dict[str, str] = {}
    for source in container(overlay, service)["envFrom"]:
        told |= one(overlay, "ConfigMap", source["configMapRef"]["name"])["data"]
    for entry in container(overlay, service)["env"]:
        source = entry.get("valueFrom", {})
        if "configMapKeyRef" in source:
            found = one(overlay, "ConfigMap", source["configMapKeyRef"]["name"])["data"]
            told[entry["name"]] = found[source["configMapKeyRef"]["key"]]
        else:
            told[entry["name"]] = entry["value"] if "value" in entry else source["fieldRef"]["fieldPath"]
    return told


def ports(overlay: str, service: str) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(overlay, service)["ports"]}


def mounted(overlay: str, service: str) -> dict[str, str]:
    """The keys of the Secret `liveroom` that a service is given, and the file of each."""
    (volume,) = (volume for volume in pod(overlay, service)["volumes"] if volume["name"] == "secrets")
    return {item["key"]: item["path"] for item in volume["secret"]["items"]}


def selected(overlay: str, selector: Object) -> set[str]:
    """The services whose pods a selector is about."""
    found = set()
    for made in objects(overlay, "Deployment"):
        labels = made["spec"]["template"]["metadata"]["labels"]
        others = [each for each in selector.get("matchExpressions", ()) if labels[each["key"]] in each["values"]]
        assert all(each["operator"] == "NotIn" for each in selector.get("matchExpressions", ()))
        if selector.get("matchLabels", {}).items() <= labels.items() and not others:
            found.add(made["metadata"]["name"])
    return found


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LIVEROOM_") or name == "KAFKA_BOOTSTRAP":
            monkeypatch.delenv(name)


@each_overlay
def test_an_overlay_has_all_services_in_one_namespace(overlay: str) -> None:
    assert {made["metadata"]["name"] for made in objects(overlay, "Deployment")} == set(SETTINGS)
    (namespace,) = (made["metadata"]["name"] for made in objects(overlay, "Namespace"))
    inside = [made for made in build(overlay) if made["kind"] not in OF_NO_NAMESPACE]
    assert {made["metadata"]["namespace"] for made in inside} == {namespace}
    for binding in (*objects(overlay, "RoleBinding"), *objects(overlay, "ClusterRoleBinding")):
        assert {subject["namespace"] for subject in binding["subjects"]} == {namespace}


def test_two_systems_on_one_cluster_share_nothing_that_says_whose_it_is() -> None:
    names = [{made["metadata"]["name"] for made in objects(overlay, "ClusterRoleBinding")} for overlay in OVERLAYS[:2]]
    assert names[0].isdisjoint(names[1])


# ---- pods
@each_overlay
@each_service
def test_a_pod_is_as_restricted_as_can_be(overlay: str, service: str) -> None:
    spec = pod(overlay, service)
    assert not {"hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace"} & spec.keys()
    whole = spec["securityContext"]
    assert (whole["runAsNonRoot"], whole["runAsUser"], whole["seccompProfile"]) == (True, 10001, {"type": "RuntimeDefault"})
    for each in (*spec["containers"], *spec.get("initContainers", ())):
        assert each["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    for volume in spec["volumes"]:
        (kind,) = volume.keys() - {"name"}
        assert kind in VOLUMES
    assert spec["enableServiceLinks"] is False


@each_overlay
def test_only_gateways_have_a_port_on_the_host_and_only_their_public_one(overlay: str) -> None:
    on_hosts = {
        (service, port["name"], port["hostPort"])
        for service in SETTINGS
        for port in container(overlay, service)["ports"]
        if "hostPort" in port
    }
    assert on_hosts == {("edge", "public", EdgeSettings.model_fields["port"].default)}


@each_overlay
@each_service
def test_memory_is_bounded_and_processor_time_is_not(overlay: str, service: str) -> None:
    spec = pod(overlay, service)
    for each in (*spec["containers"], *spec.get("initContainers", ())):
        assert each["resources"]["limits"].keys() == {"memory"}
        assert each["resources"]["requests"].keys() == {"cpu", "memory"}


@each_overlay
def test_all_pods_are_of_one_image_with_a_tag(overlay: str) -> None:
    images = {
        each["image"] for service in SETTINGS for each in (*pod(overlay, service)["containers"], *_init(pod(overlay, service)))
    }
    (image,) = images
    assert re.fullmatch(r"[a-z./]+(:\d+\.\d+\.\d+|@sha256:[0-9a-f]{64})", image), "a bare or moving tag"


@pytest.mark.parametrize("overlay", ["production", "production-keda", OWN])
def test_production_has_the_policy_that_refuses_images_whose_tag_may_move(overlay: str) -> None:
    policy = one(overlay, "ValidatingAdmissionPolicy", "liveroom-images")
    (namespace,) = objects(overlay, "Namespace")
    chosen = policy["spec"]["matchConstraints"]["namespaceSelector"]["matchLabels"]
    assert chosen.items() <= namespace["metadata"]["labels"].items()


def test_only_the_demo_opens_its_services_to_pages_of_every_origin() -> None:
    opened = {overlay: json.loads(environment(overlay, "edge")["LIVEROOM_ORIGINS"]) for overlay in OVERLAYS}
    assert [overlay for overlay in OVERLAYS if "*" in opened[overlay]] == ["demo"]
    base = dict(line.split("=", 1) for line in (DEPLOY / "base/shared.env").read_text().splitlines() if "=" in line)
    assert base["LIVEROOM_ORIGINS"] == "[]", "where an overlay says nothing, pages of the same origin alone may connect"


def _init(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers", ())


@each_overlay
@each_service
def test_a_command_is_python_with_a_module_that_exists(overlay: str, service: str) -> None:
    module = "viewer.canary" if service == "canary" else service
    assert container(overlay, service)["command"] == ["python", "-m", module]
    for each in (*_init(pod(overlay, service)), container(overlay, service)):
        assert each["command"][:2] == ["python", "-m"]
        assert importlib.util.find_spec(each["command"][2]) is not None


@each_overlay
@each_service
def test_ports_are_the_settings_own_and_probes_ask_the_internal_one(overlay: str, service: str) -> None:
    defaults = SETTINGS[service].model_fields
    public = {"public": defaults["port"].default} if defaults["port"].default else {}
    told = ports(overlay, service)
    told.pop("advisory", None)
    assert told == public | {"internal": defaults["internal_port"].default}
    assert told["internal"] == INTERNAL_PORTS[service]
    assert not {"LIVEROOM_PORT", "LIVEROOM_INTERNAL_PORT"} & environment(overlay, service).keys()
    made = container(overlay, service)
    paths = {probe: made[f"{probe}Probe"]["httpGet"] for probe in ("startup", "liveness", "readiness")}
    assert {probe: asked["path"] for probe, asked in paths.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {asked["port"] for asked in paths.values()} == {"internal"}


@each_overlay
def test_the_number_of_gateways_is_left_to_who_decides_it(overlay: str) -> None:
    for service in SETTINGS:
        assert ("replicas" in one(overlay, "Deployment", service)["spec"]) is (service != "edge")


@each_overlay
def test_a_rolling_restart_of_gateways_needs_no_free_node(overlay: str) -> None:
    strategy = one(overlay, "Deployment", "edge")["spec"]["strategy"]
    assert (strategy["type"], strategy["rollingUpdate"]["maxSurge"]) == ("RollingUpdate", 0)


@each_overlay
def test_a_gateway_has_time_to_move_its_viewers(overlay: str) -> None:
    told = environment(overlay, "edge")
    drain_s = float(told.get("LIVEROOM_DRAIN_S", EdgeSettings.model_fields["drain_s"].default))
    assert pod(overlay, "edge")["terminationGracePeriodSeconds"] >= drain_s + DRAIN_MARGIN_S
    assert float(environment(overlay, "autoscaler")["LIVEROOM_EMPTY_S"]) > drain_s


@each_overlay
@each_service
def test_who_is_reached_by_a_service_waits_until_it_is_out_of_it(overlay: str, service: str) -> None:
    waits = container(overlay, service).get("lifecycle") == {"preStop": {"sleep": {"seconds": 5}}}
    assert waits is (service in {"ingress", "scheduler"})


# ---- settings
@each_overlay
@each_service
def test_what_a_service_is_told_are_settings(overlay: str, service: str) -> None:
    known = {name for name, _, _ in fields(SETTINGS[service])}.union(SOURCES)
    of_all = {name for model in SETTINGS.values() for name, _, _ in fields(model)}
    own = {entry["name"] for entry in container(overlay, service)["env"]}
    assert own <= known
    assert environment(overlay, service).keys() - own <= of_all, "of the ConfigMap that all share"


@each_overlay
@each_service
def test_a_service_understands_what_it_is_told(
    overlay: str, service: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(overlay, service).items():
        monkeypatch.setenv(name, "10.0.0.7" if value == "status.podIP" else value)
    secrets = tmp_path / "secrets"
    given = secrets / "..2026_11_24"  # as the kubelet mounts them
    given.mkdir(parents=True)
    (secrets / "..data").symlink_to(given.name)
    for key, path in mounted(overlay, service).items():
        if key in SECRETS[overlay]:
            (given / path).write_text(SECRETS[overlay][key])
            (secrets / path).symlink_to(f"..data/{path}")
    monkeypatch.setenv("LIVEROOM_SECRETS", str(secrets))
    if service == "edge":
        config = tmp_path / "edge.toml"
        config.write_text('public_url = "wss://n7.example.com:8010/v1/live"\npublic_ip = "203.0.113.7"\nzone = "a"\n')
        monkeypatch.setenv("LIVEROOM_CONFIG", str(config))
        if "LIVEROOM_LIMITS" in environment(overlay, service):
            limits = tmp_path / "limits.json"
            limits.write_bytes((DEPLOY / "overlays/production/limits.json").read_bytes())
            monkeypatch.setenv("LIVEROOM_LIMITS", str(limits))

    settings = SETTINGS[service]()

    assert (settings.instance, settings.host, settings.internal_host) == ("metadata.name", "10.0.0.7", "10.0.0.7")
    assert settings.loopback, "for kubectl port-forward"
    if service != "canary":
        assert settings.kafka.bootstrap == SECRETS[overlay].get("liveroom_kafka__bootstrap") or KAFKA[overlay]
        assert not settings.kafka.lacking
        assert (settings.kafka.security == "SASL_SSL") is bool(settings.kafka.password.get_secret_value())
        assert settings.kafka.username == user_of(service)
        assert settings.kafka.password.get_secret_value() == SECRETS[overlay].get(f"kafka-{service}-password", "")
        assert settings.kafka.min_insync == (1 if overlay == "demo" else 2)


@each_overlay
def test_only_the_demo_lets_viewers_claim_that_they_have_paid(overlay: str) -> None:
    opened = environment(overlay, "ingress").get("LIVEROOM_VIEWERS_MAY_CLAIM_PAYMENT", "false")
    assert (opened == "true") is (overlay == "demo")


@each_overlay
def test_schedulers_know_how_many_they_are(overlay: str) -> None:
    assert (
        int(environment(overlay, "scheduler")["LIVEROOM_REPLICAS"])
        == one(overlay, "Deployment", "scheduler")["spec"]["replicas"]
    )


@each_overlay
def test_gateways_speak_tls_where_their_addresses_say_so(overlay: str) -> None:
    (address,) = pod(overlay, "edge")["initContainers"]
    url = address["args"][address["args"].index("--url") + 1]
    assert url.split("://")[1] == "{host}:8010/v1/live"
    assert (url.split(":")[0] == "wss") is ("LIVEROOM_TLS_CERT_FILE" in environment(overlay, "edge")) is (overlay != "demo")
    mounts = {mount["name"]: mount["mountPath"] for mount in container(overlay, "edge")["volumeMounts"]}
    assert address["args"][address["args"].index("--write") + 1] == environment(overlay, "edge")["LIVEROOM_CONFIG"]
    assert environment(overlay, "edge")["LIVEROOM_CONFIG"].startswith(mounts["run"])


@each_overlay
def test_files_that_services_are_given_can_be_read_by_them(overlay: str) -> None:
    policy = read_policy(one(overlay, "ConfigMap", "autoscaler-policy")["data"]["policy.toml"].encode())
    assert policy.max >= policy.min
    for made in objects(overlay, "ConfigMap"):
        for name, text in made["data"].items():
            if name == "zones.txt":
                assert read_networks(text)
            elif name.endswith(".json"):
                json.loads(text)


@each_overlay
@each_service
def test_what_a_pod_mounts_is_there_and_every_file_it_is_told_of_is_mounted(overlay: str, service: str) -> None:
    spec = pod(overlay, service)
    made = {each["metadata"]["name"] for each in objects(overlay, "ConfigMap")}
    assert {volume["configMap"]["name"] for volume in spec["volumes"] if "configMap" in volume} <= made
    volumes = {volume["name"] for volume in spec["volumes"]}
    mounts = [mount for each in (*spec["containers"], *_init(spec)) for mount in each["volumeMounts"]]
    assert {mount["name"] for mount in mounts} == volumes
    assert all(mount.get("readOnly") for mount in container(overlay, service)["volumeMounts"])
    folders = {mount["mountPath"] for mount in container(overlay, service)["volumeMounts"]}
    paths = {entry["value"] for entry in container(overlay, service)["env"] if entry.get("value", "").startswith("/")}
    assert all(path in folders or str(Path(path).parent) in folders for path in paths)


@each_overlay
def test_a_service_has_the_secrets_it_needs_and_no_others(overlay: str) -> None:
    tokens, hmac = {"liveroom_token_key", "token_keys.json"}, {"liveroom_ticket_keys", "ticket_keys.json"}
    private = {"liveroom_ticket_signing_keys", "ticket_signing_keys.json"}
    public = {"liveroom_ticket_public_keys", "ticket_public_keys.json"}
    for service, model in SETTINGS.items():
        keys = set(mounted(overlay, service))
        assert bool(keys & tokens) is ("token_key" in model.model_fields)
        assert bool(keys & hmac) is ("ticket_keys" in model.model_fields)
        assert bool(keys & private) is (service == "scheduler"), "whoever has a private key can make tickets"
        assert bool(keys & public) is (service == "edge")
        assert {key for key in keys if key.startswith("kafka-") and key.endswith("-password")} == (
            set() if service == "canary" else {f"kafka-{service}-password"}
        ), "its own password and no other's"
        assert {key for key in keys if key.startswith("liveroom_")} <= {name.lower() for name, _, _ in fields(model)}


# ---- rights
@each_overlay
def test_nobody_may_ask_the_api_for_more_than_it_needs(overlay: str) -> None:
    scale = {"apiGroups": ["apps"], "resources": ["deployments/scale"], "resourceNames": ["edge"], "verbs": ["get", "update"]}
    (role,) = objects(overlay, "Role")
    pods = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}
    events = {"apiGroups": [""], "resources": ["events"], "verbs": ["create"]}
    assert role["rules"] == ([] if overlay == "production-keda" else [scale, pods, events])
    (of_nodes,) = objects(overlay, "ClusterRole")
    assert of_nodes["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]
    bound = {
        (binding["roleRef"]["name"], subject["name"])
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for binding in objects(overlay, kind)
        for subject in binding["subjects"]
    }
    assert bound == {("autoscaler", "autoscaler"), ("liveroom-edge-address", "edge")}


@each_overlay
def test_only_who_asks_the_api_has_a_token_for_it(overlay: str) -> None:
    accounts = {made["metadata"]["name"]: made["automountServiceAccountToken"] for made in objects(overlay, "ServiceAccount")}
    assert accounts == {service: service == "autoscaler" for service in SETTINGS}
    assert {service: pod(overlay, service)["serviceAccountName"] for service in SETTINGS} == {each: each for each in SETTINGS}
    assert "account" not in {mount["name"] for mount in container(overlay, "edge")["volumeMounts"]}


def test_one_alone_scales_the_gateways() -> None:
    assert not objects("production", "ScaledObject")
    assert environment("production", "autoscaler")["LIVEROOM_DRIVER"] == "kubernetes"
    (scaled,) = objects("production-keda", "ScaledObject")
    assert environment("production-keda", "autoscaler")["LIVEROOM_DRIVER"] == "advisory"
    policy = read_policy(one("production-keda", "ConfigMap", "autoscaler-policy")["data"]["policy.toml"].encode())
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (policy.min, policy.max)
    (trigger,) = scaled["spec"]["triggers"]
    advisor = one("production-keda", "Service", "autoscaler-advisor")
    (port,) = advisor["spec"]["ports"]
    namespace = advisor["metadata"]["namespace"]
    assert trigger["metadata"]["scalerAddress"] == f"{advisor['metadata']['name']}.{namespace}:{port['port']}"
    assert port["port"] == ports("production-keda", "autoscaler")["advisory"]
    assert port["port"] == AutoscalerSettings.model_fields["advisory_port"].default


def test_missing_is_not_zero_to_the_other_trigger() -> None:
    both = [
        yaml.safe_load((DEPLOY / "components/keda" / f"scaledobject{kind}.yaml").read_text()) for kind in ("", "-prometheus")
    ]
    (trigger,) = both[1]["spec"].pop("triggers")
    both[0]["spec"].pop("triggers")
    assert both[0] == both[1]
    assert trigger["metadata"]["ignoreNullValues"] == "false"


# ---- network
@each_overlay
def test_a_network_policy_is_about_pods_and_ports_that_exist(overlay: str) -> None:
    for made in objects(overlay, "NetworkPolicy"):
        spec = made["spec"]
        services = selected(overlay, spec["podSelector"])
        assert services
        for rule in spec.get("ingress", ()):
            for port in rule["ports"]:
                known = [ports(overlay, service) for service in services]
                assert all(port["port"] in {*each, *each.values()} for each in known)
        for rule in spec.get("egress", ()):
            for peer in rule.get("to", ()):
                if "podSelector" in peer:
                    others = selected(overlay, peer["podSelector"])
                    assert others
                    assert {port["port"] for port in rule["ports"]} <= {
                        port for other in others for port in ports(overlay, other).values()
                    }


@each_overlay
def test_from_outside_only_public_ports_can_be_reached(overlay: str) -> None:
    (everything,) = (made["spec"] for made in objects(overlay, "NetworkPolicy") if made["metadata"]["name"] == "deny")
    assert everything == {"podSelector": OURS, "policyTypes": ["Ingress", "Egress"]}
    assert selected(overlay, OURS) == set(SETTINGS)
    from_anywhere, internal = set(), []
    for made in objects(overlay, "NetworkPolicy"):
        for rule in made["spec"].get("ingress", ()):
            for port in rule["ports"]:
                if "from" not in rule:
                    from_anywhere |= {(service, port["port"]) for service in selected(overlay, made["spec"]["podSelector"])}
                elif port["port"] == "internal":
                    internal.append((selected(overlay, made["spec"]["podSelector"]), rule["from"]))
    assert from_anywhere == {("ingress", 8001), ("scheduler", 8002), ("edge", 8010)}
    monitoring = [{"namespaceSelector": {"matchLabels": {"liveroom.dev/monitoring": "true"}}}]
    assert internal == [(set(SETTINGS), monitoring)]


def _peers(overlay: str, peers: list[Object] | None) -> str:
    """Who a rule is about, as the page calls them."""
    if peers is None:
        return "anywhere"
    (peer,) = peers
    if "podSelector" in peer:
        return _services(overlay, peer["podSelector"]) if peer["podSelector"] else "pods of the namespace"
    ((label, value),) = peer["namespaceSelector"]["matchLabels"].items()
    return f"namespace `{value}`" if label == "kubernetes.io/metadata.name" else f"namespaces with `{label}={value}`"


def _services(overlay: str, selector: Object) -> str:
    found = selected(overlay, selector)
    if missing := set(SETTINGS) - found:
        return found.pop() if len(found) == 1 else f"every service but {', '.join(sorted(missing))}"
    return "every service"


def _port(port: Object) -> str:
    shown = f"{port['port']} to {port['endPort']}" if "endPort" in port else str(port["port"])
    return f"{shown}/{port['protocol']}" if "protocol" in port else shown


def allowed(overlay: str) -> set[tuple[str, str, str]]:
    """Who may reach whom at which ports, by the network policies of an overlay."""
    found = set()
    for made in objects(overlay, "NetworkPolicy"):
        spec = made["spec"]
        about = _services(overlay, spec["podSelector"])
        for way, key in (("ingress", "from"), ("egress", "to")):
            for rule in spec.get(way, ()):
                ends = [_peers(overlay, rule.get(key)), about]
                ports = ", ".join(map(_port, rule["ports"])) if "ports" in rule else "all"
                found.add((*(ends if way == "ingress" else reversed(ends)), ports))
    return found


def rows(title: str) -> list[list[str]]:
    """The rows of the first table below a title of the page."""
    table = PAGE.read_text().partition(f"# {title}\n")[2].partition("\n\n|")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_the_page_says_what_the_policies_let_through_and_nothing_else() -> None:
    said = {(source, target, ports_): part for source, target, ports_, part in rows("What the policies let through")}
    assert allowed(WHOLE) == said.keys()
    assert allowed("production") == {each for each, part in said.items() if not part}, "each component is named"


def test_every_key_of_a_secret_stands_in_the_table_and_is_mounted_by_whom_it_says() -> None:
    said: dict[tuple[str, str], set[str]] = {}
    for secret, keys, mounted_by, *_ in rows("Secrets"):
        for key in re.findall(r"`([^`]+)`", keys):
            services = {key.split("-")[1]} if mounted_by == "that service" else set(mounted_by.split(", "))
            said[secret.strip("`"), key] = services
    found: dict[tuple[str, str], set[str]] = {}
    for service in SETTINGS:
        for key in mounted(WHOLE, service):
            found.setdefault(("liveroom", key), set()).add(service)
        for volume in pod(WHOLE, service)["volumes"]:
            if (secret := volume.get("secret", {})) and secret["secretName"] != "liveroom":
                found |= {(secret["secretName"], key): {service} for key in ("tls.crt", "tls.key")}
            assert secret.get("optional", True), "no pod waits for a Secret: its service says what it lacks"
    for made in objects(WHOLE, "Ingress"):
        component = {"liveroom": "web", "liveroom-operators": "operators"}[made["metadata"]["name"]]
        for entry in made["spec"]["tls"]:
            found |= {
                (entry["secretName"], key): {f"the Ingress of `components/{component}`"} for key in ("tls.crt", "tls.key")
            }
    assert found == said


def documents() -> str:
    return "".join(path.read_text() for path in (*(ROOT / "docs").glob("*.md"), PAGE))


def test_commands_of_the_pages_in_a_pod_reach_only_whom_its_pod_may_reach() -> None:
    asked = set(re.findall(r"exec (?:-it )?deploy/(\w+) -- .*http://(\w+):(\d+)", documents()))
    assert {source for source, _, _ in asked} >= {"autoscaler", "canary"}
    assert asked <= allowed("production")


def test_commands_of_the_pages_forward_ports_that_are_there() -> None:
    asked = re.findall(r"port-forward (service|deploy)/(\w+) (\d+)", documents())
    assert {kind for kind, _, _ in asked} == {"service", "deploy"}
    for kind, name, port in asked:
        led_to = (
            {each["port"] for each in one("production", "Service", name)["spec"]["ports"]}
            if kind == "service"
            else set(ports("production", name).values())
        )
        assert int(port) in led_to


def test_gateways_run_on_nodes_with_the_label_and_the_taint_of_the_page() -> None:
    ((label, label_value, taint, taint_value, effect),) = re.findall(
        r"label (\S+)=(\S+) +taint (\S+)=(\S+):(\w+)", PAGE.read_text()
    )
    spec = pod(OWN, "edge")
    assert spec["nodeSelector"] == {label: label_value}
    tolerated = [each for each in spec["tolerations"] if each["key"] == taint and each["effect"] == effect]
    assert [each.get("value", taint_value) for each in tolerated] == [taint_value]


# ---- an overlay of one's own
def test_an_own_overlay_adds_what_is_ones_own_and_nothing_of_the_examples_stays() -> None:
    text = yaml.safe_dump_all(build(OWN))
    assert re.findall(r"\S*example\.com\S*", text) == []
    assert {rule["host"] for made in objects(OWN, "Ingress") for rule in made["spec"]["rules"]} == {
        "send.example.org",
        "entry.example.org",
        "ops.example.org",
    }
    for made in objects(OWN, "Ingress"):
        assert {host for entry in made["spec"]["tls"] for host in entry["hosts"]} == {
            rule["host"] for rule in made["spec"]["rules"]
        }
    assert "hosts" not in {made["metadata"]["name"] for made in objects(OWN, "ConfigMap")}
    (address,) = pod(OWN, "edge")["initContainers"]
    told = one(OWN, "ConfigMap", address["envFrom"][0]["configMapRef"]["name"])["data"]
    assert check_rule(told["LIVEROOM_ADDRESS_RULE"]) == "{node}.edge.example.org"


def test_an_ingress_leads_to_ports_of_services() -> None:
    for made in objects(OWN, "Ingress"):
        for rule in made["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                target = path["backend"]["service"]
                assert target["port"]["name"] in {port["name"] for port in one(OWN, "Service", target["name"])["spec"]["ports"]}


def test_the_patch_of_the_page_opens_the_ports_of_another_kafka(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```yaml\n( +patches:\n.*?)```", PAGE.read_text(), re.DOTALL)
    write_overlay(tmp_path, **yaml.safe_load(textwrap.dedent(shown)))
    (policy,) = (made for made in render(tmp_path) if (made["kind"], made["metadata"]["name"]) == ("NetworkPolicy", "kafka"))
    assert policy["spec"]["egress"] == [{"to": [{"ipBlock": {"cidr": "10.8.0.0/16"}}], "ports": [{"port": 28365}]}]


def test_an_own_overlay_may_have_another_namespace(tmp_path: Path) -> None:
    write_overlay(tmp_path)
    made = yaml.safe_load((tmp_path / "kustomization.yaml").read_text())
    made["namespace"] = "live-b"
    made["configMapGenerator"] = [each | {"namespace": "liveroom"} for each in made["configMapGenerator"]]
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(made))
    inside = [each for each in render(tmp_path) if each["kind"] not in OF_NO_NAMESPACE]
    assert {each["metadata"]["namespace"] for each in inside} == {"live-b"}


@each_service
def test_names_of_kafka_users_come_from_the_secret_where_kafka_chooses_them(service: str) -> None:
    assert "LIVEROOM_KAFKA__USERNAME" not in environment(WHOLE, service)
    if service != "canary":
        assert mounted(WHOLE, service)[f"kafka-{service}-username"] == "liveroom_kafka__username"


@each_overlay
def test_a_service_leads_to_pods_and_gateways_have_none(overlay: str) -> None:
    led_to = set()
    for made in objects(overlay, "Service"):
        (service,) = selected(overlay, {"matchLabels": made["spec"]["selector"]})
        assert made["spec"].get("type", "ClusterIP") == "ClusterIP"
        for port in made["spec"]["ports"]:
            assert ports(overlay, service)[port["targetPort"]] == port["port"]
            assert port["targetPort"] != "internal"
        led_to.add(service)
    assert led_to == {"ingress", "scheduler", "autoscaler"}


@each_overlay
def test_evictions_leave_somebody_of_each_service_that_has_several(overlay: str) -> None:
    budgets = {
        service: made["spec"]
        for made in objects(overlay, "PodDisruptionBudget")
        for service in selected(overlay, made["spec"]["selector"])
    }
    several = {made["metadata"]["name"] for made in objects(overlay, "Deployment") if made["spec"].get("replicas", 2) > 1}
    assert several <= budgets.keys()
    assert all(budget["maxUnavailable"] in {1, "10%"} for budget in budgets.values())


# ---- monitoring
def test_the_rules_on_kubernetes_are_the_rules() -> None:
    (rule,) = objects(OWN, "PrometheusRule")
    assert rule["spec"] == rule_file(Windows())


def test_every_dashboard_is_where_grafana_finds_it() -> None:
    found = [made for made in objects(OWN, "ConfigMap") if made["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
    assert {made["metadata"]["name"]: json.loads(*made["data"].values()) for made in found} == {
        board.uid: json.loads(json.dumps(board.json())) for board in BOARDS
    }


def test_all_pods_are_scraped_and_get_the_labels_that_dashboards_choose_by() -> None:
    (monitor,) = objects(OWN, "PodMonitor")
    assert selected(OWN, monitor["spec"]["selector"]) == set(SETTINGS)
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    assert all(endpoint["port"] in ports("production", service) for service in SETTINGS)
    assert monitor["spec"]["jobLabel"] == NAME
    labels = [one("production", "Deployment", service)["spec"]["template"]["metadata"]["labels"] for service in SETTINGS]
    assert labels == [{NAME: service, PART_OF: "liveroom"} for service in SETTINGS]
    assert {rule["targetLabel"] for rule in endpoint["relabelings"]} == {"instance", "cluster"}


# ---- what is said beside
def test_the_image_holds_every_package_and_is_nobody_s() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    copied = re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE)
    assert sorted(copied) == sorted(packages)
    assert {line[1:] for line in (DEPLOY / ".containerignore").read_text().splitlines() if line.startswith("!")} >= set(
        packages
    )
    assert "USER 10001:10001" in text


def test_the_operations_document_knows_every_alert() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    for alert in alerts(Windows()):
        assert f"[{alert.name}](runbooks.md#{alert.name.lower()})" in text
