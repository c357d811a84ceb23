"""`liveroom manifests`: each thing that would keep a service from starting is one line."""

import base64
import re
import subprocess
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import pytest
import trustme
import yaml
from typer.testing import CliRunner

from cli.commands import app
from cli.manifests import Given, ManifestsError, check, read_objects
from devstack.programs import KUBECTL, need
from liveroom.access import SERVICES
from tests.deploy.own import write_overlay
from tests.tickets import PRIVATE_KEYS, PUBLIC_KEYS

KEY_SET: Final = '{"keys": [{"kty": "oct", "kid": "k1", "k": "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s"}]}'
HUSH: Final = "hush-hush"
Objects = list[dict[str, Any]]
Change = Callable[[Objects], None]


@cache
def rendered() -> str:
    with TemporaryDirectory() as folder:
        write_overlay(Path(folder))
        command = [need(KUBECTL), "kustomize", folder]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@cache
def secrets() -> str:
    authority = trustme.CA()
    certificate = authority.issue_cert("*.edge.example.org")
    texts = {f"kafka-{service}-password": HUSH for service in SERVICES} | {
        "kafka-ca.crt": authority.cert_pem.bytes().decode(),
        "token_keys.json": KEY_SET,
        "ticket_signing_keys.json": PRIVATE_KEYS,
        "ticket_public_keys.json": PUBLIC_KEYS,
        "liveroom_token": HUSH,
    }
    tls = {"tls.crt": certificate.cert_chain_pems[0].bytes().decode(), "tls.key": certificate.private_key_pem.bytes().decode()}
    items = [
        {"kind": "Secret", "metadata": {"name": name}, "data": {key: encoded(text) for key, text in data.items()}}
        for name, data in (("liveroom", texts), ("liveroom-edge-tls", tls))
    ]
    return yaml.safe_dump({"kind": "List", "items": items})


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def problems(change: Change = lambda _: None) -> list[str]:
    """What is said of the overlay of the page and its Secrets after a change."""
    objects: Objects = [*yaml.safe_load_all(needed()), *yaml.safe_load(secrets())["items"]]
    change(objects)
    return check(read_objects(yaml.safe_dump_all(objects)))


@cache
def needed() -> str:
    """What is rendered and read; dashboards take seconds."""
    kinds = ("Deployment", "ConfigMap")
    return "---\n".join(
        each
        for each in rendered().split("---\n")
        if "grafana_dashboard" not in each and re.search(r"^kind: (\w+)$", each, re.MULTILINE)[1] in kinds  # type: ignore[index]
    )


