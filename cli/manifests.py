"""`liveroom manifests`: checks manifests and Secrets before they are applied.

Owns the reading of what kustomize renders and kubectl prints, and the environment and files that a
pod would get of it, in a temporary folder. Each service's own settings then judge: what is missing,
malformed or misspelt is one line, with the Secret and the key. Connects to nothing, and shows no
value of a Secret.
"""

import base64
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from autoscaler.drivers.kubernetes.addresses import ZONE, address_of
from autoscaler.policy import read_policy
from edge.certificates import load
from liveroom import clock
from liveroom.errors import ExplainedError
from liveroom.given_file import read_given_file
from liveroom.kafka_port import AioKafka
from liveroom.networks import read_networks
from liveroom.setting_sources import UnusableSettingsError, read_settings, unknown
from liveroom.settings import (
    SERVICES,
    AutoscalerSettings,
    CanarySettings,
    EdgeSettings,
    SchedulerSettings,
    ServiceSettings,
    TokenSettings,
)

Object = dict[str, Any]

MODELS: Final[Mapping[str, type[ServiceSettings]]] = {
    "viewer.canary" if name == "canary" else name: model for name, model in SERVICES.items()
}
STDIN: Final = "-"
MAX_BYTES: Final = 64 * 1024 * 1024
_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # dashboards are long
_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_SETTING: Final = re.compile(r"LIVEROOM_[A-Z0-9_]+")
# What is known of a pod only once it runs, and what a gateway's init container writes.
_FIELDS: Final = {"status.podIP": "10.0.0.7", "metadata.name": "pod", "metadata.namespace": "namespace"}
_ADDRESS: Final = 'public_url = "wss://node.example.com:8010/v1/live"\npublic_ip = "203.0.113.7"\n'
_CERTIFICATE: Final = "the gateways' certificate"
_NODE: Final = {
    "metadata": {"name": "node", "labels": {ZONE: "zone"}},
    "status": {"addresses": [{"type": "ExternalIP", "address": "203.0.113.7"}]},
}


class ManifestsError(ExplainedError):
    """The input cannot be read; the message says why."""


class Given(NamedTuple):
    """What the input holds, by kind and name, and a line for each part of it that is malformed."""

    deployments: Mapping[str, Object]
    configs: Mapping[str, Mapping[str, bytes]]
    secrets: Mapping[str, Mapping[str, bytes]]
    malformed: Sequence[str] = ()


def read_objects(*texts: str, names: Sequence[str] = ("the input",)) -> Given:
    """Return the objects of YAML texts: documents, and lists of them as kubectl prints them.

    `names` are those of the texts. What is no such object, and a value that cannot be one, is
    passed over and told. Raises ManifestsError where a text is no YAML.
    """
    reader = _Reader()
    for name, text in zip(names, texts, strict=True):
        number = 0
        try:
            for number, document in enumerate(yaml.load_all(text, _LOADER), 1):
                reader.take(document, f"{name}, document {number}")
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
            why = " ".join(str(error).split())[:200]
            raise ManifestsError(f"{name}, document {number + 1} is not what kubectl prints as YAML: {why}") from None
    return Given(reader.deployments, reader.configs, reader.secrets, reader.malformed)


