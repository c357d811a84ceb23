"""Nodes and their kubelet, without containers: each pod's containers are processes of this machine.

It carries a manifest out as a kubelet does, as far as these services need it: environment (values,
fields, config maps, secrets), volumes (folders, whose mount paths in values are replaced), init
containers, readiness probes, `preStop` sleeps, SIGTERM, grace period, SIGKILL, restarts, the token
of the pod's account. A pod with a host port has its node's address; others have one of their own.
All addresses are of a part of 127.0.0.0/8 that nothing else on this machine uses at the time, so
every pod can listen and be reached.
"""

import asyncio
import base64
import fcntl
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self, TypeVar

import aiohttp
import structlog
from kubernetes.aio import client, config
from kubernetes.aio.client.exceptions import ApiException

from devstack.builds import ROOT
from liveroom.child_process import spawn_tethered
from tests.kube.plane import Plane

LOOK_S: Final = 0.15
NETWORKS: Final = range(30, 130)  # 127.N.0.0/16
_AWAY: Final = (ApiException, aiohttp.ClientError, OSError, TimeoutError)  # what an API server does that is away for a moment
T = TypeVar("T")
_VARIABLE: Final = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
Object = dict[str, Any]
log = structlog.get_logger()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


@dataclass
class Run:
    """A pod that is on a node: its address, its folder, and what runs of it."""

    pod: Object
    address: str
    folder: Path
    task: asyncio.Task[None] | None = None
    processes: dict[str, Process] = field(default_factory=dict)
    restarts: int = 0
    is_ending: bool = False
    told: tuple[str, bool] = ("", False)