def named(objects: Objects, kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def lacks(key: str, objects: Objects) -> None:
    del named(objects, "Secret", "liveroom")["data"][key]


def holds(key: str, text: str, objects: Objects) -> None:
    named(objects, "Secret", "liveroom")["data"][key] = encoded(text)


def tells(name: str, value: str | None, objects: Objects) -> None:
    data = next(each["data"] for each in objects if each["kind"] == "ConfigMap" and "LIVEROOM_ORIGINS" in each["data"])
    data.pop(name, None) if value is None else data.update({name: value})


def forgets(kind: str, name: str, objects: Objects) -> None:
    objects.remove(named(objects, kind, name))


def rules(rule: str, objects: Objects) -> None:
    next(each for each in objects if "LIVEROOM_ADDRESS_RULE" in each.get("data", ()))["data"]["LIVEROOM_ADDRESS_RULE"] = rule


def says_twice(name: str, value: str, objects: Objects) -> None:
    (container,) = named(objects, "Deployment", "scheduler")["spec"]["template"]["spec"]["containers"]
    next(each for each in container["env"] if each["name"] == name)["value"] = value


def has_replicas(count: int, objects: Objects) -> None:
    named(objects, "Deployment", "scheduler")["spec"]["replicas"] = count


@pytest.fixture(autouse=True)
def _two_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEROOM_TOKEN_KEY", "of the one who checks, and of no pod")


def test_what_is_whole_has_no_problem() -> None:
    assert problems() == []


ALL: Final = "autoscaler, broadcaster, edge, ingress, scheduler"


@pytest.mark.parametrize(
    ("change", "who", "said", "key"),
    [
        pytest.param(partial(lacks, "kafka-ca.crt"), ALL, "is missing", "kafka-ca.crt", id="no authority"),
        pytest.param(partial(holds, "kafka-ca.crt", "x"), ALL, "", "", id="an authority that is none"),
        pytest.param(
            partial(lacks, "kafka-edge-password"),
            "edge",
            "LIVEROOM_KAFKA__PASSWORD must not be empty",
            "kafka-edge-password",
            id="no password",
        ),
        pytest.param(partial(lacks, "liveroom_token"), "canary", "an operator's token", "liveroom_token", id="no token"),
        pytest.param(
            partial(lacks, "token_keys.json"),
            "autoscaler, ingress, scheduler",
            "is missing",
            "token_keys.json",
            id="no JWK Set",
        ),
        pytest.param(
            partial(holds, "token_keys.json", f'{{"{HUSH}": [}}'),
            "autoscaler, ingress, scheduler",
            "token_keys.json: ",
            "token_keys.json",
            id="a JWK Set that is none",
        ),
        pytest.param(
            partial(holds, "ticket_public_keys.json", "{}"),
            "edge",
            "ticket_public_keys.json: ",
            "ticket_public_keys.json",
            id="no keys",
        ),
        pytest.param(
            partial(lacks, "ticket_signing_keys.json"),
            "scheduler",
            "is missing",
            "ticket_signing_keys.json",
            id="no private keys",
        ),
        pytest.param(
            partial(holds, "liveroom_debug_key", "short"),
            f"{ALL.replace('broadcaster', 'broadcaster, canary')}",
            "liveroom_debug_key: must be at least 32",
            "liveroom_debug_key",
            id="a short key",
        ),
        pytest.param(
            partial(forgets, "Secret", "liveroom-edge-tls"), "edge", "tls.crt is missing", "tls.crt", id="no certificate"
        ),
        pytest.param(
            partial(tells, "LIVEROOM_KAFKA__BOOTSTRAP", None),
            ALL,
            "there is no address of Kafka",
            "liveroom_kafka__bootstrap",
            id="no address of Kafka",
        ),
        pytest.param(
            partial(tells, "LIVEROOM_ORIGIN", "[]"),
            ALL.replace("broadcaster", "broadcaster, canary"),
            "LIVEROOM_ORIGIN is no setting of this version; is it LIVEROOM_ORIGINS?",
            "",
            id="a misspelt setting",
        ),
        pytest.param(
            partial(tells, "LIVEROOM_ORIGINS", "https://live.example.org"),
            ALL.replace("broadcaster", "broadcaster, canary"),
            "LIVEROOM_ORIGINS: Expecting value at character 0. Written as JSON",
            "",
            id="a list that is none",
        ),
        pytest.param(
            partial(has_replicas, 5), "scheduler", "LIVEROOM_REPLICAS is 3, and there are 5 replicas", "", id="replicas"
        ),
        pytest.param(
            partial(forgets, "ConfigMap", "autoscaler-policy"),
            "autoscaler",
            "there is no ConfigMap autoscaler-policy",
            "",
            id="no policy",
        ),
    ],
)
def test_what_lacks_or_is_malformed_is_told_with_its_key(change: Change, who: str, said: str, key: str) -> None:
    line, *more = problems(change)
    assert line.startswith(f"{who}: ")
    assert said in line
    assert not key or key in line.partition(" -> ")[2]
    assert HUSH not in " ".join([line, *more])
    assert more == [] or "policy" in " ".join(more), more


def test_the_command_reads_files_and_standard_input(tmp_path: Path) -> None:
    (tmp_path / "secrets.yaml").write_text(secrets())
    run = partial(CliRunner().invoke, app)
    good = run(["manifests", "-", str(tmp_path / "secrets.yaml")], input=rendered())
    assert (good.exit_code, good.stdout) == (0, "6 deployments: every service understands what it is given\n")
    without = run(["manifests"], input=rendered())
    assert without.exit_code == 1
    assert "the input has no Secret" in without.stderr
    assert all(" -> Secret liveroom" in line for line in without.stdout.splitlines())


@pytest.mark.parametrize(
    "text",
    [pytest.param("a: [", id="no YAML"), pytest.param("a: 2026-13-45", id="no date"), pytest.param("[" * 5000, id="deep")],
)
def test_what_is_no_yaml_is_refused_with_its_document(text: str) -> None:
    with pytest.raises(ManifestsError, match=r"^secrets.yaml, document 2 is not what kubectl prints as YAML: "):
        read_objects("", f"kind: Service\n---\n{text}", names=("standard input", "secrets.yaml"))


SECRET: Final = "kind: Secret\nmetadata: {name: a}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("- 1\n- 2\n", " is a list where an object of Kubernetes should be", id="a list"),
        pytest.param("kind: Secret\n", " is a Secret without metadata.name", id="no name"),
        pytest.param("kind: Deployment\nmetadata: 5\n", " is a Deployment without metadata.name", id="no metadata"),
        pytest.param("kind: [Secret]\n", None, id="a kind of others"),
        pytest.param("kind: List\n", " is a List without items", id="no items"),
        pytest.param("kind: List\nitems: [5]\n", ", item 1 is a number where an object of Kubernetes should be", id="an item"),
        pytest.param(SECRET + f"data: {{b: '{HUSH}*'}}\n", ": Secret a, key b: the value is not base64", id="no base64"),
        pytest.param(SECRET + "data: {b: 房}\n", ": Secret a, key b: the value is not base64", id="no ASCII"),
        pytest.param(
            SECRET + "data: {b: 5}\n", ": Secret a, key b: the value is a number where a text should be", id="a number"
        ),
        pytest.param(SECRET + f"data: {HUSH}\n", ": Secret a: data is a text where keys and their values should be", id="text"),
        pytest.param(SECRET + 'data: {b: "aHVz\\naA=="}\n', None, id="lines"),
    ],
)
def test_what_is_malformed_is_told_with_its_place_and_the_rest_is_read(text: str, said: str | None) -> None:
    given = read_objects(f"{text}---\nkind: Secret\nmetadata: {{name: good}}\ndata: {{key: aHVzaA==}}\n")
    assert given.secrets["good"] == {"key": b"hush"}
    assert check(given) == ([] if said is None else [f"the input, document 1{said}"])