class _Reader:
    """Sorts objects by kind and name."""

    def __init__(self) -> None:
        self.deployments: dict[str, Object] = {}
        self.configs: dict[str, Mapping[str, bytes]] = {}
        self.secrets: dict[str, Mapping[str, bytes]] = {}
        self.malformed: list[str] = []

    def take(self, given: Any, place: str) -> None:
        """Take what `place` of the input holds."""
        if given is None:
            return
        if not isinstance(given, dict):
            self.malformed.append(f"{place} is {_kind_of(given)} where an object of Kubernetes should be")
            return
        kind = str(given.get("kind", ""))
        if kind.endswith("List"):
            items = given.get("items")
            if not isinstance(items, list):
                self.malformed.append(f"{place} is a {kind} without items")
                return
            for number, each in enumerate(items, 1):
                self.take(each, f"{place}, item {number}")
        elif kind in {"Deployment", "ConfigMap", "Secret"}:
            self._take_named(given, kind, place)

    def _take_named(self, given: Object, kind: str, place: str) -> None:
        metadata = given.get("metadata")
        name = metadata.get("name") if isinstance(metadata, dict) else None
        if not isinstance(name, str) or not name:
            self.malformed.append(f"{place} is a {kind} without metadata.name")
        elif kind == "Deployment":
            self.deployments[name] = given
        elif kind == "ConfigMap":
            self.configs[name] = self._data(given, f"{place}: ConfigMap {name}", {"data": False, "binaryData": True})
        else:
            self.secrets[name] = self._data(given, f"{place}: Secret {name}", {"data": True, "stringData": False})

    def _data(self, given: Object, words: str, fields: Mapping[str, bool]) -> dict[str, bytes]:
        """Return the values by their keys. `fields`: what holds them, and whether in base64."""
        data: dict[str, bytes] = {}
        for field, is_encoded in fields.items():
            values = given.get(field) or {}
            if not isinstance(values, dict):
                self.malformed.append(f"{words}: {field} is {_kind_of(values)} where keys and their values should be")
                continue
            for key, text in values.items():
                if not isinstance(text, str):
                    self.malformed.append(f"{words}, key {key}: the value is {_kind_of(text)} where a text should be")
                    continue
                try:
                    data[str(key)] = (
                        base64.b64decode(re.sub("[\r\n]", "", text), validate=True) if is_encoded else text.encode()
                    )
                except ValueError:
                    self.malformed.append(
                        f"{words}, key {key}: the value is not {'base64' if is_encoded else 'a text in UTF-8'}"
                    )
        return data


def _kind_of(value: Any) -> str:
    """Return what a value of YAML is, in words that do not show it."""
    if isinstance(value, bool):
        return "a truth value"
    return {type(None): "nothing", list: "a list", dict: "a mapping", str: "a text", int: "a number", float: "a number"}.get(
        type(value), "a value"
    )


def _object(field: str) -> str:
    """Return the kind of object that a field of a pod refers to."""
    return "Secret" if field.startswith("secret") else "ConfigMap"


def check(given: Given) -> list[str]:
    """Return a line for each thing that is wrong, with the Deployments that it is about."""
    found: dict[str, dict[str, None]] = {}
    for name, deployment in given.deployments.items():
        for problem in _problems_of(deployment, given):
            found.setdefault(problem, {})[name] = None
    return [*given.malformed, *(f"{', '.join(names)}: {problem}" for problem, names in found.items())]


def _problems_of(deployment: Object, given: Given) -> list[str]:
    found: list[str] = []
    try:
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            model = MODELS.get((container.get("command") or [""])[-1])
            if model is not None:
                with tempfile.TemporaryDirectory(prefix="liveroom-") as folder:
                    _Pod(deployment, container, model, given, Path(folder), found).look()
    except ManifestsError as error:
        found.append(str(error))
    except KeyError as error:
        found.append(f"the Deployment is not one that Kubernetes would take: it lacks {error}")
    except (AttributeError, TypeError, ValueError, OSError):  # their messages may quote a value
        found.append("the Deployment is not one that Kubernetes would take: a field of its spec has a value of another kind")
    return found