class Nodes:
    """So many nodes, whose pods run while the block does."""

    def __init__(self, plane: Plane, folder: Path, count: int, environment: Mapping[str, str]) -> None:
        self.runs: dict[str, Run] = {}  # by uid
        self._plane = plane
        self._folder = folder
        self._count = count
        self._environment = dict(environment)
        self._next = 0
        self._network = 0
        self._claim: IO[bytes] | None = None
        self._loop: asyncio.Task[None] | None = None
        self._api: client.ApiClient | None = None
        self._endings: set[asyncio.Task[None]] = set()

    @property
    def api(self) -> client.ApiClient:
        """An administrator's client."""
        assert self._api is not None
        return self._api

    @property
    def core(self) -> client.CoreV1Api:
        return client.CoreV1Api(self.api)

    async def __aenter__(self) -> Self:
        self._network, self._claim = await asyncio.to_thread(_claimed)
        self._api = await connected(await asyncio.to_thread(self._plane.kubeconfig, self._plane.admin_token, "nodes"))
        for number in range(self._count):
            await self._add(number)
        self._loop = asyncio.create_task(self._look())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait([self._loop])
        for run in self.runs.values():
            if run.task is not None:
                run.task.cancel()
            for process in run.processes.values():
                with suppress(ProcessLookupError):
                    process.kill()
        for task in [*self._endings]:
            task.cancel()
        await self.api.close()  # type: ignore[no-untyped-call]
        if self._claim is not None:
            self._claim.close()

    def named(self, name: str) -> Run:
        """The pod of that name."""
        for run in self.runs.values():
            if run.pod["metadata"]["name"] == name:
                return run
        raise LookupError(f"no pod {name} is on a node")

    async def _add(self, number: int) -> None:
        name, address = f"node-{number}", f"127.{self._network}.0.{number + 1}"
        labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": f"zone-{number % 2}"}
        await self.core.create_node(client.V1Node(metadata=client.V1ObjectMeta(name=name, labels=labels)))
        room = {"cpu": "64", "memory": "512Gi", "pods": "250", "ephemeral-storage": "100Gi"}
        status = {
            "capacity": room,
            "allocatable": room,
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "Here", "message": "", "lastTransitionTime": _now()}],
        }
        await self._patch("patch_node_status", name, {"status": status})
        await self._patch("patch_node", name, {"spec": {"taints": None}})  # admission adds not-ready

    async def _patch(self, method: str, *arguments: Any) -> None:
        await getattr(self.core, method)(*arguments, _content_type="application/merge-patch+json")

    async def _look(self) -> None:
        """See what is new and what is to end. An API server that is away is waited for."""
        while True:
            try:
                async with asyncio.timeout(5):
                    answer = await self.core.list_pod_for_all_namespaces_without_preload_content()
                    pods = json.loads(await answer.read())["items"]
                await self._follow({pod["metadata"]["uid"]: pod for pod in pods})
            except (*_AWAY, KeyError):
                pass  # away for a moment: that is what some tests are about
            await asyncio.sleep(LOOK_S)

    async def _follow(self, pods: Mapping[str, Object]) -> None:
        for uid, pod in pods.items():
            run = self.runs.get(uid)
            if run is None and pod["spec"].get("nodeName") and "deletionTimestamp" not in pod["metadata"]:
                run = self.runs[uid] = self._taken(pod)
                run.task = asyncio.create_task(self._live(run))
            elif run is None and pod["spec"].get("nodeName"):
                await self._remove(pod)
            elif run is not None:
                run.pod = pod
                if "deletionTimestamp" in pod["metadata"] and not run.is_ending:
                    run.is_ending = True
                    ending = asyncio.create_task(self._end(run))
                    self._endings.add(ending)
                    ending.add_done_callback(self._endings.discard)
        for uid in self.runs.keys() - pods.keys():  # deleted by force
            await self._stop(self.runs.pop(uid), 0)

    def _taken(self, pod: Object) -> Run:
        spec = pod["spec"]
        on_host = spec.get("hostNetwork") or any(
            "hostPort" in port for one in spec["containers"] for port in one.get("ports", ())
        )
        if on_host:
            address = f"127.{self._network}.0.{int(spec['nodeName'].removeprefix('node-')) + 1}"
        else:
            self._next += 1
            address = f"127.{self._network}.{1 + self._next // 250}.{self._next % 250 + 1}"
        folder = self._folder / pod["metadata"]["name"]
        return Run(pod, address, folder)

    async def _live(self, run: Run) -> None:
        """Bring a pod up, keep it up, and tell how it is."""
        pod = run.pod
        try:
            volumes = await self._patiently(run, lambda: self._volumes(run))
            for container in pod["spec"].get("initContainers", ()):
                await self._tell(run, "Pending", is_ready=False)
                while await (await self._started(run, container, volumes)).wait() != 0:  # noqa: ASYNC110 - a kubelet waits too
                    await asyncio.sleep(0.5)
            container = pod["spec"]["containers"][0]
            async with aiohttp.ClientSession() as http:
                while True:
                    process = await self._started(run, container, volumes)
                    await self._tell(run, "Running", is_ready="readinessProbe" not in container)
                    await self._watch(run, container, process, http)
                    if run.is_ending:
                        return
                    run.restarts += 1
                    await self._tell(run, "Running", is_ready=False)
                    await asyncio.sleep(min(run.restarts, 10))
        except Exception:
            log.exception("pod_failed", pod=pod["metadata"]["name"])
            raise

    async def _watch(self, run: Run, container: Object, process: Process, http: aiohttp.ClientSession) -> None:
        """Probe until the process ends."""
        probe = container.get("readinessProbe")
        wrong = right = 0
        while process.returncode is None:
            if probe is not None:
                is_right = await _probed(http, run.address, container, probe)
                wrong, right = (0, right + 1) if is_right else (wrong + 1, 0)
                if right >= probe.get("successThreshold", 1):
                    await self._tell(run, "Running", is_ready=True)
                elif wrong >= probe.get("failureThreshold", 3):
                    await self._tell(run, "Running", is_ready=False)
            with suppress(TimeoutError):
                await asyncio.wait_for(
                    asyncio.shield(process.wait()), (probe or {}).get("periodSeconds", 10) if run.told[1] else 0.3
                )

    async def _end(self, run: Run) -> None:
        began_s = time.monotonic()
        grace_s = float(run.pod["metadata"].get("deletionGracePeriodSeconds", 30))
        stop = run.pod["spec"]["containers"][0].get("lifecycle", {}).get("preStop", {})
        await asyncio.sleep(min(grace_s, float(stop.get("sleep", {}).get("seconds", 0))))
        await self._stop(run, grace_s - (time.monotonic() - began_s))
        while True:
            try:
                await self._remove(run.pod)
            except _AWAY:
                await asyncio.sleep(0.5)
            else:
                break
        self.runs.pop(run.pod["metadata"]["uid"], None)

    async def _stop(self, run: Run, grace_s: float) -> None:
        if run.task is not None:
            run.task.cancel()  # first: it must not start anything now
        for process in run.processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in run.processes.values():
            try:
                await asyncio.wait_for(process.wait(), max(grace_s, 0.01))
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()

    async def _remove(self, pod: Object) -> None:
        """Have a pod gone that has ended, as a kubelet does."""
        meta = pod["metadata"]
        options = client.V1DeleteOptions(grace_period_seconds=0, preconditions=client.V1Preconditions(uid=meta["uid"]))
        try:
            await self.core.delete_namespaced_pod_without_preload_content(meta["name"], meta["namespace"], body=options)
        except ApiException as error:
            if error.status not in {404, 409}:
                raise

    async def _tell(self, run: Run, phase: str, *, is_ready: bool) -> None:
        """Write the pod's status where it is another."""
        if run.told == (phase, is_ready) or run.is_ending:
            return
        now, ready = _now(), str(is_ready)
        kinds = {"PodScheduled": "True", "Initialized": str(phase == "Running"), "ContainersReady": ready, "Ready": ready}
        status = {
            "phase": phase,
            "podIP": run.address,
            "podIPs": [{"ip": run.address}],
            "hostIP": run.address,
            "conditions": [{"type": kind, "status": value, "lastTransitionTime": now} for kind, value in kinds.items()],
        }
        meta = run.pod["metadata"]
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        while True:
            try:
                await self._patch("patch_namespaced_pod_status", meta["name"], meta["namespace"], body)
            except ApiException as error:
                if error.status in {404, 409}:
                    return
                await asyncio.sleep(0.5)
            except (aiohttp.ClientError, OSError, TimeoutError):  # the API server is away
                await asyncio.sleep(0.5)
            else:
                run.told = phase, is_ready
                return

    async def _patiently(self, run: Run, work: Callable[[], Awaitable[T]]) -> T:
        """Do what has to be asked of the API server until it answers, as a kubelet does."""
        while True:
            try:
                return await work()
            except _AWAY as error:
                log.warning("pod_waits", pod=run.pod["metadata"]["name"], error=repr(error))
                await asyncio.sleep(0.5)

    async def _started(self, run: Run, container: Object, volumes: Mapping[str, Path]) -> Process:
        return await self._patiently(run, lambda: self._start(run, container, volumes))

    async def _start(self, run: Run, container: Object, volumes: Mapping[str, Path]) -> Process:
        places = {mount["mountPath"]: volumes[mount["name"]] for mount in container.get("volumeMounts", ())}
        environment = self._environment | {"PATH": os.environ["PATH"], "HOME": str(run.folder)}
        if await asyncio.to_thread((run.folder / "kubeconfig").is_file):
            environment["KUBECONFIG"] = str(run.folder / "kubeconfig")
        environment |= await self._variables(run, container)
        environment = {name: _placed(value, places) for name, value in environment.items()}
        command = [_placed(part, places) for part in [*container.get("command", ()), *container.get("args", ())]]
        command = [_VARIABLE.sub(lambda found: environment.get(found[1], found[0]), part) for part in command]
        if command[0] == "python":
            command = [sys.executable, "-P", *command[1:]]
        environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(run.folder)}
        with (run.folder / f"{container['name']}.log").open("ab") as file:
            process = await spawn_tethered(command, env=environment, stdout=file, stderr=file, cwd=run.folder)
        run.processes[container["name"]] = process
        return process

    async def _variables(self, run: Run, container: Object) -> dict[str, str]:
        space, found = run.pod["metadata"]["namespace"], dict[str, str]()
        for source in container.get("envFrom", ()):
            data = await self._data(space, source)
            found |= {source.get("prefix", "") + name: value.decode() for name, value in data.items()}
        for entry in container.get("env", ()):
            found[entry["name"]] = _VARIABLE.sub(
                lambda match: found.get(match[1], match[0]), await self._value(run, space, entry)
            )
        found.pop("LIVEROOM_LOOPBACK", None)  # the pods share the 127.0.0.1 of this machine
        return found

    async def _value(self, run: Run, space: str, entry: Object) -> str:
        source = entry.get("valueFrom", {})
        if "fieldRef" in source:
            pod = run.pod
            fields = {
                "metadata.name": pod["metadata"]["name"],
                "metadata.namespace": space,
                "metadata.uid": pod["metadata"]["uid"],
                "spec.nodeName": pod["spec"]["nodeName"],
                "status.podIP": run.address,
                "status.hostIP": run.address,
            }
            return str(fields[source["fieldRef"]["fieldPath"]])
        for kind in ("configMapKeyRef", "secretKeyRef"):
            if kind in source:
                return (await self._data(space, {kind.replace("Key", ""): source[kind]}))[source[kind]["key"]].decode()
        return str(entry.get("value", ""))

    async def _data(self, space: str, source: Object) -> dict[str, bytes]:
        """Return what a config map or a secret holds."""
        told = next(source[kind] for kind in ("configMapRef", "configMap", "secretRef", "secret") if kind in source)
        try:
            if "configMapRef" in source or "configMap" in source:
                texts = (await self.core.read_namespaced_config_map(told["name"], space)).data or {}
                return {key: value.encode() for key, value in texts.items()}
            found = (await self.core.read_namespaced_secret(told.get("secretName") or told["name"], space)).data or {}
            return {key: base64.b64decode(value) for key, value in found.items()}
        except ApiException as error:
            if error.status == 404 and told.get("optional"):
                return {}
            raise

    async def _volumes(self, run: Run) -> dict[str, Path]:
        """Make the folders of a pod's volumes; those of its account's token become a kubeconfig."""
        await asyncio.to_thread(shutil.rmtree, run.folder, ignore_errors=True)
        run.folder.mkdir(parents=True)
        space, volumes = run.pod["metadata"]["namespace"], dict[str, Path]()
        for volume in run.pod["spec"].get("volumes", ()):
            folder = volumes[volume["name"]] = run.folder / volume["name"]
            folder.mkdir()
            for source in [volume, *volume.get("projected", {}).get("sources", ())]:
                if "serviceAccountToken" in source:
                    run.folder.joinpath("kubeconfig").write_bytes(await self._account(run))
                elif {"configMap", "secret"} & source.keys():
                    told = source.get("configMap") or source["secret"]
                    data = await self._data(space, source)
                    paths = {item["key"]: item["path"] for item in told.get("items", ())} or {name: name for name in data}
                    for name, path in paths.items():
                        if name in data:
                            (folder / path).write_bytes(data[name])
                        elif not told.get("optional"):
                            raise LookupError(f"{told} has no {name}")
        return volumes

    async def _account(self, run: Run) -> bytes:
        """Return a kubeconfig with a token of the pod's account."""
        space, account = run.pod["metadata"]["namespace"], run.pod["spec"]["serviceAccountName"]
        token = await account_token(self.core, space, account)
        path = await asyncio.to_thread(self._plane.kubeconfig, token, run.pod["metadata"]["name"], space)
        return await asyncio.to_thread(path.read_bytes)