def test_what_is_of_others_is_passed_over() -> None:
    assert read_objects("kind: Service\n---\n") == Given({}, {}, {}, [])


def base64_of_nothing(objects: Objects) -> None:
    named(objects, "Secret", "liveroom")["data"]["token_keys.json"] = HUSH
    lacks("kafka-edge-password", objects)


def lacks_containers(objects: Objects) -> None:
    del named(objects, "Deployment", "edge")["spec"]["template"]["spec"]["containers"]
    lacks("kafka-ingress-password", objects)


def has_no_spec(objects: Objects) -> None:
    named(objects, "Deployment", "edge")["spec"] = "edge"
    lacks("kafka-ingress-password", objects)


def mounts(place: dict[str, str], objects: Objects) -> None:
    (container,) = named(objects, "Deployment", "edge")["spec"]["template"]["spec"]["containers"]
    container["volumeMounts"][0].update(place)
    lacks("kafka-ingress-password", objects)


@pytest.mark.parametrize(
    ("change", "said", "other"),
    [
        pytest.param(
            base64_of_nothing, "Secret liveroom, key token_keys.json: the value is not base64", "edge: ", id="no base64"
        ),
        pytest.param(
            lacks_containers,
            "edge: the Deployment is not one that Kubernetes would take: it lacks 'containers'",
            "ingress: ",
            id="no containers",
        ),
        pytest.param(
            has_no_spec, "edge: the Deployment is not one that Kubernetes would take: a field", "ingress: ", id="no spec"
        ),
        pytest.param(
            partial(mounts, {"mountPath": "/../../outside"}),
            "edge: /../../outside is no path that Kubernetes would take",
            "ingress: ",
            id="outside",
        ),
        pytest.param(
            partial(mounts, {"name": "none"}),
            "edge: the Deployment is not one that Kubernetes would take: it lacks 'none'",
            "ingress: ",
            id="no such volume",
        ),
    ],
)
def test_what_is_malformed_hides_no_other_finding(change: Change, said: str, other: str) -> None:
    found = problems(change)
    assert any(said in line for line in found), found
    assert any(line.startswith(other) and "LIVEROOM_KAFKA__PASSWORD must not be empty" in line for line in found), found
    assert HUSH not in " ".join(found)