class _Pod:
    """One Deployment's pod, as its service would find it."""

    def __init__(
        self,
        deployment: Object,
        container: Object,
        model: type[ServiceSettings],
        given: Given,
        folder: Path,
        found: list[str],
    ) -> None:
        self._replicas = deployment["spec"].get("replicas")
        pod = deployment["spec"]["template"]["spec"]
        self._volumes = {each["name"]: each for each in pod.get("volumes", ())}
        self._before = pod.get("initContainers", ())
        self._container = container
        self._model = model
        self._given = given
        self._folder = folder
        self._keys: dict[str, str] = {}  # of Secrets, in words, by the path in the pod
        self._found = found

    def look(self) -> None:
        """Add what keeps the service from starting to what was found, a line for each thing."""
        environment = self._environment(self._container)
        self._make_volumes()
        with _environment({name: self._placed(value) for name, value in environment.items()}):
            settings = self._try(partial(read_settings, self._model))
            names = [] if settings is None else unknown(self._model)  # a failure names them itself
        for name in names:
            self._say(str(name).replace(str(self._folder), ""))
        if settings is not None:
            self._check_kafka(settings)
            self._check_files(settings)
            if isinstance(settings, SchedulerSettings) and settings.replicas != self._replicas:
                self._say(f"LIVEROOM_REPLICAS is {settings.replicas}, and there are {self._replicas} replicas")

    def _say(self, what: str) -> None:
        """Add a problem, with the keys of Secrets that could cure it."""
        files = [f"/{name.lower()}" for name in _SETTING.findall(what)]
        keys = [key for path, key in self._keys.items() if path in what or path.endswith(tuple(files))]
        hint = f" -> {'; '.join(keys)}" if keys else ""
        self._found.append(" ".join(what.split()) + hint)

    def _environment(self, container: Object) -> dict[str, str]:
        told: dict[str, str] = {}
        for source in container.get("envFrom", ()):
            for kind, known in (("configMapRef", self._given.configs), ("secretRef", self._given.secrets)):
                if reference := source.get(kind):
                    for key, content in self._look_up(reference, kind, known).items():
                        told[key] = self._text(reference, kind, key, content)
        for entry in container.get("env", ()):
            value = self._value(entry)
            if value is not None:
                told[entry["name"]] = _VARIABLE.sub(lambda found: told.get(found[1], found[0]), value)
        return told

    def _value(self, entry: Object) -> str | None:
        source = entry.get("valueFrom") or {}
        if source and entry.get("value"):
            self._say(f"{entry['name']} has a value and takes one from elsewhere; the API server refuses both")
        if "fieldRef" in source:
            return _FIELDS.get(source["fieldRef"]["fieldPath"], "field")
        for kind, known in (("configMapKeyRef", self._given.configs), ("secretKeyRef", self._given.secrets)):
            if reference := source.get(kind):
                data = self._look_up(reference, kind, known)
                if reference["key"] in data:
                    return self._text(reference, kind, reference["key"], data[reference["key"]])
                if data and not reference.get("optional"):
                    self._say(f"{entry['name']}: {reference['name']} has no key {reference['key']}")
                return None
        return str(entry.get("value", ""))

    def _text(self, reference: Object, kind: str, key: str, value: bytes) -> str:
        """Return a value as an environment variable has it; empty where none can."""
        with suppress(UnicodeDecodeError):
            if "\0" not in (text := value.decode()):
                return text
        self._say(f"{_object(kind)} {reference['name']}, key {key}: the value is no text, as an environment variable is")
        return ""

    def _look_up(self, reference: Object, kind: str, known: Mapping[str, Mapping[str, bytes]]) -> Mapping[str, bytes]:
        name = str(reference.get("name") or reference.get("secretName"))
        if name not in known and not reference.get("optional"):
            self._say(f"there is no {_object(kind)} {name}")
        return known.get(name, {})

    def _make_volumes(self) -> None:
        for mount in self._container.get("volumeMounts", ()):
            volume, place = self._volumes[mount["name"]], self._place(mount["mountPath"])
            place.mkdir(parents=True)
            for kind, known in (("configMap", self._given.configs), ("secret", self._given.secrets)):
                if source := volume.get(kind):
                    data = self._look_up(source, kind, known)
                    items = source.get("items") or [{"key": key, "path": key} for key in data or ("tls.crt", "tls.key")]
                    for item in items:
                        if kind == "secret":
                            words = f"Secret {source['secretName']}, key {item['key']}"
                            self._keys[f"{mount['mountPath']}/{item['path']}"] = words
                        if item["key"] in data:
                            self._place(f"{mount['mountPath']}/{item['path']}").write_bytes(data[item["key"]])
            if "emptyDir" in volume and self._model is EdgeSettings:
                (place / "edge.toml").write_text(_ADDRESS, encoding="utf-8")

    def _place(self, path: str) -> Path:
        if ".." in Path(path).parts:
            raise ManifestsError(f"{path} is no path that Kubernetes would take")
        return self._folder / path.lstrip("/")

    def _placed(self, value: str) -> str:
        """Return a value with the paths that the pod has replaced by those of the folder."""
        for mount in self._container.get("volumeMounts", ()):
            value = value.replace(mount["mountPath"], str(self._place(mount["mountPath"])))
        return value

    def _try(self, read: Callable[[], Any]) -> Any:
        """Return what `read` returns; None where it fails, which is a problem for each reason."""
        try:
            return read()
        except FileNotFoundError as error:
            self._say(f"{str(error.filename or error).replace(str(self._folder), '')} is missing")
        except (UnusableSettingsError, ValueError, OSError, RecursionError) as error:
            for line in str(error).splitlines():
                self._say(line.replace(str(self._folder), ""))
        return None

    def _check_kafka(self, settings: ServiceSettings) -> None:
        if isinstance(settings, CanarySettings):
            return
        if "bootstrap" not in settings.kafka.model_fields_set:
            self._say("LIVEROOM_KAFKA__BOOTSTRAP is not set: there is no address of Kafka")
        if lacking := settings.kafka.lacking:
            self._say(lacking)
        files = {name: getattr(settings.kafka, name) for name in ("ca_file", "cert_file", "key_file")}
        absent = [name for name, file in files.items() if file is not None and not file.is_file()]
        for name in absent:  # the error of OpenSSL does not name the file
            path = str(files[name]).replace(str(self._folder), "")
            self._say(f"{path} of kafka.{name} is missing")
        if not absent:
            self._try(AioKafka(settings.kafka).addresses)

    def _check_files(self, settings: ServiceSettings) -> None:
        """Read what the service would read at its start."""
        if isinstance(settings, TokenSettings):
            self._try(settings.read_token_keys)
        if isinstance(settings, EdgeSettings):
            self._try(settings.read_ticket_keys)
            self._check_certificate(settings)
        if isinstance(settings, SchedulerSettings):
            self._try(settings.read_ticket_signers)
            if settings.zones_file is not None:
                self._try(partial(read_given_file, settings.zones_file, read_networks))
        if isinstance(settings, AutoscalerSettings) and settings.policy_file is not None:
            self._try(partial(lambda file: read_policy(file.read_bytes()), settings.policy_file))

    def _check_certificate(self, settings: EdgeSettings) -> None:
        """Check that viewers of a new node's gateway could trust it."""
        read = self._try(partial(load, settings))
        rule = "".join(self._environment(each).get("LIVEROOM_ADDRESS_RULE", "") for each in self._before)
        address = self._try(partial(address_of, _NODE, rule)) if rule else None
        if read is None:
            return
        if read.expire_s < clock.unix_ms() / 1000:
            self._say(f"{_CERTIFICATE} has expired")
        if address is not None and not read.covers(address.host):
            self._say(f"{_CERTIFICATE} is for {', '.join(sorted(read.names))}; LIVEROOM_ADDRESS_RULE makes {address.host}")