def _claimed() -> tuple[int, IO[bytes]]:
    """Return a network that nobody else here has until the file is closed: pods of two would answer
    for each other.
    """
    for number in NETWORKS:
        try:
            file = (Path(tempfile.gettempdir()) / f"liveroom-nodes-{number}.lock").open("ab")
        except OSError:  # another user's
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return number, file
    raise RuntimeError(f"networks 127.{NETWORKS[0]} to 127.{NETWORKS[-1]} are all taken")


async def account_token(core: client.CoreV1Api, namespace: str, account: str) -> str:
    """Return a token of a service account."""
    body = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600))
    made = await core.create_namespaced_service_account_token(account, namespace, body)
    assert made.status is not None
    return str(made.status.token)


async def connected(kubeconfig: Path) -> client.ApiClient:
    """Return a client for a kubeconfig."""
    made = client.Configuration()
    await config.load_kube_config(str(kubeconfig), client_configuration=made)  # type: ignore[no-untyped-call]
    return client.ApiClient(made)


def _placed(text: str, places: Mapping[str, Path]) -> str:
    """Replace mount paths by folders, the longest first."""
    for mount in sorted(places, key=len, reverse=True):
        if text == mount or text.startswith(mount.rstrip("/") + "/"):
            return str(places[mount]) + text[len(mount.rstrip("/")) :]
    return text


async def _probed(http: aiohttp.ClientSession, address: str, container: Object, probe: Object) -> bool:
    asked = probe["httpGet"]
    port = asked["port"]
    if isinstance(port, str):
        port = next(one["containerPort"] for one in container["ports"] if one.get("name") == port)
    timeout = aiohttp.ClientTimeout(total=probe.get("timeoutSeconds", 1))
    try:
        async with http.get(f"http://{address}:{port}{asked['path']}", timeout=timeout) as answer:
            return answer.status < 400
    except (aiohttp.ClientError, TimeoutError):
        return False