@contextmanager
def _environment(told: Mapping[str, str]) -> Iterator[None]:
    """Have the pod's environment and nothing of this process's own, while the block runs."""
    own = dict(os.environ)
    for name in own:
        if name.startswith("LIVEROOM_") or name == "KAFKA_BOOTSTRAP":
            del os.environ[name]
    try:
        os.environ.update(told)
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)


def show_problems(files: Sequence[str]) -> int:
    """Check files, or standard input, print a line for each problem, and return the exit code."""
    names = ["standard input" if file == STDIN else file for file in files]
    given = read_objects(*map(_read, files), names=names)
    problems = check(given)
    if not given.secrets:
        print("the input has no Secret: add them with kubectl get secret --output yaml", file=sys.stderr)
    for problem in problems:
        print(problem)
    if not given.deployments:
        raise ManifestsError("the input has no Deployment: pipe in what kubectl kustomize prints")
    if not problems:
        print(f"{len(given.deployments)} deployments: every service understands what it is given")
    return 1 if problems else 0


def _read(file: str) -> str:
    try:
        with sys.stdin.buffer if file == STDIN else Path(file).open("rb") as opened:
            content = opened.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ManifestsError(f"{file} is larger than {MAX_BYTES // 1024 // 1024} MiB")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestsError(f"{file} cannot be read: {error}") from None
